//! What an update of a pod may change, at each place it may be updated.

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRuleOnExitCodes, ContainerStatus, EphemeralContainer, NodeAffinity, NodeSelectorTerm, Pod,
    PodResourceClaim, PodSpec, PodStatus,
};
use serde::Serialize;
use serde_json::Value;

use super::{security, text};
use crate::{
    field::FieldErrors,
    field_path::Path,
    names,
    quoted::{self, Shape},
    unified_diff::unified_diff,
};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn spec_of(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// An update of the pod itself. The spec's own rules have been checked.
pub fn pod(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    annotations(new, old, errors);
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    let no_containers = Vec::new();
    for (field, new, old) in [
        ("containers", Some(&new_spec.containers), Some(&old_spec.containers)),
        ("initContainers", new_spec.init_containers.as_ref(), old_spec.init_containers.as_ref()),
    ] {
        let (new, old) = (new.unwrap_or(&no_containers), old.unwrap_or(&no_containers));
        if new.len() != old.len() {
            return errors.forbidden(path.child(field), "pod updates may not add or remove containers");
        }
        for (i, container) in new.iter().enumerate() {
            let image = text(container.image.as_ref());
            let path = path.child(field);
            let path = path.index(i);
            errors.non_empty(&path.child("image"), image);
            if image.trim() != image {
                errors.invalid(path.child("image"), &image, "must not have leading or trailing whitespace");
            }
        }
    }
    if !active_deadline(new_spec.active_deadline_seconds, old_spec.active_deadline_seconds, &path, errors) {
        return;
    }
    tolerations(&new_spec, &old_spec, &path, errors);
    gates(&new_spec, &old_spec, &path, errors);
    if new_spec == old_spec {
        return;
    }
    let munged = with_allowed_changes_undone(new_spec, &old_spec, &path, errors);
    if munged != old_spec {
        let difference = difference(quoted::POD_SPEC, &internal(&old_spec), &internal(&munged));
        let message = format!("pod updates may not change fields other than {UPDATABLE}\n{difference}");
        errors.forbidden(path, message);
    }
}

fn annotations(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let get = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key).cloned());
    let path = Path::root("metadata.annotations");
    security::app_armor_update(&new.metadata, &old.metadata, &path, errors);
    match (get(new, MIRROR), get(old, MIRROR)) {
        (None, Some(_)) => errors.forbidden(path.key(MIRROR), "may not remove or update mirror pod annotation"),
        (Some(new), Some(old)) if new != old => {
            errors.forbidden(path.key(MIRROR), "may not remove or update mirror pod annotation");
        }
        (Some(_), None) => errors.forbidden(path.key(MIRROR), "may not add mirror pod annotation"),
        _ => {}
    }
}

/// Whether the other rules are worth checking.
fn active_deadline(new: Option<i64>, old: Option<i64>, path: &Path, errors: &mut FieldErrors) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.each(&path, &new, names::in_range(new, 0, i64::from(i32::MAX)));
            return false;
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, &new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => errors.invalid(path, &(), "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

fn tolerations(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let new = new.tolerations.as_deref().unwrap_or_default();
    for old in old.tolerations.iter().flatten() {
        let kept = new.iter().any(|new| {
            let mut old = old.clone();
            old.toleration_seconds = new.toleration_seconds;
            old == *new
        });
        if !kept {
            let message = "existing toleration can not be modified except its tolerationSeconds";
            return errors.forbidden(path.child("tolerations"), message);
        }
    }
}

fn gates(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old.scheduling_gates.iter().flatten().any(|old| old.name == gate.name) {
            let message = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.forbidden(path.child("schedulingGates").index(i).child("name"), message);
        }
    }
}

/// The new spec with every allowed change taken back: then it must equal the old one.
fn with_allowed_changes_undone(mut new: PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) -> PodSpec {
    let undo = |new: &mut [Container], old: &[Container]| {
        for (new, old) in new.iter_mut().zip(old) {
            new.image.clone_from(&old.image);
        }
    };
    undo(&mut new.containers, &old.containers);
    if let (Some(new), Some(old)) = (&mut new.init_containers, &old.init_containers) {
        undo(new, old);
    }
    new.active_deadline_seconds = old.active_deadline_seconds;
    new.tolerations.clone_from(&old.tolerations);
    let gated = old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    new.scheduling_gates.clone_from(&old.scheduling_gates);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        new.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if gated {
        undo_narrowing(&mut new, old, path, errors);
    }
    new
}

