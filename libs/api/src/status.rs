//! `metav1.Status` errors: one constructor for each reason, with upstream's messages and details.
//!
//! The fields are in the order upstream's encoder writes them, so that the encoded bytes are the same.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    field::FieldErrors,
    kind::{KindInfo, Refused},
    table::ListMeta,
};

/// A group and a resource (or kind): `deployments.apps`, `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupResource<'a> {
    /// `""` for the core group.
    pub group: &'a str,
    /// The plural resource name, or a kind where upstream names that.
    pub resource: &'a str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.resource),
            group => write!(f, "{}.{group}", self.resource),
        }
    }
}

impl KindInfo {
    /// What `NotFound` and its kin name: the resource.
    pub fn group_resource(&self) -> GroupResource<'static> {
        GroupResource { group: self.group, resource: self.plural }
    }

    /// What `Invalid` names: the kind that objects are stored as.
    pub fn group_kind(&self) -> GroupResource<'static> {
        GroupResource { group: self.stored_as.map_or(self.group, |(group, ..)| group), resource: self.kind }
    }
}

/// One of the things that are wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// `FieldValueInvalid` and the like.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// In words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `spec.containers[0].name`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What the error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its resource, or its kind for `Invalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
    /// What is said beside it, in `Warning` headers.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}

/// An error (or, for some deletions, a success) as the API server answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    kind: String,
    api_version: String,
    /// Of use where a list ended too early: the token to go on with.
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs, e.g. `NotFound`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// The HTTP status code.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: i32,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: ListMeta::default(),
            status: String::new(),
            message: String::new(),
            reason: String::new(),
            details: None,
            code: 0,
        }
    }
}

impl Status {
    /// The same, with warnings beside it.
    pub fn warned(mut self, warnings: Vec<String>) -> Self {
        self.details.get_or_insert_default().warnings = warnings;
        self
    }

