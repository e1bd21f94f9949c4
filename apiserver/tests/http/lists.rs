//! Pages, snapshots and what resourceVersion means to a list.

use std::time::Duration;

use serde_json::{Value, json};

use crate::ask::*;

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

async fn five(door: &Door) {
    for n in 0..5 {
        door.post(MAPS, &json!({"metadata": {"name": format!("m{n}"), "labels": {"even": (n % 2 == 0).to_string()}}}))
            .await
            .ok();
    }
}

#[tokio::test]
async fn a_token_that_is_too_old_brings_another_that_goes_on_inconsistently() {
    let door = door().await;
    five(&door).await;
    let first = door.get(&format!("{MAPS}?limit=2")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    door.delete(&format!("{MAPS}/m3"), &Value::Null).await.ok();
    let newest = door.store().revision().await.unwrap();
    door.store().compact(newest).await.unwrap();
    let gone = door.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    let (code, reason, message) = gone.told();
    assert_eq!((code, reason.as_str()), (410, "Expired"));
    assert!(message.starts_with("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response"), "{message}");
    let token = gone.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = door.get(&format!("{MAPS}?continue={token}")).await.ok();
    assert_eq!((names(&rest), revision(&rest)), (vec!["m2".to_owned(), "m4".to_owned()], newest));
    let old = revision(&first);
    let exact = door.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await;
    let want = "The resourceVersion for the provided list is too old.";
    assert_eq!(exact.told(), (410, "Expired".into(), want.into()));
    let deleted = door.delete(&format!("{MAPS}?resourceVersion={old}"), &Value::Null).await;
    assert_eq!(deleted.told(), (410, "Expired".into(), want.into()));
    let both = door.get(&format!("{MAPS}?continue=abc&resourceVersion=1")).await.told().2;
    assert!(both.starts_with("invalid continue token: "), "{both}");
}

#[tokio::test]
async fn a_token_ages_also_while_nothing_of_its_kind_changes() {
    let door = door_with(|config| config.compaction = Duration::from_millis(20)).await;
    five(&door).await;
    let first = door.get(&format!("{MAPS}?limit=2")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let gone = async {
        for n in 0.. {
            door.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": format!("s{n}")}})).await.ok();
            let next = door.get(&format!("{MAPS}?limit=2&continue={token}")).await;
            if next.status != 200 {
                return next.told();
            }
        }
        unreachable!()
    };
    let (code, reason, _) = tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the token never ages");
    assert_eq!((code, reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn pages_tell_what_is_left_unless_selectors_make_it_a_guess() {
    let door = door().await;
    five(&door).await;
    let mut seen = Vec::new();
    let mut query = String::new();
    loop {
        let page = door.get(&format!("{MAPS}?limit=2{query}")).await.ok();
        seen.push((names(&page), page["metadata"]["remainingItemCount"].clone()));
        match page["metadata"]["continue"].as_str() {
            Some(token) => query = format!("&continue={token}"),
            None => break,
        }
    }
    let own = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let want = [(own(&["m0", "m1"]), json!(3)), (own(&["m2", "m3"]), json!(1)), (own(&["m4"]), Value::Null)];
    assert_eq!(seen, want);
    let even = door.get(&format!("{MAPS}?limit=2&labelSelector=even%3Dtrue")).await.ok();
    assert_eq!((names(&even), &even["metadata"]["remainingItemCount"]), (own(&["m0", "m2"]), &Value::Null));
    let token = even["metadata"]["continue"].as_str().unwrap();
    let rest = door.get(&format!("{MAPS}?limit=2&labelSelector=even%3Dtrue&continue={token}")).await.ok();
    assert_eq!((names(&rest), &rest["metadata"]["continue"]), (own(&["m4"]), &Value::Null));
    let refused = door.get(&format!("{MAPS}?limit=2&continue={token}&resourceVersion=5")).await;
    assert_eq!(refused.told().2, "specifying resource version is not allowed when using continue");
}

#[tokio::test]
async fn revisions_mean_exactly_or_at_least() {
    let door = door_with(|config| config.patience = std::time::Duration::from_millis(50)).await;
    five(&door).await;
    let old = revision(&door.get(MAPS).await.ok());
    door.delete(&format!("{MAPS}/m0"), &Value::Null).await.ok();
    door.post(MAPS, &map("m9", "")).await.ok();
    let count = |query: String| {
        let door = &door;
        async move {
            let list = door.get(&format!("{MAPS}?{query}")).await.ok();
            (names(&list).len(), names(&list).contains(&"m0".to_owned()), revision(&list) == old)
        }
    };
    assert_eq!(count(String::new()).await, (5, false, false), "a consistent read");
    assert_eq!(count(format!("resourceVersion={old}&resourceVersionMatch=Exact")).await, (5, true, true));
    assert_eq!(count(format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan")).await, (5, false, false));
    assert_eq!(count(format!("resourceVersion={old}")).await, (5, false, false));
    assert_eq!(count("resourceVersion=0".into()).await, (5, false, false));
    let future = door.get(&format!("{MAPS}?resourceVersion=99999&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!((future.status, future.header("retry-after")), (504, "1"));
    assert_eq!(future.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let invalid = |query: &'static str| {
        let door = &door;
        async move { door.get(&format!("{MAPS}?{query}")).await.told() }
    };
    let head = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: ";
    for (query, why) in [
        ("resourceVersionMatch=Exact", "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Sometimes",
            "Unsupported value: \"Sometimes\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
            "Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
    ] {
        assert_eq!(invalid(query).await, (422, "Invalid".into(), format!("{head}{why}")), "{query}");
    }
}

#[tokio::test]
async fn fields_have_older_names() {
    let door = door().await;
    for name in ["a", "b"] {
        door.post(PODS, &pod(name)).await.ok();
    }
    let target = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    door.post(&format!("{PODS}/a/binding"), &target).await.ok();
    for (selector, want) in [
        ("spec.host=n", vec!["a"]),
        ("spec.host!=n", vec!["b"]),
        ("status.podIPs=", vec!["a", "b"]),
        ("status.podIPs=10.42.0.5", vec![]),
    ] {
        let found = door.get(&format!("{PODS}?fieldSelector={selector}")).await.ok();
        let names: Vec<_> = found["items"].as_array().unwrap().iter().map(|pod| &pod["metadata"]["name"]).collect();
        assert_eq!(names, want, "{selector}");
    }
    // A node has fields of its own, among which is no namespace.
    let told = door.get("/api/v1/nodes?fieldSelector=metadata.namespace=x").await.told();
    assert_eq!(told, (400, "BadRequest".into(), "field label not supported: metadata.namespace".into()));
    let listed = door.get("/apis/rbac.authorization.k8s.io/v1/clusterroles?fieldSelector=metadata.namespace=x").await.ok();
    assert_eq!(listed["items"], json!([]));
}
