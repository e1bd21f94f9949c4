//! The rules of services.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use serde_json::json;

use super::super::shared::{
    network::{PROTOCOLS, cidr_warnings, ip_warnings, is_cidr, non_special_ip},
    pod_rules::port_number_or_name,
    text,
};
use super::{has_cluster_ip, has_health_check_port, has_node_ports, is};
use crate::{field::FieldErrors, field_path::Path, meta, names, quoted};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn annotation<'a>(service: &'a Service, key: &str) -> Option<&'a String> {
    service.metadata.annotations.as_ref()?.get(key)
}

fn spec_of(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

/// Whether the service asks for no address.
pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ips.as_deref(), Some([only]) if only == "None")
}

/// `ValidateService`, on an object whose addresses and ports may not be allocated yet.
pub(super) fn service(service: &Service, errors: &mut FieldErrors) {
    let spec = &spec_of(service);
    let path = &Path::root("spec");
    if let (Some(mode), Some(hints)) = (annotation(service, MODE), annotation(service, HINTS))
        && mode != hints
    {
        let message = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(Path::root("metadata.annotations").key(MODE), mode, message);
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && !is(spec, "ExternalName") {
        errors.required(path.child("ports"), "");
    }
    by_type(spec, path, errors);
    let ports_path = path.child("ports");
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        check_port(port, ports.len() > 1, &mut seen, &ports_path.index(i), errors);
    }
    meta::validate_labels(spec.selector.as_ref(), &path.child("selector").to_string(), errors);
    session_affinity(spec, path, errors);
    cluster_ips(spec, path, errors);
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        let path = path.child("externalIPs");
        let messages = names::ip(ip);
        if messages.is_empty() {
            non_special_ip(ip, &path.index(i), errors);
        }
        errors.each(&path.index(i), ip, messages);
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    errors.required_one_of(&path.child("type"), spec.type_.as_deref(), &types);
    repeated_ports(spec, ports, &ports_path, errors);
    balancer(service, spec, path, errors);
    traffic(spec, path, errors);
}

/// What the allocators of upstream look at: the addresses and families of a service that may have any.
pub(super) fn addresses(service: &Service, errors: &mut FieldErrors) {
    let spec = &spec_of(service);
    if !is(spec, "ExternalName") {
        cluster_ips(spec, &Path::root("spec"), errors);
    }
}

