//! What a refusal says: the Status in its body, or what client-go makes of an answer without one.

use api::status::Status;
use http::Method;
use serde_json::Value;

use super::Answer;
use crate::failure::Failure;

/// What a refusal says: the Status in the body, or what client-go makes of an answer without one.
pub fn refused(method: &Method, path: &str, answer: &Answer) -> Failure {
    if let Ok(status) = serde_json::from_slice::<Value>(&answer.body)
        && status["kind"] == "Status"
        && let Ok(status) = serde_json::from_value::<Status>(status)
    {
        return Failure::Status(Box::new(status));
    }
    Failure::Status(Box::new(generic(method, path, answer)))
}

fn generic(method: &Method, path: &str, answer: &Answer) -> Status {
    let text = String::from_utf8_lossy(&answer.body);
    let text = text.trim();
    let verb = match *method {
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let code = answer.status.as_u16();
    let (reason, message) = match code {
        409 if *method == Method::POST => ("AlreadyExists", "the server reported a conflict".to_owned()),
        409 => ("Conflict", "the server reported a conflict".to_owned()),
        404 => ("NotFound", "the server could not find the requested resource".to_owned()),
        400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
        403 if text.is_empty() => ("Forbidden", format!("{path} is forbidden")),
        403 => ("Forbidden", text.to_owned()),
        406 => ("NotAcceptable", if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }),
        415 => ("UnsupportedMediaType", if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned()),
        422 => ("Invalid", "the server rejected our request due to an error in our request".to_owned()),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned(),
        ),
        429 => {
            ("TooManyRequests", "the server has received too many requests and has asked us to try again later".to_owned())
        }
        500.. => (
            "InternalError",
            format!(
                "an error on the server ({}) has prevented the request from succeeding",
                api::field::go_quote(if text.is_empty() { "unknown" } else { text })
            ),
        ),
        _ => ("", format!("the server responded with the status code {code} but did not return more information")),
    };
    let about = if verb.is_empty() || code >= 500 && code != 503 && code != 504 {
        String::new()
    } else {
        format!(" ({verb} {})", resource_of(path))
    };
    let message = match reason {
        "" | "Forbidden" | "NotAcceptable" | "UnsupportedMediaType" | "InternalError" => message,
        _ if about.ends_with(" )") => message,
        _ => format!("{message}{about}"),
    };
    let mut status = Status::default();
    status.status = "Failure".to_owned();
    status.reason = reason.to_owned();
    status.message = message;
    status.code = i32::from(code);
    status
}

/// `pods web` for the path of a pod: what client-go names in messages.
fn resource_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').filter(|p| !p.is_empty()).collect();
    let (group, rest): (String, &[&str]) = match parts.as_slice() {
        ["api", _, rest @ ..] => (String::new(), rest),
        ["apis", group, _, rest @ ..] => (format!(".{group}"), rest),
        _ => (String::new(), &[]),
    };
    let rest: &[&str] = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    match rest {
        [] => String::new(),
        [resource] => format!("{resource}{group}"),
        [resource, name, ..] => format!("{resource}{group} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn answers_without_a_status_are_explained() {
        let answer = Answer {
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"404 page not found"),
        };
        let failure = refused(&Method::GET, "/api/v1/namespaces/a/pods/x", &answer);
        assert_eq!(
            failure.to_string(),
            "Error from server (NotFound): the server could not find the requested resource (get pods x)"
        );
    }
}