/// A gated pod's choice of nodes may be narrowed.
fn undo_narrowing(new: &mut PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if new.node_selector != old.node_selector {
        let kept = |(key, value): (&String, &String)| new.node_selector.as_ref().and_then(|new| new.get(key)) == Some(value);
        if !old.node_selector.iter().flatten().all(kept) {
            let message = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(path.child("nodeSelector"), &new.node_selector, message);
        }
        new.node_selector.clone_from(&old.node_selector);
    }
    let of = |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let (new_affinity, old_affinity) = (of(new), of(old));
    if new_affinity == old_affinity {
        return;
    }
    node_affinity_narrowed(new_affinity.as_ref(), old_affinity.as_ref(), path, errors);
    new.affinity.get_or_insert_default().node_affinity = old_affinity;
    if old.affinity.is_none() && new.affinity == Some(Default::default()) {
        new.affinity = None;
    }
}

fn node_affinity_narrowed(new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, path: &Path, errors: &mut FieldErrors) {
    let terms = |affinity: Option<&NodeAffinity>| {
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.clone());
        required.map(|required| required.node_selector_terms)
    };
    let Some(old) = terms(old) else { return };
    let new = terms(new).unwrap_or_default();
    let affinity = path.child("affinity");
    let path = affinity.child("nodeAffinity");
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let message = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(path, &quoted::NODE_SELECTOR_TERM.quote(&new), message);
    }
    for (i, (new, old)) in new.iter().zip(&old).enumerate() {
        if !only_additions(new, old) {
            errors.invalid(
                path.index(i),
                &quoted::NODE_SELECTOR_TERM.quote(new),
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

fn only_additions(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    fn begins<T: PartialEq>(new: Option<&[T]>, old: Option<&[T]>) -> bool {
        new.unwrap_or_default().starts_with(old.unwrap_or_default())
    }
    let empty = |term: &NodeSelectorTerm| *term == NodeSelectorTerm::default();
    // An empty term matches nothing: adding to it would widen.
    if empty(old) {
        return empty(new);
    }
    begins(new.match_expressions.as_deref(), old.match_expressions.as_deref())
        && begins(new.match_fields.as_deref(), old.match_fields.as_deref())
}

/// What upstream appends (`util/diff`): the lines in which two objects differ, of JSON under the names of Go.
fn difference(shape: Shape, old: &impl Serialize, new: &impl Serialize) -> String {
    unified_diff(&shape.quote(old).pretty(), &shape.quote(new).pretty())
}

/// Upstream's internal pod keeps what it shares with the host in its security context, which is always there.
fn internal(spec: &PodSpec) -> Value {
    let mut context = serde_json::to_value(spec.security_context.clone().unwrap_or_default()).unwrap_or_default();
    context["hostNetwork"] = spec.host_network.into();
    context["hostPID"] = spec.host_pid.into();
    context["hostIPC"] = spec.host_ipc.into();
    context["shareProcessNamespace"] = spec.share_process_namespace.into();
    context["hostUsers"] = spec.host_users.into();
    let mut spec = serde_json::to_value(spec).unwrap_or_default();
    spec["securityContext"] = context;
    spec
}

/// An update at `/ephemeralcontainers`: containers may be added.
pub fn ephemeral_containers(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    if old.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror")) {
        return errors.forbidden("[]", "static pods do not support ephemeral containers");
    }
    let (new, old) = (spec_of(new), spec_of(old));
    let path = "spec.ephemeralContainers";
    let find = |name: &str| {
        new.ephemeral_containers.iter().flatten().find(|container: &&EphemeralContainer| container.name == name)
    };
    for old in old.ephemeral_containers.iter().flatten() {
        match find(&old.name) {
            None => errors.forbidden(path, format!("existing ephemeral containers {:?} may not be removed\n", old.name)),
            Some(new) if new != old => {
                let difference = difference(quoted::EPHEMERAL_CONTAINER, old, new);
                let message = format!("existing ephemeral containers {:?} may not be changed\n{difference}", old.name);
                errors.forbidden(path, message);
            }
            Some(_) => {}
        }
    }
}

/// An update at `/status`.
pub fn status(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    annotations(new, old, errors);
    let (status, before) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    conditions(&status, errors);
    let nominated = text(status.nominated_node_name.as_ref());
    if !nominated.is_empty() && status.nominated_node_name != before.nominated_node_name {
        let path = Path::root("status.nominatedNodeName");
        errors.each(&path, nominated, names::dns1123_subdomain(nominated));
    }
    let class = |status: &PodStatus| status.qos_class.clone().unwrap_or_default();
    errors.immutable(&Path::root("status.qosClass"), &class(&status), &class(&before));
    let spec = spec_of(old);
    let policy = text(spec.restart_policy.as_ref());
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = |status: &PodStatus| {
        [
            status.container_statuses.clone().unwrap_or_default(),
            status.init_container_statuses.clone().unwrap_or_default(),
            status.ephemeral_container_statuses.clone().unwrap_or_default(),
        ]
    };
    let containers = [(policy, spec.containers.as_slice()), (policy, init), ("Never", &[])];
    let fields = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    for (((new, old), (policy, containers)), field) in lists(&status).iter().zip(lists(&before)).zip(containers).zip(fields)
    {
        let restarts = |name: &str, code| restarts(containers.iter().find(|c| c.name == name), policy, code);
        transitions(new, &old, restarts, field, errors);
    }
    claims(&status, spec_of(new).resource_claims.as_deref().unwrap_or_default(), errors);
    addresses(&status, errors);
    let os = spec.os.as_ref().map_or("linux", |os| os.name.as_str());
    for (statuses, field) in lists(&status).iter().zip(fields) {
        users(statuses, os, field, errors);
    }
}

/// `validatePodResourceClaimStatuses`.
fn claims(status: &PodStatus, known: &[PodResourceClaim], errors: &mut FieldErrors) {
    let statuses = status.resource_claim_statuses.as_deref().unwrap_or_default();
    for (i, claim) in statuses.iter().enumerate() {
        let path = Path::root("status.resourceClaimStatuses");
        let path = path.index(i);
        let path = path.child("name");
        if !known.iter().any(|known| known.name == claim.name) {
            errors.invalid(path, &claim.name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if statuses[..i].iter().any(|other| other.name == claim.name) {
            errors.duplicate(path, &claim.name);
        }
        if let Some(name) = &claim.resource_claim_name {
            errors.each(&path, name, names::dns1123_subdomain(name));
        }
    }
}

/// `validateContainerStatusUsers`.
fn users(statuses: &[ContainerStatus], os: &str, field: &str, errors: &mut FieldErrors) {
    for (i, status) in statuses.iter().enumerate() {
        let Some(user) = status.user.as_ref().and_then(|user| user.linux.as_ref()) else { continue };
        let path = format!("status.{field}[{i}].linux");
        let path = Path::root(&path);
        if os == "windows" {
            errors.forbidden(path, "cannot be set for a windows pod");
            continue;
        }
        let mut check = |path: &Path, id: i64| errors.each(path, &id, names::in_range(id, 0, i64::from(i32::MAX)));
        check(&path.child("uid"), user.uid);
        check(&path.child("gid"), user.gid);
        for (j, group) in user.supplemental_groups.iter().flatten().enumerate() {
            check(&path.child("supplementalGroups").index(j), *group);
        }
    }
}

/// Whether a container that has ended so may run again: its own rules come first, then its own policy, then the pod's.
fn restarts(container: Option<&Container>, policy: &str, code: i32) -> bool {
    let rules = container.into_iter().flat_map(|c| c.restart_policy_rules.iter().flatten());
    let mut codes = rules.filter(|rule| rule.action == "Restart").filter_map(|rule| rule.exit_codes.as_ref());
    let listed = |codes: &ContainerRestartRuleOnExitCodes| codes.values.iter().flatten().any(|value| *value == code);
    if codes.any(|codes| listed(codes) == (codes.operator == "In")) {
        return true;
    }
    match container.and_then(|c| c.restart_policy.as_deref()).unwrap_or(policy) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// A container that ended for good stays ended.
fn transitions(
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    restarts: impl Fn(&str, i32) -> bool,
    field: &str,
    errors: &mut FieldErrors,
) {
    let ended = |status: &ContainerStatus| status.state.as_ref().and_then(|state| state.terminated.clone());
    for (i, old) in old.iter().enumerate() {
        let Some(end) = ended(old) else { continue };
        if restarts(&old.name, end.exit_code) {
            continue;
        }
        if new.iter().any(|new| new.name == old.name && ended(new).is_none()) {
            errors.forbidden(format!("status.{field}[{i}].state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn conditions(status: &PodStatus, errors: &mut FieldErrors) {
    for (i, condition) in status.conditions.iter().flatten().enumerate() {
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            // Upstream's path.
            let path = format!("metadata.conditions[{i}].Type");
            errors.each(&Path::root(&path), &condition.type_, names::qualified_name(&condition.type_));
        }
    }
}

fn addresses(status: &PodStatus, errors: &mut FieldErrors) {
    let pod: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    one_of_each_family(&pod, &status.pod_ips, &Path::root("status.podIPs"), errors);
    let host: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let path = Path::root("status.hostIPs");
    if let Some(first) = host.first().filter(|first| **first != text(status.host_ip.as_ref())) {
        errors.invalid(path.index(0).child("ip"), first, "must be equal to `hostIP`");
    }
    one_of_each_family(&host, &status.host_ips, &path, errors);
}

fn one_of_each_family(addresses: &[&str], whole: &impl Serialize, path: &Path, errors: &mut FieldErrors) {
    for (i, address) in addresses.iter().enumerate() {
        errors.each(&path.index(i), address, names::ip(address));
    }
    let families: Vec<bool> = addresses.iter().map(|address| address.contains(':')).collect();
    let alike = families.iter().all(|six| *six) || families.iter().all(|six| !six);
    if addresses.len() > 2 || (addresses.len() == 2 && alike) {
        errors.invalid(path, &quoted::POD_IP.quote(whole), "may specify no more than one IP for each IP family");
    }
    for (i, address) in addresses.iter().enumerate().filter(|(i, address)| addresses[..*i].contains(address)) {
        errors.duplicate(path.index(i), &quoted::POD_IP.quote(&serde_json::json!({"ip": address})));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::{Context, Kind, Refused, Requester, Subresource};

    #[test]
    fn changes_are_told_under_the_names_of_go() {
        let said = |old: Value, new: Value| {
            let of = |mut spec: Value| -> Pod {
                spec["containers"] = json!([]);
                serde_json::from_value(json!({"spec": spec})).unwrap()
            };
            let mut errors = FieldErrors::default();
            pod(&of(new), &of(old), &mut errors);
            errors
                .0
                .iter()
                .filter_map(|error| error.detail.split_once('\n').map(|said| said.1.to_owned()))
                .collect::<String>()
        };
        let expected = [
            "@@ -12,7 +12,7 @@",
            r#"  "AutomountServiceAccountToken": null,"#,
            r#"  "NodeName": "","#,
            r#"  "SecurityContext": {"#,
            r#"-  "HostNetwork": false,"#,
            r#"+  "HostNetwork": true,"#,
            r#"   "HostPID": false,"#,
            r#"   "HostIPC": false,"#,
            r#"   "ShareProcessNamespace": null,"#,
            "",
        ];
        assert_eq!(said(json!({}), json!({"hostNetwork": true})), expected.join("\n"));
        let volumes = said(json!({}), json!({"volumes": [{"name": "<a>", "emptyDir": {"sizeLimit": "1Gi"}}]}));
        let expected = [
            "@@ -1,5 +1,42 @@",
            " {",
            r#"- "Volumes": null,"#,
            r#"+ "Volumes": ["#,
            "+  {",
            r#"+   "Name": "\u003ca\u003e","#,
            r#"+   "HostPath": null,"#,
            r#"+   "EmptyDir": {"#,
            r#"+    "Medium": "","#,
            r#"+    "SizeLimit": "1Gi""#,
            "+   },",
        ];
        assert_eq!(volumes.lines().take(expected.len()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn users_and_claims_in_a_status_are_looked_at() {
        let of = |os: &str, status: Value| -> Pod {
            let spec = json!({"containers": [], "os": {"name": os}, "resourceClaims": [{"name": "a"}]});
            serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
        };
        let said = |os: &str, new: Value| {
            let mut errors = FieldErrors::default();
            status(&of(os, new), &of(os, json!({})), &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let user = |uid: i64, group: i64| {
            let user = json!({"linux": {"uid": uid, "gid": 1, "supplementalGroups": [1, group]}});
            let status = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "user": user});
            json!({"containerStatuses": [status]})
        };
        assert_eq!(said("linux", user(1, 2)), Vec::<String>::new());
        let expected = [
            "status.containerStatuses[0].linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "status.containerStatuses[0].linux.supplementalGroups[1]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
        ];
        assert_eq!(said("linux", user(-1, -2)), expected);
        let expected = ["status.containerStatuses[0].linux: Forbidden: cannot be set for a windows pod"];
        assert_eq!(said("windows", user(1, 2)), expected);
        let claims =
            json!({"resourceClaimStatuses": [{"name": "a", "resourceClaimName": "x"}, {"name": "b"}, {"name": "a"}]});
        let expected = [
            "status.resourceClaimStatuses[1].name: Invalid value: \"b\": must match the name of an entry in `spec.resourceClaims`",
            "status.resourceClaimStatuses[2].name: Duplicate value: \"a\"",
        ];
        assert_eq!(said("linux", claims), expected);
    }

    #[test]
    fn an_ephemeral_container_has_no_list_of_ports_not_even_an_empty_one() {
        let kind = Kind::of::<Pod>();
        let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "resourceVersion": "1"}, "spec": spec});
        let containers = json!([{"name": "c", "image": "i"}]);
        let context =
            Context { now: "2026-01-02T03:04:05Z".parse().unwrap(), user: "tester", requester: Requester::UNKNOWN };
        let old = kind.hooks.create(pod(json!({"containers": containers})), &context).unwrap().object;
        let ephemeral = json!([{"name": "e", "image": "i", "ports": []}]);
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] = ephemeral;
        let refused = kind.hooks.update(new, &old, Some(Subresource::EphemeralContainers), &context);
        let Err(Refused::Invalid(errors)) = refused else { panic!("taken") };
        let expected = "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container";
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn who_may_run_again_after_an_end() {
        let rule = |operator: &str| json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": [42]}}]);
        let allowed = |policy: &str, container: Value, code: i32| {
            let mut container = container;
            container["name"] = json!("a");
            let pod = |state: Value| -> Pod {
                let status =
                    json!({"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
                let spec = json!({"restartPolicy": policy, "containers": [container]});
                serde_json::from_value(json!({"spec": spec, "status": {"containerStatuses": [status]}})).unwrap()
            };
            let mut errors = FieldErrors::default();
            status(&pod(json!({"running": {}})), &pod(json!({"terminated": {"exitCode": code}})), &mut errors);
            errors.is_empty()
        };
        assert_eq!([0, 42, 3].map(|code| allowed("Never", json!({}), code)), [false; 3]);
        assert_eq!([0, 42, 3].map(|code| allowed("OnFailure", json!({}), code)), [false, true, true]);
        let by_rule =
            |operator, code| allowed("Never", json!({"restartPolicy": "Never", "restartPolicyRules": rule(operator)}), code);
        assert_eq!([0, 42, 3].map(|code| by_rule("In", code)), [false, true, false]);
        assert_eq!([0, 42, 3].map(|code| by_rule("NotIn", code)), [true, false, true]);
        assert!(!allowed("Always", json!({"restartPolicy": "Never"}), 3));
    }
}
