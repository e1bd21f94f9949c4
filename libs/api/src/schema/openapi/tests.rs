use super::*;

fn kinds() -> Vec<KindInfo> {
    crate::kinds::all().into_iter().map(|k| k.info).collect()
}

#[test]
fn v3_holds_what_explain_looks_for() {
    let kinds = kinds();
    let kinds: Vec<&KindInfo> = kinds.iter().collect();
    let document: Value = serde_json::from_slice(&v3(&kinds, "apps", "v1").unwrap()).unwrap();
    let gvk = json!({"group": "apps", "kind": "Deployment", "version": "v1"});
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(path["patch"]["x-kubernetes-group-version-kind"], gvk);
    let parameters = path["patch"]["parameters"].as_array().unwrap();
    assert!(["fieldValidation", "dryRun"].iter().all(|p| parameters.iter().any(|x| x["name"] == *p)));
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([gvk]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
}

#[test]
fn every_reference_is_defined() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.insert(reference.rsplit('/').next().unwrap_or_default().to_owned());
                }
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let kinds = kinds();
    let kinds: Vec<&KindInfo> = kinds.iter().collect();
    let mut documents = vec![(v2(&kinds), "/definitions")];
    for (group, versions) in crate::discovery::group_versions(&kinds) {
        let bytes = v3(&kinds, group, versions[0]).unwrap();
        documents.push((serde_json::from_slice(&bytes).unwrap(), "/components/schemas"));
    }
    for (document, at) in documents {
        let mut found = BTreeSet::new();
        // A schema has properties that are called `$ref` themselves (CustomResourceDefinitions'): these hold objects.
        references(&document, &mut found);
        let defined = document.pointer(at).unwrap();
        let missing: Vec<&String> = found.iter().filter(|name| defined.get(name.as_str()).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn index_names_each_version_once() {
    let kinds = kinds();
    let kinds: Vec<&KindInfo> = kinds.iter().collect();
    let index: Value = serde_json::from_slice(&v3_index(&kinds)).unwrap();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/api/v1?hash=") && url.len() == 24 + 64, "{url}");
}

/// Reads a message's fields: (number, payload) of those with a length.
fn fields(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &[u8], at: &mut usize) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let (mut at, mut out) = (0, Vec::new());
    while at < bytes.len() {
        let tag = varint(bytes, &mut at);
        if tag & 7 == 0 {
            varint(bytes, &mut at);
            continue;
        }
        let length = varint(bytes, &mut at) as usize;
        out.push((tag >> 3, &bytes[at..at + length]));
        at += length;
    }
    out
}

#[test]
fn protobuf_holds_the_definitions() {
    let kinds = kinds();
    let kinds: Vec<&KindInfo> = kinds.iter().collect();
    let bytes = v2_protobuf(&kinds);
    let document = fields(&bytes);
    assert_eq!(document[0], (1, &b"2.0"[..]));
    let definitions = document.iter().find(|(n, _)| *n == 9).unwrap().1;
    let pod = fields(definitions)
        .into_iter()
        .map(|(_, named)| fields(named))
        .find(|named| named[0].1 == b"io.k8s.api.core.v1.Pod")
        .unwrap();
    let schema = fields(pod[1].1);
    let properties = fields(schema.iter().find(|(n, _)| *n == 25).unwrap().1);
    let names: Vec<&[u8]> = properties.iter().map(|(_, p)| fields(p)[0].1).collect();
    assert_eq!(names, [&b"apiVersion"[..], b"kind", b"metadata", b"spec", b"status"]);
}

#[test]
fn enumerations_name_their_values() {
    let kinds = kinds();
    let kinds: Vec<&KindInfo> = kinds.iter().collect();
    let v3: Value = serde_json::from_slice(&v3(&kinds, "", "v1").unwrap()).unwrap();
    let property = |ty: &str, field: &str| v3["components"]["schemas"][ty]["properties"][field].clone();
    let policy = property("io.k8s.api.core.v1.PodSpec", "restartPolicy");
    assert_eq!(policy["enum"], json!(["Always", "Never", "OnFailure"]));
    let description = policy["description"].as_str().unwrap();
    assert!(
        description.ends_with("\n\nPossible enum values:\n - `\"Always\"`\n - `\"Never\"`\n - `\"OnFailure\"`"),
        "{description}"
    );
    // A list's are its elements', and not told in words.
    let families = property("io.k8s.api.core.v1.ServiceSpec", "ipFamilies");
    assert_eq!(families["items"]["enum"], json!(["", "IPv4", "IPv6"]));
    assert!(!families["description"].as_str().unwrap().contains("Possible enum values"));
    assert_eq!(property("io.k8s.api.core.v1.PodSpec", "nodeName").get("enum"), None);

    let bytes = v2_protobuf(&kinds);
    let document = fields(&bytes);
    let definitions = fields(document.iter().find(|(n, _)| *n == 9).unwrap().1);
    let spec = definitions
        .into_iter()
        .map(|(_, named)| fields(named))
        .find(|named| named[0].1 == b"io.k8s.api.core.v1.PodSpec")
        .unwrap();
    let schema = fields(spec[1].1);
    let properties = fields(schema.iter().find(|(n, _)| *n == 25).unwrap().1);
    let policy =
        properties.into_iter().map(|(_, named)| fields(named)).find(|named| named[0].1 == b"restartPolicy").unwrap();
    let values: Vec<Vec<u8>> =
        fields(policy[1].1).iter().filter(|(n, _)| *n == 20).map(|(_, any)| fields(any)[0].1.to_vec()).collect();
    assert_eq!(values, [&b"\"Always\"\n"[..], b"\"Never\"\n", b"\"OnFailure\"\n"]);
}
