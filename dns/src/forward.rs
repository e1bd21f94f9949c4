//! Names outside the cluster: the node's own resolvers are asked, and their answers remembered.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};

/// How long one resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers kept.
const REMEMBERED: u64 = 4096;
/// A refusal is remembered no longer than this, whatever its zone says.
const NEGATIVE_LIMIT: Duration = Duration::from_secs(30);

/// Why names cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The file that names resolvers is there but cannot be read.
    #[error("read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The resolvers cannot be used.
    #[error("set up forwarding")]
    SetUp(#[source] NetError),
}

/// What came back.
#[derive(Debug, Default, PartialEq)]
pub struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

/// Asks the node's resolvers.
pub struct Forwarder(Option<TokioResolver>);

/// The resolvers that a `resolv.conf` names, without ourselves.
fn resolvers(text: &str, own: IpAddr) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).filter(|address| *address != own).collect()
}

impl Forwarder {
    /// A forwarder to the resolvers that `resolv_conf` names; without the file, or any in it, nothing can be asked.
    pub fn new(resolv_conf: &Path, own: IpAddr) -> Result<Self, ForwardError> {
        let text = match std::fs::read_to_string(resolv_conf) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|e| ForwardError::Read(resolv_conf.to_owned(), e))?,
        };
        let servers: Vec<_> = resolvers(&text, own).into_iter().map(NameServerConfig::udp_and_tcp).collect();
        if servers.is_empty() {
            tracing::warn!(file = %resolv_conf.display(), "no resolver is named: only the cluster's names are answered");
            return Ok(Self::none());
        }
        Self::to(servers)
    }

    /// Asks nobody.
    pub fn none() -> Self {
        Self(None)
    }

    /// Asks these.
    pub fn to(servers: Vec<NameServerConfig>) -> Result<Self, ForwardError> {
        let mut options = ResolverOpts::default();
        options.ndots = 0;
        options.timeout = PATIENCE;
        options.attempts = 2;
        options.cache_size = REMEMBERED;
        options.use_hosts_file = ResolveHosts::Never;
        options.negative_max_ttl = Some(NEGATIVE_LIMIT);
        let config = ResolverConfig::from_name_servers(servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        Ok(Self(Some(builder.build().map_err(ForwardError::SetUp)?)))
    }

    /// What the resolvers say of a full name.
    pub async fn ask(&self, name: Name, kind: RecordType) -> Reply {
        let Some(resolver) = &self.0 else { return Reply { code: ResponseCode::ServFail, ..Reply::default() } };
        match resolver.lookup(name, kind).await {
            Ok(found) => Reply { answers: found.answers().to_vec(), ..Reply::default() },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Reply {
                code: none.response_code,
                authorities: none.soa.map(|soa| (*soa).into_record_of_rdata()).into_iter().collect(),
                ..Reply::default()
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Reply { code, ..Reply::default() },
            Err(error) => {
                tracing::debug!(error = %error, "a name could not be asked for");
                Reply { code: ResponseCode::ServFail, ..Reply::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::resolvers;

    #[test]
    fn a_resolv_conf_names_resolvers_but_not_ourselves() {
        let text = "# made by hand\nsearch example.com\nnameserver 192.0.2.1\n nameserver\t192.0.2.2\nnameserver 10.42.0.1\nnameserver x\n";
        assert_eq!(
            resolvers(text, "10.42.0.1".parse().unwrap()),
            ["192.0.2.1", "192.0.2.2"].map(|a| a.parse::<std::net::IpAddr>().unwrap())
        );
    }
}
