//! What every verb is given: the flags, the kubeconfig, and by way of them the client and the server's kinds.
//!
//! Everything is made when it is first asked for: `kubectl config` reads no certificate, `kubectl version --client` no file.

use std::{
    cell::{Cell, OnceCell},
    path::PathBuf,
};

use serde_json::json;

use crate::{
    cli::Globals,
    client::{Client, Endpoint, log, tls},
    credentials::{self, Credentials},
    discovery::Discovery,
    failure::{Failure, plain},
    kubeconfig::{self, Chosen, Entry, Kubeconfig},
    server,
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
    /// The pod's namespace, if it was looked for.
    own_namespace: OnceCell<String>,
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
            own_namespace: OnceCell::new(),
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
        let chosen = self.chosen()?;
        kubeconfig::usable::check(&chosen)?;
        let namespace = chosen.context.text("namespace").to_owned();
        if !namespace.is_empty() {
            return Ok(namespace);
        }
        match in_cluster(&self.globals) {
            Some(_) => Ok(self.own_namespace.get_or_init(own_namespace).clone()),
            None => Ok("default".to_owned()),
        }
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

    /// How many different warnings the server has given; none if it was not asked.
    pub fn warnings(&self) -> usize {
        self.client.get().map_or(0, Client::warnings)
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

    /// What flags and kubeconfig choose.
    fn chosen(&self) -> Result<Chosen, Failure> {
        Ok(kubeconfig::choose(self.kubeconfig()?, &self.globals))
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let mut chosen = self.chosen()?;
        kubeconfig::usable::connectable(&chosen)?;
        let (timeout, timeout_told) = server::timeout(self.globals.request_timeout.as_deref().unwrap_or("0"))?;
        if chosen.names_nothing()
            && timeout.is_zero()
            && let Some(cluster) = in_cluster(&self.globals)
        {
            log::at(4, "merged_client_builder.go:121", "Using in-cluster configuration");
            chosen = cluster;
        }
        let mut endpoint = server::parse(chosen.cluster.text("server"))?;
        let server_name = chosen.cluster.text("tls-server-name");
        endpoint.server_name = Some(server_name.to_owned()).filter(|name| !name.is_empty());
        endpoint.match_version = self.globals.match_server_version;
        (endpoint.timeout, endpoint.timeout_told) = (timeout, timeout_told);
        endpoint.proxy = server::proxy(chosen.cluster.text("proxy-url"), &endpoint)?;
        endpoint.others = server::others(&endpoint, &kubeconfig::servers(&chosen.cluster));
        // Nobody says who he is where others could read it.
        if endpoint.scheme == "https" {
            let Credentials { headers, identity } = credentials::gather(&chosen)?;
            endpoint.headers = headers;
            let authority = chosen.cluster.data("certificate-authority")?;
            let insecure = chosen.cluster.flag("insecure-skip-tls-verify");
            if insecure && authority.is_some() {
                return Err(plain("specifying a root certificates file with the insecure flag is not allowed"));
            }
            endpoint.tls = Some(std::sync::Arc::new(tls::config(&tls::Material { authority, identity, insecure })?));
        }
        credentials::impersonate(&chosen, &mut endpoint.headers)?;
        Ok(endpoint)
    }
}

/// The namespace of the pod that this process runs in.
fn own_namespace() -> String {
    log::at(4, "merged_client_builder.go:163", "Using in-cluster namespace");
    let told = std::env::var("POD_NAMESPACE").ok().filter(|told| !told.is_empty());
    let read = || std::fs::read_to_string(format!("{SERVICE_ACCOUNT}/namespace")).ok();
    let own = told.or_else(read).map(|own| own.trim().to_owned());
    own.filter(|own| !own.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// The cluster that this process is a pod of. Of the flags, a token and an authority stand in for the pod's own.
fn in_cluster(globals: &Globals) -> Option<Chosen> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let token = format!("{SERVICE_ACCOUNT}/token");
    std::fs::metadata(&token).ok().filter(|found| !found.is_dir())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let entry =
        |value: serde_json::Value| Entry { fields: value.as_object().cloned().unwrap_or_default(), origin: PathBuf::new() };
    let given = |flag: &Option<String>| flag.clone().filter(|value| !value.is_empty());
    let authority = given(&globals.certificate_authority).unwrap_or_else(|| format!("{SERVICE_ACCOUNT}/ca.crt"));
    let user = given(&globals.token).map_or_else(|| json!({"tokenFile": token}), |token| json!({"token": token}));
    Some(Chosen {
        context: Entry::default(),
        cluster: entry(json!({"server": format!("https://{host}:{port}"), "certificate-authority": authority})),
        user: entry(user),
        ..Chosen::default()
    })
}
