//! `knarr server`: a control plane on this machine, and (unless told otherwise) a node of it. `knarr apiserver` is its API
//! server alone.

use std::{
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use apiserver::{
    registry::ServiceRanges,
    security::{
        modes::Mode,
        pki,
        setup::{Access, Files},
    },
};
use net::Cidr;
use process::{
    flags::{LogFlags, duration},
    metrics::Metrics,
};

use crate::{
    balance::{Servers, remembered, with_given},
    commands::{component, network::NetworkFlags},
    compose::{
        agent, balancer, bootstrap,
        control_plane::{self, Backend, ControlPlane},
        failover::Own,
        join,
        keys::Sharing,
        parts::Parts,
        registries, snapshot, virtual_address,
    },
    local::record::Store,
    notify,
    token::TokenFlags,
};

/// The only server's pods.
const FIRST_PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 42, 0, 0), 24);

/// Flags of the API server, by itself or within a server.
#[derive(Debug, clap::Args)]
pub struct ApiServerFlags {
    /// Where everything of the server is kept: keys, certificates, and the objects unless they are in etcd.
    #[arg(long, default_value = "/var/lib/knarr-server")]
    data_dir: PathBuf,
    /// The IP address on which to advertise the apiserver to members of the cluster [default: the address of the default
    /// route's interface].
    #[arg(long)]
    advertise_address: Option<Ipv4Addr>,
    /// The IP address on which to listen.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: Ipv4Addr,
    /// The port on which to serve HTTPS.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// What objects are kept in.
    #[arg(long, value_enum, default_value = "redb")]
    store: Store,
    /// The etcd servers to connect with (scheme://ADDRESS:PORT), comma separated; implies --store etcd.
    #[arg(long, visible_alias = "etcd-endpoints", value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// SSL Certificate Authority file used to secure etcd communication.
    #[arg(long, requires = "etcd_servers")]
    etcd_cafile: Option<PathBuf>,
    /// SSL certification file used to secure etcd communication.
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// SSL key file used to secure etcd communication.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// A name or an address by which the API server is reached, besides its own: goes into its certificate.
    #[arg(long, value_delimiter = ',')]
    tls_san: Vec<String>,
}

/// Flags of the whole server.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: ApiServerFlags,
    #[command(flatten)]
    token: TokenFlags,
    /// The max length of duration that signed certificates will be given [default: 8760h].
    #[arg(long, value_parser = duration)]
    cluster_signing_duration: Option<Duration>,
    /// With etcd: the port on 127.0.0.1 that admin.kubeconfig names, where a process that outlives the server leads to whichever
    /// server lives; 0 for none.
    #[arg(long, default_value_t = 6444)]
    balancer_port: u16,
    /// An IPv4 address on this machine's link that is nobody's: whichever living server the servers with this flag elect has it, so
    /// that it always leads to one. admin.kubeconfig names it instead of a balancer.
    #[arg(long, conflicts_with = "balancer_port")]
    virtual_address: Option<Ipv4Addr>,
    /// Run no node on this machine.
    #[arg(long)]
    disable_agent: bool,
    /// The node's name [default: the host's].
    #[arg(long)]
    node_name: Option<String>,
    /// The disk is shared with other things than the node: how full it is says nothing about its pods, and evicts none.
    #[arg(long)]
    shared_disk: bool,
    /// A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1) for what this program does not say itself.
    #[arg(long)]
    kubelet_config: Option<PathBuf>,
    /// The pods' range of this node [default: 10.42.0.0/24; with etcd, where there may be other servers, assigned by the
    /// cluster].
    #[arg(long)]
    pod_cidr: Option<Cidr>,
    /// Mirrors of registries and access to them [default: /etc/knarr/registries.yaml if it exists].
    #[arg(long)]
    registries_file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    logs: LogFlags,
}

