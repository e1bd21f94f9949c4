//! `kubectl cluster-info dump`: nodes, and of some namespaces the objects and logs that help to find what is wrong.
//!
//! Upstream's clients have these kinds compiled in: lists are printed in the order of Go's structs, empty ones as `null`, items
//! without a kind. It stops at the first kind that the server has not.

use std::{io::Write, path::PathBuf};

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    cli,
    client::{Call, Client},
    context::Context,
    failure::{Failure, file_error, plain},
    output::{OutputArgs, Printer, hide_managed_fields},
    typed,
};

/// What `cluster-info dump` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Output; JSON where nothing is said.
    #[command(flatten)]
    output: OutputArgs,
    /// A directory to write files to, instead of everything to stdout; - is stdout.
    #[arg(long, default_value = "", hide_default_value = true)]
    output_directory: String,
    /// Namespaces to look at; kube-system and the current one where nothing is said.
    #[arg(long, value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Look at all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// How long to wait until a pod runs.
    #[arg(long, value_parser = cli::duration, default_value = "20s")]
    pod_running_timeout: SignedDuration,
    /// Nothing.
    #[arg(hide = true)]
    args: Vec<String>,
}

/// What is asked for in every namespace: the kind, its API, its resource, and the file's name.
const KINDS: &[(&str, &str, &str, &str)] = &[
    ("Event", "v1", "events", "events"),
    ("ReplicationController", "v1", "replicationcontrollers", "replication-controllers"),
    ("Service", "v1", "services", "services"),
    ("DaemonSet", "apps/v1", "daemonsets", "daemonsets"),
    ("Deployment", "apps/v1", "deployments", "deployments"),
    ("ReplicaSet", "apps/v1", "replicasets", "replicasets"),
    ("Pod", "v1", "pods", "pods"),
];

struct Dump {
    printer: Printer,
    directory: Option<PathBuf>,
    extension: &'static str,
    managed_fields: bool,
    printed: usize,
}

impl Dump {
    /// Where a file's content goes.
    fn out(&self, file: &str) -> Result<Box<dyn Write>, Failure> {
        let Some(directory) = &self.directory else { return Ok(Box::new(std::io::stdout())) };
        let path = directory.join(file);
        let failed = |error: std::io::Error| file_error("open", path.display(), &error);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        Ok(Box::new(std::fs::File::create(&path).map_err(failed)?))
    }

    fn object(&mut self, file: &str, list: &Value) -> Result<(), Failure> {
        if matches!(self.printer, Printer::Name) {
            let kind = list["kind"].as_str().unwrap_or_default();
            return Err(plain(format!("list types are not supported by name printing: *v1.{kind}")));
        }
        let mut list = list.clone();
        if !self.managed_fields {
            hide_managed_fields(&mut list);
        }
        let text = match &self.printer {
            Printer::Json => format!("{}\n", typed_list(&list)),
            other => other.print(&list, self.printed)?,
        };
        self.printed += 1;
        Ok(self.out(&format!("{file}.{}", self.extension))?.write_all(text.as_bytes())?)
    }
}

/// A list as its Go struct is written: kind and API first, then the metadata, items in their types' order.
fn typed_list(list: &Value) -> String {
    let indented = |text: String, by: usize| text.replace('\n', &format!("\n{}", " ".repeat(by)));
    let item = |value: &Value| indented(typed::pretty(value), 8);
    let head = format!(
        "{{\n    \"kind\": {},\n    \"apiVersion\": {},\n    \"metadata\": {},\n    \"items\": ",
        list["kind"],
        list["apiVersion"],
        indented(crate::output::json::pretty(&list["metadata"]), 4)
    );
    let items = match list["items"].as_array() {
        None => "null".to_owned(),
        Some(items) => {
            // Only with its kind is an object's type known; the kind is not printed.
            let texts = items.iter().map(|value| {
                let text = item(value);
                let lines = text.lines().filter(|line| !line.starts_with("            \"kind\": \"") || line.len() < 12);
                let mut kept: Vec<&str> = Vec::new();
                for line in lines {
                    if line.starts_with("            \"apiVersion\": \"") && kept.len() == 1 {
                        continue;
                    }
                    kept.push(line);
                }
                format!("        {}", kept.join("\n"))
            });
            format!("[\n{}\n    ]", texts.collect::<Vec<_>>().join(",\n"))
        }
    };
    format!("{head}{items}\n}}")
}

