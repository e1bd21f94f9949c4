//! Service-account tokens: made for TokenRequests, checked against the objects they are bound to, explained by discovery.

use std::sync::Arc;

use api::{
    field::FieldErrors,
    status::{GroupResource, Status},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    jwt::{Claims, Kubernetes, LEEWAY, Reference, SigningKey},
    lookup::Lookup,
    pki::Pki,
    tls::unix_now,
    x509,
};
use crate::{
    gate::IssueTokens,
    identity::{AUTHENTICATED, User},
};

/// `iss` and the audience of the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const KIND: GroupResource<'static> = GroupResource { group: "authentication.k8s.io", resource: "TokenRequest" };
/// What a projected volume asks for when its pod says nothing; such tokens live a year and are only counted as stale, as
/// old clients don't read their token again.
const WARN_ONLY: i64 = 3607;
const EXTENDED: i64 = 365 * 24 * 3600;
const CORE: &str = "";

/// Makes and checks tokens.
pub struct Tokens {
    key: SigningKey,
    lookup: Arc<dyn Lookup>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn reference(object: &Value) -> Reference {
    Reference { name: text(object, "/metadata/name").to_owned(), uid: text(object, "/metadata/uid").to_owned() }
}

/// Whether an object's deletion began so long ago that clocks cannot be the reason.
fn deleted(object: &Value, now: i64) -> bool {
    let at = text(object, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>();
    at.is_ok_and(|at| at.as_second() < now - LEEWAY)
}

fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A TokenRequest's spec with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    audiences: Vec<String>,
    seconds: i64,
    bound: Option<Bound>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    kind: String,
    api_version: String,
    name: String,
    uid: String,
}

/// Checks a TokenRequest for the service account `name` in `namespace`.
fn wish(request: &Value, namespace: &str, name: &str) -> Result<Wish, Status> {
    let mut errors = FieldErrors::default();
    for (field, want) in [("name", name), ("namespace", namespace)] {
        let got = text(request, &format!("/metadata/{field}"));
        if !got.is_empty() && got != want {
            errors.invalid(
                format!("metadata.{field}"),
                &got,
                format!("must match the service account {field} if specified"),
            );
            return Err(Status::invalid(KIND, name, &errors));
        }
    }
    let spec = request.get("spec").cloned().unwrap_or_default();
    let audiences: Vec<String> = serde_json::from_value::<Option<_>>(spec.get("audiences").cloned().unwrap_or_default())
        .map_err(|error| Status::bad_request(error.to_string()))?
        .unwrap_or_default();
    let seconds = match spec.get("expirationSeconds") {
        None | Some(Value::Null) => 3600,
        Some(value) => value.as_i64().ok_or_else(|| Status::bad_request("spec.expirationSeconds must be an integer"))?,
    };
    if seconds < 600 {
        errors.invalid("spec.expirationSeconds", &seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid("spec.expirationSeconds", &seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if !errors.is_empty() {
        return Err(Status::invalid(KIND, "", &errors));
    }
    let bound = spec.get("boundObjectRef").filter(|b| !b.is_null()).map(|b| Bound {
        kind: text(b, "/kind").to_owned(),
        api_version: text(b, "/apiVersion").to_owned(),
        name: text(b, "/name").to_owned(),
        uid: text(b, "/uid").to_owned(),
    });
    let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
    Ok(Wish { audiences, seconds, bound })
}

/// The claims of a token for `account`, bound to `object` of the given kind; `node` is the pod's.
fn claims(account: &Value, wish: &Wish, bound: Option<(&str, &Value)>, node: Option<&Value>, now: i64, id: &str) -> Claims {
    let (namespace, name) = (text(account, "/metadata/namespace"), text(account, "/metadata/name"));
    let of = |kind: &str| bound.filter(|(k, _)| *k == kind).map(|(_, object)| reference(object));
    let pod = of("Pod");
    let ours = wish.audiences.iter().all(|a| a == ISSUER);
    let extend = pod.is_some() && wish.seconds == WARN_ONLY && ours;
    Claims {
        aud: wish.audiences.clone(),
        exp: now + if extend { EXTENDED } else { wish.seconds },
        iat: now,
        nbf: now,
        iss: ISSUER.to_owned(),
        jti: id.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        kubernetes: Kubernetes {
            namespace: namespace.to_owned(),
            node: of("Node").or_else(|| node.map(reference)),
            pod,
            secret: of("Secret"),
            serviceaccount: reference(account),
            warnafter: extend.then_some(now + wish.seconds),
        },
    }
}

impl Tokens {
    /// With the cluster's service-account key.
    pub fn new(pki: &Pki, lookup: Arc<dyn Lookup>) -> Result<Self, x509::Error> {
        Ok(Self { key: SigningKey::new(&pki.service_account)?, lookup })
    }

    async fn bound(&self, bound: &Bound, namespace: &str, account: &str) -> Result<Value, Status> {
        // As upstream: what is no version at all stands for the core group.
        let (group, version) = match bound.api_version.split_once('/') {
            Some((_, version)) if version.contains('/') => (CORE, ""),
            Some(parts) => parts,
            None => (CORE, bound.api_version.as_str()),
        };
        let (plural, scope) = match (group, bound.kind.as_str()) {
            (CORE, "Pod") => ("pods", namespace),
            (CORE, "Secret") => ("secrets", namespace),
            (CORE, "Node") => ("nodes", ""),
            _ => {
                let message = format!("cannot bind token to object of type {group}/{version}, Kind={}", bound.kind);
                return Err(Status::bad_request(message));
            }
        };
        let resource = GroupResource { group: CORE, resource: plural };
        if bound.name.is_empty() {
            return Err(Status::bad_request("Name parameter required."));
        }
        crate::registry::check_name(&bound.name)?;
        let object = self.lookup.find(plural, scope, &bound.name).await?;
        let object = object.ok_or_else(|| Status::not_found(resource, &bound.name))?;
        if plural == "pods" && text(&object, "/spec/serviceAccountName") != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        let uid = text(&object, "/metadata/uid");
        if !bound.uid.is_empty() && bound.uid != uid {
            let kind = GroupResource { group: CORE, resource: &bound.kind };
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have \
                 been deleted and then recreated",
                bound.uid
            );
            return Err(Status::conflict(kind, &bound.name, &why));
        }
        Ok(object)
    }

    /// The user behind a token, checked against what is stored; with the token's audiences and end.
    pub async fn user(&self, token: &str) -> Result<(User, Vec<String>, i64), String> {
        let now = unix_now();
        let claims = self.key.verify(token, ISSUER, now).map_err(|e| e.to_string())?;
        let about = &claims.kubernetes;
        let account = self
            .lookup
            .find("serviceaccounts", &about.namespace, &about.serviceaccount.name)
            .await
            .map_err(|e| e.to_string())?
            .ok_or_else(|| format!("serviceaccounts {:?} not found", about.serviceaccount.name))?;
        if deleted(&account, now) {
            return Err(format!("service account {}/{} has been deleted", about.namespace, about.serviceaccount.name));
        }
        let uid = text(&account, "/metadata/uid");
        if uid != about.serviceaccount.uid {
            return Err(format!("service account UID ({uid}) does not match claim ({})", about.serviceaccount.uid));
        }
        for (kind, plural, scope, object) in [
            ("pod", "pods", about.namespace.as_str(), &about.pod),
            ("secret", "secrets", about.namespace.as_str(), &about.secret),
            // A pod's node may be gone; only a token bound to the node itself falls with it.
            ("node", "nodes", "", if about.pod.is_some() { &None } else { &about.node }),
        ] {
            if let Some(bound) = object {
                self.still_there(kind, plural, scope, bound, now).await?;
            }
        }
        let end = claims.exp;
        Ok((user(&claims), claims.aud, end))
    }

    async fn still_there(&self, kind: &str, plural: &str, scope: &str, bound: &Reference, now: i64) -> Result<(), String> {
        let found = self.lookup.find(plural, scope, &bound.name).await.map_err(|e| e.to_string())?;
        let object = found.filter(|object| !deleted(object, now));
        let object = object.ok_or("service account token has been invalidated")?;
        let uid = text(&object, "/metadata/uid");
        if uid == bound.uid {
            return Ok(());
        }
        Err(format!("{kind} UID ({uid}) does not match service account {kind} ref claim ({})", bound.uid))
    }

    /// The documents under `/.well-known/openid-configuration` and `/openid/v1/jwks`, with their content types.
    pub fn discovery(&self, path: &str) -> Option<(&'static str, Value)> {
        match path.trim_end_matches('/') {
            "/.well-known/openid-configuration" => Some((
                "application/json",
                json!({
                    "issuer": ISSUER,
                    "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                }),
            )),
            "/openid/v1/jwks" => Some(("application/jwk-set+json", self.key.key_set())),
            _ => None,
        }
    }
}

/// The user that verified claims stand for.
fn user(claims: &Claims) -> User {
    let about = &claims.kubernetes;
    let mut user = User {
        name: format!("system:serviceaccount:{}:{}", about.namespace, about.serviceaccount.name),
        uid: about.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", about.namespace),
            AUTHENTICATED.to_owned(),
        ],
        ..User::default()
    };
    let mut extra = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    for (kind, object) in [("pod", &about.pod), ("node", &about.node)] {
        if let Some(object) = object {
            extra(&format!("{kind}-name"), object.name.clone());
            extra(&format!("{kind}-uid"), object.uid.clone());
        }
    }
    user
}

#[async_trait]
impl IssueTokens for Tokens {
    async fn issue(&self, service_account: &Value, token_request: Value) -> Result<Value, Status> {
        let (namespace, name) = (text(service_account, "/metadata/namespace"), text(service_account, "/metadata/name"));
        let wish = wish(&token_request, namespace, name)?;
        let bound = match &wish.bound {
            Some(bound) => Some((bound.kind.as_str(), self.bound(bound, namespace, name).await?)),
            None => None,
        };
        let node = match &bound {
            Some(("Pod", pod)) if !text(pod, "/spec/nodeName").is_empty() => {
                let node = text(pod, "/spec/nodeName");
                // A node that is gone is still named, without a UID, as upstream does.
                let found = self.lookup.find("nodes", "", node).await?;
                Some(found.unwrap_or_else(|| json!({"metadata": {"name": node}})))
            }
            _ => None,
        };
        let now = unix_now();
        let id = uuid::Uuid::new_v4().to_string();
        let bound = bound.as_ref().map(|(kind, object)| (*kind, object));
        let claims = claims(service_account, &wish, bound, node.as_ref(), now, &id);
        let token = self.key.sign(&claims).map_err(|e| Status::internal(&format!("failed to generate token: {e}")))?;
        let mut answer = token_request;
        answer["kind"] = json!("TokenRequest");
        answer["apiVersion"] = json!("authentication.k8s.io/v1");
        if !answer["metadata"].is_object() {
            answer["metadata"] = json!({});
        }
        for (field, value) in [("name", name), ("namespace", namespace), ("creationTimestamp", &rfc3339(now))] {
            answer["metadata"][field] = json!(value);
        }
        if !answer["spec"].is_object() {
            answer["spec"] = json!({});
        }
        answer["spec"]["audiences"] = json!(wish.audiences);
        answer["spec"]["expirationSeconds"] = json!(wish.seconds);
        if wish.bound.is_none() {
            answer["spec"]["boundObjectRef"] = Value::Null;
        }
        answer["status"] = json!({"token": token, "expirationTimestamp": rfc3339(now + wish.seconds)});
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::security::x509::Key;

    #[derive(Default)]
    struct Objects(Mutex<HashMap<String, Value>>);

    #[async_trait]
    impl Lookup for Objects {
        async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
            Ok(self.0.lock().get(&format!("{plural}/{namespace}/{name}")).cloned())
        }
    }

    fn account() -> Value {
        json!({"metadata": {"name": "robot", "namespace": "d", "uid": "sa-1"}})
    }

    fn tokens() -> (Arc<Objects>, Tokens) {
        let objects = Arc::new(Objects::default());
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "pod-1"},
            "spec": {"serviceAccountName": "robot", "nodeName": "n"}});
        let node = json!({"metadata": {"name": "n", "uid": "node-1"}});
        for (key, value) in [("serviceaccounts/d/robot", account()), ("pods/d/p", pod), ("nodes//n", node)] {
            objects.0.lock().insert(key.to_owned(), value);
        }
        let key = SigningKey::new(&Key::generate().unwrap()).unwrap();
        (objects.clone(), Tokens { key, lookup: objects })
    }

    fn bound_to(name: &str, uid: &str) -> Value {
        json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
    }

    #[tokio::test]
    async fn a_token_names_its_account_pod_and_node() {
        let (_, tokens) = tokens();
        let answer = tokens.issue(&account(), bound_to("p", "pod-1")).await.unwrap();
        let token = answer["status"]["token"].as_str().unwrap();
        let claims = tokens.key.verify(token, ISSUER, unix_now()).unwrap();
        assert_eq!((claims.exp - claims.iat, claims.kubernetes.warnafter), (EXTENDED, Some(claims.iat + 3607)));
        let (user, audiences, _) = tokens.user(token).await.unwrap();
        let extra = |key: &str, value: &str| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        let want = User {
            name: "system:serviceaccount:d:robot".into(),
            uid: "sa-1".into(),
            groups: ["system:serviceaccounts", "system:serviceaccounts:d", AUTHENTICATED].map(str::to_owned).into(),
            extra: [
                extra("credential-id", &format!("JTI={}", claims.jti)),
                extra("pod-name", "p"),
                extra("pod-uid", "pod-1"),
                extra("node-name", "n"),
                extra("node-uid", "node-1"),
            ]
            .into(),
        };
        assert_eq!((user, audiences), (want, vec![ISSUER.to_owned()]));
    }

    #[tokio::test]
    async fn what_is_asked_for_is_answered_or_impossible() {
        let (_, tokens) = tokens();
        let labelled = json!({"metadata": {"labels": {"a": "b"}}, "spec": {}});
        assert_eq!(tokens.issue(&account(), labelled).await.unwrap()["metadata"]["labels"], json!({"a": "b"}));
        for (name, why) in [("", "Name parameter required."), ("..", "Name parameter invalid: \"..\": may not be '..'")] {
            let refused = tokens.issue(&account(), bound_to(name, "")).await.unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (400, why));
        }
    }

