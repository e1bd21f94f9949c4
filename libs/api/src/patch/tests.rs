use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::table;

fn deployment() -> TypeId {
    table().by_kind("apps", "v1", "Deployment").unwrap()
}

fn pod() -> TypeId {
    table().by_kind("", "v1", "Pod").unwrap()
}

fn strategic(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (patch, _) = Patch::parse(PatchType::Strategic, &serde_json::to_vec(patch).unwrap())?;
    patch.apply(object, Some(pod()))
}

#[test]
fn merges_lists_by_key_and_keeps_order() {
    let object = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}});
    let patch = json!({"spec": {"containers": [{"name": "b", "image": "y"}, {"name": "c"}]}});
    assert_eq!(
        strategic(&object, &patch).unwrap(),
        json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}, {"name": "c"}]}})
    );
}

#[test]
fn set_element_order_reorders() {
    let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}});
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "a", "image": "z"}]
    }});
    assert_eq!(
        strategic(&object, &patch).unwrap(),
        json!({"spec": {"containers": [{"name": "s"}, {"name": "b"}, {"name": "a", "image": "z"}]}})
    );
}

#[test]
fn directives() {
    let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}}});
    for (patch, want) in [
        (json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}), json!([{"name": "b"}])),
        (json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}), json!([{"name": "c"}])),
    ] {
        assert_eq!(strategic(&object, &patch).unwrap()["spec"]["containers"], want);
    }
    let patch = json!({"spec": {"nodeSelector": {"$patch": "replace", "y": "2"}}});
    assert_eq!(strategic(&object, &patch).unwrap()["spec"]["nodeSelector"], json!({"y": "2"}));
    let patch = json!({"spec": {"nodeSelector": null}});
    assert_eq!(strategic(&object, &patch).unwrap()["spec"].get("nodeSelector"), None);
}

#[test]
fn primitive_lists_merge_and_delete() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
    let merged = strategic(&object, &patch).unwrap();
    let mut finalizers: Vec<&str> =
        merged["metadata"]["finalizers"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    finalizers.sort_unstable();
    assert_eq!(finalizers, ["b", "c"]);
}

#[test]
fn retain_keys_clear_the_others() {
    let object = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let (patch, _) = Patch::parse(PatchType::Strategic, &serde_json::to_vec(&patch).unwrap()).unwrap();
    assert_eq!(patch.apply(&object, Some(deployment())).unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn claims_of_a_stateful_set_are_replaced() {
    let set = table().by_kind("apps", "v1", "StatefulSet").unwrap();
    let with = |name: &str| json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": name}}]}});
    let patch = two_way_strategic(&with("a"), &with("b"), set).unwrap();
    assert_eq!(patch, with("b"));
    let (patch, _) = Patch::parse(PatchType::Strategic, &serde_json::to_vec(&patch).unwrap()).unwrap();
    assert_eq!(patch.apply(&with("a"), Some(set)).unwrap(), with("b"));
}

#[test]
fn errors_have_upstreams_codes_and_words() {
    let object = json!({"spec": {"containers": [{"name": "a"}]}});
    let error = strategic(&object, &json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err();
    assert_eq!(error.to_string(), "map: map[image:x] does not contain declared merge key: name");
    assert_eq!(error.to_status().code, 500);
    let error = strategic(&object, &json!({"spec": {"$setElementOrder/bogus": []}})).unwrap_err();
    assert_eq!(error.to_string(), "unable to find api field in struct PodSpec for the json field \"bogus\"");
    let error = Patch::parse(PatchType::Json, b"{}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    let many = vec![json!({"op": "remove", "path": "/x"}); MAX_JSON_PATCH_OPERATIONS + 1];
    let error = Patch::parse(PatchType::Json, &serde_json::to_vec(&many).unwrap()).unwrap_err().to_status();
    assert_eq!(
        (error.code, error.message.as_str()),
        (413, "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
    let (patch, _) = Patch::parse(PatchType::Json, br#"[{"op":"test","path":"/a","value":1}]"#).unwrap();
    let status = patch.apply(&json!({}), None).unwrap_err().to_status();
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
}

#[test]
fn three_way_deletes_only_what_was_applied() {
    let original = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "x"}, {"name": "y"}]}});
    let modified = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "x", "image": "i"}]}});
    let current = json!({"metadata": {"labels": {"a": "1", "server": "s"}},
        "spec": {"containers": [{"name": "x", "imagePullPolicy": "Always"}, {"name": "y"}, {"name": "injected"}]}});
    let patch = three_way_strategic(&original, &modified, &current, pod(), true).unwrap();
    assert_eq!(
        patch,
        json!({
            "metadata": {"labels": {"a": null, "b": "2"}},
            "spec": {
                "$setElementOrder/containers": [{"name": "x"}],
                "containers": [{"name": "x", "image": "i"}, {"$patch": "delete", "name": "y"}]
            }
        })
    );
    assert_eq!(
        strategic(&current, &patch).unwrap(),
        json!({"metadata": {"labels": {"b": "2", "server": "s"}},
            "spec": {"containers": [{"name": "x", "imagePullPolicy": "Always", "image": "i"}, {"name": "injected"}]}})
    );
}

