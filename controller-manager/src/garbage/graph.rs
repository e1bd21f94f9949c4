//! Who owns whom, in memory: a node per object (by uid), with its owners and its dependents.
//!
//! Plain data: watches feed it ([`Graph::observe`], [`Graph::forget`]) and are told which objects to look at. An owner that is named but
//! has not been seen has an *unseen* node, so that dependents can be found and its absence be checked.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// `metadata.finalizers` entry of an owner that waits for its dependents' deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// `metadata.finalizers` entry of an owner whose dependents are to be let go.
pub const ORPHAN: &str = "orphan";

/// Where an object is: enough to ask the API server for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// `apps/v1`.
    pub api_version: String,
    /// `ReplicaSet`.
    pub kind: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object as the graph knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it is.
    pub place: Place,
    /// Its owner references.
    pub owners: Vec<OwnerReference>,
    /// The uids of objects that name it as owner.
    pub dependents: HashSet<String>,
    /// It has a deletion time.
    pub deleting: bool,
    /// It is being deleted and waits for its dependents.
    pub deleting_dependents: bool,
    /// It has been seen; otherwise it is only named.
    pub seen: bool,
}

/// What is to be looked at after a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    /// Whether this object is garbage.
    Delete(String),
    /// Whether this object's dependents are to be let go.
    Orphan(String),
}

/// The graph.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == name)
}

impl Graph {
    /// The node of a uid.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Takes in an object as it is now.
    pub fn observe(&mut self, api_version: &str, kind: &str, meta: &ObjectMeta) -> Vec<Look> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let deleting_dependents = deleting && has_finalizer(meta, FOREGROUND);
        let place = Place {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let old = self.nodes.get(&uid).cloned();
        let mut looks = self.link(&uid, &place.namespace, old.as_ref().map_or(&[], |o| &o.owners), &owners);
        let before = old.as_ref().filter(|o| o.seen);
        let was_deleting = before.is_some_and(|o| o.deleting);
        let was_foreground = before.is_some_and(|o| o.deleting_dependents);
        let dependents = old.map(|o| o.dependents).unwrap_or_default();
        if deleting && !was_deleting && has_finalizer(meta, ORPHAN) {
            looks.push(Look::Orphan(uid.clone()));
        }
        if deleting_dependents && !was_foreground {
            looks.extend(dependents.iter().cloned().map(Look::Delete));
            looks.push(Look::Delete(uid.clone()));
        }
        self.nodes.insert(uid, Node { place, owners, dependents, deleting, deleting_dependents, seen: true });
        looks
    }