    /// Takes out the warnings beside it.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.details.as_mut().map(|details| std::mem::take(&mut details.warnings)).unwrap_or_default()
    }

    fn failure(code: i32, reason: &str, message: impl Into<String>) -> Self {
        Self { status: "Failure".to_owned(), message: message.into(), reason: reason.to_owned(), code, ..Self::default() }
    }

    fn about(mut self, resource: GroupResource<'_>, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = resource.group.to_owned();
        details.kind = resource.resource.to_owned();
        details.name = name.to_owned();
        self
    }

    fn retry(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 200: what a deletion without an object left answers, with the deleted object in the details.
    pub fn success(resource: GroupResource<'_>, name: &str, uid: &str) -> Self {
        let mut status = Self { status: "Success".to_owned(), ..Self::default() }.about(resource, name);
        status.details.get_or_insert_default().uid = uid.to_owned();
        status
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(resource: GroupResource<'_>, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{resource} {} not found", quote(name))).about(resource, name)
    }

    /// 404 for a path that serves nothing.
    pub fn no_such_path() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!("{resource} {} already exists", quote(name));
        Self::failure(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409: every name generated from `generateName` was taken.
    pub fn generate_name_conflict(resource: GroupResource<'_>, name: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::failure(409, "AlreadyExists", message).about(resource, name).retry(retry_after_seconds)
    }

    /// 409: `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(resource: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quote(name));
        Self::failure(409, "Conflict", message).about(resource, name)
    }

    /// 409 for an update of an object that changed since it was read.
    pub fn modified(resource: GroupResource<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 409 of a server-side apply, with one cause a field.
    pub fn apply_conflict(causes: Vec<Cause>, message: &str) -> Self {
        let mut status = Self::failure(409, "Conflict", message);
        status.details.get_or_insert_default().causes = causes;
        status
    }

    /// 422: `Pod "x" is invalid: ...`, with one cause a broken rule. Names the kind, not the resource.
    pub fn invalid(kind: GroupResource<'_>, name: &str, errors: &FieldErrors) -> Self {
        let message = match errors.is_empty() {
            true => format!("{kind} {} is invalid", quote(name)),
            false => format!("{kind} {} is invalid: {errors}", quote(name)),
        };
        let cause = |e: &crate::field::FieldError| Cause {
            reason: e.kind.reason().to_owned(),
            message: e.body(),
            field: e.path.clone(),
        };
        let mut status = Self::failure(422, "Invalid", message).about(kind, name);
        status.details.get_or_insert_default().causes = errors.0.iter().map(cause).collect();
        status
    }

    /// 422 for a patch that does not fit: upstream hides the reason.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        let mut status = Self::failure(422, "Invalid", message);
        status.details = Some(Box::default());
        status
    }

    /// 400 with the message as given.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 403: `pods "x" is forbidden: why`.
    pub fn forbidden(resource: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = match (resource.resource, name) {
            ("", _) if resource.group.is_empty() => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {} is forbidden: {why}", quote(name)),
        };
        Self::failure(403, "Forbidden", message).about(resource, name)
    }

    /// 401. An empty message becomes upstream's `Unauthorized`.
    pub fn unauthorized(message: &str) -> Self {
        Self::failure(401, "Unauthorized", if message.is_empty() { "Unauthorized" } else { message })
    }

    /// 405: `patch is not supported on resources of kind "pods"`.
    pub fn method_not_supported(resource: GroupResource<'_>, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&resource.to_string()));
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// 405 for a path that knows the verb nowhere.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Self::failure(405, "MethodNotAllowed", message);
        status.details = Some(Box::default());
        status
    }

    /// 500 without a reason: errors of upstream's that are none of its API's.
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    /// 415 for a patch, by the router.
    pub fn unsupported_patch() -> Self {
        let mut status = Self::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type");
        status.details = Some(Box::default());
        status
    }

    /// 410 `Expired`: the resourceVersion or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 410 `Expired` for a watch: `too old resource version: N (M)`.
    pub fn too_old(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 410 `Gone`, the older reason.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// 504 `Timeout` for a resourceVersion that has not happened yet: `Too large resource version: N, current: M`.
    pub fn too_large_resource_version(requested: u64, current: u64, retry_after_seconds: i32) -> Self {
        let message = format!("Too large resource version: {requested}, current: {current}");
        let mut status = Self::timeout(&message, retry_after_seconds);
        status.details.get_or_insert_default().causes = vec![Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }];
        status
    }

    /// 504: `Timeout: message`.
    pub fn timeout(message: &str, retry_after_seconds: i32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).retry(retry_after_seconds)
    }

    /// 500 `ServerTimeout`: try again.
    pub fn server_timeout(resource: GroupResource<'_>, operation: &str, retry_after_seconds: i32) -> Self {
        let message =
            format!("The {operation} operation against {resource} could not be completed at this time, please try again.");
        Self::failure(500, "ServerTimeout", message).about(resource, operation).retry(retry_after_seconds)
    }

    /// 429 with the message as given.
    pub fn too_many_requests(message: &str, retry_after_seconds: i32) -> Self {
        Self::failure(429, "TooManyRequests", message).retry(retry_after_seconds)
    }

    /// 429 of an eviction that a disruption budget does not allow; `needs` explains, as upstream's cause.
    pub fn disruption_budget(name: &str, needs: &str, retry_after_seconds: i32) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut status = Self::too_many_requests(message, retry_after_seconds);
        status.details.get_or_insert_default().causes = vec![Cause {
            reason: "DisruptionBudget".to_owned(),
            message: format!("The disruption budget {name} {needs}"),
            field: String::new(),
        }];
        status
    }

    /// 413: `Request entity too large: message`.
    pub fn request_entity_too_large(message: &str) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 413 for a body beyond the limit.
    pub fn body_too_large(limit: usize) -> Self {
        Self::request_entity_too_large(&format!("limit is {limit}"))
    }

    /// 415, listing what is accepted.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 406, listing what can be answered.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }

    /// 500: `Internal error occurred: message`.
    pub fn internal(message: &str) -> Self {
        let mut status = Self::failure(500, "InternalError", format!("Internal error occurred: {message}"));
        status.details.get_or_insert_default().causes = vec![Cause { message: message.to_owned(), ..Cause::default() }];
        status
    }

    /// 503 with the message as given.
    pub fn service_unavailable(message: &str) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 507: the store's device is full.
    pub fn insufficient_storage(message: &str) -> Self {
        Self::failure(507, "InsufficientStorage", message)
    }

    /// A kind's refusal of an object.
    pub fn refused(info: &KindInfo, name: &str, refused: &Refused) -> Self {
        match refused {
            Refused::Malformed(error) => Self::bad_request(format!(
                "{} in version {} cannot be handled as a {}: {error}",
                info.kind,
                quote(info.version),
                info.kind
            )),
            Refused::Invalid(errors) => Self::invalid(info.group_kind(), name, errors),
        }
    }

    /// Reads a Status from an object of kind `Status`.
    pub fn from_value(value: &Value) -> Option<Self> {
        (value.get("kind")?.as_str()? == "Status").then(|| Self::deserialize(value).ok()).flatten()
    }

    /// The body to send, with the newline upstream's encoder ends with.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Whether the reason is `reason`.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }
}

