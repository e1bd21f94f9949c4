//! What is put where there is nothing is created, by who may create.

use std::time::Duration;

use knarr_apiserver::testing;
use serde_json::json;

use crate::ask::*;

#[tokio::test]
async fn putting_what_is_not_there_takes_the_right_to_create() {
    let server = testing::start_secure().await;
    let admin = server.client();
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    // Roles are put, too: the first by somebody who may do anything.
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update"]}]);
    done(&admin, "PUT", &format!("{roles}/put"), &json!({"metadata": {"name": "put"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "put"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "put"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    done(&admin, "PUT", &format!("{bindings}/put"), &binding).await;

    let bob = server.server.client("bob", &["system:authenticated"]);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "a"}});
    // Until the binding is known, which is a moment later.
    let review = json!({"spec": {"user": "bob", "resourceAttributes":
        {"verb": "update", "group": "coordination.k8s.io", "resource": "leases", "namespace": "default"}}});
    let known = async {
        let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        while done(&admin, "POST", reviews, &review).await["status"]["allowed"] != true {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), known).await.unwrap();
    let refused = refusal(&bob, "PUT", &format!("{leases}/a"), &lease).await;
    assert_eq!(refused, (403, "leases.coordination.k8s.io \"a\" is forbidden: ".to_owned()));
    let made = done(&admin, "PUT", &format!("{leases}/a"), &lease).await;
    done(&bob, "PUT", &format!("{leases}/a"), &made).await;
}
