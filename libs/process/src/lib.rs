//! What every long-running component shares with its neighbours: flags in upstream's spelling, logging, metrics, health
//! endpoints, an orderly end, work that blocks, and waiting for files to change. Nothing here knows Kubernetes objects or clients.

pub mod blocking;
pub mod flags;
pub mod health;
pub mod inotify;
pub mod logging;
pub mod metrics;
pub mod shutdown;