#[test]
fn three_way_conflicts_unless_overwriting() {
    let (original, modified, current) =
        (json!({"spec": {"nodeName": "a"}}), json!({"spec": {"nodeName": "b"}}), json!({"spec": {"nodeName": "c"}}));
    assert!(three_way_strategic(&original, &modified, &current, pod(), true).is_ok());
    let error = three_way_strategic(&original, &modified, &current, pod(), false).unwrap_err();
    assert!(matches!(error, PatchError::Conflict { .. }));
}

#[test]
fn three_way_json_merge_keeps_foreign_keys() {
    let patch = three_way_json_merge(
        &json!({"a": 1, "b": {"c": 1}}),
        &json!({"b": {"d": 2}, "l": [1]}),
        &json!({"a": 1, "b": {"c": 1, "x": 9}, "z": 1}),
        &[&["kind"]],
    );
    assert_eq!(patch.unwrap(), json!({"a": null, "b": {"c": null, "d": 2}, "l": [1]}));
}

fn container() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-D]", "[xy]", 0..4)
        .prop_map(|m| m.into_iter().map(|(k, v)| json!({"name": k, "value": v})).collect::<Vec<_>>());
    ("[ab]", prop::option::of(env), prop::collection::vec("[pq]", 0..3)).prop_map(|(image, env, args)| {
        let mut c = json!({"image": image, "args": args});
        if let Some(env) = env {
            c["env"] = json!(env);
        }
        c
    })
}

fn arbitrary_pod() -> impl Strategy<Value = Value> {
    let containers = prop::collection::btree_map("[a-e]", container(), 1..5).prop_map(|m| {
        m.into_iter()
            .map(|(name, mut c)| {
                c["name"] = json!(name);
                c
            })
            .collect::<Vec<_>>()
    });
    let labels = prop::collection::btree_map("[a-d]", "[xy]", 0..4);
    let finalizers = prop::collection::btree_set("[a-d]", 0..4);
    (containers.prop_shuffle(), labels, finalizers, prop::option::of("[mn]")).prop_map(
        |(containers, labels, finalizers, node)| {
            let mut pod =
                json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers}});
            if let Some(node) = node {
                pod["spec"]["nodeName"] = json!(node);
            }
            pod
        },
    )
}

#[test]
fn odd_directives_are_told_as_go_prints_them() {
    let object = json!({"metadata": {"finalizers": ["a/b"]}, "spec": {"containers": [{"name": "c"}]}});
    let told = |patch: Value| strategic(&object, &patch).unwrap_err().to_string();
    for (directive, shown, listed) in [
        (json!(null), "%!s(<nil>)", "<nil>"),
        (json!(5), "%!s(int64=5)", "5"),
        (json!(true), "%!s(bool=true)", "true"),
        (json!(["x", 1]), "[x %!s(int64=1)]", "[x 1]"),
        (json!({"a": null}), "map[a:<nil>]", "map[a:<nil>]"),
        (json!("zz"), "zz", "zz"),
    ] {
        assert_eq!(told(json!({"$patch": directive})), format!("unknown patch type: {shown} in map: map[$patch:{listed}]"));
    }
    for (order, ty) in
        [(json!(5), "int64"), (json!(1.5), "float64"), (json!(null), "%!s(<nil>)"), (json!({}), "map[string]interface {}")]
    {
        let patch = json!({"metadata": {"$setElementOrder/finalizers": order}});
        assert_eq!(told(patch), format!("expected a []interface {{}}, but received a {ty}"));
    }
    let ordered =
        |order: Value| told(json!({"spec": {"$setElementOrder/containers": order, "containers": [{"name": "c"}]}}));
    assert_eq!(ordered(json!(["c"])), "expected a map[string]interface {}, but received a string");
    assert_eq!(ordered(json!([{}])), "map: map[] does not contain declared merge key: name");
}

