//! The gRPC health check (`grpc.health.v1.Health/Check`): one call, its two messages written by hand.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Outcome;

/// Asks for the health of `service`.
pub async fn check(ip: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let place = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let within = format!("{}s", timeout.as_secs());
    match tokio::time::timeout(timeout, call(&place, service, &within)).await {
        Ok(Ok(Health::Serving)) => Outcome::Success,
        Ok(Ok(other)) => Outcome::Failure(format!("service unhealthy (responded with \"{}\")", other.name())),
        Ok(Err(problem)) => Outcome::Failure(problem),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{place}\" within {within}: context deadline exceeded"
        )),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

impl Health {
    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

async fn call(place: &str, service: &str, within: &str) -> Result<Health, String> {
    let failed = |e: &dyn std::fmt::Display| format!("error: health rpc probe failed: {e}");
    // Upstream dials again and again until its time is up; what it says then is all that tells who is not there.
    let unreachable =
        || format!("timeout: failed to connect service \"{place}\" within {within}: context deadline exceeded");
    let stream = tokio::net::TcpStream::connect(place).await.map_err(|_| unreachable())?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| unreachable())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let request = hyper::Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.35")
            .body(Full::new(request(service)))
            .map_err(|e| failed(&e))?;
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let early = status(response.headers());
        let body = response.into_body().collect().await.map_err(|e| failed(&e))?;
        let code = early.or_else(|| body.trailers().and_then(status));
        match code.as_deref() {
            None | Some("0") => serving(&body.to_bytes()).ok_or_else(|| failed(&"the answer is malformed")),
            Some("5") => Ok(Health::ServiceUnknown),
            Some("12") => {
                Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
            }
            Some(code) => Err(failed(&format!("code {code}"))),
        }
    }
    .await;
    connection.abort();
    answer
}

fn status(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|s| s.to_str().ok()).map(str::to_owned)
}

/// `HealthCheckRequest { string service = 1; }` in a gRPC frame.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1; }` from a gRPC frame.
fn serving(frame: &[u8]) -> Option<Health> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(Health::Unknown),
        [0x08, value, ..] => Some(match value {
            1 => Health::Serving,
            2 => Health::NotServing,
            3 => Health::ServiceUnknown,
            _ => Health::Unknown,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(request(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(Health::Serving));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(Health::Unknown));
        assert_eq!(serving(&[0]), None);
    }
}
