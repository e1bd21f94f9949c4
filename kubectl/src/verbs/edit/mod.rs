//! `kubectl edit`, `kubectl apply edit-last-applied` and `kubectl create --edit`: objects as text in an editor, over and over
//! until what was saved is accepted or given up.

mod editor;
mod text;

use std::path::{Path, PathBuf};

use api::patch::{PatchType, two_way_json_merge, two_way_strategic};
use serde_json::{Value, json};

use self::text::{Reasons, heading, says_something, stripped, without_comments};
use crate::{
    client::log,
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, OutputArgs, json as json_text},
    resources::{FileArgs, Object, Query, documents_in, mistyped},
    typed,
    write::{Helper, SaveConfig, Show, Validate, applied},
};

/// Arguments of `edit`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    validate: Validate,
    /// Show the patch that is sent
    #[arg(long)]
    output_patch: bool,
    /// End lines as Windows does
    #[arg(long)]
    windows_line_endings: bool,
    #[command(flatten)]
    save_config: SaveConfig,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-edit")]
    field_manager: String,
    /// The objects' subresource to edit
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// What to edit
    arguments: Vec<String>,
}

/// Arguments of `apply edit-last-applied`.
#[derive(clap::Args, Debug)]
pub struct LastAppliedArgs {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    validate: Validate,
    /// End lines as Windows does
    #[arg(long)]
    windows_line_endings: bool,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-client-side-apply")]
    field_manager: String,
    /// What to edit
    arguments: Vec<String>,
}

/// What becomes of what was edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The server's objects are patched.
    Live,
    /// The configuration that objects remember is replaced.
    LastApplied,
    /// New objects are created.
    BeforeCreate,
}

/// Runs `edit`.
///
/// # Errors
/// Bad arguments, or edits that could not be saved.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let query = Query {
        args: &args.arguments,
        files: Some(&args.files),
        type_suffices: true,
        latest: true,
        subresource: &args.subresource,
        ..Query::default()
    };
    let validation = args.validate.directive()?;
    let objects = query.objects(cx).await?.all()?;
    if objects.is_empty() {
        return Err(plain("edit cancelled, no objects found"));
    }
    let editing = Editing {
        output_patch: args.output_patch,
        windows: args.windows_line_endings,
        save_config: args.save_config.asked(),
        manager: args.field_manager.clone(),
        subresource: args.subresource.clone(),
        ..Editing::new(cx, &args.print, Mode::Live, validation)?
    };
    editing.edit(objects).await
}

/// Runs `apply edit-last-applied`.
///
/// # Errors
/// Bad arguments, or edits that could not be saved.
pub async fn last_applied(args: LastAppliedArgs, cx: &Context) -> Result<(), Failure> {
    let query =
        Query { args: &args.arguments, files: Some(&args.files), type_suffices: true, latest: true, ..Query::default() };
    let validation = args.validate.directive()?;
    let mut objects = Vec::new();
    for mut object in query.objects(cx).await?.all()? {
        if let Some(text) = applied::original(&object.value) {
            object.value = serde_json::from_str(text)?;
            objects.push(object);
        }
    }
    if objects.is_empty() {
        return Err(plain(
            "no last-applied-configuration annotation found on resources, to create the annotation, use command `kubectl apply set-last-applied --create-annotation`",
        ));
    }
    let editing = Editing {
        windows: args.windows_line_endings,
        manager: args.field_manager.clone(),
        ..Editing::new(cx, &args.print, Mode::LastApplied, validation)?
    };
    editing.edit(objects).await
}

/// One editing session.
pub struct Editing<'a> {
    cx: &'a Context,
    mode: Mode,
    show: Show,
    json: bool,
    output_patch: bool,
    windows: bool,
    save_config: bool,
    validation: &'static str,
    manager: String,
    subresource: String,
}

/// How a round ended.
enum Round {
    /// All is done.
    Done,
    /// What was saved was refused: once more, with the reasons in the file's heading.
    Again(Reasons),
}

