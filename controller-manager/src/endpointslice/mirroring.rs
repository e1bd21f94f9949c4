//! Copies Endpoints that people write by hand, for Services without a selector, into EndpointSlices: proxies read nothing else.
//!
//! Watches Services, Endpoints and its own slices; owns slices labelled `managed-by: endpointslicemirroring-controller.k8s.io`, which
//! belong to the Endpoints object and go with it. Safe to run twice: slices are compared before they are written.

use std::{collections::BTreeMap, sync::Arc};

use client::{Error, Informer, Key, Next, Queue};
use k8s_openapi::api::{
    core::v1::{EndpointAddress, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};

use super::{
    carry_out,
    placing::{self, Action, Wanted},
    service_of, template,
};
use crate::{context::Context, selection};

const NAME: &str = "endpoint-slice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are not copied: whoever writes them writes slices, too.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Addresses of a subset that are copied at most.
const MOST: usize = 1000;
const BY_SERVICE: &str = "mirrored";

/// Whether the Endpoints are somebody's own: no controller makes them, and nobody asked that they not be copied.
fn is_custom(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let label = |name: &str| meta.labels.as_ref().is_some_and(|l| l.contains_key(name));
    let election = meta.annotations.as_ref().is_some_and(|a| a.contains_key("control-plane.alpha.kubernetes.io/leader"));
    // The API server's own Endpoints come with a slice of their own.
    let kubernetes = meta.namespace.as_deref() == Some("default") && meta.name.as_deref() == Some("kubernetes");
    !label(SKIP) && !label("endpoints.kubernetes.io/managed-by") && !election && !kubernetes
}

fn decide(endpoints: &Endpoints, slices: &[Arc<EndpointSlice>], most: usize) -> Vec<Action> {
    ["IPv4", "IPv6"]
        .into_iter()
        .flat_map(|family| {
            let existing: Vec<_> = slices.iter().filter(|s| s.address_type == family).map(|s| (**s).clone()).collect();
            let groups = groups(endpoints, family == "IPv6");
            if groups.is_empty() {
                return existing.into_iter().filter_map(|s| s.metadata.name).map(Action::Delete).collect();
            }
            placing::place(Wanted { template: template(endpoints, MANAGER, family), groups, most }, &existing)
        })
        .collect()
}

fn groups(endpoints: &Endpoints, ipv6: bool) -> BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> {
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<_> = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)));
        let ours = all.filter(|(a, _)| a.ip.contains(':') == ipv6).take(MOST).map(|(a, ready)| endpoint(a, ready));
        let mut ours = ours.peekable();
        if ours.peek().is_some() {
            groups.entry(placing::port_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.extend(ours);
        }
    }
    groups
}

fn port(port: &k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

struct Controller {
    ctx: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let this = Arc::new(Controller {
        services: ctx.informer(),
        endpoints: ctx.informer(),
        slices: ctx.informer(),
        ctx: ctx.clone(),
    });
    this.slices.add_index(BY_SERVICE, |slice| service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect());
    let synced = futures::future::join3(this.services.synced(), this.endpoints.synced(), this.slices.synced());
    if ctx.until_stopped(synced).await.is_none() {
        return;
    }
    this.services.wake(&queue, |change| [Key::of(&change.object().metadata)]);
    this.endpoints.wake(&queue, |change| [Key::of(&change.object().metadata)]);
    this.slices.wake(&queue, |change| service_of(change.object(), MANAGER));
    client::controller::run(NAME, queue, 5, ctx.shutdown.clone(), move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let service = self.services.get(&key).filter(|s| !selection::has_selector(s));
        let endpoints = self.endpoints.get(&key).filter(|e| service.is_some() && is_custom(e));
        let actions = match endpoints {
            Some(endpoints) => decide(&endpoints, &slices, self.ctx.config.max_endpoints_per_slice.max(1)),
            None => slices.iter().filter_map(|s| s.metadata.name.clone()).map(Action::Delete).collect(),
        };
        carry_out(&self.ctx, &self.slices, &key, actions).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hand_written_addresses_become_slices_by_family() {
        let endpoints: Endpoints = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "db", "uid": "e"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"port": 5432}]}]}))
        .expect("Endpoints");
        let actions = decide(&endpoints, &[], 100);
        let told: Vec<_> = actions
            .iter()
            .map(|action| match action {
                Action::Create(s) => {
                    let ends =
                        s.endpoints.iter().map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().and_then(|c| c.ready)));
                    (
                        s.address_type.as_str(),
                        s.ports.iter().flatten().filter_map(|p| p.port).collect::<Vec<_>>(),
                        ends.collect::<Vec<_>>(),
                    )
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            told,
            [
                ("IPv4", vec![5432], vec![("192.0.2.1", Some(true)), ("192.0.2.2", Some(false))]),
                ("IPv6", vec![5432], vec![("fd00::1", Some(true))]),
            ]
        );
    }
}
