//! core/v1 Service. Addresses and node ports are allocated by the API server, between preparation and storage.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, SELECTOR, column},
    default_to, metadata_accessors, text,
};
use crate::{
    field::FieldErrors,
    kind::{Context, KindInfo, NameRule, Resource, Subresource},
};

#[path = "service/rules.rs"]
mod rules;

/// The type of this kind.
pub type Served = Service;

impl Resource for Service {
    const INFO: KindInfo = KindInfo {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        storage_prefix: Some("services/specs"),
        subresources: &[Subresource::Proxy, Subresource::Status],
        name_rule: NameRule::DnsLabel1035,
        columns: &[
            NAME,
            column("Type", "string", "How the service is reached."),
            column("Cluster-IP", "string", "The virtual address inside the cluster."),
            column("External-IP", "string", "Addresses from outside the cluster."),
            column("Port(s)", "string", "Ports, each with its node port and protocol."),
            AGE,
            SELECTOR,
        ],
        create_on_update: true,
        fields: &["spec.clusterIP", "spec.type"],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        let status = self.status.get_or_insert_default();
        let balancer = status.load_balancer.get_or_insert_default();
        let spec = self.spec.get_or_insert_default();
        set_spec_defaults(spec);
        if is(spec, "LoadBalancer") {
            for ingress in balancer.ingress.iter_mut().flatten().filter(|ingress| ingress.ip.is_some()) {
                default_to(&mut ingress.ip_mode, "VIP");
            }
        }
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.status = Some(empty_status());
        normalize_cluster_ips(None, self.spec.get_or_insert_default());
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        if at == Some(Subresource::Status) {
            self.spec.clone_from(&old.spec);
            return;
        }
        self.status.clone_from(&old.status);
        let no_spec = Default::default();
        let old_spec = old.spec.as_ref().unwrap_or(&no_spec);
        let spec = self.spec.get_or_insert_default();
        carry_allocated(old_spec, spec);
        normalize_cluster_ips(Some(old_spec), spec);
        drop_type_dependent_fields(old_spec, spec);
        if !is(spec, "LoadBalancer") {
            self.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        rules::service(self, errors);
    }

    fn validate_update(&self, old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        if at == Some(Subresource::Status) {
            return rules::status(self, errors);
        }
        // As upstream, whose allocators look at addresses before anything else is looked at.
        let mut addresses = FieldErrors::default();
        rules::addresses(self, &mut addresses);
        if !addresses.is_empty() {
            errors.0.extend(addresses.0);
            return;
        }
        rules::update(self, old, errors);
        rules::service(self, errors);
    }

    fn complete(object: &mut Value) {
        let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            // When it is not said, it is Go's zero time, which is written as null.
            let at = condition.entry("lastTransitionTime").or_insert(Value::Null);
            if at.is_null() {
                *at = "0001-01-01T00:00:00Z".into();
            }
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        rules::warnings(self)
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let spec = self.spec.as_ref();
        vec![
            ("spec.clusterIP", text(spec.and_then(|s| s.cluster_ip.as_ref())).to_owned()),
            ("spec.type", text(spec.and_then(|s| s.type_.as_ref())).to_owned()),
        ]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let no_spec = Default::default();
        let spec = self.spec.as_ref().unwrap_or(&no_spec);
        let address = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).map_or("<none>", String::as_str);
        vec![
            cells::name(&self.metadata),
            text(spec.type_.as_ref()).into(),
            address.into(),
            external_addresses(spec, self.status.as_ref()).into(),
            ports(spec.ports.as_deref().unwrap_or_default()).into(),
            cells::age(&self.metadata, now),
            cells::labels(spec.selector.as_ref()).into(),
        ]
    }
}

fn empty_status() -> ServiceStatus {
    ServiceStatus { load_balancer: Some(LoadBalancerStatus::default()), conditions: None }
}

/// Whether the service is of a type.
pub fn is(spec: &ServiceSpec, kind: &str) -> bool {
    spec.type_.as_deref() == Some(kind)
}

