//! Zero values are unset values.
//!
//! Upstream's types leave out empty strings, zeros and `false` where a field is no pointer, and decode a missing field to the
//! same zero. Clients rely on it (`clusterIP: ""` asks for an address, `imagePullPolicy: ""` for the default). Our types have
//! `Option` everywhere, so zeros are taken out of the JSON before it is decoded: then `None` is the only spelling of "unset".
//! Which fields are pointers upstream (`automountServiceAccountToken: false`, `replicas: 0` mean something) is a fact of
//! each field; the names below are those that are never pointers in a kind we serve.

use serde_json::Value;

use crate::quantity;

/// Strings for which `""` means unset.
const STRINGS: &[&str] = &[
    "action",
    "apiVersion",
    "clusterIP",
    "component",
    "containerID",
    "containerName",
    "description",
    "dnsPolicy",
    "externalID",
    "externalName",
    "externalTrafficPolicy",
    "fieldPath",
    "generateName",
    "host",
    "hostIP",
    "hostname",
    "image",
    "imagePullPolicy",
    "imageRef",
    "kind",
    "level",
    "loadBalancerIP",
    "medium",
    "message",
    "mountPath",
    "namespace",
    "nodeName",
    "nominatedNodeName",
    "note",
    "phase",
    "podCIDR",
    "podIP",
    "prefix",
    "priorityClassName",
    "protocol",
    "providerID",
    "qosClass",
    "reason",
    "resize",
    "resourceVersion",
    "restartPolicy",
    "role",
    "schedulerName",
    "scheme",
    "secretName",
    "selfLink",
    "serviceAccount",
    "serviceAccountName",
    "sessionAffinity",
    "subPath",
    "subPathExpr",
    "subdomain",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "uid",
    "user",
    "workingDir",
];

/// Numbers for which 0 means unset.
const NUMBERS: &[&str] = &[
    "availableReplicas",
    "count",
    "deprecatedCount",
    "failureThreshold",
    "fullyLabeledReplicas",
    "generation",
    "healthCheckNodePort",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "observedGeneration",
    "periodSeconds",
    "readyReplicas",
    "signal",
    "sizeBytes",
    "successThreshold",
    "timeoutSeconds",
    "unavailableReplicas",
    "updatedReplicas",
];

/// Flags for which `false` means unset.
const FLAGS: &[&str] = &[
    "globalDefault",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
];

/// Maps for which `{}` means unset (structs such as `emptyDir: {}` mean something).
const MAPS: &[&str] = &[
    "allocatable",
    "allocatedResources",
    "annotations",
    "binaryData",
    "capacity",
    "data",
    "deprecatedTopology",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "overhead",
    "requests",
    "stringData",
];

/// Maps of strings, in which `null` is an empty string.
const STRING_MAPS: &[&str] = &["annotations", "data", "labels", "matchLabels", "nodeSelector", "stringData"];

/// Lists that upstream writes even when empty.
const KEPT_LISTS: &[&str] = &["addresses", "containers", "endpoints", "rules", "verbs"];

/// Fields that are pointers upstream where they are in this parent: their zeros are values.
const POINTERS: &[(&str, &str)] = &[
    ("addresses", "nodeName"),
    ("allocatable", "count"),
    ("azureDisk", "kind"),
    ("clientIP", "timeoutSeconds"),
    ("containers", "restartPolicy"),
    ("drivers", "allocatable"),
    ("endpoints", "hostname"),
    ("endpoints", "nodeName"),
    ("ephemeralContainers", "ports"),
    ("ephemeralContainers", "resizePolicy"),
    ("ephemeralContainers", "restartPolicy"),
    ("initContainers", "restartPolicy"),
    ("notReadyAddresses", "nodeName"),
];

/// The same, in kinds that share names of fields with others.
const POINTERS_OF: &[(&str, (&str, &str))] =
    &[("EndpointSlice", ("ports", "protocol")), ("NetworkPolicy", ("ports", "protocol"))];

/// Strings for which `""` means unset only where they are in this parent: names are, in references to objects.
const OWN_STRINGS: &[(&str, &str)] = &[
    ("involvedObject", "name"),
    ("regarding", "name"),
    ("related", "name"),
    ("seLinuxOptions", "type"),
    ("secrets", "name"),
    ("serviceAccountToken", "audience"),
    ("targetRef", "name"),
];

/// Where objects have references to Secrets that may have no name.
const PULL_SECRETS: &[&str] = &[
    "/imagePullSecrets",
    "/spec/imagePullSecrets",
    "/spec/template/spec/imagePullSecrets",
    "/template/spec/imagePullSecrets",
];

/// Subtrees whose content is not ours to read.
const OPAQUE: &[&str] = &["binaryData", "data", "fieldsV1", "stringData"];

/// Maps from resource names to quantities.
const QUANTITIES: &[&str] = &["allocatable", "allocatedResources", "capacity", "limits", "overhead", "requests"];

/// Quantities by themselves.
const QUANTITY: &[&str] = &["divisor", "sizeLimit"];

