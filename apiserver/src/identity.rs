//! Who a request comes from. Authentication puts an [`Identity`] into the request's extensions; in-process clients bring
//! theirs along.

use std::{collections::BTreeMap, sync::Arc};

/// An authenticated user, as SelfSubjectReview prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `system:kube-scheduler`, `alice`.
    pub name: String,
    /// A unique id behind the name, where the authenticator knows one (a service account's uid).
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows (`authentication.kubernetes.io/pod-name`).
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The request extension that carries the user.
pub type Identity = Arc<User>;

/// The group that may do anything.
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// The group of every authenticated user.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The user of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of requests without credentials.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

impl User {
    /// A user known by name, in `groups` and in `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// The node that the user is the kubelet of; empty where the name says none.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in(NODES))
    }

    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