fn by_type(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let ips = path.child("clusterIPs");
    match text(spec.type_.as_ref()) {
        "LoadBalancer" => {
            let ports = spec.ports.iter().flatten().enumerate();
            for (i, port) in ports.filter(|(_, port)| port.port == 10_250) {
                let message = "may not expose port 10250 externally since it is used by kubelet";
                errors.invalid(path.child("ports").index(i), &port.port, message);
            }
            if is_headless(spec) {
                errors.invalid(ips.index(0), &"None", "may not be set to 'None' for LoadBalancer services");
            }
        }
        "NodePort" if is_headless(spec) => {
            errors.invalid(ips.index(0), &"None", "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            let message = "may not be set for ExternalName services";
            for (field, set) in [
                ("clusterIPs", spec.cluster_ips.as_ref().is_some_and(|list| !list.is_empty())),
                ("ipFamilies", spec.ip_families.as_ref().is_some_and(|list| !list.is_empty())),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if set {
                    errors.forbidden(path.child(field), message);
                }
            }
            let path = path.child("externalName");
            let name = text(spec.external_name.as_ref());
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(path, ""),
                name => errors.each(&path, name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn check_port<'a>(port: &'a ServicePort, named: bool, seen: &mut BTreeSet<&'a str>, path: &Path, errors: &mut FieldErrors) {
    let name = text(port.name.as_ref());
    if name.is_empty() {
        if named {
            errors.required(path.child("name"), "");
        }
    } else {
        errors.each(&path.child("name"), name, names::dns1123_label(name));
        if !seen.insert(name) {
            errors.duplicate(path.child("name"), &name);
        }
    }
    errors.each(&path.child("port"), &port.port, names::port_number(port.port.into()));
    errors.required_one_of(&path.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
    if let Some(target) = &port.target_port {
        port_number_or_name(target, &path.child("targetPort"), errors);
    }
    if let Some(protocol) = &port.app_protocol {
        errors.each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

fn session_affinity(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    errors.required_one_of(&path.child("sessionAffinity"), spec.session_affinity.as_deref(), &["ClientIP", "None"]);
    let config_path = path.child("sessionAffinityConfig");
    match (spec.session_affinity.as_deref(), &spec.session_affinity_config) {
        (Some("ClientIP"), config) => {
            let when = "when session affinity type is ClientIP";
            let client_ip = config.as_ref().and_then(|config| config.client_ip.as_ref());
            match client_ip.and_then(|config| config.timeout_seconds) {
                None => errors.required(config_path, when),
                Some(seconds) if !(1..=86_400).contains(&seconds) => {
                    let path = config_path.child("clientIP");
                    errors.invalid(path.child("timeoutSeconds"), &seconds, "must be greater than 0 and less than 86400");
                }
                Some(_) => {}
            }
        }
        (Some("None"), Some(_)) => errors.forbidden(config_path, "must not be set when session affinity is None"),
        _ => {}
    }
}

/// Addresses and families of a service that has them (`ValidateServiceClusterIPsRelatedFields`).
fn cluster_ips(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    if !has_cluster_ip(spec) {
        return;
    }
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let (ips_path, families_path) = (path.child("clusterIPs"), path.child("ipFamilies"));
    match (text(spec.cluster_ip.as_ref()), ips.first()) {
        ("", None) => {}
        ("", Some(_)) => errors.invalid(ips_path, &ips, "must be empty when `clusterIP` is not specified"),
        (_, None) => errors.required(ips_path, ""),
        (ip, Some(first)) if ip != first => errors.invalid(ips_path, &ips, "first value must match `clusterIP`"),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (i, family) in families.iter().enumerate() {
        errors.one_of(&families_path.index(i), Some(family), &["IPv4", "IPv6"]);
        if !seen.insert(family) {
            errors.duplicate(families_path.index(i), family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    errors.one_of(&path.child("ipFamilyPolicy"), spec.ip_family_policy.as_deref(), &policies);
    let mut bad = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                bad = true;
                errors.invalid(ips_path, &ips, "'None' must be the first and only value");
            }
            continue;
        }
        let messages = names::ip(ip);
        bad |= !messages.is_empty();
        errors.each(&ips_path.index(i), ip, messages);
    }
    if ips.len() > 2 {
        errors.invalid(ips_path, &ips, "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    let six = |ip: &String| ip.contains(':');
    if ips.len() > 1 && (ips.iter().all(six) || !ips.iter().any(six)) {
        errors.invalid(ips_path, &ips, "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
        if (family == "IPv4" && six(ip)) || (family == "IPv6" && !six(ip)) {
            let message = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(ips_path.index(i), ip, message);
        }
    }
}

fn repeated_ports(spec: &ServiceSpec, ports: &[ServicePort], path: &Path, errors: &mut FieldErrors) {
    for (i, port) in ports.iter().enumerate() {
        if is(spec, "ClusterIP") && port.node_port.unwrap_or(0) != 0 {
            errors.forbidden(path.index(i).child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let mut node_ports = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        if let Some(number) = port.node_port.filter(|number| *number != 0)
            && !node_ports.insert((text(port.protocol.as_ref()), number))
        {
            errors.duplicate(path.index(i).child("nodePort"), &number);
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        if !seen.insert((text(port.protocol.as_ref()), port.port)) {
            let key = json!({"port": port.port, "protocol": port.protocol});
            errors.duplicate(path.index(i), &quoted::SERVICE_PORT.quote(&key));
        }
    }
}

const BALANCERS_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

fn balancer(service: &Service, spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let only = BALANCERS_ONLY;
    let is_balancer = is(spec, "LoadBalancer");
    let message = "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24 ";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !is_balancer {
            errors.forbidden(path, only);
        }
        if !ranges.iter().all(|range| is_cidr(range.trim())) {
            errors.invalid(path, &format!("[{}]", ranges.join(" ")), message);
        }
    } else if let Some(value) = annotation(service, SOURCE_RANGES) {
        let path = Path::root("metadata.annotations");
        let path = path.key(SOURCE_RANGES);
        if !is_balancer {
            errors.forbidden(path, only);
        }
        if !value.trim().is_empty() && !value.split(',').all(|range| is_cidr(range.trim())) {
            errors.invalid(path, value, message);
        }
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !is_balancer {
        errors.forbidden(path.child("allocateLoadBalancerNodePorts"), only);
    }
    balancer_class(spec, path, errors);
}

fn balancer_class(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(class) = &spec.load_balancer_class else { return };
    let path = path.child("loadBalancerClass");
    if is(spec, "LoadBalancer") {
        errors.each(&path, class, names::qualified_name(class));
    } else {
        errors.forbidden(path, BALANCERS_ONLY);
    }
}

fn traffic(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let external = path.child("externalTrafficPolicy");
    if has_node_ports(spec) {
        errors.required_one_of(&external, spec.external_traffic_policy.as_deref(), &["Cluster", "Local"]);
    } else if let Some(policy) = &spec.external_traffic_policy {
        errors.invalid(external, policy, "may only be set when `type` is 'NodePort' or 'LoadBalancer'");
    }
    if let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) {
        let path = path.child("healthCheckNodePort");
        if has_health_check_port(spec) {
            errors.each(&path, &number, names::port_number(number.into()));
        } else {
            let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(path, &number, message);
        }
    }
    let internal = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if has_cluster_ip(spec) && matches!(text(spec.type_.as_ref()), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.required(internal, "");
        }
        policy => errors.one_of(&internal, policy.as_deref(), &["Cluster", "Local"]),
    }
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    errors.one_of(&path.child("trafficDistribution"), spec.traffic_distribution.as_deref(), &distributions);
}

/// What an update may not change.
pub(super) fn update(service: &Service, old: &Service, errors: &mut FieldErrors) {
    let (new, old) = (&spec_of(service), &spec_of(old));
    let path = &Path::root("spec");
    if has_cluster_ip(new) && has_cluster_ip(old) {
        if !(is_headless(new) && is_headless(old)) {
            addresses_kept(new, old, path, errors);
        }
        if !is_headless(new) && !is_headless(old) {
            families_kept(new, old, path, errors);
        }
    }
    let both_balancers = is(new, "LoadBalancer") && is(old, "LoadBalancer");
    if both_balancers && new.load_balancer_class != old.load_balancer_class {
        errors.invalid(path.child("loadBalancerClass"), &new.load_balancer_class, ONCE);
    }
    balancer_class(new, path, errors);
    let both_checked = has_health_check_port(new) && has_health_check_port(old);
    if both_checked && new.health_check_node_port != old.health_check_node_port {
        errors.forbidden(path.child("healthCheckNodePort"), "field is immutable");
    }
}

const ONCE: &str = "may not change once set";

fn addresses_kept(new: &ServiceSpec, old: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let field = path.child("clusterIPs");
    let ips = new.cluster_ips.as_deref().unwrap_or_default();
    let before = old.cluster_ips.as_deref().unwrap_or_default();
    let first_changed = matches!((ips.first(), before.first()), (Some(new), Some(old)) if new != old);
    if before.len() == ips.len() {
        for (i, _) in before.iter().zip(ips).enumerate().filter(|(_, (old, new))| old != new) {
            errors.invalid(field.index(i), &ips, ONCE);
        }
        return;
    }
    if before.len() > ips.len() && ips.is_empty() {
        errors.invalid(field.index(0), &ips, "primary clusterIP can not be unset");
    }
    if first_changed {
        errors.invalid(field.index(0), &ips, ONCE);
    }
    if before.len() > ips.len() && ips.len() == 1 && new.ip_family_policy.as_deref() != Some("SingleStack") {
        let message = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(path.child("ipFamilyPolicy"), &new.ip_family_policy, message);
    }
}

fn families_kept(new: &ServiceSpec, old: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let field = path.child("ipFamilies");
    let families = new.ip_families.as_deref().unwrap_or_default();
    let before = old.ip_families.as_deref().unwrap_or_default();
    let first_changed = matches!((families.first(), before.first()), (Some(new), Some(old)) if new != old);
    if before.len() == families.len() {
        for _ in before.iter().zip(families).filter(|(old, new)| old != new) {
            errors.invalid(field.index(0), &families, ONCE);
        }
        return;
    }
    if before.len() > families.len() && families.is_empty() {
        errors.invalid(field.index(0), &families, "primary ipFamily can not be unset");
    }
    if first_changed {
        errors.invalid(field.index(0), &families, ONCE);
    }
    if before.len() > families.len() && families.len() == 1 && new.ip_family_policy.as_deref() != Some("SingleStack") {
        let message = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(path.child("ipFamilyPolicy"), &new.ip_family_policy, message);
    }
}

/// `status.loadBalancer`.
pub(super) fn status(service: &Service, errors: &mut FieldErrors) {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let path = Path::root("status.loadBalancer.ingress");
    if !ingress.is_empty() && service.spec.as_ref().is_some_and(|spec| !is(spec, "LoadBalancer")) {
        errors.forbidden(path, "may only be used when `spec.type` is LoadBalancer");
    }
    for (i, ingress) in ingress.iter().enumerate() {
        let path = path.index(i);
        let ip = text(ingress.ip.as_ref());
        if !ip.is_empty() {
            errors.each(&path.child("ip"), ip, names::ip(ip));
        }
        match &ingress.ip_mode {
            None if !ip.is_empty() => errors.required(path.child("ipMode"), "must be specified when `ip` is set"),
            Some(_) if ip.is_empty() => {
                errors.forbidden(path.child("ipMode"), "may not be specified when `ip` is not set");
            }
            mode => errors.one_of(&path.child("ipMode"), mode.as_deref(), &["Proxy", "VIP"]),
        }
        let host = text(ingress.hostname.as_ref());
        if !host.is_empty() {
            errors.each(&path.child("hostname"), host, names::dns1123_subdomain(host));
            if names::parse_ip(host).is_some() {
                errors.invalid(path.child("hostname"), &host, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// Warnings of services.
pub(super) fn warnings(service: &Service) -> Vec<String> {
    let spec = spec_of(service);
    let mut out = Vec::new();
    if annotation(service, HINTS).is_some() {
        out.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let root = Path::root("spec");
    if !is_headless(&spec) {
        for (i, ip) in spec.cluster_ips.iter().flatten().enumerate() {
            out.extend(ip_warnings(&root.child("clusterIPs").index(i), ip));
        }
    }
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        out.extend(ip_warnings(&root.child("externalIPs").index(i), ip));
    }
    out.extend(spec.load_balancer_ip.iter().filter_map(|ip| ip_warnings(&root.child("loadBalancerIP"), ip)));
    for (i, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        out.extend(cidr_warnings(&root.child("loadBalancerSourceRanges").index(i), range));
    }
    let external_name = is(&spec, "ExternalName");
    if external_name && spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && spec.external_name.is_some() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if is_headless(&spec) {
        if spec.load_balancer_ip.is_some() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.session_affinity.as_deref() != Some("None") {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    out
}
