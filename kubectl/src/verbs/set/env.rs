//! `kubectl set env`.

use std::{collections::BTreeMap, io::Read};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    Shared, pods,
    variables::{Variables, name_of_key, source, split},
};
use crate::{
    client::Call,
    context::Context,
    failure::{Failure, plain},
    output::DryRun,
    resources::{Object, Query},
    write::{path, warn},
};

/// Arguments of `set env`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shared: Shared,
    /// Names of the containers, with wildcards
    #[arg(long, short = 'c', default_value = "*")]
    containers: String,
    /// A ConfigMap or Secret whose keys become variables
    #[arg(long, default_value = "", hide_default_value = true)]
    from: String,
    /// What to put before names
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// KEY=VALUE; may be given several times
    #[arg(long, short = 'e')]
    env: Vec<String>,
    /// Keys to take of --from
    #[arg(long, value_delimiter = ',')]
    keys: Vec<String>,
    /// Show the variables
    #[arg(long)]
    list: bool,
    /// With --list, show the values that references stand for
    #[arg(long)]
    resolve: bool,
    /// Change variables that are there already
    #[arg(long, default_value = "true")]
    overwrite: bool,
    /// Objects, then KEY=VALUE or KEY-
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be changed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let shared = &args.shared;
    shared.all_and_selector().map_err(plain)?;
    let Some((resources, specs)) = split(&args.arguments) else {
        let arguments = args.arguments.join(" ");
        return Err(plain(format!("all resources must be specified before environment changes: {arguments}")));
    };
    let dry_run = shared.dry_run.strategy()?;
    let show = shared.show("env updated", dry_run)?;
    cx.client()?;
    cx.namespace()?;
    validate(&args, &resources, dry_run).map_err(plain)?;
    let stdin = || {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text).map_err(|error| error.to_string())
    };
    let specs: Vec<String> = args.env.iter().chain(&specs).cloned().collect();
    let mut variables = Variables::parse(&specs, stdin).map_err(plain)?;
    if !args.from.is_empty() {
        variables.set.extend(from(&args, cx).await?);
    }
    for variable in &mut variables.set {
        variable["name"] = json!(format!("{}{}", args.prefix, variable["name"].as_str().unwrap_or_default()));
    }
    let mut work = Vec::new();
    for mut object in shared.objects(cx, shared.asked(&resources)).await? {
        let old = object.value.clone();
        work.push(match change(&args, cx, &mut object, &variables).await {
            Ok(()) => Ok((old, object)),
            Err(why) => Err(shared.refused(&object, &why)),
        });
    }
    if args.list {
        return Ok(());
    }
    shared.save_all(cx, work, (dry_run, &show), "failed to patch env update to pod template: ", Vec::new()).await
}

fn validate(args: &Args, resources: &[String], dry_run: DryRun) -> Result<(), String> {
    args.shared.both_local_and_server(dry_run)?;
    if args.shared.scope.files.filename.is_empty() && resources.is_empty() {
        return Err("one or more resources must be specified as <resource> <name> or <resource>/<name>".to_owned());
    }
    if args.list && args.shared.print.output.is_some() {
        return Err("--list and --output may not be specified together".to_owned());
    }
    if !args.keys.is_empty() && args.from.is_empty() {
        return Err("when specifying --keys, a configmap or secret must be provided with --from".to_owned());
    }
    Ok(())
}

/// A variable for each key of `--from`.
async fn from(args: &Args, cx: &Context) -> Result<Vec<Value>, Failure> {
    let from = [args.from.clone()];
    let query = Query {
        args: &from,
        labels: args.shared.scope.selector.as_deref(),
        type_suffices: args.shared.all,
        latest: true,
        ..Query::default()
    };
    let mut variables = Vec::new();
    for object in query.objects(cx).await?.all()? {
        let reference = match object.mapping.kind.as_str() {
            "Secret" => "secretKeyRef",
            "ConfigMap" => "configMapKeyRef",
            _ => return Err(plain("unsupported resource specified in --from")),
        };
        for key in object.value["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
            if args.keys.is_empty() || args.keys.contains(key) {
                let name = name_of_key(key);
                if name != *key {
                    warn(&format!("key {key} transferred to {name}"));
                }
                variables.push(json!({"name": name, "valueFrom": {reference: {"name": object.name, "key": key}}}));
            }
        }
    }
    Ok(variables)
}

async fn change(args: &Args, cx: &Context, object: &mut Object, variables: &Variables) -> Result<(), String> {
    let before = object.value.clone();
    let (kind, name) = (object.mapping.kind.clone(), object.name.clone());
    let spec = pods::spec_of(&mut object.value)?;
    let containers = pods::containers(spec, &args.containers);
    if containers.is_empty() {
        let containers = api::field::go_quote(&args.containers);
        warn(&format!("{kind}/{name} does not have any containers matching {containers}"));
    }
    let mut unresolved = false;
    for container in containers {
        let existing = container["env"].as_array().cloned().unwrap_or_default();
        if let (false, Some((name, value))) = (args.overwrite, variables.overwritten(&existing)) {
            return Err(format!("'{name}' already has a value ({value}), and --overwrite is false"));
        }
        let env = variables.apply(&existing);
        if args.list {
            println!("# {kind} {name}, container {}", container["name"].as_str().unwrap_or_default());
            unresolved |= list(args, cx, &before, container, &env).await;
        }
        match (env.is_empty(), container.as_object_mut()) {
            (true, Some(container)) => drop(container.remove("env")),
            _ => container["env"] = Value::Array(env),
        }
    }
    if unresolved { Err("failed to retrieve valueFrom references".to_owned()) } else { Ok(()) }
}

