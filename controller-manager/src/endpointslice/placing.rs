//! Which endpoint lies in which slice: as few writes as possible, slices as full as that allows.
//!
//! For each set of ports: endpoints that are still wanted stay where they are; changed slices are filled up first, then one unchanged
//! slice with enough room, then new slices. A slice that would be deleted while another is created is rewritten instead.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A new slice.
    Create(Box<EndpointSlice>),
    /// A slice that changed.
    Update(Box<EndpointSlice>),
    /// A slice with nothing in it.
    Delete(String),
}

/// What the slices of one address family are to hold.
pub struct Wanted {
    /// A slice without endpoints and ports: labels, owner, family.
    pub template: EndpointSlice,
    /// Endpoints by their ports (as sortable text), with the ports.
    pub groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)>,
    /// Endpoints in a slice at most.
    pub most: usize,
}

/// Text that is equal for equal ports.
pub fn port_key(ports: &[EndpointPort]) -> String {
    let mut parts: Vec<_> =
        ports.iter().map(|p| format!("{:?}/{:?}/{:?}/{:?}", p.name, p.port, p.protocol, p.app_protocol)).collect();
    parts.sort();
    parts.join(",")
}

/// What makes an endpoint the same one, whatever else of it changes.
fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    (endpoint.addresses.clone(), endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()))
}

/// A slice while it is decided about.
struct Slot {
    slice: EndpointSlice,
    changed: bool,
    emptied: bool,
}

/// Decides about all slices of one address family that are ours.
pub fn place(wanted: Wanted, existing: &[EndpointSlice]) -> Vec<Action> {
    let mut by_ports: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    let (mut creates, mut updates, mut deletes, mut kept) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut placeholder = None;
    for (key, (ports, endpoints)) in wanted.groups {
        let here = by_ports.remove(&key).unwrap_or_default();
        for slot in place_group(&wanted.template, &ports, endpoints, &here, wanted.most) {
            match slot {
                Slot { emptied: true, slice, .. } => deletes.push(slice),
                Slot { changed: false, .. } => kept += 1,
                Slot { slice, .. } if slice.metadata.name.is_none() => creates.push(slice),
                Slot { slice, .. } => updates.push(slice),
            }
        }
    }
    // Ports that nothing is served on any more; a slice of nothing at all may stay as the Service's placeholder.
    for slice in by_ports.into_values().flatten() {
        let empty = slice.endpoints.is_empty() && slice.ports.as_deref().unwrap_or_default().is_empty();
        if empty && placeholder.is_none() { placeholder = Some(slice) } else { deletes.push(slice.clone()) }
    }
    if creates.is_empty() && updates.is_empty() && kept == 0 {
        match placeholder {
            Some(slice) if slice.metadata.labels == wanted.template.metadata.labels => {}
            Some(slice) => updates.push(EndpointSlice { metadata: relabelled(slice, &wanted.template), ..slice.clone() }),
            None => creates.push(wanted.template),
        }
    } else {
        deletes.extend(placeholder.cloned());
    }
    finish(creates, updates, deletes)
}

fn relabelled(
    slice: &EndpointSlice,
    template: &EndpointSlice,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    let mut metadata = slice.metadata.clone();
    metadata.labels = template.metadata.labels.clone();
    metadata
}

fn place_group(
    template: &EndpointSlice,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    existing: &[&EndpointSlice],
    most: usize,
) -> Vec<Slot> {
    // In order, so that equal input gives equal slices.
    let mut order: Vec<_> = endpoints.iter().map(identity).collect();
    let mut missing: HashMap<_, Endpoint> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut slots: Vec<Slot> = existing
        .iter()
        .map(|slice| {
            let kept: Vec<Endpoint> = slice.endpoints.iter().filter_map(|e| missing.remove(&identity(e))).collect();
            let changed = kept != slice.endpoints || slice.metadata.labels != template.metadata.labels;
            let emptied = kept.is_empty();
            let metadata = relabelled(slice, template);
            Slot { slice: EndpointSlice { endpoints: kept, metadata, ..(*slice).clone() }, changed, emptied }
        })
        .collect();
    order.retain(|id| missing.contains_key(id));
    let mut rest = order.iter().filter_map(|id| missing.remove(id)).collect::<Vec<_>>().into_iter();
    // Slices that are written anyway, the fullest first.
    let mut filling: Vec<&mut Slot> = slots.iter_mut().filter(|s| s.changed && !s.emptied).collect();
    filling.sort_by_key(|s| std::cmp::Reverse(s.slice.endpoints.len()));
    for slot in filling {
        let room = most.saturating_sub(slot.slice.endpoints.len());
        slot.slice.endpoints.extend(rest.by_ref().take(room));
    }
    // One more slice that has room for all that is left, the one that will be fullest.
    let left = rest.len();
    if left > 0 && left < most {
        let fits = slots.iter_mut().filter(|s| !s.changed && s.slice.endpoints.len() + left <= most);
        if let Some(slot) = fits.max_by_key(|s| s.slice.endpoints.len()) {
            slot.slice.endpoints.extend(rest.by_ref());
            (slot.changed, slot.emptied) = (true, false);
        }
    }
    while rest.len() > 0 {
        let mut slice = template.clone();
        slice.ports = Some(ports.to_vec());
        slice.endpoints = rest.by_ref().take(most).collect();
        slots.push(Slot { slice, changed: true, emptied: false });
    }
    slots
}