/// Takes zero values out and writes quantities (numbers are fine too) in canonical form, as decoding does upstream.
///
/// # Errors
/// A quantity that is none, in upstream's words.
pub fn normalize(value: &mut Value) -> Result<(), quantity::ParseError> {
    let data = take_raw_data(value);
    let labelless = has_empty_labels_to_quote(value);
    fill_null_strings(value);
    drop_zero_values(value);
    keep_empty_selector(value);
    if let Some(metadata) = value.pointer_mut("/spec/template/metadata").filter(|_| labelless) {
        metadata["labels"] = Value::Object(serde_json::Map::new());
    }
    canonical_quantities(value)?;
    if let (Some(data), Value::Object(fields)) = (data, value) {
        fields.insert("data".to_owned(), data);
    }
    Ok(())
}

/// A ControllerRevision's data is anybody's: an empty map in it is one.
fn take_raw_data(value: &mut Value) -> Option<Value> {
    let fields = value.as_object_mut()?;
    let raw = fields.get("kind").is_some_and(|kind| kind == "ControllerRevision");
    raw.then(|| fields.remove("data")).flatten().filter(|data| !data.is_null())
}

/// Types cannot tell a missing label selector from an empty one, which is refused with words of its own: an empty one is
/// written with an empty map in it.
fn keep_empty_selector(value: &mut Value) {
    let selects_by_label = value.get("apiVersion").is_some_and(|version| version == "apps/v1");
    if let Some(Value::Object(selector)) = value.pointer_mut("/spec/selector").filter(|_| selects_by_label)
        && selector.is_empty()
    {
        selector.insert("matchLabels".to_owned(), Value::Object(serde_json::Map::new()));
    }
}

/// Whether a template has labels `{}` and its selector asks for some: the refusal quotes them, and `null` where there are none.
/// Such an object is not stored.
fn has_empty_labels_to_quote(value: &Value) -> bool {
    let is_map = |map: &Value, empty: bool| map.as_object().is_some_and(|map| map.is_empty() == empty);
    let selector = value.pointer("/spec/selector");
    let by_label = match value.get("kind").and_then(Value::as_str) {
        Some("ReplicationController") => selector,
        _ => selector.and_then(|selector| selector.get("matchLabels")),
    };
    let expressions = selector.and_then(|selector| selector.get("matchExpressions")).and_then(Value::as_array);
    value.pointer("/spec/template/metadata/labels").is_some_and(|labels| is_map(labels, true))
        && (by_label.is_some_and(|labels| is_map(labels, false))
            || expressions.into_iter().flatten().any(|term| term["operator"] == "In" || term["operator"] == "Exists"))
}

fn fill_null_strings(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Object(map) if STRING_MAPS.contains(&name.as_str()) => {
                        map.values_mut().filter(|value| value.is_null()).for_each(|value| *value = Value::from(""));
                    }
                    Value::Object(_) | Value::Array(_) if !OPAQUE.contains(&name.as_str()) => fill_null_strings(field),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fill_null_strings),
        _ => {}
    }
}

fn canonical_quantities(value: &mut Value) -> Result<(), quantity::ParseError> {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Object(map) if QUANTITIES.contains(&name.as_str()) => {
                        // How many volumes a CSI driver can hold (`allocatable: {count: 3}`) is a number.
                        map.iter_mut()
                            .filter(|(name, _)| *name != "count")
                            .try_for_each(|(_, of)| canonical_quantity(of))?;
                    }
                    Value::String(_) | Value::Number(_) if QUANTITY.contains(&name.as_str()) => canonical_quantity(field)?,
                    Value::Object(_) | Value::Array(_) if !OPAQUE.contains(&name.as_str()) => canonical_quantities(field)?,
                    _ => {}
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(canonical_quantities),
        _ => Ok(()),
    }
}

fn canonical_quantity(value: &mut Value) -> Result<(), quantity::ParseError> {
    let text = match &*value {
        Value::String(text) => quantity::canonical(text)?,
        Value::Number(number) => quantity::canonical(&number.to_string())?,
        _ => return Ok(()),
    };
    *value = Value::String(text);
    Ok(())
}

/// Removes nulls and zero values that mean "unset", at every depth but inside opaque data.
pub fn drop_zero_values(value: &mut Value) {
    let kind = value.get("kind").and_then(Value::as_str).and_then(|kind| POINTERS_OF.iter().find(|(of, _)| *of == kind));
    drop_zeros_in("", value, kind.map(|(_, pointer)| *pointer));
}

/// Takes empty names out of an object that our types have written: they have no other form of "unset" for these.
pub fn drop_empty_names(object: &mut Value) {
    for path in PULL_SECRETS {
        let secrets = object.pointer_mut(path).and_then(Value::as_array_mut);
        for secret in secrets.into_iter().flatten().filter_map(Value::as_object_mut) {
            secret.retain(|name, value| name != "name" || value != "");
        }
    }
}

