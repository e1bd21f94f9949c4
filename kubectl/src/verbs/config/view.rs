//! What is configured.

use base64::Engine;
use serde_json::Value;

use crate::{
    context::Context,
    failure::{Failure, plain},
    kubeconfig::{Entry, Kubeconfig},
    output::{OutputArgs, Printer, json, table::TabWriter},
};

/// The order of the fields of Go's structs.
const ORDER: &[&str] = &[
    "kind",
    "name",
    "value",
    "command",
    "args",
    "env",
    "apiVersion",
    "installHint",
    "provideClusterInfo",
    "interactiveMode",
    "preferences",
    "clusters",
    "users",
    "contexts",
    "current-context",
    "extensions",
    "cluster",
    "user",
    "context",
    "namespace",
    "server",
    "tls-server-name",
    "insecure-skip-tls-verify",
    "certificate-authority",
    "certificate-authority-data",
    "proxy-url",
    "disable-compression",
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
    "tokenFile",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
    "username",
    "password",
    "auth-provider",
    "exec",
];

pub fn current_context(cx: &Context) -> Result<(), Failure> {
    match cx.kubeconfig()?.current_context.as_str() {
        "" => Err(plain("current-context is not set")),
        name => {
            println!("{name}");
            Ok(())
        }
    }
}

pub fn names(cx: &Context, list: &str) -> Result<(), Failure> {
    let config = cx.kubeconfig()?;
    let entries = if list == "clusters" { &config.clusters } else { &config.users };
    println!("NAME");
    entries.keys().for_each(|name| println!("{name}"));
    Ok(())
}

pub fn contexts(cx: &Context, wanted: &[String], no_headers: bool, output: &str) -> Result<(), Failure> {
    if !matches!(output, "" | "name") {
        return Err(plain(format!(
            "--output {output} is not available in kubectl config get-contexts; resetting to default output format"
        )));
    }
    let config = cx.kubeconfig()?;
    let mut failures = Vec::new();
    let mut names: Vec<&String> = if wanted.is_empty() { config.contexts.keys().collect() } else { Vec::new() };
    for name in wanted {
        match config.contexts.get_key_value(name) {
            Some((name, _)) => names.push(name),
            None => failures.push(plain(format!("context {name} not found"))),
        }
    }
    names.sort();
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !no_headers && output.is_empty() {
        rows.push(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec());
    }
    for name in names {
        if output == "name" {
            println!("{name}");
            continue;
        }
        let context = &config.contexts[name];
        let mark = if *name == config.current_context { "*" } else { "" };
        let text = |field| context.text(field).to_owned();
        rows.push(vec![mark.to_owned(), name.clone(), text("cluster"), text("user"), text("namespace")]);
    }
    print!("{}", TabWriter::default().lines(&rows));
    Failure::of(failures)
}

/// Only what a context needs.
fn minified(config: &Kubeconfig, name: &str) -> Result<Kubeconfig, Failure> {
    if name.is_empty() {
        return Err(plain("current-context must exist in order to minify"));
    }
    let Some(context) = config.contexts.get(name) else {
        return Err(plain("cannot locate context ".to_owned() + name));
    };
    for (list, entries, field) in [("cluster", &config.clusters, "cluster"), ("user", &config.users, "user")] {
        let wanted = context.text(field);
        if !wanted.is_empty() && !entries.contains_key(wanted) {
            return Err(plain(format!("cannot locate {list} {wanted}")));
        }
    }
    let mut out = config.clone();
    out.contexts.retain(|key, _| key == name);
    out.clusters.retain(|key, _| key == context.text("cluster"));
    out.users.retain(|key, _| key == context.text("user"));
    name.clone_into(&mut out.current_context);
    Ok(out)
}

/// What files hold in place of their names.
fn embed(entry: &mut Entry, names: &[&str]) -> Result<(), Failure> {
    for name in names {
        if entry.path(name).is_none() {
            continue;
        }
        if let Some(data) = entry.data(name)? {
            let data = base64::engine::general_purpose::STANDARD.encode(data);
            entry.fields.insert(format!("{name}-data"), data.into());
        }
        entry.fields.remove(*name);
    }
    Ok(())
}

fn redact(entry: &mut Entry, names: &[&str], with: &str) {
    for name in names {
        if !entry.text(name).is_empty() {
            entry.fields.insert((*name).to_owned(), with.into());
        }
    }
}

pub fn view(cx: &Context, output: &OutputArgs, raw: bool, flatten: bool, minify: bool, merge: bool) -> Result<(), Failure> {
    if !merge && cx.globals().kubeconfig.is_none() && crate::kubeconfig::paths(cx.globals()).0.len() != 1 {
        return Err(plain("if merge==false a precise file must be specified"));
    }
    let mut config = cx.kubeconfig()?.clone();
    if minify {
        let asked = cx.globals().context.as_deref().filter(|name| !name.is_empty());
        config = minified(&config, asked.unwrap_or(&config.current_context))?;
    }
    for cluster in config.clusters.values_mut() {
        if flatten {
            embed(cluster, &["certificate-authority"])?;
        }
        if !raw && !flatten {
            redact(cluster, &["certificate-authority-data"], "DATA+OMITTED");
        }
    }
    for user in config.users.values_mut() {
        if flatten {
            embed(user, &["client-certificate", "client-key"])?;
        }
        if !raw && !flatten {
            redact(user, &["client-certificate-data", "client-key-data"], "DATA+OMITTED");
        }
        if !raw && !flatten {
            redact(user, &["token", "password"], "REDACTED");
        }
    }
    let value: Value = config.to_value();
    let printer = output.printer()?.unwrap_or(Printer::Yaml);
    if matches!(printer, Printer::Json) {
        println!("{}", json::pretty_in_order(&value, "    ", ORDER));
        return Ok(());
    }
    print!("{}", printer.print(&value, 0)?);
    Ok(())
}
