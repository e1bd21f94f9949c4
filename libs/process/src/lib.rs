//! What every long-running component shares with its neighbours: flags in upstream's spelling, logging, metrics, health
//! endpoints, an orderly end, tasks that may not be lost, work that blocks, waiting for files to change, opening
//! paths that others may be changing, counting and removing folders however deep, connections on which nobody asks for anything, and the version. Nothing here knows Kubernetes
//! objects or clients.

pub mod blocking;
pub mod flags;
pub mod health;
pub mod idle;
pub mod inotify;
pub mod inside;
pub mod logging;
pub mod metrics;
pub mod quiet;
pub mod shutdown;
pub mod task;
pub mod tree;
pub mod version;
