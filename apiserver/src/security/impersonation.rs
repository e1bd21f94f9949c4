//! Acting as somebody else (`kubectl --as`): each part of the other identity is authorized against the real user.

use std::{collections::BTreeMap, sync::Arc};

use api::status::{GroupResource, Status, forbidden_message};
use http::{HeaderMap, HeaderName};

use crate::{
    gate::{Authorize, Decision},
    identity::{ANONYMOUS, AUTHENTICATED, Identity, UNAUTHENTICATED, User},
    request::{RequestInfo, unescape},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Why nobody acts as somebody else.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// The user may not.
    Forbidden(Status),
    /// The headers don't say whom they mean.
    Malformed(String),
}

/// One thing to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    group: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

fn wish(group: &'static str, resource: &'static str, name: &str) -> Wish {
    Wish { group, resource, subresource: String::new(), namespace: String::new(), name: name.to_owned() }
}

/// Namespace and name of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Whom the headers ask to be, and what that takes; `None` if they ask nothing.
fn asked(headers: &HeaderMap) -> Result<Option<(User, Vec<Wish>)>, Refused> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    };
    let name = all(USER).into_iter().next().unwrap_or_default();
    let (mut groups, uid) = (all(GROUP), all(UID).into_iter().next().unwrap_or_default());
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.insert(unescape(key), all(header.as_str()));
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        // As Go prints upstream's references.
        let mut asked: Vec<String> = groups.iter().map(|group| format!("{{Group  {group}    }}")).collect();
        for (key, values) in &extra {
            asked.extend(values.iter().map(|value| format!("{{UserExtra  {value}  {AUTHENTICATION}/v1  {key}}}")));
        }
        asked.extend((!uid.is_empty()).then(|| format!("{{UID  {uid}  {AUTHENTICATION}/v1  }}")));
        return Err(Refused::Malformed(format!("requested [{}] without impersonating a user", asked.join(" "))));
    }
    let mut wishes = Vec::new();
    match service_account(&name) {
        Some((namespace, account)) => {
            wishes.push(Wish { namespace: namespace.to_owned(), ..wish("", "serviceaccounts", account) });
        }
        None => wishes.push(wish("", "users", &name)),
    }
    wishes.extend(groups.iter().map(|group| wish("", "groups", group)));
    for (key, values) in &extra {
        wishes.extend(values.iter().map(|v| Wish { subresource: key.clone(), ..wish(AUTHENTICATION, "userextras", v) }));
    }
    if !uid.is_empty() {
        wishes.push(wish(AUTHENTICATION, "uids", &uid));
    }
    if let (Some((namespace, _)), true) = (service_account(&name), groups.is_empty()) {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let has = |groups: &[String], group: &str| groups.iter().any(|g| g == group);
    if name == ANONYMOUS {
        if !has(&groups, UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(&groups, AUTHENTICATED) && !has(&groups, UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some((User { name, uid, groups, extra }, wishes)))
}

/// The user to act as, if the headers ask for one and `user` may; takes the headers away.
pub fn apply(headers: &mut HeaderMap, user: &User, authorizer: &dyn Authorize) -> Result<Option<Identity>, Refused> {
    let Some((other, wishes)) = asked(headers)? else { return Ok(None) };
    for wish in wishes {
        let info = RequestInfo {
            is_resource: true,
            verb: "impersonate",
            group: wish.group.to_owned(),
            version: "v1".to_owned(),
            namespace: wish.namespace,
            resource: wish.resource.to_owned(),
            subresource: wish.subresource,
            name: wish.name,
            ..RequestInfo::default()
        };
        if let Decision::Deny(reason) = authorizer.authorize(user, &info) {
            let resource = GroupResource { group: wish.group, resource: wish.resource };
            let mut message = forbidden_message(&user.name, "impersonate", resource, &info.subresource, &info.namespace);
            if !reason.is_empty() {
                message = format!("{message}: {reason}");
            }
            return Err(Refused::Forbidden(Status::forbidden(resource, &info.name, &message)));
        }
    }
    let named: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in named {
        headers.remove(name);
    }
    tracing::info!(user = user.name, as_user = other.name, "Impersonating");
    Ok(Some(Arc::new(other)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::security::rbac::{Rbac, index::Source};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn rbac() -> Rbac {
        let rbac = Rbac::default();
        let role = serde_json::json!({"rules": [
            {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]},
            {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups", "serviceaccounts"]},
            {"verbs": ["impersonate"], "apiGroups": [AUTHENTICATION], "resources": ["userextras/scopes"]},
        ]});
        rbac.apply(Source::ClusterRole, "", "r", Some(&role));
        let binding = serde_json::json!({"roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "alice"}]});
        rbac.apply(Source::ClusterRoleBinding, "", "b", Some(&binding));
        rbac
    }

    #[test]
    fn an_allowed_identity_is_taken_on_whole() {
        let mut map = headers(&[
            (USER, "bob"),
            (GROUP, "dev"),
            (GROUP, "ops"),
            ("impersonate-extra-scopes", "view"),
            ("accept", "*/*"),
        ]);
        let got = apply(&mut map, &User::new("alice", &[]), &rbac()).unwrap().unwrap();
        let want = User {
            name: "bob".into(),
            groups: ["dev", "ops", AUTHENTICATED].map(str::to_owned).into(),
            extra: [("scopes".to_owned(), vec!["view".to_owned()])].into(),
            ..User::default()
        };
        assert_eq!((&*got, map), (&want, headers(&[("accept", "*/*")])));
    }

    #[test]
    fn a_forbidden_identity_is_refused_in_upstreams_words() {
        let mut map = headers(&[(USER, "root")]);
        let refused = apply(&mut map, &User::new("alice", &[]), &rbac()).unwrap_err();
        let want = "users \"root\" is forbidden: User \"alice\" cannot impersonate resource \"users\" in API group \"\" at \
                    the cluster scope";
        let Refused::Forbidden(status) = refused else { panic!("{refused:?}") };
        assert_eq!((status.code, status.message.as_str()), (403, want));
    }

    #[test]
    fn service_accounts_bring_their_groups() {
        let mut map = headers(&[(USER, "system:serviceaccount:d:robot")]);
        let got = apply(&mut map, &User::new("alice", &[]), &rbac()).unwrap().unwrap();
        assert_eq!(got.groups, ["system:serviceaccounts", "system:serviceaccounts:d", AUTHENTICATED]);
    }

    #[test]
    fn groups_without_a_user_make_no_sense() {
        let refused = apply(&mut headers(&[(GROUP, "x")]), &User::new("alice", &[]), &rbac()).unwrap_err();
        let want = "requested [{Group  x    }] without impersonating a user";
        assert_eq!(refused, Refused::Malformed(want.to_owned()));
        assert!(apply(&mut headers(&[]), &User::new("alice", &[]), &rbac()).unwrap().is_none());
    }
}
