//! The extension points, as plain functions of (pod, node, snapshot).
//!
//! A plugin prepares itself for one pod (upstream's PreFilter) and hands back a filter, a closure over what it read. Scoring
//! sees all feasible nodes at once (PreScore, Score and NormalizeScore in one) and answers 0-100 for each. Binding and
//! preemption are not plugins: there is one way to do either.

use std::borrow::Cow;

use crate::{pod::PodInfo, snapshot::NodeInfo, snapshot::Snapshot};

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One or more reasons in upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether evicting pods from the node could help.
    pub preemption_helps: bool,
}

impl Rejection {
    /// Nothing that happens to other pods changes this.
    pub fn lasting(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], preemption_helps: false }
    }

    /// The node would take the pod if some of its pods were gone.
    pub fn crowded(reasons: Vec<Cow<'static, str>>) -> Self {
        Self { reasons, preemption_helps: true }
    }
}

/// Decides for one pod whether a node takes it.
pub type Filter<'a> = Box<dyn Fn(&NodeInfo) -> Result<(), Rejection> + 'a>;

/// What a plugin has to say about a pod before any node is looked at.
pub enum Prepared<'a> {
    /// Nothing: every node passes.
    Skip,
    /// Ask this for every node.
    Filter(Filter<'a>),
    /// Only these nodes are worth a look, with this filter.
    Only(Vec<String>, Filter<'a>),
    /// No node will do, for this reason.
    Reject(String),
}

/// Changes of the cluster that could let a waiting pod fit. A pod that was turned away sleeps until one of those its
/// plugins named comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A node came.
    pub const NODE_ADDED: Self = Self(1);
    /// A node's allocatable resources changed.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    /// A node's labels changed.
    pub const NODE_LABELS: Self = Self(1 << 2);
    /// A node's taints or its cordon changed.
    pub const NODE_TAINTS: Self = Self(1 << 3);
    /// A bound pod went or ended.
    pub const POD_DELETED: Self = Self(1 << 4);
    /// A pod was bound.
    pub const POD_BOUND: Self = Self(1 << 5);
    /// A bound pod's labels changed.
    pub const POD_LABELS: Self = Self(1 << 6);
    /// A bound pod's requests shrank.
    pub const POD_SHRANK: Self = Self(1 << 7);
    /// A namespace's labels changed.
    pub const NAMESPACE_LABELS: Self = Self(1 << 8);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any is in both.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One rule about where pods may or should run.
pub trait Plugin: Send + Sync {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// Which events could change a rejection by this plugin.
    fn wakes_on(&self) -> Events {
        Events::NONE
    }

    /// PreFilter: reads the pod and the snapshot once.
    fn prepare<'a>(&self, _pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Prepared<'a> {
        Prepared::Skip
    }

    /// A score of 0 to [`MAX_SCORE`] for each of `nodes`, or `None` when the plugin has no opinion on this pod.
    fn score(&self, _pod: &PodInfo, _snapshot: &Snapshot, _nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        None
    }

    /// How much the score counts.
    fn weight(&self) -> i64 {
        1
    }
}

/// Stretches raw scores so that the greatest is [`MAX_SCORE`]; reversed, the greatest becomes 0.
pub fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let greatest = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        let stretched = if greatest == 0 { 0 } else { *score * MAX_SCORE / greatest };
        *score = if reverse { MAX_SCORE - stretched } else { stretched };
    }
    scores
}
