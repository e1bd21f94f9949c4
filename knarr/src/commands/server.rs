//! `knarr server`: a control plane on this machine, and (unless told otherwise) a node of it. `knarr apiserver` is its API
//! server alone.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use net::Cidr;
use process::flags::LogFlags;

use crate::{
    commands::component,
    compose::{
        agent,
        control_plane::{self, Backend, ControlPlane},
        parts::Parts,
        registries,
    },
    local::record::Store,
};

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
    /// The etcd servers to connect with (http://ADDRESS:PORT), comma separated; implies --store etcd.
    #[arg(long, visible_alias = "etcd-endpoints", value_delimiter = ',')]
    etcd_servers: Vec<String>,
}

/// Flags of the whole server.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: ApiServerFlags,
    /// Run no node on this machine.
    #[arg(long)]
    disable_agent: bool,
    /// The node's name [default: the host's].
    #[arg(long)]
    node_name: Option<String>,
    /// The pods' range of this node.
    #[arg(long, default_value = "10.42.0.0/24")]
    pod_cidr: Cidr,
    /// Mirrors of registries and access to them [default: /etc/knarr/registries.yaml if it exists].
    #[arg(long)]
    registries_file: Option<PathBuf>,
    #[command(flatten)]
    logs: LogFlags,
}

/// Flags of the API server alone.
#[derive(Debug, clap::Args)]
pub struct ApiServerArgs {
    #[command(flatten)]
    server: ApiServerFlags,
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
            (_, false) => Backend::Etcd(self.etcd_servers.clone()),
        };
        let listen = (self.bind_address, self.secure_port).into();
        Ok(control_plane::Plan { data, address: self.address()?, listen, store })
    }

    fn address(&self) -> Result<Ipv4Addr> {
        self.advertise_address.map_or_else(component::own_address, Ok)
    }
}

/// Does it: the whole server.
pub fn run(args: Args) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let mut parts = Parts::new(shutdown);
        let (plan, address) = (args.server.plan()?, args.server.address()?);
        let data = plan.data.clone();
        let control_plane = ControlPlane::start(plan, &mut parts).await?;
        write_kubeconfig(&control_plane, &data, address, args.server.secure_port)?;
        if !args.disable_agent {
            let name = args.node_name.map_or_else(component::host_name, Ok)?;
            let serving = control_plane::kubelet_certificate(&data, &name, address)?;
            let plan = agent::Plan {
                folder: data.join("node"),
                address,
                pods: Some(args.pod_cidr),
                client_ca: data.join("pki/ca.crt"),
                serving,
                registries: registries::load(args.registries_file.as_deref())?,
                shared_disk: false,
                kubelet_client: control_plane.node_client(&name),
                proxy_client: control_plane.component_client("kube-proxy"),
                name,
            };
            agent::start(plan, &mut parts).await?;
        }
        parts.finish().await;
        control_plane.stop().await;
        Ok(())
    })
}

/// Does it: the API server alone.
pub fn run_api_server(args: ApiServerArgs) -> Result<()> {
    component::run(&args.logs, |shutdown| async move {
        let (plan, address) = (args.server.plan()?, args.server.address()?);
        let data = plan.data.clone();
        let control_plane = ControlPlane::start_api_server(plan).await?;
        write_kubeconfig(&control_plane, &data, address, args.server.secure_port)?;
        shutdown.cancelled().await;
        control_plane.stop().await;
        Ok(())
    })
}

fn write_kubeconfig(control_plane: &ControlPlane, data: &Path, address: Ipv4Addr, port: u16) -> Result<()> {
    let path = data.join("admin.kubeconfig");
    control_plane.write_kubeconfig(&path, "knarr", "admin", &format!("https://{address}:{port}"))?;
    tracing::info!(kubeconfig = %path.display(), "Serving the API");
    Ok(())
}