#[test]
fn elements_whose_key_is_null_are_added() {
    let object = json!({"spec": {"containers": [{"name": "c"}]}});
    let added = strategic(&object, &json!({"spec": {"containers": [{"name": null, "image": null, "tty": true}]}})).unwrap();
    assert_eq!(added["spec"]["containers"], json!([{"name": null, "image": null, "tty": true}, {"name": "c"}]));
}

#[test]
fn lists_of_merge_patches_come_without_nulls() {
    let patch = json!({"a": [{"b": null, "c": [{"d": null}, null]}], "e": {"f": null, "g": [{"h": null}]}, "i": [{"j": null}], "k": null});
    let object = json!({"a": [1], "i": {"j": 1}, "k": 1});
    let Ok((parsed, _)) = Patch::parse(PatchType::Merge, patch.to_string().as_bytes()) else { panic!("no patch") };
    let want = json!({"a": [{"c": [{}, null]}], "e": {"g": [{}]}, "i": [{"j": null}]});
    assert_eq!(parsed.apply(&object, None), Ok(want));
}

#[test]
fn nothing_in_raw_data_is_merged() {
    let revision = table().by_kind("apps", "v1", "ControllerRevision").unwrap();
    let object = json!({"data": {"a": {"b": 1}, "l": [1], "s": "x"}});
    let apply =
        |data: Value| Patch::Strategic(json!({"data": data}).as_object().unwrap().clone()).apply(&object, Some(revision));
    for (data, field) in
        [(json!({"a": {}}), "a"), (json!({"l": [2]}), "l"), (json!({"$deleteFromPrimitiveList/l": [1]}), "l")]
    {
        let why = format!("unable to find api field in struct RawExtension for the json field \"{field}\"");
        assert_eq!(apply(data).unwrap_err(), PatchError::Internal(why));
    }
    let applied = apply(json!({"s": "y", "a": 5, "n": {"b": 1}})).unwrap();
    assert_eq!(applied["data"], json!({"a": 5, "l": [1], "n": {"b": 1}, "s": "y"}));
}

/// An emptied list and an absent one are the same to a patch.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(k, v)| (k.clone(), without_empty(v)));
            Value::Object(kept.filter(|(_, v)| *v != json!([]) && *v != json!({})).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_empty).collect()),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(400))]

    #[test]
    fn two_way_then_apply_gives_modified(old in arbitrary_pod(), new in arbitrary_pod()) {
        let patch = two_way_strategic(&old, &new, pod()).unwrap();
        let applied = strategic(&old, &patch).unwrap();
        prop_assert_eq!(without_empty(&applied), without_empty(&new));
    }

    #[test]
    fn three_way_from_current_gives_modified(old in arbitrary_pod(), new in arbitrary_pod()) {
        let patch = three_way_strategic(&old, &new, &old, pod(), false).unwrap();
        let applied = strategic(&old, &patch).unwrap();
        prop_assert_eq!(without_empty(&applied), without_empty(&new));
        let again = three_way_strategic(&new, &new, &new, pod(), false).unwrap();
        prop_assert_eq!(again, json!({}));
    }

    #[test]
    fn json_merge_two_way_then_apply(old in arbitrary_pod(), new in arbitrary_pod()) {
        let mut object = old.clone();
        json_patch::merge(&mut object, &two_way_json_merge(&old, &new));
        prop_assert_eq!(object, new);
    }

    #[test]
    fn arbitrary_patches_never_panic(
        body in "[\\[\\]{}:,\"0-9a-c$/]{0,40}",
        object in arbitrary_pod(),
        patch in arbitrary_pod(),
        directive in "\\$(patch|retainKeys|setElementOrder/containers|deleteFromPrimitiveList/finalizers|setElementOrder|x)",
        value in prop_oneof![Just(json!(null)), Just(json!("delete")), Just(json!([1, "a", {"name": "a"}])), Just(json!({}))],
    ) {
        for kind in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            if let Ok((patch, _)) = Patch::parse(kind, body.as_bytes()) {
                let _ = patch.apply(&object, Some(pod()));
            }
        }
        for at in ["spec", "metadata"] {
            let mut patch = patch.clone();
            patch[at][&directive] = value.clone();
            let _ = strategic(&object, &patch);
        }
    }
}
