//! How an agent comes into a cluster and stays in it: the server's authority by the hash in the token, a certificate of its
//! own by way of the bootstrap token, and from then on the certificate alone, which is renewed while running.
//!
//! ```text
//!   token ──hash──▶ kube-public/cluster-info ──▶ pki/ca.crt ──▶ CertificateSigningRequest ──▶ pki/kubelet-client-current.pem
//!   Service kubernetes ──▶ servers.json: whom to ask when the server that one joined by is gone
//! ```
//!
//! A restart needs neither token nor the first server. The agent acts as `system:node:NAME`; its proxy, names and routes act, by the
//! same certificate, as `system:kube-proxy`, which nodes may impersonate.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use client::{Informer, Key, Options};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::{core::v1::ConfigMap, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use kubelet::certificate::{self, Held, Keeper, Wish};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

use crate::{
    balance::{Servers, remembered, with_given},
    local::record::write_whole,
    token::{Fingerprint, Join},
};

/// The name that every server's certificate has, whichever address it is reached by.
pub const SERVER_NAME: &str = "kubernetes.default.svc";
/// How many servers are remembered, dead ones included.
const MOST_KNOWN: usize = 16;
/// Between tries while no server answers.
const PAUSE: Duration = Duration::from_secs(1);

/// What an agent joins with.
pub struct Plan {
    /// Servers as they were given: `https://HOST:PORT`.
    pub servers: Vec<String>,
    /// The token; a node that joined before needs none.
    pub token: Option<Join>,
    /// Where the agent keeps its things.
    pub folder: PathBuf,
    /// The node's name.
    pub node: String,
}

/// An agent's place in the cluster.
pub struct Joined {
    /// Acts as the node, by way of any server that lives.
    pub client: Client,
    /// The same, as the proxy.
    pub proxy: Client,
    /// The cluster's authority.
    pub authority: PathBuf,
}

/// `HOST:PORT` of a server's address.
pub fn host_and_port(url: &str) -> Result<String> {
    let uri: http::Uri = url.parse().with_context(|| format!("read the server's address {url:?}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => Ok(format!("{host}:{}", uri.port_u16().unwrap_or(6443))),
        _ => bail!("{url:?} is no https://HOST:PORT"),
    }
}

/// Joins, or takes up where an earlier run left off; what it starts ends with `shutdown`.
pub async fn join(plan: Plan, shutdown: &CancellationToken) -> Result<Joined> {
    let pki = plan.folder.join("pki");
    fs::create_dir_all(&pki).with_context(|| format!("create {}", pki.display()))?;
    fs::set_permissions(&pki, fs::Permissions::from_mode(0o700))?;
    let given = plan.servers.iter().map(|url| host_and_port(url)).collect::<Result<Vec<_>>>()?;
    let memory = plan.folder.join("servers.json");
    let servers = Servers::new(with_given(remembered(&memory), &given));
    let authority = pki.join("ca.crt");
    let trusted = authority_of(&authority, plan.token.as_ref(), &servers, shutdown).await?;

    let keeper = Keeper::open(pki.join("kubelet-client-current.pem"), Wish::client(&plan.node))?;
    if keeper.current().is_none() {
        let Some(token) = &plan.token else {
            bail!("there is no certificate in {} that still holds: give --token to join (again)", pki.display());
        };
        let bearer = client(&servers, Some(&trusted), &json!({"token": token.bearer()}))?;
        bootstrap(&keeper, &bearer, shutdown).await?;
    }
    let [client, proxy] = renewing(keeper, servers.clone(), trusted, shutdown)?;
    tokio::spawn(follow_servers(proxy.clone(), servers, given, Some(memory), |_| (), shutdown.clone()));
    Ok(Joined { client, proxy, authority })
}

/// A client that reaches whichever server answers.
pub fn client(servers: &Arc<Servers>, authority: Option<&str>, user: &Value) -> Result<Client> {
    let server = format!("https://{SERVER_NAME}");
    let cluster = match authority {
        Some(pem) => json!({"server": server, "certificate-authority-data": STANDARD.encode(pem)}),
        None => json!({"server": server, "insecure-skip-tls-verify": true}),
    };
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "c", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]});
    let config: Kubeconfig = serde_json::from_value(config).context("make a client's configuration")?;
    // Nothing of it is read from elsewhere: no waiting.
    let options = KubeConfigOptions::default();
    let mut config = futures::executor::block_on(kube::Config::from_custom_kubeconfig(config, &options))
        .context("make a client's configuration")?;
    // Whom the machine trusts does not matter here, and it may trust nobody.
    config.root_cert.get_or_insert_default();
    by_way_of(config, servers)
}

