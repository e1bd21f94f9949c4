//! Questions about rights and identities, asked through the API: objects that are answered and never stored.

use std::collections::BTreeSet;

use api::{
    field::FieldErrors,
    quoted,
    status::{GroupResource, Status},
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::authn;
use crate::{
    gate::{Authorize, Decision, Gate},
    identity::User,
    request::{self, RequestInfo},
};

const AUTHORIZATION: &str = "authorization.k8s.io";
const NODE_NAME: &str = "spec.nodeName";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whether [`answer`] answers creates of this resource.
pub fn is_review(group: &str, resource: &str) -> bool {
    match group {
        AUTHORIZATION => matches!(
            resource,
            "subjectaccessreviews" | "selfsubjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectrulesreviews"
        ),
        AUTHENTICATION => matches!(resource, "tokenreviews" | "selfsubjectreviews"),
        _ => false,
    }
}

/// Answers a created review: the object with its status.
pub async fn answer(gate: &Gate, user: &User, info: &RequestInfo, mut object: Value) -> Result<Value, Status> {
    place(&mut object, &info.namespace)?;
    let spec = object.get("spec").cloned().unwrap_or_default();
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default();
    let authorize = gate.authorize.as_ref();
    let status = match info.resource.as_str() {
        "selfsubjectaccessreviews" => {
            check(&object, None, false)?;
            decide(authorize, user, &spec)
        }
        "subjectaccessreviews" => {
            check(&object, None, true)?;
            decide(authorize, &subject(&spec)?, &spec)
        }
        "localsubjectaccessreviews" => {
            check(&object, Some(&info.namespace), true)?;
            decide(authorize, &subject(&spec)?, &spec)
        }
        "selfsubjectrulesreviews" => match text("namespace") {
            "" => return Err(Status::bad_request("no namespace on request")),
            namespace => authorize.rules(user, namespace),
        },
        "tokenreviews" => match text("token") {
            "" => return Err(Status::bad_request("token is required for TokenReview in authentication")),
            _ => gate.authenticate.review(&spec).await,
        },
        "selfsubjectreviews" => json!({"userInfo": authn::info(user)}),
        _ => return Err(Status::no_such_path()),
    };
    object["status"] = status;
    match info.resource.as_str() {
        // The question is not repeated.
        "selfsubjectrulesreviews" => object["spec"] = json!({}),
        _ => object.get_mut("spec").into_iter().for_each(without_zeros),
    }
    Ok(object)
}

/// Takes out what upstream leaves out of questions: texts, lists and maps of nothing.
fn without_zeros(value: &mut Value) {
    let Value::Object(fields) = value else { return };
    fields.retain(|name, field| {
        without_zeros(field);
        let empty = match field {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => name == "extra" && map.is_empty(),
            _ => false,
        };
        !empty
    });
}

/// A review is in the namespace that it is asked in, or in none.
fn place(object: &mut Value, namespace: &str) -> Result<(), Status> {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(()) };
    let own = metadata.remove("namespace");
    let own = own.as_ref().and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Ok(());
    }
    if !own.is_empty() && own != namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    metadata.insert("namespace".to_owned(), namespace.into());
    Ok(())
}

/// What upstream checks of an access review.
fn check(object: &Value, namespace: Option<&str>, names_subject: bool) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    let spec = object.get("spec").cloned().unwrap_or_default();
    let part = |field: &str| spec.get(field).filter(|v| !v.is_null());
    let (resource, other) = (part("resourceAttributes"), part("nonResourceAttributes"));
    match (resource, other) {
        (Some(_), Some(other)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid("spec.nonResourceAttributes", &quoted::NON_RESOURCE_ATTRIBUTES.quote(other), why);
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", &(), why);
        }
        _ => {}
    }
    if names_subject {
        let groups = part("groups").and_then(Value::as_array).is_some_and(|groups| !groups.is_empty());
        let user = part("user").and_then(Value::as_str).unwrap_or_default();
        if user.is_empty() && !groups {
            errors.invalid("spec.user", &user, "at least one of user or group must be specified");
        }
    }
    let own = object.get("metadata").and_then(Value::as_object);
    let said = own.into_iter().flatten().any(|(field, value)| match field.as_str() {
        "managedFields" | "creationTimestamp" => false,
        "namespace" => namespace.is_none() && value.as_str().is_some_and(|text| !text.is_empty()),
        _ => !value.is_null() && value != "",
    });
    if said {
        let except = if namespace.is_some() { " except for namespace" } else { "" };
        errors.invalid("metadata", &quoted::OBJECT_META.quote(&object["metadata"]), format!("must be empty{except}"));
    }
    if let Some(namespace) = namespace {
        let asked = resource.and_then(|r| r.get("namespace")).and_then(Value::as_str).unwrap_or_default();
        if resource.is_some() && asked != namespace {
            errors.invalid("spec.resourceAttributes.namespace", &asked, "must match metadata.namespace");
        }
        if let Some(other) = other {
            errors.invalid(
                "spec.nonResourceAttributes",
                &quoted::NON_RESOURCE_ATTRIBUTES.quote(other),
                "disallowed on this kind of request",
            );
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(GroupResource { group: AUTHORIZATION, resource: "" }, "", &errors))
}

