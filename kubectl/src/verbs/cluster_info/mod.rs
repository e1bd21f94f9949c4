//! `kubectl cluster-info`: where the control plane and its services are.

mod dump;

use serde_json::Value;

use crate::{client::Call, context::Context, failure::Failure};

/// What `cluster-info` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Nothing.
    #[arg(hide = true)]
    pub args: Vec<String>,
}

/// What else there is to know.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Dump relevant information for debugging and diagnosis
    Dump(dump::Args),
}

const MORE: &str = "\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.";

fn colored(code: u8, text: &str) -> String {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    if !terminal || std::env::var_os("TERM").is_some_and(|t| t == "dumb") {
        return text.to_owned();
    }
    format!("\u{1b}[0;{code}m{text}\u{1b}[0m")
}

fn line(name: &str, link: &str) {
    println!("{} is running at {}", colored(32, name), colored(33, link));
}

/// Where the API server proxies a service of the cluster, or its load balancer's address.
fn link(service: &Value, host: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let port = &service["spec"]["ports"][0];
    let scheme = if port["name"] == "https" || port["port"] == 443 { "https" } else { "http" };
    if let Some(ingress) = service["status"]["loadBalancer"]["ingress"].as_array().and_then(|i| i.first()) {
        let address = if ingress["ip"].is_string() { text(&ingress["ip"]) } else { text(&ingress["hostname"]) };
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        return ports.map(|p| format!("{scheme}://{address}:{} ", p["port"])).collect();
    }
    let (name, namespace) = (text(&service["metadata"]["name"]), text(&service["metadata"]["namespace"]));
    let port_name = text(&port["name"]);
    let name = match (port_name.as_str(), scheme) {
        ("", "http") => name,
        (port, "https") => format!("https:{name}:{port}"),
        (port, _) => format!("{name}:{port}"),
    };
    format!("{host}/api/v1/namespaces/{namespace}/services/{name}/proxy")
}

/// Prints addresses.
///
/// # Errors
/// If the server cannot be asked.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if let Some(Command::Dump(args)) = args.command {
        return Box::pin(dump::run(args, cx)).await;
    }
    let client = cx.client()?;
    let host = client.endpoint().url();
    let namespace = cx.explicit_namespace().unwrap_or("kube-system");
    let path = format!("/api/v1/namespaces/{namespace}/services");
    let services = async {
        // Upstream looks for the resource as it does for arguments.
        let discovery = cx.discovery()?;
        if discovery.catalog().await.is_err() {
            discovery.resolve("services").await?;
        }
        client.json(Call::get(path).query("labelSelector", "kubernetes.io/cluster-service=true")).await
    };
    let services = services.await.inspect_err(|_| println!("{MORE}"))?;
    line("Kubernetes control plane", &host);
    for service in services["items"].as_array().into_iter().flatten() {
        let labelled = service["metadata"]["labels"]["kubernetes.io/name"].as_str().filter(|n| !n.is_empty());
        let name = labelled.or(service["metadata"]["name"].as_str()).unwrap_or_default();
        line(name, &link(service, &host));
    }
    println!("{MORE}");
    Ok(())
}
