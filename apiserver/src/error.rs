//! Where failures become a [`Status`]: the one error that leaves the server.

use api::{
    kind::{KindInfo, Refused},
    status::{GroupResource, Status},
};
use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};

use crate::{
    cache::{Behind, Gone},
    wire::negotiate::{Encoding, Form},
};

/// What handlers return.
pub type Result<T, E = Status> = std::result::Result<T, E>;

/// A store's failure during `operation` on `resource`.
pub fn store(error: &store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => Status::expired("The provided resource version is too old."),
        store::Error::Future { requested, newest } => Status::too_large_resource_version(*requested, *newest, 1),
        store::Error::NoSpace(_) => Status::insufficient_storage("the store's device is full"),
        error => Status::internal(&chain(error)),
    }
}

/// An error with its causes, `: ` in between.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        next = cause.source();
    }
    out
}

/// A cache that could not be brought to a revision.
pub fn behind(error: &Behind) -> Status {
    match error {
        Behind::Timeout { wanted, current } => Status::too_large_resource_version(*wanted, *current, 1),
        Behind::Store(error) => store(error),
    }
}

/// A watch from a revision whose changes are gone.
pub fn gone(error: Gone) -> Status {
    Status::too_old(error.requested, error.oldest)
}

/// A kind's refusal.
pub fn refused(info: &KindInfo, name: &str, refused: &Refused) -> Status {
    Status::refused(info, name, refused)
}

/// A broken rule of the options of a request.
pub fn invalid_options(kind: &str, errors: &api::field::FieldErrors) -> Status {
    Status::invalid(GroupResource { group: "meta.k8s.io", resource: kind }, "", errors)
}

/// Metadata of a list asked for as those of an object, or the other way round (406).
pub fn unfit(asked: &str, info: &KindInfo) -> Status {
    let package = crate::registry::metadata::internal_package(info.group);
    let mut status = Status::not_acceptable(&[]);
    status.message = if asked.ends_with("List") {
        format!("you requested {asked}, but the requested object is not a list (*{package}.{})", info.kind)
    } else {
        format!("you requested {asked}, but the requested object is a list (*{package}.{}List)", info.kind)
    };
    status
}

/// An object that cannot be sent in the form that was asked for (406).
pub fn not_marshalable(error: &api::protobuf::Error) -> Status {
    let mut status = Status::not_acceptable(&[]);
    status.message = error.to_string();
    status
}

/// The response of an error in the form that the client prefers.
pub fn respond_as(status: &Status, form: Form) -> Response {
    let mut response = respond(status);
    let value = || serde_json::to_value(status).unwrap_or_default();
    let body = match form.encoding {
        Encoding::Json if form.pretty => Body::from(serde_json::to_vec_pretty(status).unwrap_or_default()),
        Encoding::Json => return response,
        Encoding::Yaml => Body::from(api::yaml::to_string(&value())),
        Encoding::Protobuf => match api::protobuf::encode(&value()) {
            Ok(bytes) => Body::from(bytes),
            Err(_) => return response,
        },
    };
    *response.body_mut() = body;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    response
}

/// What was asked for, as the request's line has it.
pub fn asked(uri: &http::Uri) -> String {
    uri.path_and_query().map_or(uri.path(), http::uri::PathAndQuery::as_str).to_owned()
}

/// An error of the server's own, in plain text as upstream's outer layers write it.
pub fn of_the_server(asked: &str, why: &str) -> Response {
    let text = format!("Internal Server Error: {}: {why}\n", api::status::quote(asked));
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    crate::handlers::plain_text(StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// The response of an error.
pub fn respond(status: &Status) -> Response {
    let mut response = Response::new(Body::from(status.to_bytes()));
    *response.status_mut() = u16::try_from(status.code)
        .ok()
        .and_then(|c| StatusCode::from_u16(c).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