/// The user that a spec names.
fn subject(spec: &Value) -> Result<User, Status> {
    let malformed = |error: serde_json::Error| Status::bad_request(error.to_string());
    let part = |field: &str| spec.get(field).cloned().unwrap_or_default();
    Ok(User {
        name: part("user").as_str().unwrap_or_default().to_owned(),
        uid: part("uid").as_str().unwrap_or_default().to_owned(),
        groups: serde_json::from_value::<Option<_>>(part("groups")).map_err(malformed)?.unwrap_or_default(),
        extra: serde_json::from_value::<Option<_>>(part("extra")).map_err(malformed)?.unwrap_or_default(),
    })
}

/// How many verbs of people's own invention are remembered.
const VERBS: usize = 256;

/// A verb that lives as long as the program. Rules may name verbs that no API has, and people ask about them; a bounded
/// number of them is kept for good, beyond which they match `*` only.
fn verb(text: &str) -> &'static str {
    const KNOWN: &[&str] =
        &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "*"];
    static OTHERS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    if let Some(known) = KNOWN.iter().find(|known| **known == text) {
        return known;
    }
    let mut others = OTHERS.lock();
    match others.get(text) {
        Some(known) => known,
        None if others.len() < VERBS && text.len() < 64 => {
            let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
            others.insert(kept);
            kept
        }
        None => "",
    }
}

/// The node that a review's field selector asks for, in requirements or as text.
fn selected_node(resource: &Map<String, Value>) -> String {
    let Some(selector) = resource.get("fieldSelector") else { return String::new() };
    let of_raw = selector.get("rawSelector").and_then(Value::as_str).and_then(|raw| request::selected(raw, NODE_NAME));
    let requirements = selector.get("requirements").and_then(Value::as_array);
    let of_requirements = requirements.into_iter().flatten().find_map(|requirement| {
        let fits = requirement["key"] == NODE_NAME && requirement["operator"] == "In";
        let [Value::String(node)] = requirement["values"].as_array()?.as_slice() else { return None };
        fits.then_some(node.as_str())
    });
    of_raw.or(of_requirements).unwrap_or_default().to_owned()
}

fn decide(authorize: &dyn Authorize, user: &User, spec: &Value) -> Value {
    let attributes = |field: &str| spec.get(field).and_then(Value::as_object).cloned();
    let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let info = match (attributes("resourceAttributes"), attributes("nonResourceAttributes")) {
        (Some(resource), _) => RequestInfo {
            is_resource: true,
            verb: verb(&text(&resource, "verb")),
            group: text(&resource, "group"),
            version: text(&resource, "version"),
            namespace: text(&resource, "namespace"),
            resource: text(&resource, "resource"),
            subresource: text(&resource, "subresource"),
            name: text(&resource, "name"),
            selected_node: selected_node(&resource),
            ..RequestInfo::default()
        },
        (None, other) => {
            let other = other.unwrap_or_default();
            RequestInfo { verb: verb(&text(&other, "verb")), path: text(&other, "path"), ..RequestInfo::default() }
        }
    };
    let (allowed, reason) = match authorize.authorize(user, &info) {
        Decision::Allow(reason) => (true, reason),
        Decision::Deny(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::security::rbac::{Rbac, index::Source};

    fn gate() -> Gate {
        let rbac = Rbac::default();
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        rbac.apply(Source::ClusterRole, "", "reader", Some(&role));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "Group", "name": "dev"}]});
        rbac.apply(Source::RoleBinding, "d", "b", Some(&binding));
        Gate { authorize: Arc::new(rbac), ..Gate::open() }
    }

    async fn ask(resource: &str, namespace: &str, spec: Value) -> Result<Value, (i32, String)> {
        let info = RequestInfo { resource: resource.into(), namespace: namespace.into(), ..RequestInfo::default() };
        let user = User::new("alice", &["dev"]);
        let answered = answer(&gate(), &user, &info, json!({"spec": spec})).await;
        answered.map(|object| object["status"].clone()).map_err(|status| (status.code, status.message))
    }

    #[tokio::test]
    async fn access_reviews_say_what_the_authorizer_says() {
        let pods = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "d"}});
        let want = json!({"allowed": true,
            "reason": "RBAC: allowed by RoleBinding \"b/d\" of ClusterRole \"reader\" to Group \"dev\""});
        assert_eq!(ask("selfsubjectaccessreviews", "", pods.clone()).await, Ok(want));
        let other = json!({"user": "bob", "resourceAttributes": pods["resourceAttributes"]});
        assert_eq!(ask("subjectaccessreviews", "", other.clone()).await, Ok(json!({"allowed": false})));
        assert_eq!(ask("localsubjectaccessreviews", "d", other.clone()).await, Ok(json!({"allowed": false})));
        let (code, message) = ask("localsubjectaccessreviews", "x", other).await.unwrap_err();
        let want = ".authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: \
                    Invalid value: \"d\": must match metadata.namespace";
        assert_eq!((code, message.as_str()), (422, want));
    }

    #[tokio::test]
    async fn people_learn_who_they_are_and_what_they_may() {
        let me = ask("selfsubjectreviews", "", Value::Null).await.unwrap();
        assert_eq!(me, json!({"userInfo": {"username": "alice", "groups": ["dev", "system:authenticated"]}}));
        let rules = ask("selfsubjectrulesreviews", "", json!({"namespace": "d"})).await.unwrap();
        let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(rules, json!({"resourceRules": [rule], "nonResourceRules": [], "incomplete": false}));
    }
}
