//! Bootstrap tokens (`ID.SECRET`): what a machine has before it has a certificate. Each is a Secret of type
//! `bootstrap.kubernetes.io/token` in kube-system; as upstream's authenticator reads them.

use std::collections::BTreeSet;

use api::status::Status;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use ring::digest;
use serde_json::Value;

use super::lookup::Lookup;
use crate::identity::{AUTHENTICATED, User};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The parts of a token of this form.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    (is_word(id, 6) && is_word(secret, 16)).then_some((id, secret))
}

/// The name of the Secret that holds a token.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// The user behind a token. `Err` is for the log only.
pub async fn user(lookup: &dyn Lookup, id: &str, secret: &str, now: Timestamp) -> Result<User, String> {
    let name = secret_name(id);
    let found = lookup.find("secrets", NAMESPACE, &name).await.map_err(|status: Status| status.message)?;
    let object = found.ok_or_else(|| format!("no secret of name {name} to match bootstrap bearer token"))?;
    judge(&object, id, secret, now).map_err(|why| format!("Bootstrap secret {NAMESPACE}/{name} matching bearer token {why}"))
}

/// Whether both are the same, in a time that tells nothing of where they differ.
fn same(one: &str, other: &str) -> bool {
    let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    let (one, other) = (digest(one), digest(other));
    one.as_ref().iter().zip(other.as_ref()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn judge(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<User, String> {
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
        return Err("is deleted and awaiting removal".to_owned());
    }
    if object.get("type").and_then(Value::as_str) != Some(TYPE) {
        return Err(format!("has invalid type, expected {TYPE}."));
    }
    let data = |key: &str| {
        let text = object.pointer(&format!("/data/{key}")).and_then(Value::as_str).unwrap_or_default();
        STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    if !same(&data("token-secret"), secret) {
        return Err("has invalid value for key token-secret.".to_owned());
    }
    if data("token-id") != id {
        return Err("has invalid value for key token-id.".to_owned());
    }
    match data("expiration").as_str() {
        "" => {}
        text => {
            if !text.parse::<Timestamp>().is_ok_and(|end| end > now) {
                return Err(format!("has expired ({text})."));
            }
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("not marked usage-bootstrap-authentication=true.".to_owned());
    }
    let mut groups = BTreeSet::from([GROUP.to_owned()]);
    match data("auth-extra-groups").as_str() {
        "" => {}
        more => {
            for group in more.split(',') {
                if !is_group(group) {
                    return Err(format!("has invalid value for key auth-extra-groups: {group:?}."));
                }
                groups.insert(group.to_owned());
            }
        }
    }
    let mut groups: Vec<String> = groups.into_iter().collect();
    groups.push(AUTHENTICATED.to_owned());
    Ok(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// `system:bootstrappers:` and 1 to 256 lower case letters, digits, colons and dashes, of which the last is a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|byte| plain(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn stored(change: &Value) -> Value {
        let data = |text: &str| STANDARD.encode(text);
        let mut object = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": {
            "token-id": data("abcdef"), "token-secret": data(SECRET), "usage-bootstrap-authentication": data("true"),
            "expiration": data("2026-01-01T00:00:10Z"), "auth-extra-groups": data("system:bootstrappers:workers,system:bootstrappers:a"),
        }});
        for (key, text) in change.as_object().unwrap() {
            match text.as_str() {
                Some(text) => object["data"][key] = json!(data(text)),
                None => drop(object["data"].as_object_mut().unwrap().remove(key)),
            }
        }
        object
    }

    fn ask(object: &Value, secret: &str) -> Result<(String, Vec<String>), String> {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        judge(object, "abcdef", secret, now).map(|user| (user.name, user.groups))
    }

    #[test]
    fn tokens_have_a_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", SECRET)));
        for no in
            ["", "abcdef", "abcde.0123456789abcdef", "abcdef.0123456789abcdeF", "abcdef.0123456789abcdef.x", "e30.e30.e30"]
        {
            assert_eq!(parse(no), None, "{no}");
        }
    }

    #[test]
    fn a_good_token_is_a_bootstrapper() {
        let groups = ["system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:workers", AUTHENTICATED];
        let want = ("system:bootstrap:abcdef".to_owned(), groups.map(str::to_owned).to_vec());
        assert_eq!(ask(&stored(&json!({})), SECRET), Ok(want));
        let (_, groups) = ask(&stored(&json!({"expiration": null, "auth-extra-groups": null})), SECRET).unwrap();
        assert_eq!(groups, [GROUP, AUTHENTICATED].map(str::to_owned));
    }

    #[test]
    fn anything_else_is_nobody() {
        assert!(ask(&stored(&json!({})), "0123456789abcdee").unwrap_err().contains("token-secret"));
        let changes = [
            ("token-id", json!("zzzzzz")),
            ("token-secret", Value::Null),
            ("expiration", json!("2026-01-01T00:00:00Z")),
            ("expiration", json!("tomorrow")),
            ("usage-bootstrap-authentication", json!("yes")),
            ("auth-extra-groups", json!("system:masters")),
            ("auth-extra-groups", json!("system:bootstrappers:a,system:bootstrappers:-")),
        ];
        for (key, value) in changes {
            assert!(ask(&stored(&json!({key: value})), SECRET).is_err(), "{key} {value}");
        }
        let mut object = stored(&json!({}));
        object["type"] = json!("Opaque");
        assert!(ask(&object, SECRET).is_err());
        let mut object = stored(&json!({}));
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(ask(&object, SECRET).is_err());
    }
}
