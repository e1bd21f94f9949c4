//! What every verb is given: the flags, the kubeconfig, and by way of them the client and the server's kinds.
//!
//! Everything is made when it is first asked for: `kubectl config` reads no certificate, `kubectl version --client` no file.

use std::{
    cell::{Cell, OnceCell},
    path::PathBuf,
    time::Duration,
};

use serde_json::json;

use crate::{
    cli::Globals,
    client::{Client, Endpoint, tls},
    credentials::{self, Credentials},
    discovery::Discovery,
    failure::{Failure, plain},
    kubeconfig::{self, Chosen, Entry, Kubeconfig},
};

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What every verb is given.
pub struct Context {
    globals: Globals,
    dash: Option<usize>,
    config: OnceCell<Kubeconfig>,
    /// Whether a kubeconfig named on the command line may be missing: `kubectl config` makes it.
    lenient: Cell<bool>,
    client: OnceCell<Client>,
    discovery: OnceCell<Discovery>,
}

impl Context {
    /// The context of a command line. `dash` is the number of arguments before a `--`, where there was one.
    pub fn new(globals: Globals, dash: Option<usize>) -> Self {
        Self {
            globals,
            dash,
            config: OnceCell::new(),
            lenient: Cell::new(false),
            client: OnceCell::new(),
            discovery: OnceCell::new(),
        }
    }

    /// The global flags.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// How many of the arguments stood before a `--`, where there was one.
    pub fn dash(&self) -> Option<usize> {
        self.dash
    }

    /// A kubeconfig that is not there is an empty one from now on.
    pub fn pardon_missing_kubeconfig(&self) {
        self.lenient.set(true);
    }

    /// The merged kubeconfig.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn kubeconfig(&self) -> Result<&Kubeconfig, Failure> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = kubeconfig::load(&self.globals, self.lenient.get())?;
        Ok(self.config.get_or_init(|| config))
    }

    /// The namespace in use: the flag's, the context's, the pod's own, or `default`.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read.
    pub fn namespace(&self) -> Result<String, Failure> {
        if let Some(namespace) = self.explicit_namespace() {
            return Ok(namespace.to_owned());
        }
        let config = self.kubeconfig()?;
        let name = self.globals.context.as_deref().filter(|c| !c.is_empty()).unwrap_or(&config.current_context);
        let namespace = config.contexts.get(name).map(|c| c.text("namespace").to_owned()).unwrap_or_default();
        if !namespace.is_empty() {
            return Ok(namespace);
        }
        if config.is_empty() && in_cluster().is_some() {
            let own = std::env::var("POD_NAMESPACE")
                .ok()
                .or_else(|| std::fs::read_to_string(format!("{SERVICE_ACCOUNT}/namespace")).ok());
            if let Some(own) = own.map(|o| o.trim().to_owned()).filter(|o| !o.is_empty()) {
                return Ok(own);
            }
        }
        Ok("default".to_owned())
    }

    /// `--namespace`, where it was given. With it, objects in files must not name another.
    pub fn explicit_namespace(&self) -> Option<&str> {
        self.globals.namespace.as_deref().filter(|n| !n.is_empty())
    }

    /// The client.
    ///
    /// # Errors
    /// If flags, kubeconfig or what they name cannot be used.
    pub fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(self.endpoint()?);
        Ok(self.client.get_or_init(|| client))
    }

    /// The kinds that the server has.
    ///
    /// # Errors
    /// As [`Context::client`].
    pub fn discovery(&self) -> Result<&Discovery, Failure> {
        if let Some(discovery) = self.discovery.get() {
            return Ok(discovery);
        }
        let discovery = Discovery::new(self.client()?.clone(), self.cache_directory());
        Ok(self.discovery.get_or_init(|| discovery))
    }

    fn cache_directory(&self) -> PathBuf {
        match &self.globals.cache_dir {
            Some(directory) => PathBuf::from(directory),
            None => std::env::var_os("KUBECACHEDIR").map_or_else(|| kubeconfig::home().join(".kube/cache"), PathBuf::from),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let globals = &self.globals;
        let config = self.kubeconfig()?;
        let mut chosen = kubeconfig::choose(config, globals)?;
        if config.is_empty()
            && globals.server.is_none()
            && let Some(cluster) = in_cluster()
        {
            chosen = cluster;
        }
        let server = match globals.server.as_deref().filter(|s| !s.is_empty()) {
            Some(server) => server.to_owned(),
            None => match chosen.cluster.text("server") {
                "" => "http://localhost:8080".to_owned(),
                server => server.to_owned(),
            },
        };
        let mut endpoint = parse_server(&server)?;
        let Credentials { headers, identity } = credentials::gather(&chosen, globals)?;
        endpoint.headers = headers;
        endpoint.verbosity = globals.verbosity;
        endpoint.timeout = timeout(globals.request_timeout.as_deref().unwrap_or("0"))?;
        endpoint.server_name = match &globals.tls_server_name {
            Some(name) => Some(name.clone()),
            None => Some(chosen.cluster.text("tls-server-name").to_owned()),
        };
        endpoint.server_name = endpoint.server_name.filter(|n| !n.is_empty());
        endpoint.proxy = proxy(chosen.cluster.text("proxy-url"), &endpoint)?;
        if endpoint.scheme == "https" {
            let authority = match &globals.certificate_authority {
                Some(path) => Some(std::fs::read(path).map_err(|e| {
                    plain(format!(
                        "unable to read certificate-authority {path}: {}",
                        crate::failure::file_error("open", path, &e).message()
                    ))
                })?),
                None => chosen.cluster.data("certificate-authority")?,
            };
            let insecure = globals.insecure_skip_tls_verify || chosen.cluster.flag("insecure-skip-tls-verify");
            if insecure && authority.is_some() && globals.certificate_authority.is_some() {
                return Err(plain("specifying a root certificates file with the insecure flag is not allowed"));
            }
            endpoint.tls = Some(std::sync::Arc::new(tls::config(&tls::Material { authority, identity, insecure })?));
        }
        Ok(endpoint)
    }
}

