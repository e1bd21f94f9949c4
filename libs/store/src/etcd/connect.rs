//! One connection to whichever member of an etcd cluster answers; when it breaks, to the next.
//!
//! The client library's own balancing spreads requests over all members, those that are gone included, whose share of the requests
//! then fails. Every member serves every request, so one is enough.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Channel, Client};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use super::{Options, backend};
use crate::Error;

/// How long a member may take to let us in before the next is tried.
const PATIENCE: Duration = Duration::from_secs(3);
/// A member that says nothing is given up after both; etcd takes offence at pings more often than every 5 s.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

struct Member {
    address: String,
    /// Whom its certificate must be for, where it speaks TLS.
    name: Option<ServerName<'static>>,
}

struct Members {
    list: Vec<Member>,
    tls: TlsConnector,
    /// The one to try first: after the one that answered last, which may be frozen and still take connections.
    next: AtomicUsize,
}

/// Connects, and makes sure that a member answers.
pub(super) async fn client(options: &Options) -> Result<Client, Error> {
    let list = options.endpoints.iter().map(|endpoint| member(endpoint)).collect::<Result<Vec<_>, _>>()?;
    let members = Arc::new(Members { list, tls: tls(options)?, next: AtomicUsize::new(0) });
    let connect = tower::service_fn(move |_| {
        let members = members.clone();
        async move { members.connect().await.map(TokioIo::new) }
    });
    // The name stands for all of them.
    let endpoint = Endpoint::from_static("http://etcd")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector_lazy(connect);
    Client::from_channel(Channel::Tonic(channel), None).await.map_err(|e| backend("connect to etcd", e))
}

fn invalid(what: String) -> Error {
    Error::Backend { step: "connect to etcd", source: what.into() }
}

/// `https://HOST:PORT`, `http://HOST:PORT` or `HOST:PORT`.
fn member(endpoint: &str) -> Result<Member, Error> {
    let (secure, rest) = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => (false, endpoint),
    };
    let address = rest.trim_end_matches('/').to_owned();
    let bad = || invalid(format!("{endpoint:?} is no https://HOST:PORT"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = secure.then(|| ServerName::try_from(host).map_err(|_| bad())).transpose()?;
    Ok(Member { address, name })
}

fn tls(options: &Options) -> Result<TlsConnector, Error> {
    let failed = |what: &str| invalid(format!("{what} cannot be used"));
    let mut roots = rustls::RootCertStore::empty();
    for authority in options.ca_pem.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)) {
        let authority = authority.map_err(|_| failed("etcd's authority"))?;
        roots.add(authority).map_err(|_| failed("etcd's authority"))?;
    }
    if roots.is_empty() && options.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        return Err(invalid("https:// needs the authority of etcd's certificates".to_owned()));
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &options.identity_pem {
        Some((certificate, key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
            let chain = chain.map_err(|_| failed("the client certificate for etcd"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| failed("the client key for etcd"))?;
            builder.with_client_auth_cert(chain, key).map_err(|_| failed("the client certificate for etcd"))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Members {
    async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        let first = self.next.load(Ordering::Relaxed);
        let mut failed = io::Error::other("there is no member of etcd to connect with");
        for n in 0..self.list.len() {
            let place = (first + n) % self.list.len();
            let Some(member) = self.list.get(place) else { continue };
            let wire = tokio::time::timeout(PATIENCE, self.reach(member)).await;
            match wire.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))) {
                Ok(wire) => {
                    self.next.store(place + 1, Ordering::Relaxed);
                    return Ok(wire);
                }
                Err(error) => failed = io::Error::new(error.kind(), format!("{}: {error}", member.address)),
            }
        }
        Err(failed)
    }

    async fn reach(&self, member: &Member) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect(&member.address).await?;
        stream.set_nodelay(true)?;
        Ok(match &member.name {
            Some(name) => Box::new(self.tls.connect(name.clone(), stream).await?),
            None => Box::new(stream),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        let read = |text| member(text).ok().map(|m| (m.address, m.name.is_some()));
        let got = ["http://127.0.0.1:2379", "https://[::1]:2379/", "etcd.local:2379", "https://a", "http://a:b"].map(read);
        let wanted = [
            Some(("127.0.0.1:2379".to_owned(), false)),
            Some(("[::1]:2379".to_owned(), true)),
            Some(("etcd.local:2379".to_owned(), false)),
            None,
            None,
        ];
        assert_eq!(got, wanted);
    }
}
