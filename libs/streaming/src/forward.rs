//! The end that has the pod, for `port-forward`: every connection that the client forwards arrives as a [`Forward`].
//!
//! Three wires: SPDY, SPDY inside a WebSocket (what kubectl speaks since 1.30), and WebSocket channels with the ports named
//! in the query (two channels a port, each begun by the server with the port as two little-endian bytes).

use std::{collections::HashMap, time::Duration};

use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::Instant,
};
use tokio_tungstenite::tungstenite::protocol::Role as WsRole;

use crate::{
    command::{Error, format},
    negotiate::{self, Agreed, Rejection, Wire},
    spdy::{Connection, Incoming, Role},
    stream::{Headers, Stream},
    websocket::{self, Closer, Tunnel},
};

/// The version on SPDY.
pub const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// The versions on WebSockets.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// SPDY inside a WebSocket.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const CREATION: Duration = Duration::from_secs(30);

/// One forwarded connection.
#[derive(Debug)]
pub struct Forward {
    /// The pod's port.
    pub port: u16,
    /// The connection's bytes.
    pub data: Stream,
    /// Takes a text if the port cannot be reached.
    pub error: Stream,
}

impl Forward {
    /// Copies both ways until both are done; the outcome of connecting, as upstream words it for clients.
    pub async fn serve<T: AsyncRead + AsyncWrite + Unpin>(mut self, pod: &str, target: std::io::Result<T>) {
        match target {
            Ok(mut target) => {
                let _ = tokio::io::copy_bidirectional(&mut self.data, &mut target).await;
            }
            Err(error) => {
                let text = format!("error forwarding port {} to pod {pod}: {error}", self.port);
                tracing::info!("{text}");
                let _ = self.error.write_all(text.as_bytes()).await;
            }
        }
        let _ = self.error.shutdown().await;
        let _ = self.data.shutdown().await;
    }
}

/// The forwards of one client.
pub struct PortForward {
    forwards: mpsc::Receiver<Forward>,
    closer: Option<Closer>,
}

impl PortForward {
    /// The next one, `None` when the client has gone.
    pub async fn next(&mut self) -> Option<Forward> {
        self.forwards.recv().await
    }

    /// Ends the client's connection once its forwards are done; only channels need that (SPDY clients hang up).
    pub async fn close(self) {
        if let Some(closer) = self.closer {
            closer.close().await;
        }
    }
}

/// The ports in a query: `port=80&port=81,82` (the kubelet's) or `ports=80`.
pub fn ports(query: &str) -> Result<Vec<u16>, Rejection> {
    let mut ports = Vec::new();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if !matches!(key, "port" | "ports") {
            continue;
        }
        let value = value.replace("%2C", ",").replace("%2c", ",");
        if value.is_empty() {
            return Err(Rejection::bad_request("query parameter \"port\" cannot be empty"));
        }
        for port in value.split(',') {
            ports.push(parse_port(port).map_err(Rejection::bad_request)?);
        }
    }
    Ok(ports)
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(error) => Err(format!("unable to parse {text:?} as a port: {error}")),
    }
}

/// A request that has been answered 101.
pub struct Pending {
    upgrade: OnUpgrade,
    agreed: Agreed,
    ports: Vec<u16>,
}

/// Answers a `portforward` request.
pub fn upgrade<B>(request: &mut Request<B>) -> Result<(Response<()>, Pending), Rejection> {
    let ports = ports(request.uri().query().unwrap_or(""))?;
    let (agreed, response) = negotiate::agree(request.headers(), SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS)?;
    if agreed.wire == Wire::WebSocket && agreed.protocol != TUNNEL && ports.is_empty() {
        return Err(Rejection::bad_request("query parameter \"port\" is required"));
    }
    Ok((response, Pending { upgrade: hyper::upgrade::on(request), agreed, ports }))
}

impl Pending {
    /// The forwards, once the response is out.
    pub async fn forwards(self) -> Result<PortForward, Error> {
        let io = TokioIo::new(self.upgrade.await?);
        forwards(io, &self.agreed, &self.ports).await
    }
}

