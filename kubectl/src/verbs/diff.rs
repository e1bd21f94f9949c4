//! `kubectl diff`: what an apply would change, shown by `diff` or the program that KUBECTL_EXTERNAL_DIFF names.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use futures::StreamExt;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::apply::between;
use crate::{
    context::Context,
    failure::{Failure, go_io, plain, usage},
    output::{DryRun, hide_managed_fields},
    resources::{FileArgs, Object, Query},
    typed,
    write::{Helper, applied, warn},
};

/// How often an object that keeps changing is looked at.
const TRIES: u32 = 4;

/// Arguments of `diff`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects in the files
    #[arg(long, short = 'l')]
    selector: Option<String>,
    /// Show managed fields too
    #[arg(long)]
    show_managed_fields: bool,
    /// Apply in the server (not supported)
    #[arg(long)]
    server_side: bool,
    /// How many objects to ask the server for at a time
    #[arg(long, default_value_t = 1)]
    concurrency: isize,
    /// With --server-side, take fields from other managers (not supported)
    #[arg(long)]
    force_conflicts: bool,
    /// Show objects that pruning would delete (not supported)
    #[arg(long)]
    prune: bool,
    /// With --prune, the kinds that it is about: group/version/kind
    #[arg(long)]
    prune_allowlist: Vec<String>,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-client-side-apply")]
    field_manager: String,
    /// None are taken
    arguments: Vec<String>,
}

/// Runs the command. Differences are exit code 1, failures more than 1.
///
/// # Errors
/// There are differences, or it failed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    match compared(args, cx).await {
        Err(Failure::Silent(code)) => Err(Failure::Silent(code)),
        Err(failure) => Err(Failure::Verbatim(failure.to_string(), failure.code() + 1)),
        Ok(()) => Ok(()),
    }
}

async fn compared(args: Args, cx: &Context) -> Result<(), Failure> {
    if !args.arguments.is_empty() {
        return Err(usage("diff", format!("Unexpected args: [{}]", args.arguments.join(" "))));
    }
    args.files.require()?;
    if args.force_conflicts && !args.server_side {
        return Err(plain("--force-conflicts only works with --server-side"));
    }
    if args.server_side {
        return Err(plain("--server-side is not supported yet"));
    }
    if args.prune {
        return Err(plain("--prune is not supported yet"));
    }
    // Upstream makes two clients, the first of which it can do without: who is asked for a name is asked again.
    cx.client().or_else(|_| cx.client())?;
    let (live, merged) = (directory("LIVE-")?, directory("MERGED-")?);
    let query = Query { files: Some(&args.files), labels: args.selector.as_deref(), ..Query::default() };
    let written = async |object: Object| {
        let (mut from, mut to) = both(&args, cx, &object).await?;
        let mut absent = None;
        if !args.show_managed_fields {
            from.iter_mut().for_each(hide_managed_fields);
            hide_managed_fields(&mut to);
        }
        if to["apiVersion"] == "v1" && to["kind"] == "Secret" {
            mask(from.as_mut(), &mut to);
            // A masked Secret that is not there yet is written as a null; other objects leave an empty file.
            absent = Some(&Value::Null);
        }
        let name = file_name(&object);
        write(live.path(), &name, from.as_ref().or(absent))?;
        write(merged.path(), &name, Some(&to))?;
        if from.is_some_and(|from| !from["metadata"]["deletionTimestamp"].is_null()) {
            warn(&format!("Detected changes to resource {} which is currently being deleted.", object.name));
        }
        Ok(())
    };
    // So many files at a time; of each, one object after the other.
    let parts = futures::stream::iter(query.targets(cx).await?.parts()).map(|part| query.visit_part(cx, part, &written));
    let visited: Vec<_> = parts.buffer_unordered(args.concurrency.max(1).unsigned_abs()).collect().await;
    visited.into_iter().collect::<Result<(), _>>()?;
    show(live.path(), merged.path())
}

fn directory(prefix: &str) -> Result<TempDir, Failure> {
    Ok(tempfile::Builder::new().prefix(&format!("{prefix}{}", rand::random::<u32>())).rand_bytes(0).tempdir()?)
}

/// An object as it is and as it would be.
async fn both(args: &Args, cx: &Context, object: &Object) -> Result<(Option<Value>, Value), Failure> {
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let helper = Helper::new(cx, &object.mapping).dry_run(DryRun::Server).manager(&args.field_manager);
    let mut tried = 0;
    loop {
        tried += 1;
        let live = match object.current(cx.client()?).await {
            Ok(live) => live,
            Err(failure) if failure.is_not_found() => {
                return Ok((None, helper.create(namespace, &object.value).await?));
            }
            Err(failure) => return Err(failure),
        };
        // Nothing is annotated: the annotation would be the greatest part of every difference.
        let modified = serde_json::from_str(&applied::untyped(&object.value))?;
        let (kind, mut patch) = between(&modified, &live, true).map_err(|why| plain(format!("{why:?}")))?;
        if patch == json!({}) {
            return Ok((Some(live.clone()), live));
        }
        if tried < TRIES {
            patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        } else {
            eprintln!("Object ({}: {}) keeps changing, diffing without lock", object.mapping.kind, object.name);
        }
        match helper.patch(namespace, &object.name, kind, &typed::sorted(&patch)).await {
            Ok(merged) => return Ok((Some(live), merged)),
            Err(failure) if failure.is_conflict() && tried < TRIES => {}
            Err(failure) => return Err(failure.with_source("patching", &object.source)),
        }
    }
}

