//! An update at `/resize` (`ValidatePodResize`): cpu and memory of containers, within the pod's class.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::text;
use crate::{field::FieldErrors, field_path::Path, kinds::pod::qos_class};

type List = BTreeMap<String, Quantity>;

/// The pod's own rules have been checked.
pub fn resize(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let none = PodSpec::default();
    let (new_spec, old_spec) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
    if let Some(why) = never(new_spec, old_spec, old) {
        return errors.forbidden("[]", why);
    }
    let path = Path::root("spec");
    let class = old.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or_else(|| qos_class(old_spec));
    if class != qos_class(new_spec) {
        errors.invalid(path, &class, "Pod QOS Class may not change as a result of resizing");
    }
    if !is_supported(old) {
        errors.forbidden(path, "Pod running on node without support for resize");
    }
    let (init, old_init) = (list(new_spec), list(old_spec));
    let known = errors.0.len();
    same_containers(&new_spec.containers, &old_spec.containers, "containers", errors);
    same_containers(init, old_init, "initContainers", errors);
    if errors.0.len() > known {
        return;
    }
    let sidecars = init.iter().zip(old_init).enumerate().filter(|(_, (_, old))| is_sidecar(old));
    for (i, (new, old)) in sidecars {
        nothing_removed(new, old, &path.child("initContainers").index(i), errors);
    }
    for (i, (new, old)) in new_spec.containers.iter().zip(&old_spec.containers).enumerate() {
        nothing_removed(new, old, &path.child("containers").index(i), errors);
    }
    for _ in new_spec.containers.iter().zip(&old_spec.containers).filter(|(new, old)| !is_of_cpu_and_memory(new, old)) {
        errors.forbidden(path, "only cpu and memory resources are mutable");
    }
    for (new, old) in init.iter().zip(old_init) {
        if is_sidecar(new) && !is_of_cpu_and_memory(new, old) {
            errors.forbidden(path, "only cpu and memory resources for sidecar containers are mutable");
        } else if !is_sidecar(new) && new != old {
            errors.forbidden(path, "resources for non-sidecar init containers are immutable");
        }
    }
}

/// Why a pod is never given other resources.
fn never(new_spec: &PodSpec, old_spec: &PodSpec, old: &Pod) -> Option<&'static str> {
    let any = |list: Option<&List>| list.is_some_and(|list| !list.is_empty());
    let of_the_pod =
        |spec: &PodSpec| spec.resources.as_ref().is_some_and(|all| any(all.requests.as_ref()) || any(all.limits.as_ref()));
    if of_the_pod(old_spec) || of_the_pod(new_spec) {
        return Some("pods with pod-level resources cannot be resized");
    }
    let annotations = old.metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror")) {
        return Some("static pods cannot be resized");
    }
    let is_for_windows = old_spec.os.as_ref().is_some_and(|os| os.name == "windows");
    is_for_windows.then_some("windows pods cannot be resized")
}