    #[tokio::test]
    async fn a_token_falls_with_its_pod_and_account() {
        let (objects, tokens) = tokens();
        let answer = tokens.issue(&account(), bound_to("p", "")).await.unwrap();
        let token = answer["status"]["token"].as_str().unwrap();
        let other = json!({"metadata": {"name": "p", "uid": "pod-2"}});
        objects.0.lock().insert("pods/d/p".into(), other);
        let want = "pod UID (pod-2) does not match service account pod ref claim (pod-1)";
        assert_eq!(tokens.user(token).await.unwrap_err(), want);
        objects.0.lock().remove("pods/d/p");
        assert_eq!(tokens.user(token).await.unwrap_err(), "service account token has been invalidated");
        objects.0.lock().remove("serviceaccounts/d/robot");
        assert_eq!(tokens.user(token).await.unwrap_err(), "serviceaccounts \"robot\" not found");
    }

    #[tokio::test]
    async fn refusals_are_upstreams() {
        let (_, tokens) = tokens();
        let cases = [
            (
                json!({"spec": {"expirationSeconds": 10}}),
                422,
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not \
                 specify a duration less than 10 minutes",
            ),
            (bound_to("gone", ""), 404, "pods \"gone\" not found"),
            (
                bound_to("p", "x"),
                409,
                "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (x) does not match \
                 the UID in record. The object might have been deleted and then recreated",
            ),
        ];
        for (request, code, message) in cases {
            let status = tokens.issue(&account(), request).await.unwrap_err();
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
    }
}