/// `apps.v1.Deployment.default.web`.
fn file_name(object: &Object) -> String {
    let mapping = &object.mapping;
    let group = if mapping.group.is_empty() { String::new() } else { format!("{}.", mapping.group) };
    format!(
        "{group}{}.{}.{}.{}",
        mapping.version,
        mapping.kind,
        object.namespace.as_deref().unwrap_or_default(),
        object.name
    )
}

fn write(directory: &Path, name: &str, object: Option<&Value>) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o700);
    let mut file = options.open(directory.join(name.replace('/', "_")))?;
    if let Some(object) = object {
        std::io::Write::write_all(&mut file, api::yaml::of_json(object)?.as_bytes())?;
    }
    Ok(())
}

/// Hides a Secret's values and shows only which of them differ.
fn mask(from: Option<&mut Value>, to: &mut Value) {
    let data = |value: &Value| value["data"].as_object().cloned();
    let old = from.as_ref().and_then(|from| data(from));
    let new = data(to);
    let empty = Map::new();
    let masked = |own: &Map<String, Value>, other: &Map<String, Value>, different: &str| -> Value {
        let mask = |(key, value): (&String, &Value)| {
            let text = if other.get(key).is_some_and(|o| o != value) { different } else { "***" };
            (key.clone(), json!(text))
        };
        own.iter().map(mask).collect::<Map<String, Value>>().into()
    };
    if let (Some(from), Some(old)) = (from, &old) {
        from["data"] = masked(old, new.as_ref().unwrap_or(&empty), "*** (before)");
    }
    if let Some(new) = &new {
        to["data"] = masked(new, old.as_ref().unwrap_or(&empty), "*** (after)");
    }
}

/// Runs the program that shows differences.
fn show(from: &Path, to: &Path) -> Result<(), Failure> {
    let (program, options) = program(std::env::var("KUBECTL_EXTERNAL_DIFF").ok().filter(|p| !p.is_empty()).as_deref());
    let paths: [PathBuf; 2] = [from.to_owned(), to.to_owned()];
    let (before, after): (Vec<String>, Vec<String>) =
        match std::env::var_os("KUBECTL_EXTERNAL_DIFF").is_some_and(|p| !p.is_empty()) {
            true => (Vec::new(), options),
            false => (options, Vec::new()),
        };
    let status = Command::new(&program).args(before).args(paths).args(after).stdin(Stdio::inherit()).status();
    let failed = |why: String| plain(format!("failed to run {}: {why}", api::field::go_quote(&program)));
    let unstarted = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => failed("executable file not found in $PATH".to_owned()),
        _ => failed(format!("exec: {}: {}", api::field::go_quote(&program), go_io(&error))),
    };
    match status.map_err(unstarted)?.code() {
        Some(0) => Ok(()),
        Some(1) => Err(Failure::Silent(1)),
        Some(code) => Err(failed(format!("exit status {code}"))),
        None => Err(failed("signal: killed".to_owned())),
    }
}

/// The program and its options; of options only plain ones are taken from the environment.
fn program(external: Option<&str>) -> (String, Vec<String>) {
    let Some(external) = external else { return ("diff".to_owned(), vec!["-u".to_owned(), "-N".to_owned()]) };
    let mut words = external.split(' ');
    let program = words.next().unwrap_or_default().to_owned();
    let plain = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-=".contains(&b));
    (program, words.filter(plain).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        let mut from = json!({"data": {"a": "1", "b": "2", "c": "3"}});
        let mut to = json!({"data": {"a": "1", "b": "5", "d": "4"}});
        mask(Some(&mut from), &mut to);
        assert_eq!(from["data"], json!({"a": "***", "b": "*** (before)", "c": "***"}));
        assert_eq!(to["data"], json!({"a": "***", "b": "*** (after)", "d": "***"}));
    }

    #[test]
    fn the_program_may_be_another() {
        assert_eq!(program(None), ("diff".to_owned(), vec!["-u".to_owned(), "-N".to_owned()]));
        assert_eq!(program(Some("colordiff -N -u $(x)")), ("colordiff".to_owned(), vec!["-N".to_owned(), "-u".to_owned()]));
    }
}