/// Kubelets that can resize tell what running containers have.
fn is_supported(pod: &Pod) -> bool {
    let mut statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running = statuses.find(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.is_none_or(|status| status.resources.is_some())
}

fn list(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

fn is_sidecar(container: &Container) -> bool {
    text(container.restart_policy.as_ref()) == "Always"
}

fn same_containers(new: &[Container], old: &[Container], field: &str, errors: &mut FieldErrors) {
    let path = Path::root("spec");
    let path = path.child(field);
    if new.len() != old.len() {
        return errors.forbidden(path, format!("{field} may not be added or removed on resize"));
    }
    for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new.name != old.name) {
        errors.forbidden(path.index(i).child("name"), format!("{field} may not be renamed or reordered on resize"));
    }
}

fn lists(container: &Container) -> (List, List) {
    let of = |list: fn(&ResourceRequirements) -> &Option<List>| {
        container.resources.as_ref().and_then(|resources| list(resources).clone()).unwrap_or_default()
    };
    (of(|resources| &resources.requests), of(|resources| &resources.limits))
}

fn nothing_removed(new: &Container, old: &Container, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("resources");
    let (new, old) = (lists(new), lists(old));
    let is_removed = |new: &List, old: &List| old.keys().any(|name| !new.contains_key(name));
    if is_removed(&new.0, &old.0) {
        errors.forbidden(path.child("requests"), "resource requests cannot be removed");
    }
    if is_removed(&new.1, &old.1) {
        errors.forbidden(path.child("limits"), "resource limits cannot be removed");
    }
}

/// Whether two containers are alike but for how much cpu and memory they have. Resources that come in addition may have brought
/// their policies.
fn is_of_cpu_and_memory(new: &Container, old: &Container) -> bool {
    let others = |container: &Container| {
        let rest = |mut list: List| {
            list.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
            list
        };
        let (requests, limits) = lists(container);
        let claims = container.resources.as_ref().and_then(|resources| resources.claims.clone());
        (rest(requests), rest(limits), claims)
    };
    let bare = |container: &Container| Container { resources: None, resize_policy: None, ..container.clone() };
    let policies = |container: &Container| container.resize_policy.clone().unwrap_or_default();
    let chosen = policies(new);
    others(new) == others(old) && bare(new) == bare(old) && policies(old).iter().all(|policy| chosen.contains(policy))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kind::{Context, Kind, Refused, Requester, Subresource};

    fn pod() -> Value {
        let container = |name: &str, more: Value| {
            let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}});
            let mut container = json!({"name": name, "image": "i", "resources": resources});
            json_patch::merge(&mut container, &more);
            container
        };
        let init = [container("i", json!({})), container("s", json!({"restartPolicy": "Always"}))];
        json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [container("a", json!({})), container("b", json!({}))], "initContainers": init},
        })
    }

    /// What is said of a patch at `/resize`, by JSON pointer and value.
    fn said(base: &Value, changes: &[(&str, Value)]) -> Vec<String> {
        let hooks = Kind::of::<Pod>().hooks;
        let ctx = Context { now: "2026-01-02T03:04:05Z".parse().unwrap(), user: "tester", requester: Requester::UNKNOWN };
        let mut old = hooks.create(base.clone(), &ctx).unwrap().object;
        json_patch::merge(&mut old, &json!({"metadata": {"resourceVersion": "1"}, "status": base["status"]}));
        let mut new = old.clone();
        for (pointer, value) in changes {
            *new.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value.clone();
        }
        match hooks.update(new, &old, Some(Subresource::Resize), &ctx) {
            Ok(_) => Vec::new(),
            Err(Refused::Invalid(errors)) => errors.0.iter().map(ToString::to_string).collect(),
            Err(Refused::Malformed(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn cpu_and_memory_are_given_and_taken_and_nothing_else() {
        let a = |rest: &str| format!("/spec/containers/0/{rest}");
        for (pointer, value, want) in [
            (a("resources/requests/cpu"), json!("200m"), vec![]),
            (a("resources/limits/memory"), json!("64Mi"), vec![]),
            (a("resources/limits"), json!({"memory": "128Mi", "cpu": "1"}), vec![]),
            ("/spec/initContainers/1/resources/requests/cpu".to_owned(), json!("200m"), vec![]),
            (a("image"), json!("other"), vec![]),
            (
                a("resources/requests"),
                json!({"memory": "64Mi"}),
                vec!["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
            ),
            (
                a("resources/limits"),
                json!({}),
                vec!["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
            ),
            (
                a("resources/limits"),
                json!({"memory": "128Mi", "ephemeral-storage": "1Gi"}),
                vec!["spec: Forbidden: only cpu and memory resources are mutable"],
            ),
            (
                a("resizePolicy"),
                json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
                vec!["spec: Forbidden: only cpu and memory resources are mutable"],
            ),
            (
                "/spec/initContainers/0/resources/requests/cpu".to_owned(),
                json!("200m"),
                vec!["spec: Forbidden: resources for non-sidecar init containers are immutable"],
            ),
            (
                "/spec/initContainers/1/resources/limits".to_owned(),
                json!({"memory": "128Mi", "ephemeral-storage": "1Gi"}),
                vec!["spec: Forbidden: only cpu and memory resources for sidecar containers are mutable"],
            ),
            (
                a("name"),
                json!("z"),
                vec!["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
            ),
            (
                "/spec/containers".to_owned(),
                json!([{"name": "a", "image": "i", "resources": {"requests": {"cpu": "1"}}}]),
                vec!["spec.containers: Forbidden: containers may not be added or removed on resize"],
            ),
            (
                "/spec/initContainers".to_owned(),
                json!([]),
                vec!["spec.initContainers: Forbidden: initContainers may not be added or removed on resize"],
            ),
        ] {
            assert_eq!(said(&pod(), &[(&pointer, value)]), want, "{pointer}");
        }
    }

    #[test]
    fn the_class_of_the_pod_stays() {
        let mut base = pod();
        base["spec"] = json!({"containers": [{"name": "a", "image": "i"}]});
        let some = json!({"requests": {"cpu": "1"}});
        let why = "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing";
        base["status"] = json!({"qosClass": "BestEffort"});
        assert_eq!(said(&base, &[("/spec/containers/0/resources", some)]), [why]);
    }

    #[test]
    fn some_pods_are_never_resized() {
        let cpu = [("/spec/containers/0/resources/requests/cpu", json!("200m"))];
        for (change, want) in [
            (
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"nodeName": "n"}}),
                "[]: Forbidden: static pods cannot be resized",
            ),
            (json!({"spec": {"os": {"name": "windows"}}}), "[]: Forbidden: windows pods cannot be resized"),
            (
                json!({"spec": {"resources": {"requests": {"cpu": "1"}}}}),
                "[]: Forbidden: pods with pod-level resources cannot be resized",
            ),
            (
                json!({"status": {"containerStatuses": [{"name": "a", "state": {"running": {}}, "image": "i", "imageID": "i", "ready": true, "restartCount": 0}]}}),
                "spec: Forbidden: Pod running on node without support for resize",
            ),
        ] {
            let mut base = pod();
            json_patch::merge(&mut base, &change);
            assert_eq!(said(&base, &cpu), [want], "{change}");
        }
    }
}
