//! What an informer knows: the objects by key, and by any index that a reader asked for.
//!
//! A plain value behind one `RwLock`: the informer is its only writer, readers take the lock for the length of a lookup and
//! leave with `Arc`s. A persistent map (`imbl`) would let readers go without a lock but costs a write ten times as much.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use crate::{Key, Object, owner, revision_of};

/// The name of the index over controllers' uids that every store has.
pub const BY_OWNER: &str = "owner";

type IndexFn<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    name: &'static str,
    values: IndexFn<K>,
    entries: HashMap<String, BTreeMap<Key, Arc<K>>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Key, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.entries.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.values)(object) {
            if let Some(entry) = self.entries.get_mut(&value) {
                entry.remove(key);
                if entry.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

/// What a write changed, for handlers.
#[derive(Debug)]
pub enum Delta<K> {
    /// The object is new.
    Added(Arc<K>),
    /// The object was replaced.
    Updated(Arc<K>, Arc<K>),
    /// The object is gone; this is the last that was seen of it.
    Deleted(Arc<K>),
}

/// Objects with indexes.
pub struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: Vec<Index<K>>,
}

impl<K: Object> Default for Store<K> {
    fn default() -> Self {
        let mut store = Self { objects: BTreeMap::new(), indexes: Vec::new() };
        store.add_index(BY_OWNER, |object: &K| {
            owner::controller_of(object.meta()).map(|r| r.uid.clone()).into_iter().collect()
        });
        store
    }
}

impl<K: Object> Store<K> {
    /// Adds an index, unless one of that name exists.
    pub fn add_index(&mut self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        if self.indexes.iter().any(|i| i.name == name) {
            return;
        }
        let mut index = Index { name, values: Box::new(values), entries: HashMap::new() };
        for (key, object) in &self.objects {
            index.insert(key, object);
        }
        self.indexes.push(index);
    }

    /// Puts an object in its place.
    pub fn apply(&mut self, object: K) -> Delta<K> {
        let (key, object) = (Key::of(object.meta()), Arc::new(object));
        let old = self.objects.insert(key.clone(), object.clone());
        for index in &mut self.indexes {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        match old {
            Some(old) => Delta::Updated(old, object),
            None => Delta::Added(object),
        }
    }

    /// Takes an object out. `last` is its final state as the watch told it.
    pub fn remove(&mut self, last: K) -> Option<Delta<K>> {
        let key = Key::of(last.meta());
        self.take(&key)?;
        Some(Delta::Deleted(Arc::new(last)))
    }

    fn take(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            index.remove(key, &old);
        }
        Some(old)
    }

    /// Becomes exactly `objects`; tells the differences, deletions first.
    pub fn replace(&mut self, objects: Vec<K>) -> Vec<Delta<K>> {
        let uids: HashMap<Key, Option<&String>> =
            objects.iter().map(|o| (Key::of(o.meta()), o.meta().uid.as_ref())).collect();
        // An object that has only the name of one that was known is another one.
        let gone = self.objects.iter().filter(|(key, known)| uids.get(*key) != Some(&known.meta().uid.as_ref()));
        let gone: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
        let mut deltas: Vec<_> = gone.iter().filter_map(|k| self.take(k)).map(Delta::Deleted).collect();
        for object in objects {
            let known = self.objects.get(&Key::of(object.meta()));
            if known.is_none_or(|known| revision_of(known.meta()) != revision_of(object.meta())) {
                deltas.push(self.apply(object));
            }
        }
        deltas
    }

    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }

    /// Everything, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }

    /// Everything in one namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        let range = (Bound::Included(&first), Bound::Unbounded);
        self.objects.range::<Key, _>(range).take_while(|(k, _)| &*k.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Everything for which the index gave this value, ordered by key.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let index = self.indexes.iter().find(|i| i.name == name);
        index.and_then(|i| i.entries.get(value)).map(|e| e.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use proptest::prelude::*;

    use super::*;

    fn map(name: u8, colour: u8, revision: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(format!("ns{}", name % 2)),
                name: Some(format!("m{name}")),
                resource_version: Some(revision.to_string()),
                ..Default::default()
            },
            data: Some([("colour".to_owned(), colour.to_string())].into()),
            ..Default::default()
        }
    }

    #[derive(Clone, Debug)]
    enum Write {
        Apply(u8, u8),
        Remove(u8),
        Replace(Vec<(u8, u8)>),
    }

    fn write() -> impl Strategy<Value = Write> {
        prop_oneof![
            4 => (0..6u8, 0..3u8).prop_map(|(n, c)| Write::Apply(n, c)),
            2 => (0..6u8).prop_map(Write::Remove),
            1 => proptest::collection::btree_map(0..6u8, 0..3u8, 0..5).prop_map(|m| Write::Replace(m.into_iter().collect())),
        ]
    }

    #[test]
    fn an_object_that_took_anothers_name_is_not_the_other_changed() {
        let with_uid = |uid: &str, revision| {
            let mut object = map(1, 0, revision);
            object.metadata.uid = Some(uid.to_owned());
            object
        };
        let told = |deltas: &[Delta<ConfigMap>]| -> Vec<String> {
            let uid = |o: &ConfigMap| o.metadata.uid.clone().unwrap_or_default();
            let text = |delta: &Delta<ConfigMap>| match delta {
                Delta::Added(o) => format!("+{}", uid(o)),
                Delta::Updated(old, new) => format!("{}>{}", uid(old), uid(new)),
                Delta::Deleted(o) => format!("-{}", uid(o)),
            };
            deltas.iter().map(text).collect()
        };
        let mut store = Store::default();
        assert_eq!(told(&store.replace(vec![with_uid("a", 1)])), ["+a"]);
        assert_eq!(told(&store.replace(vec![with_uid("a", 2)])), ["a>a"]);
        assert_eq!(told(&store.replace(vec![with_uid("b", 3)])), ["-a", "+b"]);
        assert_eq!(told(&store.replace(vec![with_uid("b", 3)])), [""; 0]);
    }

    proptest! {
        /// After any writes, every index says what a scan over all objects would say.
        #[test]
        fn indexes_agree_with_a_scan(writes in proptest::collection::vec(write(), 0..40)) {
            let colour = |m: &ConfigMap| m.data.as_ref().and_then(|d| d.get("colour").cloned()).into_iter().collect::<Vec<_>>();
            let mut store = Store::default();
            store.add_index("colour", colour);
            for (revision, write) in writes.into_iter().enumerate() {
                match write {
                    Write::Apply(n, c) => drop(store.apply(map(n, c, revision as u64))),
                    Write::Remove(n) => drop(store.remove(map(n, 0, revision as u64))),
                    Write::Replace(all) => drop(store.replace(all.into_iter().map(|(n, c)| map(n, c, revision as u64)).collect())),
                }
                for c in 0..3u8 {
                    let indexed: Vec<_> = store.by_index("colour", &c.to_string()).iter().map(|m| Key::of(&m.metadata)).collect();
                    let scanned: Vec<_> = store.list().iter().filter(|m| colour(m) == [c.to_string()]).map(|m| Key::of(&m.metadata)).collect();
                    prop_assert_eq!(indexed, scanned);
                }
                let by_namespace: BTreeSet<_> = ["ns0", "ns1"].iter().flat_map(|n| store.list_namespace(n)).map(|m| Key::of(&m.metadata)).collect();
                prop_assert_eq!(by_namespace.len(), store.len());
            }
        }
    }
}