/// Flags of the API server alone; upstream's where they exist.
#[derive(Debug, clap::Args)]
pub struct ApiServerArgs {
    #[command(flatten)]
    server: ApiServerFlags,
    /// The range from which services get their cluster IPs.
    #[arg(long, default_value = "10.43.0.0/16")]
    service_cluster_ip_range: Cidr,
    /// The range of ports for services with NodePort visibility, both ends included.
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: (u16, u16),
    /// Requests with a client certificate signed by one of these authorities are authenticated, besides those of the server's
    /// own.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// File containing the x509 certificate for HTTPS [default: made and renewed by the server].
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// File containing the x509 private key matching --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// File that contains the private key that signs service account tokens: ECDSA P-256, PKCS#8 [default: made by the server].
    #[arg(long)]
    service_account_signing_key_file: Option<PathBuf>,
    /// File with the key (its public part is enough beside --service-account-signing-key-file) that verifies service account
    /// tokens; only the one that signs is.
    #[arg(long)]
    service_account_key_file: Option<PathBuf>,
    /// Who is asked whether a request may be done.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC", value_parser = ["Node", "RBAC"])]
    authorization_mode: Vec<String>,
    /// Let bearers of bootstrap tokens in: Secrets of type 'bootstrap.kubernetes.io/token' in the 'kube-system' namespace.
    #[arg(
        long,
        action = clap::ArgAction::Set,
        default_value_t = false,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    enable_bootstrap_token_auth: bool,
    #[command(flatten)]
    logs: LogFlags,
}

impl ApiServerFlags {
    fn plan(&self) -> Result<control_plane::Plan> {
        let data = self.data_dir.clone();
        std::fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
        let store = match (self.store, self.etcd_servers.is_empty()) {
            (Store::Redb, true) => Backend::Redb(data.join("state.db")),
            (Store::Etcd, true) => bail!("--store etcd needs --etcd-servers"),
            (_, false) => Backend::Etcd(self.etcd()?),
        };
        let listen: SocketAddr = (self.bind_address, self.secure_port).into();
        let (ranges, files, access) = Default::default();
        let (address, names) = (self.address()?, self.tls_san.clone());
        Ok(control_plane::Plan {
            data,
            address,
            listen,
            store,
            ranges,
            files,
            access,
            common: None,
            names,
            sharing: None,
            node_monitor_grace: None,
            signing_duration: None,
        })
    }

    fn etcd(&self) -> Result<store::etcd::Options> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        Ok(store::etcd::Options {
            endpoints: self.etcd_servers.clone(),
            ca_pem: self.etcd_cafile.as_ref().map(read).transpose()?,
            identity_pem: self
                .etcd_certfile
                .as_ref()
                .zip(self.etcd_keyfile.as_ref())
                .map(|(c, k)| Ok::<_, anyhow::Error>((read(c)?, read(k)?)))
                .transpose()?,
        })
    }

    fn address(&self) -> Result<Ipv4Addr> {
        self.advertise_address.map_or_else(component::own_address, Ok)
    }
}

impl Args {
    /// The address that the servers have in turn; `own` is this one's, `services` their range.
    fn virtual_address(&self, own: Ipv4Addr, services: (Ipv4Addr, u8)) -> Result<Option<virtual_address::Plan>> {
        let Some(address) = self.virtual_address else { return Ok(None) };
        if !self.server.bind_address.is_unspecified() {
            bail!(
                "--virtual-address {address} would lead to nothing: the API server listens on {}",
                self.server.bind_address
            );
        }
        let ranges = vec![control_plane::PODS.parse()?, Cidr::new(services.0, services.1)];
        let authority = self.server.data_dir.join("pki/ca.crt");
        Ok(Some(virtual_address::Plan { address, own, port: self.server.secure_port, authority, ranges }))
    }
}

impl ApiServerArgs {
    fn plan(&self) -> Result<control_plane::Plan> {
        let (services, (first, last)) = (self.service_cluster_ip_range, self.service_node_port_range);
        if !(12..=29).contains(&services.prefix()) {
            bail!("--service-cluster-ip-range must be a /12 to a /29, and {services} is not");
        }
        Ok(control_plane::Plan {
            ranges: ServiceRanges { addresses: (services.network(), services.prefix()), ports: (first, last) },
            files: Files {
                serving: self.tls_cert_file.clone().zip(self.tls_private_key_file.clone()),
                client_authorities: self.client_ca_file.clone(),
                service_account_key: self.token_key()?,
            },
            access: Access { bootstrap_tokens: self.enable_bootstrap_token_auth, modes: self.modes() },
            ..self.server.plan()?
        })
    }

