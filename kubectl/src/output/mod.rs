//! How objects are shown: `-o` in all its forms, and the one-line messages of verbs that change things.

pub mod columns;
pub mod json;
pub mod table;
pub mod tabs;
pub mod template;

use api::{field::go_quote, jsonpath::JsonPath};
use serde_json::Value;

use self::{columns::CustomColumns, template::Template};
use crate::{
    discovery::{split_api_version, type_name},
    failure::{Failure, file_error, plain},
};

/// The flags of verbs that print objects.
#[derive(clap::Args, Clone, Debug)]
pub struct OutputArgs {
    /// Output format: json, yaml, name, go-template, go-template-file, template, templatefile, jsonpath, jsonpath-as-json,
    /// jsonpath-file, and with get also wide, custom-columns and custom-columns-file.
    #[arg(long, short)]
    pub output: Option<String>,
    /// The template, or its file, of -o go-template and -o go-template-file.
    #[arg(long)]
    pub template: Option<String>,
    /// Ignore missing fields and keys in templates.
    #[arg(long, default_value_t = true)]
    pub allow_missing_template_keys: bool,
    /// Keep managedFields in JSON and YAML.
    #[arg(long)]
    pub show_managed_fields: bool,
}

impl Default for OutputArgs {
    fn default() -> Self {
        Self { output: None, template: None, allow_missing_template_keys: true, show_managed_fields: false }
    }
}

/// A format of whole objects.
#[derive(Clone, Debug)]
pub enum Printer {
    /// `-o json`.
    Json,
    /// `-o yaml`; documents after the first begin with `---`.
    Yaml,
    /// `-o name`.
    Name,
    /// `-o jsonpath`, with its template as it was given.
    JsonPath(JsonPath, String),
    /// `-o jsonpath-as-json`.
    JsonPathAsJson(JsonPath, String),
    /// `-o go-template`, with its template as it was given.
    Template(Box<Template>, String),
    /// `-o custom-columns`.
    Columns(CustomColumns),
}

/// The forms that print objects, as the error names them.
const FORMATS: &str =
    "go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,template,templatefile,yaml";

fn file(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| file_error("open", path, &e))
}

impl OutputArgs {
    /// The format's name and what follows its `=`; one that begins with `=` has no name of its own.
    pub fn split(&self) -> (&str, &str) {
        let output = self.output.as_deref().unwrap_or_default();
        output.split_once('=').filter(|(format, _)| !format.is_empty()).unwrap_or((output, ""))
    }

    /// The printer of `-o`; `None` if there is no `-o`.
    ///
    /// # Errors
    /// If the format is unknown or its template is wrong.
    pub fn printer(&self) -> Result<Option<Printer>, Failure> {
        self.printer_among(FORMATS)
    }

    /// The same for a verb that looks at `--template` only where there is an `-o`.
    ///
    /// # Errors
    /// As [`Self::printer`].
    pub fn printer_of_output(&self) -> Result<Option<Printer>, Failure> {
        if self.split().0.is_empty() { Ok(None) } else { self.printer() }
    }