/// Turns pairs of a deletion and a creation into rewrites.
fn finish(mut creates: Vec<EndpointSlice>, mut updates: Vec<EndpointSlice>, deletes: Vec<EndpointSlice>) -> Vec<Action> {
    let mut gone = Vec::new();
    for old in deletes {
        match creates.pop() {
            Some(mut new) => {
                new.metadata = relabelled(&old, &new);
                updates.push(new);
            }
            None => gone.extend(old.metadata.name),
        }
    }
    let creates = creates.into_iter().map(|s| Action::Create(Box::new(s)));
    let updates = updates.into_iter().map(|s| Action::Update(Box::new(s)));
    creates.chain(updates).chain(gone.into_iter().map(Action::Delete)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(n: u8) -> Endpoint {
        Endpoint { addresses: vec![format!("10.0.0.{n}")], ..Endpoint::default() }
    }

    fn port(number: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(number), ..EndpointPort::default() }]
    }

    fn wanted(groups: &[(i32, Vec<u8>)]) -> Wanted {
        let groups = groups.iter().map(|(number, endpoints)| {
            let ports = port(*number);
            (port_key(&ports), (ports, endpoints.iter().map(|n| endpoint(*n)).collect()))
        });
        Wanted { template: EndpointSlice::default(), groups: groups.collect(), most: 4 }
    }

    fn slice(name: &str, number: i32, endpoints: &[u8]) -> EndpointSlice {
        let mut slice = EndpointSlice {
            ports: Some(port(number)),
            endpoints: endpoints.iter().map(|n| endpoint(*n)).collect(),
            ..Default::default()
        };
        slice.metadata.name = Some(name.to_owned());
        slice
    }

    /// `name:port[addresses]`, or `-name` for a deletion.
    fn told(actions: &[Action]) -> Vec<String> {
        let show = |s: &EndpointSlice| {
            let ends: Vec<_> = s.endpoints.iter().map(|e| e.addresses[0].trim_start_matches("10.0.0.").to_owned()).collect();
            let number = s.ports.iter().flatten().next().and_then(|p| p.port).unwrap_or(0);
            format!("{}:{number}[{}]", s.metadata.name.as_deref().unwrap_or("new"), ends.join(" "))
        };
        actions
            .iter()
            .map(|action| match action {
                Action::Create(s) | Action::Update(s) => show(s),
                Action::Delete(name) => format!("-{name}"),
            })
            .collect()
    }

    #[test]
    fn few_writes() {
        let placed = |groups: &[(i32, Vec<u8>)], existing: &[EndpointSlice]| told(&place(wanted(groups), existing));
        assert_eq!(
            [
                // Nothing to serve: a placeholder; which then stays.
                placed(&[], &[]),
                placed(&[], &[EndpointSlice { metadata: slice("a", 0, &[]).metadata, ..Default::default() }]),
                // Full slices, then the rest.
                placed(&[(80, vec![1, 2, 3, 4, 5])], &[]),
                // A changed slice takes what is new; unchanged ones are left alone.
                placed(&[(80, vec![1, 2, 3, 5, 6])], &[slice("a", 80, &[1, 2, 3]), slice("b", 80, &[4, 5])]),
                // All that is left fits into one unchanged slice.
                placed(&[(80, vec![1, 2, 3])], &[slice("a", 80, &[1, 2])]),
                // Other ports: the old slice is rewritten.
                placed(&[(81, vec![1])], &[slice("a", 80, &[1])]),
                // Nothing changed.
                placed(&[(80, vec![2, 1])], &[slice("a", 80, &[1, 2])]),
                // The last endpoint goes: the slice becomes the placeholder.
                placed(&[], &[slice("a", 80, &[1])]),
            ],
            [
                vec!["new:0[]"],
                vec![],
                vec!["new:80[1 2 3 4]", "new:80[5]"],
                vec!["b:80[5 6]"],
                vec!["a:80[1 2 3]"],
                vec!["a:81[1]"],
                vec![],
                vec!["a:0[]"],
            ]
        );
    }

    proptest! {
        /// From any slices to any endpoints: each endpoint ends up exactly once, no slice is overfull, and deciding again does nothing.
        #[test]
        fn places_each_once_and_settles(before in proptest::collection::btree_set(0..20u8, 0..15), after in proptest::collection::btree_set(0..20u8, 0..15)) {
            let settle = |existing: Vec<EndpointSlice>, ends: &std::collections::BTreeSet<u8>| {
                let mut slices: BTreeMap<String, EndpointSlice> =
                    existing.into_iter().map(|s| (s.metadata.name.clone().unwrap_or_default(), s)).collect();
                let groups = if ends.is_empty() { vec![] } else { vec![(80, ends.iter().copied().collect())] };
                for action in place(wanted(&groups), &slices.values().cloned().collect::<Vec<_>>()) {
                    match action {
                        Action::Create(mut s) => {
                            let name = format!("s{}", slices.len() + 100);
                            s.metadata.name = Some(name.clone());
                            slices.insert(name, *s);
                        }
                        Action::Update(s) => drop(slices.insert(s.metadata.name.clone().unwrap_or_default(), *s)),
                        Action::Delete(name) => drop(slices.remove(&name)),
                    }
                }
                let slices: Vec<_> = slices.into_values().collect();
                (place(wanted(&groups), &slices), slices)
            };
            let (_, first) = settle(vec![], &before);
            let (again, second) = settle(first, &after);
            let mut held: Vec<_> = second.iter().flat_map(|s| s.endpoints.iter().map(|e| e.addresses[0].clone())).collect();
            held.sort();
            let mut want: Vec<_> = after.iter().map(|n| format!("10.0.0.{n}")).collect();
            want.sort();
            prop_assert_eq!(held, want);
            prop_assert!(second.iter().all(|s| s.endpoints.len() <= 4));
            prop_assert_eq!(again, vec![]);
        }
    }
}
