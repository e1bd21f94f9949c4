//! Pod templates and their containers, wherever a kind keeps them.

use serde_json::{Value, json};

/// The pod spec of an object; `Err` names what has none.
pub fn spec_of(object: &mut Value) -> Result<&mut Value, String> {
    let path = match object["kind"].as_str().unwrap_or_default() {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        "ReplicationController" | "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet" | "Job" => "/spec/template/spec",
        _ => return Err(format!("the object is not a pod or does not have a pod template: {}", go_type(object))),
    };
    if object.pointer(path).is_none() {
        let (parent, field) = path.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = object.pointer_mut(parent) {
            parent[field] = json!({});
        }
    }
    object.pointer_mut(path).ok_or_else(|| "the object has no pod template".to_owned())
}

/// `*v1.ConfigMap`: what Go calls the object's type.
pub fn go_type(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let version = version.rsplit('/').next().unwrap_or_default();
    format!("*{version}.{}", object["kind"].as_str().unwrap_or_default())
}

/// Whether a container's name fits a pattern with `*`.
pub fn fits(name: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return name == pattern };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

/// Containers whose names fit, then init containers whose names fit.
pub fn containers<'a>(spec: &'a mut Value, pattern: &str) -> Vec<&'a mut Value> {
    let Some(spec) = spec.as_object_mut() else { return Vec::new() };
    let (mut main, mut init) = (Vec::new(), Vec::new());
    for (field, list) in spec.iter_mut() {
        let place = match field.as_str() {
            "containers" => &mut main,
            "initContainers" => &mut init,
            _ => continue,
        };
        let list = list.as_array_mut().into_iter().flatten();
        place.extend(list.filter(|c| fits(c["name"].as_str().unwrap_or_default(), pattern)));
    }
    main.extend(init);
    main
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let cases = [
            ("web", "*", true),
            ("web", "w*", true),
            ("web", "*b", true),
            ("web", "w*b", true),
            ("web", "x*", false),
            ("web", "we", false),
        ];
        for (name, pattern, want) in cases {
            assert_eq!(fits(name, pattern), want, "{name} {pattern}");
        }
    }

    #[test]
    fn containers_come_before_init_containers() {
        let mut object = json!({"kind": "Deployment", "apiVersion": "apps/v1",
            "spec": {"template": {"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}}}});
        let spec = spec_of(&mut object).unwrap();
        let names: Vec<String> =
            containers(spec, "*").iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(names, ["c", "i"]);
        let mut other = json!({"kind": "ConfigMap", "apiVersion": "v1"});
        let refused = spec_of(&mut other).unwrap_err();
        assert_eq!(refused, "the object is not a pod or does not have a pod template: *v1.ConfigMap");
    }
}