    /// The same for a verb that has more formats; `formats` is what the error names.
    ///
    /// # Errors
    /// If the format is unknown or its template is wrong.
    pub fn printer_among(&self, formats: &str) -> Result<Option<Printer>, Failure> {
        let (format, rest) = self.split();
        let given = self.template.as_deref().filter(|t| !t.is_empty());
        // A template is a format of its own where no other is named, be it the empty one; `get` takes that for none.
        let unnamed = self.output.is_none() || (format.is_empty() && formats.contains("custom-columns"));
        let format = if unnamed && given.is_some() { "go-template" } else { format };
        let lower = self.output.as_deref().unwrap_or_default().to_lowercase();
        let format = if matches!(lower.as_str(), "json" | "yaml" | "name") { lower.as_str() } else { format };
        // With a template of its own the format's name is all of it.
        let templated =
            ["jsonpath", "go-template", "template", "custom-columns"].iter().any(|kind| format.starts_with(kind));
        if given.is_some() && !rest.is_empty() && templated {
            return Err(self.unmatched(formats));
        }
        let argument = |what: &str| match if rest.is_empty() { given.unwrap_or_default() } else { rest } {
            "" => Err(plain(format!("template format specified but no template given{what}"))),
            text => Ok(text.to_owned()),
        };
        let jsonpath = |text: &str| -> Result<JsonPath, Failure> {
            let parsed = JsonPath::parse(text).map_err(|e| plain(format!("error parsing jsonpath {text}, {e}")))?;
            Ok(parsed.allow_missing_keys(self.allow_missing_template_keys))
        };
        let go = |text: String| -> Result<Printer, Failure> {
            let parsed = Template::parse(&text).map_err(|e| plain(format!("error parsing template {text}, {e}")))?;
            Ok(Printer::Template(Box::new(parsed.allow_missing_keys(self.allow_missing_template_keys)), text))
        };
        Ok(Some(match format {
            "" => return Ok(None),
            "json" if lower == "json" => Printer::Json,
            "yaml" if lower == "yaml" => Printer::Yaml,
            "name" if lower == "name" => Printer::Name,
            "jsonpath" => {
                let text = argument("")?;
                Printer::JsonPath(jsonpath(&text)?, text)
            }
            "jsonpath-as-json" => {
                let text = argument("")?;
                Printer::JsonPathAsJson(jsonpath(&text)?, text)
            }
            "jsonpath-file" => {
                let path = argument("")?;
                let text = std::fs::read_to_string(&path).map_err(|e| {
                    plain(format!("error reading --template {path}, {}", file_error("open", &path, &e).message()))
                })?;
                Printer::JsonPath(jsonpath(&text)?, text)
            }
            "go-template" | "template" => go(argument("")?)?,
            "go-template-file" | "templatefile" => {
                let path = argument("")?;
                go(std::fs::read_to_string(&path).map_err(|e| {
                    plain(format!("error reading --template {path}, {}", file_error("open", &path, &e).message()))
                })?)?
            }
            "custom-columns" if formats.contains("custom-columns") => Printer::Columns(CustomColumns::parse(rest)?),
            "custom-columns-file" if formats.contains("custom-columns") => {
                if rest.is_empty() {
                    return Err(plain("custom-columns format specified but no custom columns given"));
                }
                Printer::Columns(CustomColumns::parse_file(
                    &file(rest).map_err(|e| plain(format!("error reading template {rest}, {}\n", e.message())))?,
                )?)
            }
            _ => return Err(self.unmatched(formats)),
        }))
    }

    fn unmatched(&self, formats: &str) -> Failure {
        let output = go_quote(self.output.as_deref().unwrap_or_default());
        plain(format!("unable to match a printer suitable for the output format {output}, allowed formats are: {formats}"))
    }

    /// The printer of a verb that changes objects: `-o`, or the message `deployment.apps/x created`.
    ///
    /// # Errors
    /// If the format is unknown or its template is wrong.
    pub fn results(&self, operation: &str, dry_run: DryRun) -> Result<Results, Failure> {
        Ok(Results {
            operation: format!("{operation}{}", dry_run.suffix()),
            printer: self.printer()?,
            show_managed_fields: self.show_managed_fields,
            printed: 0,
        })
    }
}

/// Prints what became of objects.
#[derive(Clone, Debug)]
pub struct Results {
    operation: String,
    printer: Option<Printer>,
    show_managed_fields: bool,
    printed: usize,
}

impl Results {
    /// Prints one object, or the message about it.
    ///
    /// # Errors
    /// If a template does not apply.
    pub fn print(&mut self, object: &Value) -> Result<(), Failure> {
        self.print_as(object, None)
    }

    /// The same with another operation in the message, without the dry run's mark: `configured`, `unchanged`.
    ///
    /// # Errors
    /// If a template does not apply.
    pub fn print_as(&mut self, object: &Value, operation: Option<&str>) -> Result<(), Failure> {
        let text = match &self.printer {
            None => message(object, operation.unwrap_or(&self.operation)),
            Some(printer) => printer.print_with(object, self.printed, self.show_managed_fields, json::compact)?,
        };
        self.printed += 1;
        print!("{text}");
        Ok(())
    }

    /// Whether `-o` asks for something other than a message.
    pub fn prints_objects(&self) -> bool {
        self.printer.is_some()
    }
}

impl Printer {
    /// An object (or list) as text. `before` is how many have been printed before it.
    ///
    /// # Errors
    /// If a template does not apply.
    pub fn print(&self, object: &Value, before: usize) -> Result<String, Failure> {
        self.print_as(object, before, json::compact)
    }

    /// `compact` is how who is told of a mistake in a template sees the object.
    fn print_as(&self, object: &Value, before: usize, compact: fn(&Value) -> String) -> Result<String, Failure> {
        Ok(match self {
            Self::Json => format!("{}\n", json::pretty(object)),
            Self::Yaml => format!("{}{}", if before > 0 { "---\n" } else { "" }, api::yaml::of_json(object)?),
            Self::Name => names(object),
            Self::JsonPath(path, text) => path.execute(object).map_err(|e| jsonpath_failure(&e.0, text, object))?,
            Self::JsonPathAsJson(path, text) => {
                path.execute_as_json(object).map_err(|e| jsonpath_failure(&e.0, text, object))?
            }
            Self::Template(template, text) => {
                let mut out = String::new();
                if let Err(why) = template.execute(object, &mut out) {
                    print!("{out}");
                    return Err(template_failure(&why, text, object, compact));
                }
                out
            }
            Self::Columns(columns) => columns.print(object)?,
        })
    }

