//! `kubectl patch`.

use api::{
    patch::{Patch, PatchError, PatchType},
    schema::yaml,
};
use serde_json::Value;

use crate::{
    context::Context,
    failure::{Failure, file_error, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
    typed,
    write::{Helper, Show},
};

/// Arguments of `patch`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    /// The patch, JSON or YAML
    #[arg(long, short = 'p', default_value = "", hide_default_value = true)]
    patch: String,
    /// File with the patch
    #[arg(long, default_value = "", hide_default_value = true)]
    patch_file: String,
    /// What kind of patch it is: json, merge or strategic
    #[arg(long = "type", default_value = "strategic")]
    of_type: String,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    files: FileArgs,
    /// Ask no server; patch what files hold
    #[arg(long)]
    local: bool,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-patch")]
    field_manager: String,
    /// The object's subresource to patch
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// What to patch
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or what could not be patched.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let dry_run = args.dry_run.strategy()?;
    cx.namespace()?;
    let kind = validate(&args, dry_run).map_err(plain)?;
    let text = match args.patch_file.as_str() {
        "" => args.patch.clone(),
        path => {
            let failed = |e| plain(format!("unable to read patch file: {}", file_error("open", path, &e).message()));
            std::fs::read_to_string(path).map_err(failed)?
        }
    };
    // What begins like JSON is sent as it is, and the server says what is wrong with it.
    let patch = if text.trim_start().starts_with('{') {
        text
    } else {
        let parsed = yaml::parse(text.as_bytes());
        let wrong = |why| plain(format!("unable to parse {}: {why}", api::field::go_quote(&args.patch)));
        typed::sorted(&parsed.map_err(wrong)?.value)
    };
    let query = Query {
        args: &args.arguments,
        files: Some(&args.files),
        local: args.local,
        subresource: &args.subresource,
        by_kind: true,
        ..Query::default()
    };
    let mut count = 0;
    let change = async |object: Object| {
        count += 1;
        one(&args, cx, (kind, &patch), dry_run, object).await
    };
    query.visit(cx, change).await?;
    if count == 0 { Err(plain("no objects passed to patch")) } else { Ok(()) }
}

async fn one(
    args: &Args,
    cx: &Context,
    (kind, patch): (PatchType, &str),
    dry_run: DryRun,
    object: Object,
) -> Result<(), Failure> {
    let mut patched = if args.local || dry_run == DryRun::Client {
        locally(&object.value, kind, patch).map_err(plain)?
    } else {
        let helper =
            Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager).subresource(&args.subresource);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        helper.patch(namespace, &object.name, kind, patch).await.map_err(|failure| {
            if failure.reason() == "UnsupportedMediaType" {
                let mapping = &object.mapping;
                let kind =
                    format!("{} is not supported by {}, Kind={}", kind.content_type(), mapping.api_version(), mapping.kind);
                return plain(format!("{kind}: {}", failure.message()));
            }
            failure
        })?
    };
    if dry_run != DryRun::Client
        && !args.local
        && let Some(patch) = cx.globals().recording.patch(&patched)
    {
        let helper = Helper::new(cx, &object.mapping).dry_run(dry_run).manager(&args.field_manager);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        patched = helper.patch(namespace, &object.name, PatchType::Merge, &patch).await?;
    }
    let done = if patched == object.value { "patched (no change)" } else { "patched" };
    // Upstream's line says nothing of a dry run.
    Show::new(&args.print, done, DryRun::None)?.print(&patched)
}

fn locally(object: &Value, kind: PatchType, patch: &str) -> Result<Value, String> {
    let ty = typed::type_of(object);
    if kind == PatchType::Strategic && ty.is_none() {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let kind = format!("{}, Kind={}", text("apiVersion"), text("kind"));
        return Err(format!("strategic merge patch is not supported for {kind} locally, try --type merge"));
    }
    let refused = |error: PatchError| match (kind, error) {
        (PatchType::Strategic, PatchError::Malformed(_)) => "invalid JSON document".to_owned(),
        (_, error) => error.to_string(),
    };
    // A merge patch takes the object's place where it is no object itself.
    if kind == PatchType::Merge && serde_json::from_str::<Vec<Value>>(patch).is_ok() {
        return Err("json: cannot unmarshal array into Go value of type unstructured.detector".to_owned());
    }
    let patch = Patch::parse_ignoring(kind, patch.as_bytes()).map_err(refused)?;
    let patched = patch.apply(object, ty).map_err(|error| {
        let error = error.to_string();
        match error.split_once("doc is missing key: ") {
            Some((_, key)) => format!("Object to be patched is missing field ({key})"),
            None => error,
        }
    })?;
    if patched["kind"].as_str().is_none_or(str::is_empty) {
        return Err(format!("Object 'Kind' is missing in '{}'", typed::sorted(&patched)));
    }
    Ok(patched)
}

fn validate(args: &Args, dry_run: DryRun) -> Result<PatchType, String> {
    let refused = |why: &str| Err(why.to_owned());
    match (args.patch.is_empty(), args.patch_file.is_empty()) {
        (false, false) => return refused("cannot specify --patch and --patch-file together"),
        (true, true) => return refused("must specify --patch or --patch-file containing the contents of the patch"),
        _ => {}
    }
    if args.local && !args.arguments.is_empty() {
        return refused("cannot specify --local and server resources");
    }
    if args.local && dry_run == DryRun::Server {
        return refused("cannot specify --local and --dry-run=server - did you mean --dry-run=client?");
    }
    match args.of_type.to_lowercase().as_str() {
        "json" => Ok(PatchType::Json),
        "merge" => Ok(PatchType::Merge),
        "" | "strategic" => Ok(PatchType::Strategic),
        _ => Err(format!("--type must be one of [json merge strategic], not {}", api::field::go_quote(&args.of_type))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_apply_without_a_server() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}});
        let patched = locally(&object, PatchType::Strategic, r#"{"data": {"a": null, "c": "d"}}"#).unwrap();
        assert_eq!(patched["data"], json!({"c": "d"}));
        let told = |kind, patch| locally(&object, kind, patch).unwrap_err();
        assert_eq!(told(PatchType::Strategic, "[]"), "invalid JSON document");
        assert_eq!(told(PatchType::Merge, "{"), "Invalid JSON Patch");
        assert_eq!(told(PatchType::Json, "{}"), "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
        assert_eq!(
            told(PatchType::Json, r#"[{"op": "remove", "path": "/kind"}]"#),
            r#"Object 'Kind' is missing in '{"apiVersion":"v1","data":{"a":"b"},"metadata":{"name":"c"}}'"#
        );
        let custom = json!({"apiVersion": "x.y/v1", "kind": "Odd"});
        assert_eq!(
            locally(&custom, PatchType::Strategic, "{}"),
            Err("strategic merge patch is not supported for x.y/v1, Kind=Odd locally, try --type merge".to_owned())
        );
    }
}
