//! core/v1 Secret.

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::Value;

use super::config_map::{IMMUTABLE, SIZE_MAX};
use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors, text,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    key_pair,
    kind::{Context, KindInfo, Resource, Subresource},
    names,
    schema::{go, json},
};

/// The type of this kind.
pub type Served = Secret;

const TLS: &str = "kubernetes.io/tls";

impl Resource for Secret {
    const INFO: KindInfo = KindInfo {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        columns: &[
            NAME,
            column("Type", "string", "What the secret is for."),
            column("Data", "string", "How many keys it holds."),
            AGE,
        ],
        fields: &["type"],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        // `stringData` is a way to write `data` in plain text: it wins over it and is never stored.
        for (key, value) in self.string_data.take().into_iter().flatten() {
            self.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
        self.type_ = self.type_.take().filter(|kind| !kind.is_empty());
        default_to(&mut self.type_, "Opaque");
    }

    fn prepare_for_update(&mut self, old: &Self, _at: Option<Subresource>, _ctx: &Context) {
        default_to(&mut self.type_, text(old.type_.as_ref()));
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::root("data");
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            errors.each(&path.key(key), key, names::config_map_key(key));
            size += value.0.len();
        }
        if size > SIZE_MAX {
            errors.too_long(path, SIZE_MAX);
        }
        check_type(self, &path, errors);
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        errors.immutable(&Path::root("type"), &self.type_, &old.type_);
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.forbidden("immutable", IMMUTABLE);
            }
            if self.data != old.data {
                errors.forbidden("data", IMMUTABLE);
            }
        }
        self.validate(errors);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        if text(self.type_.as_ref()) != TLS {
            return Vec::new();
        }
        let get = |key: &str| self.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0);
        key_pair::check(get("tls.crt"), get("tls.key")).err().into_iter().collect()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("type", text(self.type_.as_ref()).to_owned())]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, |data| data.len());
        vec![cells::name(&self.metadata), text(self.type_.as_ref()).into(), keys.into(), cells::age(&self.metadata, now)]
    }
}

/// What each well-known type must hold.
fn check_type(secret: &Secret, path: &Path, errors: &mut FieldErrors) {
    let get = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let mut require = |key: &str| {
        if get(key).is_none() {
            errors.required(path.key(key), "");
        }
    };
    match text(secret.type_.as_ref()) {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            let name = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(NAME));
            if name.is_none_or(|name| name.is_empty()) {
                errors.required(Path::root("metadata.annotations").key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => check_json(get(".dockercfg"), ".dockercfg", path, errors),
        "kubernetes.io/dockerconfigjson" => check_json(get(".dockerconfigjson"), ".dockerconfigjson", path, errors),
        "kubernetes.io/basic-auth" if get("username").is_none() && get("password").is_none() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if get("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            errors.required(path.key("ssh-privatekey"), "");
        }
        TLS => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

fn check_json(content: Option<&ByteString>, key: &str, path: &Path, errors: &mut FieldErrors) {
    let Some(content) = content else { return errors.required(path.key(key), "") };
    let reason = match json::parse_to_check(&content.0) {
        Ok(json::Parsed { value: Value::Object(_) | Value::Null, .. }) => return,
        Ok(other) => {
            format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", go::kind(&other.value))
        }
        Err(error) => error.to_string(),
    };
    // Never the content.
    errors.invalid(path.key(key), &"<secret contents redacted>", reason);
}