    /// Moves an object from its old owners to its new ones.
    fn link(&mut self, uid: &str, namespace: &str, old: &[OwnerReference], new: &[OwnerReference]) -> Vec<Look> {
        let mut looks = Vec::new();
        for owner in old {
            let kept = new.iter().find(|n| n.uid == owner.uid);
            let blocked = |o: &OwnerReference| o.block_owner_deletion == Some(true);
            // An owner that waited for this object may be free to go now.
            if blocked(owner) && kept.is_none_or(|k| !blocked(k)) {
                looks.push(Look::Delete(owner.uid.clone()));
            }
            if kept.is_none() {
                self.unlink(uid, &owner.uid);
            }
        }
        for owner in new {
            if old.iter().any(|o| o.uid == owner.uid) {
                continue;
            }
            let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| {
                // Does it exist at all? Its absence makes garbage of its dependents.
                looks.push(Look::Delete(owner.uid.clone()));
                Node {
                    place: Place {
                        api_version: owner.api_version.clone(),
                        kind: owner.kind.clone(),
                        namespace: namespace.to_owned(),
                        name: owner.name.clone(),
                    },
                    owners: Vec::new(),
                    dependents: HashSet::new(),
                    deleting: false,
                    deleting_dependents: false,
                    seen: false,
                }
            });
            node.dependents.insert(uid.to_owned());
            // An owner in another namespace owns nothing; one that is waiting wants its new dependents gone, too.
            let foreign = node.seen && !node.place.namespace.is_empty() && node.place.namespace != namespace;
            if node.deleting_dependents || foreign {
                looks.push(Look::Delete(uid.to_owned()));
            }
        }
        looks
    }

    fn unlink(&mut self, uid: &str, owner: &str) {
        let Some(node) = self.nodes.get_mut(owner) else { return };
        node.dependents.remove(uid);
        if !node.seen && node.dependents.is_empty() {
            self.nodes.remove(owner);
        }
    }

    /// Takes an object out that is gone.
    pub fn forget(&mut self, uid: &str) -> Vec<Look> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut looks: Vec<_> = node.dependents.iter().cloned().map(Look::Delete).collect();
        for owner in &node.owners {
            if self.nodes.get(&owner.uid).is_some_and(|o| o.deleting_dependents) {
                looks.push(Look::Delete(owner.uid.clone()));
            }
            self.unlink(uid, &owner.uid);
        }
        // Its dependents still name it, but a node for it would hide from those that come later that it has to be looked for.
        looks
    }

    /// Dependents of `uid` that hold up its deletion.
    pub fn blocking(&self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |dependent: &&String| {
            let owners = self.nodes.get(*dependent).map(|n| n.owners.as_slice()).unwrap_or_default();
            owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
        };
        node.dependents.iter().filter(blocks).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(uid: &str, owners: &[(&str, bool)], deleting: Option<&str>) -> ObjectMeta {
        let owner = |(uid, block): &(&str, bool)| OwnerReference {
            uid: (*uid).to_owned(),
            name: (*uid).to_owned(),
            block_owner_deletion: Some(*block),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some(uid.to_owned()),
            namespace: Some("ns".to_owned()),
            owner_references: Some(owners.iter().map(owner).collect()),
            deletion_timestamp: deleting.map(|_| Time(jiff::Timestamp::UNIX_EPOCH)),
            finalizers: deleting.map(|f| vec![f.to_owned()]),
            ..ObjectMeta::default()
        }
    }

    fn look(uids: &[&str]) -> Vec<Look> {
        uids.iter().map(|u| Look::Delete((*u).to_owned())).collect()
    }

    #[test]
    fn an_unseen_owner_is_checked_once_and_a_gone_one_frees_its_dependents() {
        let mut graph = Graph::default();
        let steps = [
            graph.observe("v1", "Pod", &meta("pod", &[("set", true)], None)),
            graph.observe("v1", "Pod", &meta("pod2", &[("set", true)], None)),
            graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], None)),
            graph.forget("pod2"),
            graph.forget("set"),
            // A controller that had not heard of it yet made one more.
            graph.observe("v1", "Pod", &meta("late", &[("set", true)], None)),
            graph.forget("set"),
            graph.forget("pod"),
            graph.forget("late"),
        ];
        let none = look(&[]);
        assert_eq!(
            steps,
            [
                look(&["set"]),
                none.clone(),
                none.clone(),
                none.clone(),
                look(&["pod"]),
                look(&["set"]),
                look(&["late"]),
                none.clone(),
                none
            ]
        );
        assert_eq!(graph.nodes.len(), 0);
    }

    #[test]
    fn foreground_deletion_wakes_dependents_and_then_the_owner() {
        let mut graph = Graph::default();
        graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], None));
        graph.observe("v1", "Pod", &meta("pod", &[("set", true)], None));
        let begun = graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], Some(FOREGROUND)));
        let blocking = graph.blocking("set");
        let late = graph.observe("v1", "Pod", &meta("late", &[("set", false)], None));
        let gone = graph.forget("pod");
        assert_eq!(
            (begun, blocking, late, gone, graph.blocking("set")),
            (look(&["pod", "set"]), vec!["pod".to_owned()], look(&["late"]), look(&["set"]), vec![])
        );
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], None));
        let first = graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], Some(ORPHAN)));
        let second = graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], Some(ORPHAN)));
        assert_eq!((first, second), (vec![Look::Orphan("set".to_owned())], vec![]));
    }

    #[test]
    fn a_reference_that_stops_blocking_frees_the_owner() {
        let mut graph = Graph::default();
        graph.observe("apps/v1", "ReplicaSet", &meta("set", &[], None));
        graph.observe("v1", "Pod", &meta("pod", &[("set", true)], None));
        let unblocked = graph.observe("v1", "Pod", &meta("pod", &[("set", false)], None));
        assert_eq!(unblocked, look(&["set"]));
    }
}
