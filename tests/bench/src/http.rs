//! A client that costs little: HTTP/1.1 over TLS with a client certificate, one connection, requests one after the other.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::measure::Subject;

/// An API server and who pays for it.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    /// What its processor time and memory are read from.
    pub subject: Subject,
}

impl Target {
    /// From a kubeconfig as `knarr` writes it: server and credentials in it, each on a line of its own.
    pub fn new(kubeconfig: &str, subject: Subject) -> Result<Self> {
        let field = |name: &str| {
            let line =
                kubeconfig.lines().find_map(|l| l.trim().trim_start_matches("- ").strip_prefix(name)?.strip_prefix(':'));
            line.map(|v| v.trim().trim_matches('"').to_owned()).with_context(|| format!("find {name} in the kubeconfig"))
        };
        let pem = |name: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(field(name)?)?) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem("certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem("client-certificate-data")?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        let address = field("server")?.trim_start_matches("https://").parse().context("read the server's address")?;
        Ok(Self { address, tls: Arc::new(tls), subject })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        Ok(Connection {
            stream: BufReader::with_capacity(64 << 10, stream),
            out: Vec::new(),
            host: self.address.to_string(),
        })
    }

    /// Opens a watch: the connection gives its events from now on.
    pub async fn watch(&self, path: &str) -> Result<Watch> {
        let mut connection = self.connect().await?;
        connection.write("GET", path, "", b"").await?;
        let head = connection.head().await?;
        if head.status != 200 || head.length.is_some() {
            bail!("watch {path}: status {}", head.status);
        }
        Ok(Watch { connection, decoded: Vec::new(), read: 0 })
    }
}

/// A connection.
pub struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
    out: Vec<u8>,
    host: String,
}

struct Head {
    status: u16,
    /// Of the body; `None` is chunked.
    length: Option<usize>,
}

impl Connection {
    async fn write(&mut self, method: &str, path: &str, content: &str, body: &[u8]) -> Result<()> {
        self.out.clear();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n", self.host);
        self.out.extend_from_slice(head.as_bytes());
        if !body.is_empty() {
            let content = format!("content-type: {content}\r\ncontent-length: {}\r\n", body.len());
            self.out.extend_from_slice(content.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        self.stream.get_mut().write_all(&self.out).await?;
        Ok(self.stream.get_mut().flush().await?)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            bail!("the server closed the connection");
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    async fn head(&mut self) -> Result<Head> {
        let first = self.line().await?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).context("read the status line")?;
        let mut length = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(Head { status, length });
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
    }

    /// The next piece of a chunked body; `false` at its end.
    async fn chunk(&mut self, into: &mut Vec<u8>) -> Result<bool> {
        let size = usize::from_str_radix(&self.line().await?, 16)?;
        let at = into.len();
        into.resize(at + size, 0);
        self.stream.read_exact(&mut into[at..]).await?;
        self.line().await?;
        Ok(size > 0)
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, method: &str, path: &str, content: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.write(method, path, content, body).await?;
        let head = self.head().await?;
        let mut answer = Vec::new();
        match head.length {
            Some(length) => {
                answer.resize(length, 0);
                self.stream.read_exact(&mut answer).await?;
            }
            None => while self.chunk(&mut answer).await? {},
        }
        Ok((head.status, answer))
    }

    /// Sends JSON and expects success.
    pub async fn json(&mut self, method: &str, path: &str, object: &Value) -> Result<Value> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if object.is_null() { Vec::new() } else { serde_json::to_vec(object)? };
        let (status, answer) = self.send(method, path, content, &body).await?;
        if status >= 300 {
            return Err(anyhow!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)));
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// A running watch.
pub struct Watch {
    connection: Connection,
    decoded: Vec<u8>,
    read: usize,
}

impl Watch {
    /// The next event's line.
    pub async fn line(&mut self) -> Result<&[u8]> {
        let mut searched = self.read;
        loop {
            if let Some(at) = self.decoded[searched..].iter().position(|b| *b == b'\n') {
                let line = self.read..searched + at;
                self.read = searched + at + 1;
                return Ok(&self.decoded[line]);
            }
            self.decoded.drain(..self.read);
            self.read = 0;
            searched = self.decoded.len();
            if !self.connection.chunk(&mut self.decoded).await? {
                bail!("the watch ended");
            }
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Result<Value> {
        Ok(serde_json::from_slice(self.line().await?)?)
    }
}