impl<'a> Editing<'a> {
    fn new(cx: &'a Context, print: &OutputArgs, mode: Mode, validation: &'static str) -> Result<Self, Failure> {
        if let Some(format) = print.output.as_deref().filter(|format| !matches!(*format, "" | "json" | "yaml")) {
            let format = api::field::go_quote(format);
            let why =
                format!("unable to match a printer suitable for the output format {format}, allowed formats are: json,yaml");
            return Err(plain(why));
        }
        Ok(Self {
            cx,
            mode,
            show: Show::new(print, "edited", DryRun::None)?,
            json: print.split().0 == "json",
            output_patch: false,
            windows: false,
            save_config: false,
            validation,
            manager: String::new(),
            subresource: String::new(),
        })
    }

    /// Objects from files that are edited before they are created.
    ///
    /// # Errors
    /// The output format is unknown.
    pub fn before_create(
        cx: &'a Context,
        print: &OutputArgs,
        save_config: SaveConfig,
        validation: &'static str,
        windows: bool,
    ) -> Result<Self, Failure> {
        let editing = Self::new(cx, print, Mode::BeforeCreate, validation)?;
        Ok(Self { save_config: save_config.asked(), windows, manager: "kubectl-create".to_owned(), ..editing })
    }

    /// Edits objects together, in one file.
    pub async fn edit(&self, objects: Vec<Object>) -> Result<(), Failure> {
        let original = self.text(&objects);
        let mut reasons = Reasons::default();
        let mut before: Option<String> = None;
        let mut last: Option<PathBuf> = None;
        loop {
            let body = before.as_deref().map_or_else(|| original.clone(), stripped);
            let mut text = if self.json { body } else { format!("{}{body}", heading(self.mode, &reasons)) };
            if self.windows {
                text = text.replace('\n', "\r\n");
            }
            let extension = if self.json { ".json" } else { ".yaml" };
            let (edited, file) =
                editor::edit(&text, extension).await.map_err(|failure| preserved(failure, last.as_ref()))?;
            log::at(4, "editoptions.go:310", &format!("User edited:\n{edited}"));
            if before.as_deref().is_some_and(|before| without_comments(before) == without_comments(&edited)) {
                return Err(preserved(plain("Edit cancelled, no valid changes were saved."), Some(&file)));
            }
            if let Some(last) = last.replace(file.clone()) {
                // A file that cannot be removed is only untidy.
                let _ = std::fs::remove_file(last);
            }
            if let Err(why) = self.valid(&edited).await {
                let object = &objects[0];
                let why = format!("<nil>: Invalid value: \"The edited file failed validation\": {why}");
                reasons = Reasons::invalid(object, vec![why]);
                eprintln!("error: {} {} is invalid", object.mapping.group_resource(), api::field::go_quote(&object.name));
                before = Some(edited);
                continue;
            }
            if without_comments(&original) == without_comments(&edited) {
                let _ = std::fs::remove_file(&file);
                eprintln!("Edit cancelled, no changes made.");
                return Ok(());
            }
            if !says_something(&edited) {
                let _ = std::fs::remove_file(&file);
                eprintln!("Edit cancelled, saved file was empty.");
                return Ok(());
            }
            match self.save(&objects, &edited, &file).await.map_err(|failure| match failure {
                Failure::Silent(_) => failure,
                failure => preserved(failure, Some(&file)),
            })? {
                Round::Done => {
                    let _ = std::fs::remove_file(&file);
                    return Ok(());
                }
                Round::Again(why) => {
                    reasons = why;
                    before = Some(edited);
                }
            }
        }
    }

    /// The objects as they are shown to the editor.
    fn text(&self, objects: &[Object]) -> String {
        let shown = |object: &Object| {
            let mut value = object.value.clone();
            crate::output::hide_managed_fields(&mut value);
            value
        };
        let value = match objects {
            [one] => shown(one),
            several => {
                let items: Vec<Value> = several.iter().map(shown).collect();
                json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
            }
        };
        if self.json { format!("{}\n", json_text::pretty(&value)) } else { api::yaml::to_string(&value) }
    }