    /// The same with managedFields left out of JSON and YAML unless they are wanted; `compact` is how who is told of a mistake in
    /// a template sees the object.
    ///
    /// # Errors
    /// If a template does not apply.
    pub fn print_with(
        &self,
        object: &Value,
        before: usize,
        managed_fields: bool,
        compact: fn(&Value) -> String,
    ) -> Result<String, Failure> {
        if managed_fields || !matches!(self, Self::Json | Self::Yaml) {
            return self.print_as(object, before, compact);
        }
        let mut object = object.clone();
        hide_managed_fields(&mut object);
        self.print(&object, before)
    }
}

fn jsonpath_failure(why: &str, template: &str, object: &Value) -> Failure {
    plain(format!(
        "error executing jsonpath {}: Error executing template: {why}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{template}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n\n",
        go_quote(template),
        template::go_syntax(object)
    ))
}

fn template_failure(why: &str, template: &str, object: &Value, compact: fn(&Value) -> String) -> Failure {
    // Upstream prints what it was given on stdout and fails with one line.
    print!(
        "Error executing template: {why}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{template}\n\traw data was:\n\t\t{}\n\tobject given to template engine was:\n\t\t{}\n\n",
        compact(object),
        api::jsonpath::go_format(object)
    );
    plain(format!("error executing template {}: {why}", go_quote(template)))
}

/// Takes `metadata.managedFields` out of an object or a list's items.
pub fn hide_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        hide_managed_fields(item);
    }
}

fn names(object: &Value) -> String {
    match object["items"].as_array() {
        Some(items) if object["kind"].as_str().is_some_and(|k| k.ends_with("List")) => items.iter().map(names).collect(),
        _ => message(object, ""),
    }
}

/// `deployment.apps/web created` with its newline; without an operation only the name.
pub fn message(object: &Value, operation: &str) -> String {
    let (group, _) = split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    let kind = object["kind"].as_str().unwrap_or("<unknown>");
    let name = object["metadata"]["name"].as_str().filter(|n| !n.is_empty()).unwrap_or("<unknown>");
    let space = if operation.is_empty() { "" } else { " " };
    format!("{}/{name}{space}{operation}\n", type_name(group, kind))
}

/// Prints `deployment.apps/web created`: `type_name` as [`crate::discovery::Mapping::type_name`] has it.
pub fn print_object(type_name: &str, name: &str, operation: &str, dry_run: DryRun) {
    println!("{type_name}/{name} {operation}{}", dry_run.suffix());
}

/// `--dry-run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRun {
    /// For real.
    #[default]
    None,
    /// Nothing is sent that changes anything.
    Client,
    /// The server checks and forgets.
    Server,
}

impl DryRun {
    /// What messages end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }

    /// The `dryRun` parameter of requests; empty for none.
    pub fn query(self) -> &'static str {
        if self == Self::Server { "All" } else { "" }
    }
}

/// The flag `--dry-run`, to be flattened into a verb's arguments.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DryRunArgs {
    /// none, client (only print what would be sent) or server (the server checks and keeps nothing).
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "unchanged")]
    pub dry_run: String,
}

impl DryRunArgs {
    /// What was chosen.
    ///
    /// # Errors
    /// Upstream's complaint about other values.
    pub fn strategy(&self) -> Result<DryRun, Failure> {
        match self.dry_run.as_str() {
            "none" => Ok(DryRun::None),
            "client" => Ok(DryRun::Client),
            "server" => Ok(DryRun::Server),
            "unchanged" => {
                eprintln!("W{} --dry-run is deprecated and can be replaced with --dry-run=client.", klog_head(702));
                Ok(DryRun::Client)
            }
            other if other.parse::<bool>().is_ok() => {
                eprintln!(
                    "W{} --dry-run={other} is deprecated (boolean value) and can be replaced with --dry-run={}.",
                    klog_head(if other == "true" { 716 } else { 719 }),
                    if other == "true" { "client" } else { "none" }
                );
                Ok(if other == "true" { DryRun::Client } else { DryRun::None })
            }
            other => Err(plain(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."))),
        }
    }
}

/// What stands before a logged line: date, time and process.
fn klog_head(line: u32) -> String {
    format!("{} {:>7} helpers.go:{line}]", jiff::Zoned::now().strftime("%m%d %H:%M:%S%.6f"), std::process::id())
}
