//! What every long-running component shares with its neighbours: flags in upstream's spelling, logging, metrics, health
//! endpoints and an orderly end. Nothing here knows Kubernetes objects or clients.

pub mod flags;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod shutdown;