/// The forwards over a connection that is upgraded already.
pub async fn forwards<T>(io: T, agreed: &Agreed, ports: &[u16]) -> Result<PortForward, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (found, forwards) = mpsc::channel(ports.len().max(8));
    let mut closer = None;
    match (agreed.wire, agreed.protocol.as_str()) {
        (Wire::Spdy, _) => {
            let (connection, incoming) = Connection::new(io, Role::Server)?;
            tokio::spawn(pair_up(connection, incoming, found));
        }
        (Wire::WebSocket, TUNNEL) => {
            let tunnel = Tunnel::new(websocket::upgraded(io, WsRole::Server).await);
            let (connection, incoming) = Connection::new(tunnel, Role::Server)?;
            tokio::spawn(pair_up(connection, incoming, found));
        }
        (Wire::WebSocket, protocol) => {
            let socket = websocket::upgraded(io, WsRole::Server).await;
            let count = u8::try_from(ports.len() * 2).map_err(|_| Error::Creation)?;
            let (streams, handle) = websocket::channels(socket, count, format(protocol), WsRole::Server);
            closer = Some(handle);
            let mut streams = streams.into_iter();
            for port in ports {
                let (Some(mut data), Some(mut error)) = (streams.next(), streams.next()) else { break };
                for stream in [&mut data, &mut error] {
                    // The queue is empty: this only fails when the client has left, which the user sees as an end.
                    let _ = stream.write_all(&port.to_le_bytes()).await;
                }
                let _ = found.send(Forward { port: *port, data, error }).await;
            }
        }
    }
    Ok(PortForward { forwards, closer })
}

/// Half a forward, waiting for the other half.
struct Half {
    since: Instant,
    port: u16,
    data: Option<Stream>,
    error: Option<Stream>,
}

/// What a stream's headers say of it: which request, data or not, which port.
fn describe(headers: &Headers, id: u32) -> Result<(String, bool, u16), String> {
    let port = match headers.get("port") {
        "" => return Err("\"port\" header is required".to_owned()),
        text => parse_port(text)?,
    };
    let is_data = match headers.get("streamtype") {
        "data" => true,
        "error" => false,
        "" => return Err("\"streamType\" header is required".to_owned()),
        other => return Err(format!("invalid stream type {other:?}")),
    };
    // Clients of old open an error stream and then, two ids on, its data stream.
    let request = match headers.get("requestid") {
        "" if is_data => id.wrapping_sub(2).to_string(),
        "" => id.to_string(),
        text => text.to_owned(),
    };
    Ok((request, is_data, port))
}

async fn pair_up(connection: Connection, mut incoming: Incoming, found: mpsc::Sender<Forward>) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    loop {
        let offer = tokio::select! {
            offer = incoming.next() => offer,
            () = found.closed() => None,
        };
        let Some(offer) = offer else { break };
        halves.retain(|_, half| half.since.elapsed() < CREATION);
        let (request, is_data, port) = match describe(offer.headers(), offer.id()) {
            Ok(described) => described,
            Err(error) => {
                tracing::info!("Refused a port-forward stream: {error}");
                continue;
            }
        };
        let Ok(stream) = offer.accept().await else { break };
        let new = || Half { since: Instant::now(), port, data: None, error: None };
        let mut half = halves.remove(&request).unwrap_or_else(new);
        let slot = if is_data { &mut half.data } else { &mut half.error };
        if slot.is_some() {
            tracing::info!(request, "A port-forward stream is assigned already");
        } else {
            *slot = Some(stream);
        }
        match half {
            Half { port, data: Some(data), error: Some(error), .. } => {
                let _ = found.send(Forward { port, data, error }).await;
            }
            half => drop(halves.insert(request, half)),
        }
    }
    // Forwards under way keep the connection; the client ends it.
    drop(found);
    connection.closed().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_describe_themselves() {
        let headers = |kind: &str, request: &str| {
            let mut pairs = vec![("port", "8080"), ("streamtype", kind)];
            if !request.is_empty() {
                pairs.push(("requestid", request));
            }
            Headers::of(&pairs)
        };
        assert_eq!(describe(&headers("data", "4"), 9), Ok(("4".into(), true, 8080)));
        assert_eq!(describe(&headers("error", ""), 1), Ok(("1".into(), false, 8080)));
        assert_eq!(describe(&headers("data", ""), 3), Ok(("1".into(), true, 8080)));
        assert_eq!(describe(&headers("x", ""), 3), Err("invalid stream type \"x\"".into()));
        assert_eq!(describe(&Headers::default(), 3), Err("\"port\" header is required".into()));
    }

    #[test]
    fn ports_come_from_the_query() {
        assert_eq!(ports("port=80&port=81%2C82&x=1"), Ok(vec![80, 81, 82]));
        assert_eq!(ports("port=0").unwrap_err().message, "port \"0\" must be > 0");
        assert_eq!(ports(""), Ok(vec![]));
    }
}