/// A string as Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    crate::field::go_quote(text)
}

/// The authorizer's words: `User "x" cannot list resource "pods" in API group "" in the namespace "default"`.
pub fn forbidden_message(user: &str, verb: &str, resource: GroupResource<'_>, subresource: &str, namespace: &str) -> String {
    let what = match subresource {
        "" => resource.resource.to_owned(),
        sub => format!("{}/{sub}", resource.resource),
    };
    let scope = match namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {}", quote(namespace)),
    };
    let head = format!("User {} cannot {verb} resource {} in API group", quote(user), quote(&what));
    sanitize(&format!("{head} {} {scope}", quote(resource.group)))
}

/// The authorizer's words for a path: `User "x" cannot get path "/metrics"`.
pub fn forbidden_path_message(user: &str, verb: &str, path: &str) -> String {
    sanitize(&format!("User {} cannot {verb} path {}", quote(user), quote(path)))
}

/// Upstream keeps error texts from looking like HTML.
fn sanitize(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
    const DEPLOYMENTS: GroupResource<'static> = GroupResource { group: "apps", resource: "deployments" };

    #[test]
    fn bytes_are_upstreams() {
        let bytes = Status::not_found(PODS, "x").to_bytes();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"pods \\\"x\\\" not found\",\"reason\":\"NotFound\",\"details\":{\"name\":\"x\",\"kind\":\"pods\"},\"code\":404}\n"
        );
    }

    #[test]
    fn invalid_lists_each_cause_and_deduplicates_the_message() {
        let mut errors = FieldErrors::default();
        errors.required("spec.a", "");
        errors.required("spec.a", "");
        errors.invalid("spec.b", &1, "bad");
        let status = Status::invalid(GroupResource { group: "apps", resource: "Deployment" }, "x", &errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"x\" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: bad]"
        );
        assert_eq!(status.details.unwrap().causes.len(), 3);
    }

    #[test]
    fn forbidden_forms() {
        let why = forbidden_message("a", "list", DEPLOYMENTS, "status", "ns");
        assert_eq!(
            Status::forbidden(DEPLOYMENTS, "", &why).message,
            "deployments.apps is forbidden: User \"a\" cannot list resource \"deployments/status\" in API group \"apps\" in the namespace \"ns\""
        );
    }

    #[test]
    fn reads_itself() {
        let status = Status::modified(PODS, "x");
        let value = serde_json::to_value(&status).unwrap();
        assert_eq!(Status::from_value(&value), Some(status));
    }
}
