//! AppArmor's annotations, which came before the fields: what a new pod says in one way it says in the other, too, so that
//! old and new readers agree (`applyAppArmorVersionSkew`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, SecurityContext};

use super::super::shared::pod_rules::{APP_ARMOR, warnings::app_armor_annotation};

/// The annotation that says what a profile says; nothing for what makes no sense.
fn annotation_of(profile: &AppArmorProfile) -> Option<String> {
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Unconfined", _) => Some("unconfined".to_owned()),
        ("RuntimeDefault", _) => Some("runtime/default".to_owned()),
        ("Localhost", Some(name)) => Some(format!("localhost/{name}")),
        _ => None,
    }
}

/// The profile that an annotation means, if it is a valid one.
fn profile_of(annotation: &str) -> Option<AppArmorProfile> {
    let profile = |kind: &str, name: Option<&str>| AppArmorProfile {
        type_: kind.to_owned(),
        localhost_profile: name.map(str::to_owned),
    };
    match annotation {
        "unconfined" => Some(profile("Unconfined", None)),
        "runtime/default" => Some(profile("RuntimeDefault", None)),
        other => {
            let name = other.strip_prefix("localhost/").filter(|name| !name.is_empty() && name.trim() == *name)?;
            (name.len() <= 4095).then(|| profile("Localhost", Some(name)))
        }
    }
}

fn sync_container(
    name: &str,
    context: &mut Option<SecurityContext>,
    of_the_pod: Option<&AppArmorProfile>,
    annotations: &mut Option<BTreeMap<String, String>>,
) {
    let key = format!("{APP_ARMOR}{name}");
    let own = context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    match (annotations.as_ref().and_then(|all| all.get(&key)), own) {
        (None, own) => {
            if let Some(said) = own.or(of_the_pod).and_then(annotation_of) {
                annotations.get_or_insert_default().insert(key, said);
            }
        }
        (Some(said), None) => {
            let profile = profile_of(said).filter(|profile| Some(profile) != of_the_pod);
            if profile.is_some() {
                context.get_or_insert_default().app_armor_profile = profile;
            }
        }
        // Whether they agree is looked at with everything else.
        (Some(_), Some(_)) => {}
    }
}

/// Adds to a new pod what only its annotations or only its fields say.
pub fn sync(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut().filter(|spec| !is_for_windows(spec)) else { return };
    let of_the_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.clone());
    let annotations = &mut pod.metadata.annotations;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        sync_container(&container.name, &mut container.security_context, of_the_pod.as_ref(), annotations);
    }
}

/// What a new pod that [`sync`] has yet to see is warned of: annotations that become fields, and such as make no sense.
pub fn warnings(pod: &Pod) -> Vec<String> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| !is_for_windows(spec)) else { return Vec::new() };
    let of_the_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let lacking = containers
        .filter(|container| container.security_context.as_ref().is_none_or(|context| context.app_armor_profile.is_none()));
    let warning = |name: &str| {
        let key = format!("{APP_ARMOR}{name}");
        let said = pod.metadata.annotations.as_ref()?.get(&key)?;
        let profile = profile_of(said);
        (profile.is_none() || profile.as_ref() != of_the_pod).then(|| app_armor_annotation(&key, ""))
    };
    lacking.filter_map(|container| warning(&container.name)).collect()
}

fn is_for_windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Annotations and containers of a pod after it was brought in line.
    fn synced(annotations: Value, spec: Value) -> (Value, Value) {
        let pod = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        sync(&mut pod);
        let mut pod = serde_json::to_value(pod).unwrap();
        (pod["metadata"]["annotations"].take(), pod["spec"]["containers"].take())
    }

    #[test]
    fn annotations_become_fields_and_fields_annotations() {
        let key = format!("{APP_ARMOR}c");
        let annotated = |said: &str| json!({&key: said});
        let container = |profile: Value| json!([{"name": "c", "securityContext": {"appArmorProfile": profile}}]);
        let plain = || json!([{"name": "c"}]);
        let local = || json!({"type": "Localhost", "localhostProfile": "mine"});
        for (annotations, containers, want) in [
            (annotated("localhost/mine"), plain(), container(local())),
            (annotated("unconfined"), plain(), container(json!({"type": "Unconfined"}))),
            (annotated("localhost/"), plain(), plain()),
        ] {
            assert_eq!(synced(annotations.clone(), json!({"containers": containers})), (annotations, want));
        }
        let (said, _) = synced(json!({"a": "b"}), json!({"containers": container(local())}));
        assert_eq!(said, json!({"a": "b", &key: "localhost/mine"}));
        let of_the_pod = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        let spec = json!({"securityContext": of_the_pod, "containers": plain()});
        assert_eq!(synced(json!({}), spec.clone()), (annotated("runtime/default"), plain()));
        assert_eq!(synced(annotated("runtime/default"), spec), (annotated("runtime/default"), plain()));
        let windows = json!({"os": {"name": "windows"}, "containers": plain()});
        assert_eq!(synced(annotated("unconfined"), windows).1, plain());
    }

    #[test]
    fn annotations_that_become_fields_are_warned_of() {
        let warned = |said: &str, of_the_pod: Value, own: Value| {
            let container = json!({"name": "c", "securityContext": {"appArmorProfile": own}});
            let spec = json!({"securityContext": {"appArmorProfile": of_the_pod}, "containers": [container]});
            let annotations = json!({format!("{APP_ARMOR}c"): said});
            warnings(&serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap())
        };
        let unconfined = || json!({"type": "Unconfined"});
        let warning = "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead";
        assert_eq!(warned("unconfined", Value::Null, Value::Null), [warning]);
        assert_eq!(warned("localhost/", unconfined(), Value::Null), [warning]);
        assert!(warned("unconfined", unconfined(), Value::Null).is_empty());
        assert!(warned("unconfined", Value::Null, unconfined()).is_empty());
    }
}