/// A list as upstream's client has it.
async fn list(client: &Client, kind: &str, version: &str, path: &str) -> Result<Value, Failure> {
    let answer = client.json(Call::get(path)).await?;
    let items: Vec<Value> = answer["items"].as_array().cloned().unwrap_or_default();
    let items: Vec<Value> = items
        .into_iter()
        .map(|mut item| {
            item["kind"] = json!(kind);
            item["apiVersion"] = json!(version);
            typed::complete(item)
        })
        .collect();
    Ok(json!({
        "kind": format!("{kind}List"),
        "apiVersion": version,
        "metadata": answer["metadata"],
        "items": if items.is_empty() { Value::Null } else { items.into() },
    }))
}

/// A list without its items' kinds: for formats that sort keys themselves.
fn bare(mut list: Value) -> Value {
    for item in list["items"].as_array_mut().into_iter().flatten() {
        if let Some(map) = item.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
    }
    list
}

/// Dumps.
///
/// # Errors
/// The server refuses, or a file cannot be written.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let printer = match args.output.printer()? {
        Some(printer) => printer,
        // A format that is said to be none is the one that prints names.
        None if args.output.output.is_some() => Printer::Name,
        None => Printer::Json,
    };
    let namespace = cx.namespace()?;
    if !args.pod_running_timeout.is_positive() {
        return Err(plain("--pod-running-timeout must be higher than zero"));
    }
    let extension = match &printer {
        Printer::Json => "json",
        Printer::Yaml => "yaml",
        _ => "txt",
    };
    let directory = Some(args.output_directory.as_str()).filter(|name| !matches!(*name, "" | "-")).map(PathBuf::from);
    let mut dump = Dump { printer, directory, extension, managed_fields: args.output.show_managed_fields, printed: 0 };
    let client = cx.client()?;
    let keep = matches!(dump.printer, Printer::Json);
    let shaped = |list: Value| if keep { list } else { bare(list) };
    let nodes = list(client, "Node", "v1", "/api/v1/nodes").await?;
    dump.object("nodes", &shaped(nodes))?;
    let namespaces: Vec<String> = if args.all_namespaces {
        let all = client.json(Call::get("/api/v1/namespaces")).await?;
        let names = all["items"].as_array().cloned().unwrap_or_default();
        names.iter().filter_map(|namespace| namespace["metadata"]["name"].as_str().map(str::to_owned)).collect()
    } else if args.namespaces.is_empty() {
        vec!["kube-system".to_owned(), namespace]
    } else {
        args.namespaces.clone()
    };
    for namespace in &namespaces {
        let mut pods = Value::Null;
        for (kind, version, resource, file) in KINDS {
            let root = if version.contains('/') { "apis" } else { "api" };
            let path = format!("/{root}/{version}/namespaces/{namespace}/{resource}");
            let found = list(client, kind, version, &path).await?;
            dump.object(&format!("{namespace}/{file}"), &shaped(found.clone()))?;
            pods = found;
        }
        for pod in pods["items"].as_array().into_iter().flatten() {
            logs(&dump, client, namespace, pod).await?;
        }
    }
    if !matches!(args.output_directory.as_str(), "" | "-") {
        println!("Cluster info dumped to {}", args.output_directory);
    }
    Ok(())
}

/// The logs of a pod's containers.
async fn logs(dump: &Dump, client: &Client, namespace: &str, pod: &Value) -> Result<(), Failure> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let mut out = dump.out(&format!("{namespace}/{name}/logs.txt"))?;
    for field in ["initContainers", "containers"] {
        for container in pod["spec"][field].as_array().into_iter().flatten() {
            let container = container["name"].as_str().unwrap_or_default();
            writeln!(out, "==== START logs for container {container} of pod {namespace}/{name} ====")?;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
            match client.call(Call::get(path).query("container", container)).await {
                Ok(answer) => out.write_all(&answer.body)?,
                Err(failure) => writeln!(out, "Request log error: {}", failure.message())?,
            }
            writeln!(out, "==== END logs for container {container} of pod {namespace}/{name} ====")?;
        }
    }
    out.flush().map_err(|error| plain(error.to_string()))
}