    fn modes(&self) -> Vec<Mode> {
        let mode = |name: &String| if name == "Node" { Mode::Node } else { Mode::Rbac };
        self.authorization_mode.iter().map(mode).collect()
    }

    /// The file of the one key that signs and verifies tokens.
    fn token_key(&self) -> Result<Option<PathBuf>> {
        match (&self.service_account_signing_key_file, &self.service_account_key_file) {
            (Some(signs), Some(verifies)) => {
                if pki::key_file(signs)?.public_der() != pki::public_key_file(verifies)? {
                    bail!("--service-account-key-file must hold the key of --service-account-signing-key-file");
                }
                Ok(Some(signs.clone()))
            }
            (signs, verifies) => Ok(signs.clone().or(verifies.clone())),
        }
    }
}

/// `FIRST-LAST`, or upstream's `FIRST+COUNT`.
fn port_range(text: &str) -> Result<(u16, u16), String> {
    let bad = |why: &str| format!("{text:?} is no range of ports: {why}");
    let number = |text: &str| text.parse::<u16>().map_err(|error| bad(&error.to_string()));
    let (first, last) = match (text.split_once('-'), text.split_once('+')) {
        (Some((first, last)), _) => (number(first)?, number(last)?),
        (_, Some((first, more))) => {
            (number(first)?, number(first)?.checked_add(number(more)?).ok_or_else(|| bad("it ends beyond 65535"))?)
        }
        _ => (number(text)?, number(text)?),
    };
    if first == 0 || first > last { Err(bad("it is empty")) } else { Ok((first, last)) }
}

/// Does it: the whole server.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs.clone(), |shutdown| async move {
        let mut parts = Parts::new(shutdown);
        let (mut plan, address) = (args.server.plan()?, args.server.address()?);
        let data = plan.data.clone();
        plan.signing_duration = args.cluster_signing_duration;
        let token = args.token.read()?;
        let shared = matches!(plan.store, Backend::Etcd(_));
        let virtual_address = args.virtual_address(address, plan.ranges.addresses)?;
        if let Some(wanted) = &virtual_address {
            wanted.open().await.with_context(|| format!("--virtual-address {}", wanted.address))?;
            plan.common = Some(wanted.address);
        }
        let pods = match &plan.store {
            Backend::Redb(_) if token.is_some() => {
                bail!("a server joins others by the etcd they share: give --etcd-servers")
            }
            Backend::Redb(_) => args.pod_cidr.or(Some(Cidr::new(FIRST_PODS.0, FIRST_PODS.1))),
            Backend::Etcd(_) => {
                plan.sharing = Some(Sharing { token, file: data.join("server-token") });
                args.pod_cidr
            }
        };
        let control_plane = ControlPlane::start(plan, &mut parts).await?;
        snapshot::serve(&data, control_plane.store())?;
        let own = format!("https://{address}:{}", args.server.secure_port);
        let public = match &virtual_address {
            None if shared && args.balancer_port != 0 => balance(&data, args.balancer_port, own.clone(), &mut parts)?,
            address => {
                balancer::end(&data);
                address.as_ref().map_or_else(|| own.clone(), virtual_address::Plan::url)
            }
        };
        let given = if shared { vec![join::host_and_port(&own)?] } else { Vec::new() };
        let kubeconfig = write_kubeconfig(&control_plane, &data, &public, &given)?;
        if shared {
            let (client, servers) = (control_plane.admin_client(), Servers::new(given.clone()));
            let tell = move |known: &[String]| {
                // Whoever holds the file's lock may hold it for long.
                let told = tokio::task::block_in_place(|| kubeconfig.tell(known));
                if let Err(error) = told {
                    tracing::warn!("admin.kubeconfig does not name all servers: {error:#}");
                }
            };
            let notes = Some(balancer::notes(&data));
            tokio::spawn(join::follow_servers(client, servers, given, notes, tell, parts.shutdown()));
        }
        let made = control_plane.bootstrap(&data)?;
        let join_by = virtual_address.as_ref().map_or(own, virtual_address::Plan::url);
        tokio::spawn(async move {
            if made.await.is_ok() {
                tell_token(&data.join("node-token"), &join_by);
            }
        });
        if let Some(wanted) = virtual_address {
            let client = control_plane.admin_client();
            parts.run("virtual-address", move |shutdown| {
                let (wanted, client) = (wanted.clone(), client.clone());
                async move { wanted.run(client, shutdown).await }
            });
        }
        let data = args.server.data_dir;
        if !args.disable_agent {
            let name = args.node_name.map_or_else(component::host_name, Ok)?;
            let serving = Some(control_plane::kubelet_certificate(&data, &name, address)?);
            tokio::spawn(bootstrap::show_role(control_plane.admin_client(), name.clone(), parts.shutdown()));
            let plan = agent::Plan {
                folder: data.join("node"),
                address,
                pods,
                network: args.network.into(),
                client_ca: data.join("pki/ca.crt"),
                serving,
                registries: registries::load(args.registries_file.as_deref())?,
                shared_disk: args.shared_disk,
                kubelet: component::kubelet_config(args.kubelet_config.as_deref())?,
                kubelet_client: control_plane.node_client(&name),
                proxy_client: control_plane.component_client("kube-proxy"),
                name,
            };
            agent::start(plan, &mut parts).await?;
        }
        notify::ready();
        parts.finish().await;
        control_plane.stop().await;
        Ok(())
    })
}

