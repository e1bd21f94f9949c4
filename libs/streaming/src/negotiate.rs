//! Which wire and which version of it: decided from request headers alone.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// `X-Stream-Protocol-Version`: the versions a SPDY client speaks, best first; the answer names one.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What a connection is upgraded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// SPDY/3.1.
    Spdy,
    /// WebSocket.
    WebSocket,
}

/// The outcome of a negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The wire.
    pub wire: Wire,
    /// The version on it (`v4.channel.k8s.io`), empty if the client asked for none.
    pub protocol: String,
}

/// Why a request is not upgraded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// 400 or 403.
    pub status: StatusCode,
    /// For the body.
    pub message: String,
    /// The versions that would do.
    pub accepted: Vec<&'static str>,
}

impl Rejection {
    /// A request that makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), accepted: Vec::new() }
    }

    /// The answer.
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(format!("{}\n", self.message));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        for version in &self.accepted {
            headers.append(ACCEPTED, HeaderValue::from_static(version));
        }
        response
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|token| !token.is_empty())
        .collect()
}

/// The wire a request asks for, if it asks for one of ours.
pub fn wire(headers: &HeaderMap) -> Option<Wire> {
    let connection = tokens(headers, &header::CONNECTION);
    if !connection.iter().any(|t| t.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    tokens(headers, &header::UPGRADE).iter().find_map(|t| match () {
        () if t.eq_ignore_ascii_case("websocket") => Some(Wire::WebSocket),
        () if t.eq_ignore_ascii_case("SPDY/3.1") => Some(Wire::Spdy),
        () => None,
    })
}

/// Agrees on a wire and a version, the client's preference first, and writes the 101 that says so.
pub fn agree(
    headers: &HeaderMap,
    spdy: &[&'static str],
    websocket: &[&'static str],
) -> Result<(Agreed, Response<()>), Rejection> {
    let wire =
        wire(headers).ok_or_else(|| Rejection::bad_request("unable to upgrade: missing upgrade headers in request"))?;
    let (name, ours) = match wire {
        Wire::Spdy => (STREAM_PROTOCOL, spdy),
        Wire::WebSocket => (header::SEC_WEBSOCKET_PROTOCOL, websocket),
    };
    let theirs = tokens(headers, &name);
    let protocol = match theirs.iter().find_map(|t| ours.iter().find(|o| *o == t)) {
        Some(protocol) => *protocol,
        None if theirs.is_empty() => "",
        None => {
            return Err(Rejection {
                status: StatusCode::FORBIDDEN,
                message: format!(
                    "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                    theirs.join(" "),
                    ours.join(" ")
                ),
                accepted: ours.to_vec(),
            });
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let upgraded_to = match wire {
        Wire::Spdy => "SPDY/3.1",
        Wire::WebSocket => "websocket",
    };
    answer.insert(header::UPGRADE, HeaderValue::from_static(upgraded_to));
    if wire == Wire::WebSocket {
        let accept = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .and_then(|key| derive_accept_key(key.as_bytes()).parse().ok())
            .ok_or_else(|| Rejection::bad_request("unable to upgrade: missing Sec-WebSocket-Key"))?;
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !protocol.is_empty() {
        answer.insert(name, HeaderValue::from_static(protocol));
    }
    Ok((Agreed { wire, protocol: protocol.to_owned() }, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_clients_first_choice_wins() {
        let asked = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v9"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v2.channel.k8s.io"),
        ]);
        let (agreed, response) = agree(&asked, &["v2.channel.k8s.io", "v4.channel.k8s.io"], &[]).unwrap();
        assert_eq!(agreed, Agreed { wire: Wire::Spdy, protocol: "v4.channel.k8s.io".into() });
        assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    }

    #[test]
    fn nothing_in_common_is_forbidden() {
        let asked = headers(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "a, b")]);
        let rejection = agree(&asked, &[], &["c"]).unwrap_err();
        let want = "unable to upgrade: unable to negotiate protocol: client supports [a b], server accepts [c]";
        assert_eq!((rejection.status, rejection.message.as_str()), (StatusCode::FORBIDDEN, want));
    }

    #[test]
    fn plain_requests_are_rejected() {
        assert_eq!(agree(&HeaderMap::new(), &[], &[]).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