/// Prints variables; whether some could not be resolved.
async fn list(args: &Args, cx: &Context, object: &Value, container: &Value, env: &[Value]) -> bool {
    let mut errors: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for variable in env {
        let name = variable["name"].as_str().unwrap_or_default();
        let Some(from) = variable.get("valueFrom") else {
            println!("{name}={}", variable["value"].as_str().unwrap_or_default());
            continue;
        };
        if args.resolve {
            match resolve(cx, object, container, from).await {
                Ok(value) => {
                    println!("{name}={value}");
                    continue;
                }
                Err(why) => errors.entry(why).or_default().push(name),
            }
        }
        println!("# {name} from {}", source(from));
    }
    let unresolved = !errors.is_empty();
    let mut lines: Vec<String> = Vec::new();
    for (why, mut names) in errors {
        names.sort_unstable();
        lines.push(format!("error retrieving reference for {}: {why}", names.join(", ")));
    }
    lines.sort_unstable();
    lines.iter().for_each(|line| eprintln!("{line}"));
    unresolved
}

async fn resolve(cx: &Context, object: &Value, container: &Value, from: &Value) -> Result<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (field, plural, called) in [("secretKeyRef", "secrets", "secret"), ("configMapKeyRef", "configmaps", "config map")] {
        let Some(reference) = from.get(field) else { continue };
        let (name, key) = (text(&reference["name"]), text(&reference["key"]));
        let namespace = cx.namespace().map_err(|f| f.message())?;
        let call = Call::get(format!("/api/v1/namespaces/{}/{plural}/{}", path(&namespace), path(&name)));
        let holder = cx.client().map_err(|f| f.message())?.json(call).await.map_err(|f| f.message())?;
        let value = holder["data"][&key].as_str().ok_or_else(|| format!("key {key} not found in {called} {name}"))?;
        return match called {
            "secret" => Ok(String::from_utf8_lossy(&STANDARD.decode(value).unwrap_or_default()).into_owned()),
            _ => Ok(value.to_owned()),
        };
    }
    if let Some(field) = from.get("fieldRef") {
        return field_value(object, &text(&field["fieldPath"]));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        return resource_value(container, &text(&field["resource"]), field["divisor"].as_str());
    }
    Err("invalid valueFrom".to_owned())
}

fn field_value(object: &Value, path: &str) -> Result<String, String> {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some((map, key)) =
        path.strip_suffix("']").and_then(|path| path.split_once("['")).filter(|(map, _)| !map.is_empty())
    {
        return match map {
            "metadata.annotations" => Ok(text(&metadata["annotations"][key])),
            "metadata.labels" => Ok(text(&metadata["labels"][key])),
            _ => Err(format!("fieldPath {} does not support subscript", api::field::go_quote(path))),
        };
    }
    let all = |map: &Value| {
        let line =
            |(key, value): (&String, &Value)| format!("{key}={}", api::field::go_quote(value.as_str().unwrap_or_default()));
        map.as_object().into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
    };
    match path {
        "metadata.annotations" => Ok(all(&metadata["annotations"])),
        "metadata.labels" => Ok(all(&metadata["labels"])),
        "metadata.name" | "metadata.namespace" | "metadata.uid" => Ok(text(&metadata[&path["metadata.".len()..]])),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

fn resource_value(container: &Value, resource: &str, divisor: Option<&str>) -> Result<String, String> {
    let known = ["cpu", "memory", "ephemeral-storage"];
    let unsupported = || format!("Unsupported container resource : {resource}");
    let (list, name) = resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(list, "limits" | "requests") || !(known.contains(&name) || name.starts_with("hugepages-")) {
        return Err(unsupported());
    }
    let parse = |text: &str| text.parse::<api::quantity::Quantity>().unwrap_or_default();
    let amount = parse(container["resources"][list][name].as_str().unwrap_or("0"));
    let divisor = match divisor.map(parse) {
        Some(divisor) if !divisor.is_zero() => divisor,
        _ => parse("1"),
    };
    let (amount, divisor) = match name {
        "cpu" => (amount.milli_value(), divisor.milli_value()),
        _ => (amount.value(), divisor.value()),
    };
    let rounded_up = if divisor == 0 { 0 } else { amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0) };
    Ok(rounded_up.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources_resolve() {
        let object = json!({"metadata": {"name": "x", "labels": {"a": "b"}}});
        assert_eq!(field_value(&object, "metadata.labels['a']"), Ok("b".to_owned()));
        assert_eq!(field_value(&object, "metadata.labels"), Ok("a=\"b\"".to_owned()));
        assert_eq!(field_value(&object, "spec.x"), Err("unsupported fieldPath: spec.x".to_owned()));
        let container = json!({"resources": {"limits": {"cpu": "1500m", "memory": "1Mi"}}});
        assert_eq!(resource_value(&container, "limits.cpu", None), Ok("2".to_owned()));
        assert_eq!(resource_value(&container, "limits.memory", Some("1Ki")), Ok("1024".to_owned()));
    }
}
