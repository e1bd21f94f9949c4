//! One task per pod. It alone changes anything of its pod on this node.
//!
//! ```text
//!   Running ──(deleted | ended | deadline | gone from the API)──▶ Terminating ──(nothing lives)──▶ TearingDown
//!                                                                                                     │
//!       Finished ◀── Removing ◀──(object deleted in the API)── Stopped ◀──────────────────────────────┘
//! ```
//!
//! The loop takes what came in, reads the runtime if something changed there, asks the plain functions of [`crate::pod`] what
//! to do, starts that as operations of its own and publishes the status. It never waits for an operation: a pull or a
//! preStop hook that takes minutes does not keep it from seeing a deletion. A stopped pod whose object stays (Succeeded,
//! Failed) keeps its idle task until the object goes. A worker that panics, or whose operation does, begins anew after a pause.

mod end;
mod hooks;
mod ops;
mod report;
mod resizing;
mod settle;
mod start;
mod work;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::{eviction::Eviction, pod::resize::Pending, shutdown::Hold};

pub use work::{Finished, First, spawn};

/// Something that a worker should know.
#[derive(Clone, Debug)]
pub enum Input {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The object that shows this static pod, or that there is none (any more).
    Mirror(Option<Arc<Pod>>),
    /// The pod is gone from the API (or its file from the disk).
    Removed,
    /// Something of the pod changed in the runtime.
    Runtime,
    /// An object that the pod refers to changed.
    Sources,
    /// The node's network or runtime became ready.
    Node,
    /// The node wants it gone.
    Evict(Eviction),
    /// The disk is short: remove dead containers if the pod has ended.
    Reclaim(Hold),
    /// The machine goes down: end within so many seconds.
    Shutdown {
        /// At most.
        seconds: i64,
        /// To be dropped when nothing of the pod lives any more.
        hold: Hold,
    },
    /// What the pod waits for before it gets the resources that it asks for.
    Resize(Option<Pending>),
    /// A probe reached a verdict.
    Probe {
        /// The container.
        container: String,
        /// Its id.
        id: String,
        /// Which probe.
        kind: crate::probe::Kind,
        /// The verdict.
        ok: bool,
    },
}

/// How to reach a worker.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::UnboundedSender<Input>,
}

impl Handle {
    /// Tells the worker. Does nothing if it has finished.
    pub fn send(&self, input: Input) {
        let _ = self.inputs.send(input);
    }
}