/// A client whose connections go to whichever server answers, whatever the configuration's address.
pub fn by_way_of(config: kube::Config, servers: &Arc<Servers>) -> Result<Client> {
    let servers = servers.clone();
    let connect = tower::service_fn(move |_: http::Uri| {
        let servers = servers.clone();
        async move {
            let (stream, _) = servers.connect().await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let https = config.rustls_https_connector_with_connector(connect).context("set up TLS")?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().context("use the credentials")?)
        .option_layer(config.auth_layer().context("use the credentials")?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// By the node's certificate: a client that acts as the node, and one that acts as the proxy.
fn as_node(servers: &Arc<Servers>, authority: &str, held: &Held) -> Result<[Client; 2]> {
    let (certificate, key) = (STANDARD.encode(&held.certificate), STANDARD.encode(&held.key));
    let node = json!({"client-certificate-data": certificate, "client-key-data": key});
    let mut proxy = node.clone();
    proxy["as"] = json!("system:kube-proxy");
    Ok([client(servers, Some(authority), &node)?, client(servers, Some(authority), &proxy)?])
}

/// The cluster's authority: the one that is kept, or the server's if the token's hash is its.
async fn authority_of(
    path: &Path,
    token: Option<&Join>,
    servers: &Arc<Servers>,
    shutdown: &CancellationToken,
) -> Result<String> {
    if let Ok(kept) = fs::read_to_string(path) {
        if let Some(token) = token.filter(|token| Fingerprint::of_pem(&kept).ok() != Some(token.authority)) {
            bail!(
                "{} is of another cluster than the token ({}); to join the other one, use another --data-dir",
                path.display(),
                token.authority
            );
        }
        return Ok(kept);
    }
    let token = token.context("to join a cluster takes --token, --token-file or KNARR_TOKEN")?;
    let stranger = client(servers, None, &json!({}))?;
    let told = loop {
        match Api::<ConfigMap>::namespaced(stranger.clone(), "kube-public").get("cluster-info").await {
            Ok(map) => break map,
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 || status.code == 401 => {
                bail!("the server does not tell who it is (kube-public/cluster-info): {}", status.message);
            }
            Err(error) => pause(&error, shutdown).await?,
        }
    };
    let authority = pinned(&told, token.authority)?;
    write_whole(path, authority.as_bytes(), 0o644)?;
    Ok(authority)
}

/// The certificate with this hash among those that the cluster says it has.
fn pinned(told: &ConfigMap, wanted: Fingerprint) -> Result<String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let text = told.data.as_ref().and_then(|data| data.get("kubeconfig")).context("read kube-public/cluster-info")?;
    let config: Value = serde_saphyr::from_str(text).context("read kube-public/cluster-info")?;
    let data = config.pointer("/clusters/0/cluster/certificate-authority-data").and_then(Value::as_str);
    let pem = STANDARD.decode(data.unwrap_or_default()).context("read the authority in kube-public/cluster-info")?;
    let all = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let found = all.into_iter().find(|certificate| Fingerprint::of(certificate) == wanted);
    let found = found.with_context(|| {
        format!("the server is not the one that the token is for: no authority of its has the hash {wanted}")
    })?;
    Ok(api::pem::encode("CERTIFICATE", &found))
}

/// Says why there is no answer yet, and waits a little.
async fn pause(error: &kube::Error, shutdown: &CancellationToken) -> Result<()> {
    tracing::warn!(error = error as &dyn std::error::Error, "no server answers yet");
    match shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await {
        Some(()) => Ok(()),
        None => bail!("told to end before a server answered"),
    }
}

async fn bootstrap(keeper: &Keeper, bearer: &Client, shutdown: &CancellationToken) -> Result<()> {
    loop {
        let asked = shutdown.run_until_cancelled(keeper.renew(bearer)).await;
        match asked.context("told to end before there was a certificate")? {
            Ok(()) => return Ok(()),
            Err(certificate::Error::Ask(kube::Error::Api(status))) if status.code == 401 => {
                bail!("the server does not take the token: it is mistyped, was deleted or has expired");
            }
            Err(certificate::Error::Ask(error @ kube::Error::Api(_))) => {
                return Err(error).context("ask for the node's certificate");
            }
            Err(certificate::Error::Ask(error)) => pause(&error, shutdown).await?,
            Err(error) => return Err(error).context("get the node's certificate"),
        }
    }
}

/// Clients that always show the newest certificate, and the task that gets it.
fn renewing(keeper: Keeper, servers: Arc<Servers>, authority: String, shutdown: &CancellationToken) -> Result<[Client; 2]> {
    let held = keeper.current().context("find the node's certificate")?;
    let current = Arc::new(parking_lot::RwLock::new(as_node(&servers, &authority, &held)?));
    // The connections of an old certificate go with its client, when their last request is answered.
    let clients = [0, 1].map(|which| {
        let shown = current.clone();
        let send = move |request: http::Request<kube::client::Body>| {
            let client: Client = shown.read()[which].clone();
            async move { client.send(request).await }
        };
        Client::new(tower::service_fn(send), "default")
    });
    let mut changes = keeper.subscribe();
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let Some(held) = changes.borrow_and_update().clone() else { continue };
            match as_node(&servers, &authority, &held) {
                Ok(newer) => *current.write() = newer,
                Err(error) => tracing::error!("the node's new certificate cannot be used: {error:#}"),
            }
        }
    });
    let (own, shutdown) = (clients[0].clone(), shutdown.clone());
    tokio::spawn(async move { keeper.keep(&own, shutdown).await });
    Ok(clients)
}