    /// What can be found wrong before anything is sent.
    async fn valid(&self, edited: &str) -> Result<(), String> {
        if self.validation == "Ignore" {
            return Ok(());
        }
        let mut values = Vec::new();
        for document in documents_in(edited.as_bytes()) {
            values.push(document.map_err(|why| why.trim_start_matches("error converting YAML to JSON: ").to_owned())?);
        }
        let Some(value) = values.first().filter(|value| value.is_object()) else {
            return Err("invalid object to validate".to_owned());
        };
        let mut wrong = Vec::new();
        for field in ["apiVersion", "kind"] {
            match value.get(field) {
                None => wrong.push(format!("{field} not set")),
                Some(Value::String(_)) => {}
                Some(_) => wrong.push(format!("{field} isn't string type")),
            }
        }
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            several => return Err(format!("[{}]", several.join(", "))),
        }
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if kind == "List" || self.cx.discovery().map_err(|f| f.message())?.kind(api_version, kind).await.is_ok() {
            return Ok(());
        }
        let (group, version) = crate::discovery::split_api_version(api_version);
        let catalog = self.cx.discovery().map_err(|f| f.message())?.catalog().await.map_err(|f| f.message())?;
        // What is not known at all is found out when the text is read.
        if !catalog.mappings.iter().any(|mapping| mapping.group == group && mapping.version == version) {
            return Ok(());
        }
        let [group, version, kind] = [group, version, kind].map(api::field::go_quote);
        Err(format!("unknown object type schema.GroupVersionKind{{Group:{group}, Version:{version}, Kind:{kind}}}"))
    }

    async fn save(&self, objects: &[Object], edited: &str, file: &Path) -> Result<Round, Failure> {
        let mut values = Vec::new();
        for document in documents_in(edited.as_bytes()) {
            match document {
                Ok(value) if value["kind"] == "List" => {
                    values.extend(value["items"].as_array().cloned().unwrap_or_default())
                }
                Ok(value) => values.push(value),
                Err(why) => return Ok(Round::Again(Reasons::of(format!("The edited file had a syntax error: {why}")))),
            }
        }
        for value in &values {
            if let Some(why) = self.unrecognized(value).await? {
                return Ok(Round::Again(Reasons::of(format!("The edited file had a syntax error: {why}"))));
            }
        }
        let (mut reasons, mut retryable, mut missing) = (Reasons::default(), 0, 0);
        for mut value in values {
            let object = self.original_of(objects, &value)?;
            if self.save_config {
                applied::annotate(&mut value, applied::untyped);
            }
            match self.save_one(object, &value).await {
                Ok(()) => {}
                Err(Failure::Status(status)) if self.mode == Mode::Live => {
                    let named = format!("{} {}", object.mapping.group_resource(), api::field::go_quote(&object.name));
                    match status.reason.as_str() {
                        "Invalid" => {
                            eprintln!("error: {named} is invalid");
                            let causes = status.details.iter().flat_map(|details| &details.causes);
                            let causes = causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
                            reasons.add(Reasons::invalid(object, causes));
                        }
                        "NotFound" => {
                            eprintln!("error: {named} could not be found on the server");
                            missing += 1;
                        }
                        _ => {
                            eprintln!("error: {named} could not be patched: {}", status.message);
                            retryable += 1;
                        }
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        if retryable > 0 {
            eprintln!("You can run `kubectl replace -f {}` to try this update again.", file.display());
            return Err(Failure::Silent(1));
        }
        if missing > 0 {
            let file = api::field::go_quote(&file.display().to_string());
            eprintln!("The edits you made on deleted resources have been saved to {file}");
            return Err(Failure::Silent(1));
        }
        Ok(if reasons.is_empty() { Round::Done } else { Round::Again(reasons) })
    }

    /// Why an object is of no kind that is served.
    async fn unrecognized(&self, value: &Value) -> Result<Option<String>, Failure> {
        if let Some(why) = mistyped(&value["metadata"]) {
            return Ok(Some(format!("unable to decode \"edited-file\": json: cannot unmarshal {why}")));
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self.cx.discovery()?.kind(&text(&value["apiVersion"]), &text(&value["kind"])).await {
            Err(failure @ Failure::NoKind(..)) => {
                let named = |field: &str| api::field::go_quote(&text(&value["metadata"][field]));
                let (name, namespace, why) = (named("name"), named("namespace"), failure.message());
                Ok(Some(format!(
                    "resource mapping not found for name: {name} namespace: {namespace} from \"edited-file\": {why}\nensure CRDs are installed first"
                )))
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(None),
        }
    }

    /// The object that an edited one was, by its uid.
    fn original_of<'b>(&self, objects: &'b [Object], edited: &Value) -> Result<&'b Object, Failure> {
        let uid = |value: &Value| value["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let found = objects.iter().find(|object| uid(&object.value) == uid(edited));
        let found = if self.mode == Mode::BeforeCreate { objects.first() } else { found };
        let unknown = || format!("no original object found for &unstructured.Unstructured{{Object:{}}}", go_syntax(edited));
        found.ok_or_else(|| plain(unknown()))
    }

    async fn save_one(&self, object: &Object, edited: &Value) -> Result<(), Failure> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let helper = Helper::new(self.cx, &object.mapping)
            .manager(&self.manager)
            .validation(self.validation)
            .subresource(&self.subresource);
        if self.mode == Mode::BeforeCreate {
            let created = helper.create(namespace, edited).await?;
            return self.show.print_as(&created, "created");
        }
        let mut original = object.value.clone();
        crate::output::hide_managed_fields(&mut original);
        let mut edited = edited.clone();
        if self.mode != Mode::LastApplied {
            self.cx.globals().recording.annotate(&mut edited);
        }
        let edited = &edited;
        if original == *edited {
            return self.show.print_as(edited, "skipped");
        }
        if self.mode == Mode::LastApplied {
            let mut annotated = edited.clone();
            annotated["metadata"]["annotations"][applied::ANNOTATION] =
                Value::String(format!("{}\n", typed::sorted(edited)));
            let patch = two_way_json_merge(edited, &annotated);
            let name = edited["metadata"]["name"].as_str().unwrap_or_default();
            helper.patch(namespace, name, PatchType::Merge, &typed::sorted(&patch)).await?;
            return self.show.print(edited);
        }
        let (kind, patch) = difference(&original, edited).map_err(plain)?;
        let patch = typed::sorted(&patch);
        if self.output_patch {
            println!("Patch: {patch}");
        }
        let patched = helper.patch(namespace, &object.name, kind, &patch).await?;
        self.show.print(&patched)
    }
}

/// The patch from one object to another that is still the same object.
fn difference(original: &Value, edited: &Value) -> Result<(PatchType, Value), String> {
    let (kind, patch) = match typed::type_of(edited) {
        Some(ty) => (PatchType::Strategic, two_way_strategic(original, edited, ty).map_err(|error| error.to_string())?),
        None => (PatchType::Merge, two_way_json_merge(original, edited)),
    };
    let unchanging = ["/apiVersion", "/kind", "/metadata/name", "/managedFields"];
    if unchanging.iter().any(|path| patch.pointer(path).is_some()) {
        return Err("At least one of apiVersion, kind and name was changed".to_owned());
    }
    Ok((kind, patch))
}

fn preserved(failure: Failure, file: Option<&PathBuf>) -> Failure {
    if let Some(file) = file.filter(|file| file.exists()) {
        eprintln!("A copy of your changes has been stored to {}", api::field::go_quote(&file.display().to_string()));
    }
    failure
}

/// A value in Go's own syntax, as its `%#v` has it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => api::field::go_quote(text),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(name, _)| name.as_str());
            let entry = |(name, value): (&String, &Value)| format!("{}:{}", api::field::go_quote(name), go_syntax(value));
            format!("map[string]interface {{}}{{{}}}", entries.into_iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stays_itself() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}});
        let mut edited = object.clone();
        edited["data"]["a"] = json!("c");
        assert_eq!(difference(&object, &edited), Ok((PatchType::Strategic, json!({"data": {"a": "c"}}))));
        edited["metadata"]["name"] = json!("d");
        assert_eq!(difference(&object, &edited), Err("At least one of apiVersion, kind and name was changed".to_owned()));
    }
}