/// `pointer` is one more of [`POINTERS`].
fn drop_zeros_in(parent: &str, value: &mut Value, pointer: Option<(&str, &str)>) {
    match value {
        Value::Object(fields) => fields.retain(|name, field| {
            if OWN_STRINGS.contains(&(parent, name.as_str())) && field == "" {
                return false;
            }
            if is_unset(name, field) {
                let place = (parent, name.as_str());
                return !field.is_null() && (POINTERS.contains(&place) || pointer == Some(place));
            }
            let own_keys = OPAQUE.contains(&name.as_str()) || (field.is_object() && STRING_MAPS.contains(&name.as_str()));
            if !own_keys && (field.is_object() || field.is_array()) {
                drop_zeros_in(name, field, pointer);
            }
            true
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| drop_zeros_in(parent, item, pointer)),
        _ => {}
    }
}

fn is_unset(name: &str, field: &Value) -> bool {
    let listed = |names: &[&str]| names.binary_search(&name).is_ok();
    match field {
        Value::Null => true,
        Value::String(text) => text.is_empty() && listed(STRINGS),
        Value::Number(number) => number.as_i64() == Some(0) && listed(NUMBERS),
        Value::Bool(flag) => !flag && listed(FLAGS),
        Value::Object(fields) => fields.is_empty() && listed(MAPS),
        Value::Array(items) => items.is_empty() && !listed(KEPT_LISTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_sorted() {
        for table in [STRINGS, NUMBERS, FLAGS, MAPS, KEPT_LISTS] {
            assert!(table.is_sorted(), "{table:?}");
        }
    }

    #[test]
    fn quantities_become_canonical_and_null_strings_empty() {
        let mut object = json!({
            "metadata": {"labels": {"a": null}},
            "spec": {"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}, "emptyDir": {"sizeLimit": 1000}},
        });
        normalize(&mut object).unwrap();
        let want = json!({
            "metadata": {"labels": {"a": ""}},
            "spec": {"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}, "emptyDir": {"sizeLimit": "1k"}},
        });
        assert_eq!(object, want);
        assert!(normalize(&mut json!({"limits": {"cpu": "x"}})).is_err());
        for data in [json!({"a": null}), json!({}), json!([]), json!("")] {
            let mut revision = json!({"kind": "ControllerRevision", "data": data});
            normalize(&mut revision).unwrap();
            assert_eq!(revision["data"], data);
        }
    }

    #[test]
    fn empty_labels_that_do_not_fit_are_quoted() {
        let kept = |kind: &str, selector: Value| {
            let template = json!({"metadata": {"labels": {}}});
            let mut object = json!({"kind": kind, "spec": {"selector": selector, "template": template}});
            normalize(&mut object).unwrap();
            object.pointer("/spec/template/metadata/labels") == Some(&json!({}))
        };
        assert!(kept("Deployment", json!({"matchLabels": {"a": "b"}})));
        assert!(kept("ReplicaSet", json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]})));
        assert!(kept("ReplicationController", json!({"a": "b"})));
        for fits in [json!({}), json!({"matchLabels": {}}), json!({"matchExpressions": [{"operator": "DoesNotExist"}]})] {
            assert!(!kept("Deployment", fits.clone()), "{fits}");
        }
        assert!(!kept("ReplicationController", json!({})));
    }

    #[test]
    fn references_may_have_no_name() {
        let mut account = json!({"imagePullSecrets": [{"name": ""}, {"name": "a"}], "metadata": {"name": ""}});
        drop_empty_names(&mut account);
        assert_eq!(account, json!({"imagePullSecrets": [{}, {"name": "a"}], "metadata": {"name": ""}}));
        let mut event = json!({"related": {"kind": "Pod", "name": ""}, "secrets": [{"name": ""}]});
        drop_zero_values(&mut event);
        assert_eq!(event, json!({"related": {"kind": "Pod"}, "secrets": [{}]}));
    }

    #[test]
    fn a_pointer_to_nothing_is_something() {
        let kept = |kind: &str| {
            let mut object = json!({"kind": kind, "ports": [{"protocol": "", "name": "a"}]});
            drop_zero_values(&mut object);
            object["ports"][0].get("protocol").is_some()
        };
        assert_eq!(["EndpointSlice", "NetworkPolicy", "Endpoints"].map(kept), [true, true, false]);
    }

    #[test]
    fn zeros_go_and_meanings_stay() {
        let mut object = json!({
            "metadata": {"labels": {}, "annotations": {"a": "", "role": ""}, "uid": "", "creationTimestamp": null},
            "spec": {
                "clusterIP": "", "replicas": 0, "automountServiceAccountToken": false, "hostNetwork": false,
                "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [], "nodeName": "",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
                "seLinuxOptions": {"type": "", "user": ""}, "drivers": [{"allocatable": {"count": 0}}],
            },
            "involvedObject": {"kind": "", "name": ""},
            "data": {"reason": "", "empty": ""},
        });
        drop_zero_values(&mut object);
        let want = json!({
            "metadata": {"annotations": {"a": "", "role": ""}},
            "spec": {"replicas": 0, "automountServiceAccountToken": false, "volumes": [{"name": "v", "emptyDir": {}}],
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
                "seLinuxOptions": {}, "drivers": [{"allocatable": {"count": 0}}],
            },
            "involvedObject": {},
            "data": {"reason": "", "empty": ""},
        });
        assert_eq!(object, want);
    }
}
