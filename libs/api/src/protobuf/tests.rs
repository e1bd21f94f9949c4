use std::fs;

use super::*;

/// Reads what was written.
fn again(object: &Value) -> Value {
    decode(&encode(object).unwrap(), None).unwrap()
}

#[test]
fn golden_objects_of_every_kind_survive() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kinds");
    let mut wrong = Vec::new();
    for (file, info) in crate::kinds::FILES.iter().zip(crate::kinds::INFOS) {
        let golden: Value = serde_json::from_str(&fs::read_to_string(format!("{folder}/{file}.json")).unwrap()).unwrap();
        let mut stored = golden["stored"].clone();
        if let Some(status) = golden.get("status") {
            stored["status"] = status.clone();
        }
        let ty = table().by_kind(info.group, info.version, info.kind).unwrap();
        let mut read = again(&stored);
        // Messages leave out what JSON says is null.
        [&mut stored, &mut read].into_iter().for_each(|object| crate::schema::nulls::write(object, ty));
        if read != stored {
            wrong.push(format!("{file}: {stored:#} became {read:#}"));
        }
        let meta = json!({"resourceVersion": "7", "continue": "x", "remainingItemCount": 3});
        let list = json!({"kind": format!("{}List", info.kind), "apiVersion": info.api_version(), "metadata": meta, "items": [stored]});
        let mut by_item = List::new(&info.api_version(), info.kind, &meta).unwrap();
        by_item.push(&stored).unwrap();
        assert_eq!(by_item.finish().unwrap(), encode(&list).unwrap(), "{file}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_type_that_served_kinds_reach_is_known() {
    fn walk(ty: &crate::schema::Type, seen: &mut std::collections::HashSet<TypeId>, wrong: &mut Vec<String>) {
        use crate::schema::Type;
        match table().resolve(ty) {
            Type::Array(inner) | Type::Map(inner) => walk(inner, seen, wrong),
            Type::Any => wrong.push("any".to_owned()),
            Type::Ref(id) if seen.insert(*id) => {
                if !layout::layout(*id).complete {
                    wrong.push(table().get(*id).name.to_owned());
                }
                table().get(*id).fields.iter().for_each(|f| walk(&f.ty, seen, wrong));
            }
            _ => {}
        }
    }
    let mut names: Vec<(String, &str)> = crate::kinds::INFOS.iter().map(|i| (i.api_version(), i.kind)).collect();
    for (group, kind) in [
        ("v1", "Status"),
        ("v1", "DeleteOptions"),
        ("v1", "Binding"),
        ("policy/v1", "Eviction"),
        ("autoscaling/v1", "Scale"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("authentication.k8s.io/v1", "TokenReview"),
        ("authentication.k8s.io/v1", "SelfSubjectReview"),
        ("authorization.k8s.io/v1", "SubjectAccessReview"),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
        ("authorization.k8s.io/v1", "LocalSubjectAccessReview"),
    ] {
        names.push((group.to_owned(), kind));
    }
    let (mut seen, mut wrong) = Default::default();
    for (api_version, kind) in names {
        let id = type_of(&api_version, kind).unwrap_or_else(|| panic!("{kind}"));
        walk(&crate::schema::Type::Ref(id), &mut seen, &mut wrong);
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn bytes_are_those_of_the_wire_format() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let want = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01a\x12\x06\x0a\x01k\x12\x01v\x1a\0\"\0";
    assert_eq!(encode(&map).unwrap(), want);
    // A list with a name of its own is a message.
    let verbs = json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "v1",
        "resources": [{"name": "p", "namespaced": true, "kind": "P", "verbs": ["get", "list"]}]});
    let resource = b"\x0a\x01p\x10\x01\x1a\x01P\x22\x0b\x0a\x03get\x0a\x04list";
    let encoded = encode(&verbs).unwrap();
    assert!(encoded.windows(resource.len()).any(|bytes| bytes == resource), "{}", encoded.escape_ascii());
    let source = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "env": [{"name": "e"}], "envFrom": [{"configMapRef": {"name": "m"}}],
            "livenessProbe": {"httpGet": {"port": "http"}}, "resources": {"limits": {"cpu": "1500m"}}}],
            "securityContext": {"supplementalGroups": [1, -2]},
            "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0}});
    assert_eq!(again(&source), source);
}

#[test]
fn what_go_writes_for_unset_fields_is_unset() {
    let mut raw = Vec::new();
    wire::message(&mut raw, 1, |out| {
        wire::bytes(out, 1, b"a");
        wire::bytes(out, 2, b"");
        wire::number(out, 7, 0);
        wire::bytes(out, 8, b"");
        Ok(())
    })
    .unwrap();
    let body = wrap("v1", "Namespace", &raw).unwrap();
    assert_eq!(decode(&body, None).unwrap(), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}));
}

#[test]
fn watches_are_framed() {
    let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"}});
    assert!(supports("meta.k8s.io/v1", "PartialObjectMetadata"));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let frame = watch_frame("ADDED", &map).unwrap();
    assert_eq!(read_watch_frame(&frame).unwrap(), Some(("ADDED".to_owned(), map, frame.len())));
    assert_eq!(read_watch_frame(&frame[..frame.len() - 1]).unwrap(), None);
    assert!(watch_frame("ADDED", &object).is_ok());
}

#[test]
fn nonsense_is_refused_in_upstreams_words() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "empty data"),
        (b"{}", "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"),
        (b"k8s\0", "empty body"),
        (b"k8s\0\x0a\x7f", "unexpected EOF"),
        (b"k8s\0\x0a\x04\x12\x02No", "no kind \"No\" is registered for version \"\""),
    ];
    for (bytes, want) in cases {
        assert_eq!(decode(bytes, None).unwrap_err().to_string(), want, "{bytes:?}");
    }
}

/// Where a checkout of k8s.io/api is given, its test data: pairs of JSON and protobuf for each kind.
#[test]
fn upstreams_examples_read_the_same() {
    let Some(folder) = std::env::var_os("KNARR_API_TESTDATA") else { return };
    let (mut wrong, mut read) = (Vec::new(), 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pb") {
            continue;
        }
        let Ok(json) = fs::read(path.with_extension("json")) else { continue };
        let want: Value = serde_json::from_slice(&json).unwrap();
        match decode(&fs::read(&path).unwrap(), None) {
            Ok(got) if got == want && encode(&got).and_then(|b| decode(&b, None)) == Ok(got.clone()) => read += 1,
            Ok(got) => wrong.push(format!("{}\n{got}\n{want}", path.display())),
            Err(Error::UnknownKind { .. } | Error::Unsupported(_)) => {}
            Err(error) => wrong.push(format!("{}: {error}", path.display())),
        }
    }
    println!("{read} examples");
    assert!(wrong.is_empty() && read > 50, "{}", wrong.join("\n"));
}