/// Whether services of this type have node ports.
pub fn has_node_ports(spec: &ServiceSpec) -> bool {
    is(spec, "NodePort") || is(spec, "LoadBalancer")
}

/// Whether services of this type have a cluster address (which may be `None`).
pub fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    !is(spec, "ExternalName")
}

/// Whether the service needs a port for the balancer's health checks.
pub fn has_health_check_port(spec: &ServiceSpec) -> bool {
    is(spec, "LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn set_spec_defaults(spec: &mut ServiceSpec) {
    default_to(&mut spec.session_affinity, "None");
    if spec.session_affinity.as_deref() == Some("None") {
        spec.session_affinity_config = None;
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        let client_ip = ClientIPConfig { timeout_seconds: Some(timeout.unwrap_or(10_800)) };
        spec.session_affinity_config = Some(SessionAffinityConfig { client_ip: Some(client_ip) });
    }
    if text(spec.type_.as_ref()).is_empty() {
        spec.type_ = Some("ClusterIP".to_owned());
    }
    if spec.selector.as_ref().is_some_and(|selector| selector.is_empty()) {
        spec.selector = None;
    }
    for port in spec.ports.iter_mut().flatten() {
        default_to(&mut port.protocol, "TCP");
        if port.name.as_deref() == Some("") {
            port.name = None;
        }
        let unset = match &port.target_port {
            None => true,
            Some(IntOrString::Int(number)) => *number == 0,
            Some(IntOrString::String(name)) => name.is_empty(),
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if has_node_ports(spec) {
        default_to(&mut spec.external_traffic_policy, "Cluster");
    }
    if has_node_ports(spec) || is(spec, "ClusterIP") {
        default_to(&mut spec.internal_traffic_policy, "Cluster");
    }
    if is(spec, "ExternalName") {
        // There is no traffic to have a policy for. What makes no sense is told of.
        spec.internal_traffic_policy =
            spec.internal_traffic_policy.take().filter(|policy| !matches!(policy.as_str(), "Cluster" | "Local"));
    }
    if is(spec, "LoadBalancer") {
        default_to(&mut spec.allocate_load_balancer_node_ports, true);
    }
}

/// Keeps `clusterIP` and `clusterIPs` equal whichever of them the client set (upstream's `normalizeClusterIPs`).
fn normalize_cluster_ips(old: Option<&ServiceSpec>, new: &mut ServiceSpec) {
    let Some(old) = old else {
        if let (Some(address), None) = (&new.cluster_ip, &new.cluster_ips) {
            new.cluster_ips = Some(vec![address.clone()]);
        }
        return;
    };
    let same_address = old.cluster_ip == new.cluster_ip;
    let same_list = old.cluster_ips == new.cluster_ips;
    if !same_address && same_list {
        // A client that knows only `clusterIP` changed or cleared it.
        new.cluster_ips = new.cluster_ip.clone().map(|address| vec![address]);
    } else if same_address && !same_list && new.cluster_ips.is_none() {
        new.cluster_ip = None;
    }
}

/// A client that leaves allocated fields out of an update means to keep them (upstream's `patchAllocatedValues`).
fn carry_allocated(old: &ServiceSpec, new: &mut ServiceSpec) {
    if has_cluster_ip(old) && has_cluster_ip(new) {
        if new.cluster_ip.is_none() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.is_none() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if new.ip_families.is_none() {
            new.ip_families.clone_from(&old.ip_families);
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        // Ports are known by their names: everything else about them may have changed.
        let used: BTreeSet<i32> = new.ports.iter().flatten().filter_map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().flatten().filter(|port| port.node_port.is_none()) {
            let before = old.ports.iter().flatten().rfind(|before| before.name == port.name);
            port.node_port = before.and_then(|before| before.node_port).filter(|number| !used.contains(number));
        }
    }
    if has_health_check_port(old) && has_health_check_port(new) && new.health_check_node_port.is_none() {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// Wipes what a changed type no longer has, where the client did not also change it.
fn drop_type_dependent_fields(old: &ServiceSpec, new: &mut ServiceSpec) {
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        if old.cluster_ip == new.cluster_ip && old.cluster_ips == new.cluster_ips {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if old.ip_families == new.ip_families {
            new.ip_families = None;
        }
        if old.ip_family_policy == new.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    let node_ports = |spec: &ServiceSpec| spec.ports.iter().flatten().filter_map(|p| p.node_port).collect::<BTreeSet<_>>();
    if has_node_ports(old) && !has_node_ports(new) && node_ports(old).is_superset(&node_ports(new)) {
        new.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
    }
    if has_health_check_port(old) && !has_health_check_port(new) && old.health_check_node_port == new.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    if is(old, "LoadBalancer") && !is(new, "LoadBalancer") {
        if old.allocate_load_balancer_node_ports == new.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if old.load_balancer_class == new.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if has_node_ports(old) && !has_node_ports(new) && old.external_traffic_policy == new.external_traffic_policy {
        new.external_traffic_policy = None;
    }
}

fn external_addresses(spec: &ServiceSpec, status: Option<&ServiceStatus>) -> String {
    let external = spec.external_ips.clone().unwrap_or_default();
    let or = |list: Vec<String>, none: &str| if list.is_empty() { none.to_owned() } else { list.join(",") };
    match text(spec.type_.as_ref()) {
        "ClusterIP" | "NodePort" => or(external, "<none>"),
        "LoadBalancer" => {
            let ingress = status.and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
            let balancer: BTreeSet<String> = ingress
                .into_iter()
                .flatten()
                .filter_map(|i| i.ip.clone().filter(|ip| !ip.is_empty()).or_else(|| i.hostname.clone()))
                .collect();
            or(balancer.into_iter().chain(external).collect(), "<pending>")
        }
        "ExternalName" => text(spec.external_name.as_ref()).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "<none>".to_owned();
    }
    let pieces = ports.iter().map(|port| {
        let protocol = text(port.protocol.as_ref());
        match port.node_port {
            Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
            _ => format!("{}/{protocol}", port.port),
        }
    });
    pieces.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Kind, Refused, Requester};
    use serde_json::json;

    const CTX: Context = Context { now: Timestamp::UNIX_EPOCH, user: "tester", requester: Requester::UNKNOWN };

    fn stored(spec: Value) -> Value {
        let object = json!({"metadata": {"name": "s", "namespace": "n", "resourceVersion": "1"}, "spec": spec});
        Kind::of::<Service>().hooks.create(object, &CTX).map_err(|refused| format!("{refused:?}")).unwrap().object
    }

    /// The spec after an update of a service with `old` to exactly `new`.
    fn updated(old: Value, new: Value) -> Result<Value, Refused> {
        let old = stored(old);
        let mut object = old.clone();
        object["spec"] = new;
        Kind::of::<Service>().hooks.update(object, &old, None, &CTX).map(|admitted| admitted.object["spec"].clone())
    }

    fn node_port() -> Value {
        json!({
            "type": "NodePort", "clusterIP": "10.43.0.5", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}],
        })
    }

    #[test]
    fn an_update_that_leaves_out_what_was_allocated_keeps_it() {
        let ports = json!([{"name": "b", "port": 82}, {"name": "c", "port": 80}]);
        let spec = updated(node_port(), json!({"type": "NodePort", "ports": ports})).unwrap();
        let want = json!({
            "type": "NodePort", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster",
            "ports": [
                {"name": "b", "port": 82, "targetPort": 82, "protocol": "TCP", "nodePort": 30081},
                {"name": "c", "port": 80, "targetPort": 80, "protocol": "TCP"},
            ],
        });
        assert_eq!(spec, want);
    }

    #[test]
    fn a_condition_without_its_time_is_read_wherever_it_is_stored() {
        let hooks = Kind::of::<Service>().hooks;
        let old = stored(node_port());
        let mut object = old.clone();
        object["status"]["conditions"] = json!([{"type": "A", "status": "True", "reason": "R", "message": ""}]);
        let new = hooks.update(object, &old, Some(Subresource::Status), &CTX).unwrap().object;
        let want = json!({"type": "A", "status": "True", "reason": "R", "message": "", "lastTransitionTime": null});
        assert_eq!(new["status"]["conditions"], json!([want]));
        assert_eq!(hooks.update(new.clone(), &new, None, &CTX).unwrap().object, new);
        assert_eq!(hooks.default(new.clone()).unwrap(), new);
        let bytes = serde_json::to_vec(&new).unwrap();
        let fields = vec![("spec.clusterIP", "10.43.0.5".to_owned()), ("spec.type", "NodePort".to_owned())];
        assert_eq!((hooks.fields(&new), hooks.fields_from_bytes(&bytes)), (fields.clone(), fields));
        let cells = hooks.cells(&new, CTX.now);
        assert_eq!((&cells[1], &cells[2]), (&json!("NodePort"), &json!("10.43.0.5")));
        assert_eq!(hooks.cells_from_bytes(&bytes, CTX.now), cells);
    }

    #[test]
    fn a_type_without_node_ports_drops_them() {
        let mut spec = stored(node_port())["spec"].clone();
        spec["type"] = json!("ClusterIP");
        let spec = updated(node_port(), spec).unwrap();
        let kept: Vec<&Value> = spec["ports"].as_array().unwrap().iter().map(|port| &port["nodePort"]).collect();
        assert_eq!((kept, &spec["externalTrafficPolicy"]), (vec![&Value::Null; 2], &Value::Null));
    }

    #[test]
    fn an_external_name_drops_addresses() {
        let mut spec = stored(node_port())["spec"].clone();
        spec["type"] = json!("ExternalName");
        spec["externalName"] = json!("example.org");
        let spec = updated(node_port(), spec).unwrap();
        let fields = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
        assert_eq!(fields.map(|field| spec.get(field)), [None; 4]);
    }

    #[test]
    fn an_address_stays() {
        let mut spec = stored(node_port())["spec"].clone();
        spec["clusterIP"] = json!("10.43.0.6");
        // `clusterIPs` follows a change of `clusterIP` alone, and then may not change.
        let Err(Refused::Invalid(errors)) = updated(node_port(), spec) else { panic!("accepted") };
        let want = "spec.clusterIPs[0]: Invalid value: [\"10.43.0.6\"]: may not change once set";
        assert_eq!(errors.0.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
    }

    #[test]
    fn rows_show_what_the_type_has() {
        let row = |spec: Value, status: Value| {
            let mut object = stored(spec);
            object["status"] = status;
            let cells = Kind::of::<Service>().hooks.cells(&object, Timestamp::UNIX_EPOCH);
            (cells[2].clone(), cells[3].clone(), cells[4].clone())
        };
        let balancer = json!({"type": "LoadBalancer", "clusterIP": "10.43.0.5", "ports": [{"port": 80}]});
        let ingress = json!({"loadBalancer": {"ingress": [{"hostname": "b.example"}, {"ip": "192.0.2.2"}]}});
        let cases = [
            (json!({"clusterIP": "None", "selector": {"a": "b"}}), json!({}), ("None", "<none>", "<none>")),
            (json!({"type": "ExternalName", "externalName": "x.example"}), json!({}), ("<none>", "x.example", "<none>")),
            (balancer.clone(), json!({}), ("10.43.0.5", "<pending>", "80/TCP")),
            (balancer, ingress, ("10.43.0.5", "192.0.2.2,b.example", "80/TCP")),
        ];
        for (spec, status, (address, external, ports)) in cases {
            assert_eq!(row(spec, status), (address.into(), external.into(), ports.into()));
        }
    }
}