/// Learns which servers live from the endpoints of Service `kubernetes`, remembers them, and tells of them.
pub async fn follow_servers(
    client: Client,
    servers: Arc<Servers>,
    given: Vec<String>,
    memory: Option<PathBuf>,
    tell: impl Fn(&[String]) + Send,
    shutdown: CancellationToken,
) {
    let only = Options { fields: Some("metadata.name=kubernetes".to_owned()), ..Options::namespace("default") };
    let slices: Informer<EndpointSlice> = Informer::start(client, only, shutdown);
    let mut changes = slices.changes();
    loop {
        if let Some(slice) = slices.get(&Key::new("default", "kubernetes")) {
            let before = memory.as_ref().map_or_else(|| servers.list(), |file| remembered(file));
            let known = known(addresses(&slice), &before);
            if let Some(file) = memory.as_ref().filter(|_| before != known) {
                let text = serde_json::to_vec(&known).unwrap_or_default();
                if let Err(error) = write_whole(file, &text, 0o644) {
                    tracing::warn!("the servers' addresses are not remembered: {error:#}");
                }
            }
            tell(&known);
            servers.replace(&with_given(known, &given));
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The living servers, and after them those that lived before: they may come back while nobody can tell.
fn known(living: Vec<String>, before: &[String]) -> Vec<String> {
    let mut known = with_given(living, before);
    known.truncate(MOST_KNOWN);
    known
}

fn addresses(slice: &EndpointSlice) -> Vec<String> {
    let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(6443);
    let all = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    all.map(|address| if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let read = ["https://10.0.0.1:6443", "https://a", "https://[::1]:1", "http://a:1", "10.0.0.1:6443"]
            .map(|url| host_and_port(url).ok());
        let wanted =
            [Some("10.0.0.1:6443"), Some("a:6443"), Some("[::1]:1"), None, None].map(|text| text.map(str::to_owned));
        assert_eq!(read, wanted);
    }

    #[test]
    fn servers_that_may_come_back_are_known() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(known(list(&["c", "b"]), &list(&["a", "b"])), list(&["c", "b", "a"]));
    }

    #[test]
    fn only_the_authority_of_the_token_is_trusted() {
        let made = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.pem();
        let (own, other) = (made("own"), made("other"));
        let data = STANDARD.encode(format!("{other}{own}"));
        let text = format!("clusters:\n- cluster:\n    certificate-authority-data: {data}\n  name: \"\"\n");
        let told = ConfigMap { data: Some([("kubeconfig".to_owned(), text)].into()), ..ConfigMap::default() };
        let wanted = Fingerprint::of_pem(&own).unwrap();
        assert_eq!(Fingerprint::of_pem(&pinned(&told, wanted).unwrap()).unwrap(), wanted);
        let wrong = pinned(&told, Fingerprint::of_pem(&made("third")).unwrap()).unwrap_err().to_string();
        assert!(wrong.contains("is not the one that the token is for"), "{wrong}");
    }
}