/// `https://host:6443/prefix`, `host`, `host:8080`.
fn parse_server(server: &str) -> Result<Endpoint, Failure> {
    let (scheme, rest) = match server.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(plain("host must be a URL or a host:port pair: ".to_owned() + &api::field::go_quote(server))),
        None => ("http", server),
    };
    let (authority, prefix) = match rest.find('/') {
        Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
        None => (rest, ""),
    };
    let default = if scheme == "https" { 443 } else { 80 };
    let wrong = || plain(format!("host must be a URL or a host:port pair: {}", api::field::go_quote(server)));
    let (host, port) = match authority.strip_prefix('[') {
        Some(six) => {
            let (host, port) = six.split_once(']').ok_or_else(wrong)?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Ok(default), |p| p.parse().map_err(|_| wrong()))?;
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(Endpoint { scheme: scheme.to_owned(), host: host.to_owned(), port, prefix: prefix.to_owned(), ..Endpoint::default() })
}

/// `0`, `30` (seconds) or a Go duration.
fn timeout(text: &str) -> Result<Duration, Failure> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let parsed = api::duration::parse_go(text).ok().and_then(|d| Duration::try_from(d).ok());
    parsed.ok_or_else(|| {
        plain(
            "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)",
        )
    })
}

/// The proxy to go through: the cluster's, or the environment's unless the host is exempt or on this machine.
fn proxy(configured: &str, endpoint: &Endpoint) -> Result<Option<String>, Failure> {
    let variable = |name: &str| {
        let value = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
        value.ok().filter(|v| !v.is_empty())
    };
    let url = match configured {
        "" => {
            let loopback =
                endpoint.host == "localhost" || endpoint.host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
            let exempt = variable("NO_PROXY").is_some_and(|list| is_exempt(&endpoint.host, &list));
            let name = if endpoint.scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            variable(name).filter(|_| !loopback && !exempt)
        }
        url => Some(url.to_owned()),
    };
    let Some(url) = url else { return Ok(None) };
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        None => url.as_str(),
        Some((scheme, _)) => return Err(plain(format!("proxies with the scheme {scheme} are not supported, only http"))),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Ok(Some(if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") }))
}

fn is_exempt(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
        if entry == "*" || entry == host {
            return true;
        }
        if let (Some((network, bits)), Ok(std::net::IpAddr::V4(host))) = (entry.split_once('/'), host.parse())
            && let (Ok(network), Ok(bits)) = (network.parse::<std::net::Ipv4Addr>(), bits.parse::<u32>())
        {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            return u32::from(network) & mask == u32::from(host) & mask;
        }
        let suffix = entry.trim_start_matches('.');
        host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// The cluster that this process is a pod of.
fn in_cluster() -> Option<Chosen> {
    let (host, port) = (std::env::var("KUBERNETES_SERVICE_HOST").ok()?, std::env::var("KUBERNETES_SERVICE_PORT").ok()?);
    let token = format!("{SERVICE_ACCOUNT}/token");
    std::fs::metadata(&token).ok()?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let entry =
        |value: serde_json::Value| Entry { fields: value.as_object().cloned().unwrap_or_default(), origin: PathBuf::new() };
    let cluster =
        json!({"server": format!("https://{host}:{port}"), "certificate-authority": format!("{SERVICE_ACCOUNT}/ca.crt")});
    Some(Chosen {
        context: Entry::default(),
        cluster: entry(cluster),
        user: entry(json!({"tokenFile": token})),
        user_name: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_hosts() {
        let parsed = |server: &str| parse_server(server).map(|e| e.url()).map_err(|e| e.to_string());
        assert_eq!(parsed("https://a:6443/x/"), Ok("https://a:6443/x".to_owned()));
        assert_eq!(parsed("https://[::1]:6443"), Ok("https://[::1]:6443".to_owned()));
        assert_eq!(parsed("a:8080"), Ok("http://a:8080".to_owned()));
        assert_eq!(parsed("https://a"), Ok("https://a".to_owned()));
        assert!(parsed("ftp://a").is_err());
    }

    #[test]
    fn timeouts_are_seconds_or_durations() {
        assert_eq!(timeout("5").unwrap(), Duration::from_secs(5));
        assert_eq!(timeout("2m").unwrap(), Duration::from_secs(120));
        assert!(timeout("x").is_err());
    }

    #[test]
    fn exemptions_are_names_domains_and_ranges() {
        assert!(is_exempt("a.b.c", ".b.c") && is_exempt("a.b.c", "b.c") && is_exempt("10.1.2.3", "x,10.0.0.0/8"));
        assert!(!is_exempt("ab.c", "b.c") && !is_exempt("11.1.2.3", "10.0.0.0/8"));
    }
}