/// Does it: the API server alone.
pub fn run_api_server(args: ApiServerArgs) -> Result<()> {
    component::run(&args.logs.clone(), |shutdown| async move {
        let (plan, address) = (args.plan()?, args.server.address()?);
        let data = plan.data.clone();
        let control_plane = ControlPlane::start_api_server(plan, &Metrics::default(), shutdown.clone()).await?;
        snapshot::serve(&data, control_plane.store())?;
        write_kubeconfig(&control_plane, &data, &format!("https://{address}:{}", args.server.secure_port), &[])?;
        shutdown.cancelled().await;
        control_plane.stop().await;
        Ok(())
    })
}

/// Tells how agents join. The token itself is for eyes, not for logs.
fn tell_token(path: &Path, server: &str) {
    tracing::info!(token = %path.display(), "agents join with `knarr agent --server {server} --token-file FILE`");
    if std::io::stdout().is_terminal()
        && let Ok(token) = std::fs::read_to_string(path)
    {
        println!("join token: {}", token.trim());
    }
}

/// Keeps the balancer beside the server; returns where it is reached.
fn balance(data: &Path, port: u16, own: String, parts: &mut Parts) -> Result<String> {
    let data = std::path::absolute(data).context("find the server's folder")?;
    let plan = balancer::Plan { data, port, own };
    plan.ensure()?;
    let address = plan.address();
    parts.run("balancer", move |shutdown| plan.clone().keep(shutdown));
    Ok(address)
}

fn write_kubeconfig(control_plane: &ControlPlane, data: &Path, server: &str, given: &[String]) -> Result<Own> {
    let path = data.join("admin.kubeconfig");
    let servers = with_given(remembered(&balancer::notes(data)), given);
    let own = control_plane.write_kubeconfig(&path, "knarr", "admin", server, &servers)?;
    tracing::info!(kubeconfig = %path.display(), "Serving the API");
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports() {
        let ranges = ["30000-32767", "30000+10", "30080", "2-1", "0-5", "65000+1000", "a-b"].map(|t| port_range(t).ok());
        let wanted = [Some((30000, 32767)), Some((30000, 30010)), Some((30080, 30080)), None, None, None, None];
        assert_eq!(ranges, wanted);
    }
}
