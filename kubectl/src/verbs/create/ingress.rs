//! `kubectl create ingress`.

use regex::Regex;
use serde_json::{Map, Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]
const RULE: &str = r"^(?P<host>[\w\*\-\.]*)(?P<path>/.*)=(?P<svcname>[\w\-]+):(?P<svcport>[\w\-]+)(,(?P<istls>tls)=?(?P<secretname>[\w\-]+)?)?";

/// Arguments of `create ingress`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// The ingress class
    #[arg(long, default_value = "", hide_default_value = true)]
    class: String,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]; a path that ends in `*` is a prefix. May be given several times
    #[arg(long = "rule")]
    rules: Vec<String>,
    /// SERVICE:PORT for what no rule fits
    #[arg(long, default_value = "", hide_default_value = true)]
    default_backend: String,
    /// KEY=VALUE to annotate the ingress with; may be given several times
    #[arg(long = "annotation")]
    annotations: Vec<String>,
    /// Name of the ingress
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "ingress", &args.names)?;
    let name = making.name;
    validate(&args).map_err(plain)?;
    let object = with_namespace(ingress(name, &args), cx);
    making.create(cx, Generated { object, failing: "failed to create ingress: " }).await
}

fn validate(args: &Args) -> Result<(), String> {
    if args.default_backend.is_empty() && args.rules.is_empty() {
        return Err("not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)".to_owned());
    }
    let pattern = Regex::new(RULE).map_err(|_| "failed to compile the regex".to_owned())?;
    if let Some(rule) = args.rules.iter().find(|rule| !pattern.is_match(rule)) {
        return Err(format!("rule {rule} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"));
    }
    if let Some(annotation) = args.annotations.iter().find(|a| !a.contains('=')) {
        return Err(format!("annotation {annotation} is invalid and should be in format key=[value]"));
    }
    if !args.default_backend.is_empty() && args.default_backend.split(':').count() != 2 {
        return Err("default-backend should be in format servicename:serviceport".to_owned());
    }
    Ok(())
}

fn ingress(name: &str, args: &Args) -> Value {
    let mut spec = Map::new();
    if !args.class.is_empty() {
        spec.insert("ingressClassName".to_owned(), json!(args.class));
    }
    if !args.default_backend.is_empty() {
        spec.insert("defaultBackend".to_owned(), backend(&args.default_backend));
    }
    for (field, list) in [("tls", tls(&args.rules)), ("rules", rules(&args.rules))] {
        if !list.is_empty() {
            spec.insert(field.to_owned(), Value::Array(list));
        }
    }
    let mut metadata = json!({"name": name});
    for (key, value) in args.annotations.iter().filter_map(|a| a.split_once('=')) {
        metadata["annotations"][key] = json!(value);
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec})
}

fn tls(rules: &[String]) -> Vec<Value> {
    let mut list: Vec<(String, Vec<String>)> = Vec::new();
    let mut hosts: Vec<&str> = Vec::new();
    for rule in rules {
        let [_, tls] = rule.split(',').collect::<Vec<_>>()[..] else { continue };
        let host = rule.split('/').next().unwrap_or_default();
        if hosts.contains(&host) {
            continue;
        }
        hosts.push(host);
        let secret = tls.split('=').nth(1).unwrap_or_default();
        match list.iter_mut().find(|(s, _)| s == secret) {
            Some((_, hosts)) => hosts.push(host.to_owned()),
            None if secret.is_empty() && host.is_empty() => {}
            None => list.push((secret.to_owned(), if host.is_empty() { Vec::new() } else { vec![host.to_owned()] })),
        }
    }
    let entry = |(secret, hosts): (String, Vec<String>)| {
        let mut entry = Map::new();
        if !hosts.is_empty() {
            entry.insert("hosts".to_owned(), json!(hosts));
        }
        if !secret.is_empty() {
            entry.insert("secretName".to_owned(), json!(secret));
        }
        Value::Object(entry)
    };
    list.into_iter().map(entry).collect()
}

fn rules(rules: &[String]) -> Vec<Value> {
    let mut list: Vec<(&str, Vec<Value>)> = Vec::new();
    for rule in rules {
        let rule = rule.split(',').next().unwrap_or_default();
        let (host, path) = rule.split_once('/').unwrap_or_default();
        let path = http_path(path);
        match list.iter_mut().find(|(h, _)| *h == host) {
            Some((_, paths)) => paths.push(path),
            None => list.push((host, vec![path])),
        }
    }
    let entry = |(host, paths): (&str, Vec<Value>)| match host {
        "" => json!({"http": {"paths": paths}}),
        host => json!({"host": host, "http": {"paths": paths}}),
    };
    list.into_iter().map(entry).collect()
}

fn http_path(text: &str) -> Value {
    let mut parts = text.split('=');
    let path = format!("/{}", parts.next().unwrap_or_default());
    let service = parts.next().unwrap_or_default();
    let (path, kind) = path.strip_suffix('*').map_or((path.as_str(), "Exact"), |prefix| (prefix, "Prefix"));
    let mut entry = json!({"pathType": kind, "backend": backend(service)});
    if !path.is_empty() {
        entry["path"] = json!(path);
    }
    entry
}

fn backend(text: &str) -> Value {
    let mut parts = text.split(':');
    let (name, port) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let port = port.parse::<i32>().map_or_else(|_| json!({"name": port}), |number| json!({"number": number}));
    json!({"service": {"name": name, "port": port}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::create::tests::parse;

    #[test]
    fn rules_of_a_host_are_one() {
        let args: Args = parse(&[
            "r",
            "--rule",
            "foo.com/bar*=svc:80,tls=x",
            "--rule",
            "foo.com/=s2:http",
            "--default-backend",
            "d:1",
            "--class",
            "c",
            "--annotation",
            "a=b",
        ]);
        let paths = json!([
            {"path": "/bar", "pathType": "Prefix", "backend": {"service": {"name": "svc", "port": {"number": 80}}}},
            {"path": "/", "pathType": "Exact", "backend": {"service": {"name": "s2", "port": {"name": "http"}}}},
        ]);
        assert_eq!(
            ingress("r", &args),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "r", "annotations": {"a": "b"}},
                "spec": {"ingressClassName": "c", "defaultBackend": {"service": {"name": "d", "port": {"number": 1}}},
                    "tls": [{"hosts": ["foo.com"], "secretName": "x"}], "rules": [{"host": "foo.com", "http": {"paths": paths}}]}})
        );
    }
}
