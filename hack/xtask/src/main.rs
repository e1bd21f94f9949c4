//! Generates the checked-in schema of every type of the Kubernetes API from `k8s-openapi`'s sources.
//!
//! k8s-openapi spells each type's schema as a `json_schema!` literal and each list's merge behaviour as a
//! `merge_strategies` call. Both are read as text: building the crate with its `schemars` feature would say the same after
//! half a minute of compiling, and the merge behaviour is in no schema at all. `facts.rs` holds what the sources don't say.

mod facts;
mod literal;
mod numbers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One file of k8s-openapi: a type with its schema and what its merge code says of its lists.
struct Source {
    definition: String,
    schema: Value,
    merges: BTreeMap<String, Merge>,
    resource: Option<Resource>,
}

struct Resource {
    group: String,
    version: String,
    kind: String,
    plural: String,
    scope: char,
    list_kind: Option<String>,
}

#[derive(Clone)]
struct Merge {
    strategy: String,
    keys: Vec<String>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "numbers") {
        let sources = read_all(&k8s_openapi_sources()?.join("src/v1_35"))?;
        let mut known: BTreeSet<String> = sources.iter().map(|s| s.definition.clone()).collect();
        known.extend(sources.iter().filter_map(|s| {
            Some(format!("{}.{}", s.definition.rsplit_once('.')?.0, s.resource.as_ref()?.list_kind.as_ref()?))
        }));
        print!("{}", numbers::read(&arguments[1..], &known.iter().map(String::as_str).collect())?);
        return Ok(());
    }
    let out = PathBuf::from(arguments.first().context("usage: xtask OUTPUT-FOLDER | xtask numbers NAME=FOLDER...")?);
    let (types, docs) = generate()?;
    fs::write(out.join("types.txt"), types)?;
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
    encoder.write_all(docs.as_bytes())?;
    fs::write(out.join("docs.gz"), encoder.finish()?)?;
    Ok(())
}

fn generate() -> Result<(String, String)> {
    let root = k8s_openapi_sources()?.join("src/v1_35");
    render(&read_all(&root)?)
}

fn k8s_openapi_sources() -> Result<PathBuf> {
    let output = Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = packages.iter().find(|p| p["name"] == "k8s-openapi").context("no k8s-openapi")?;
    let manifest = Path::new(package["manifest_path"].as_str().context("no manifest")?);
    Ok(manifest.parent().context("no folder")?.to_owned())
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        match entry.file_type()?.is_dir() {
            true => rust_files(&entry.path(), found)?,
            false => found.push(entry.path()),
        }
    }
    Ok(())
}

/// The text between `before` and the next `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)?;
    Some(&text[start..start + end])
}

fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let mut texts = Vec::new();
    let mut names = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let Some(definition) = between(&text, "// Generated from definition ", "\n").map(str::to_owned) else { continue };
        let Some(ident) = between(&text, "crate::schemars::JsonSchema for ", " {") else { continue };
        if definition == "io.k8s.List" {
            continue;
        }
        let module = file.parent().and_then(|p| p.strip_prefix(root).ok()).context("a file outside")?;
        let module = module.to_string_lossy().replace('/', "::");
        names.insert(format!("crate::{module}::{ident}"), definition.clone());
        texts.push((definition, text));
    }
    texts.iter().map(|(definition, text)| read(definition, text, &names)).collect()
}

fn read(definition: &str, text: &str, names: &BTreeMap<String, String>) -> Result<Source> {
    let start = text.find("json_schema!(").context("no schema")? + "json_schema!(".len();
    let schema = literal::parse(&text[start..], names).with_context(|| definition.to_owned())?;
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => Field::Key_"))
        .map(|(json, rust)| (rust.trim_end_matches([',', ' ']), json))
        .collect();
    let json_name = |rust: &str| fields.get(rust).map(|s| (*s).to_owned());
    let mut merges = BTreeMap::new();
    for call in text.split("crate::merge_strategies::").skip(1) {
        let strategy = call.split('(').next().unwrap_or_default().to_owned();
        let Some(field) = between(call, "&mut self.", ",").and_then(json_name) else { continue };
        // Up to the end of this call's key list; a call without keys has no `&[` before its first `;`.
        let head = call.split(';').next().unwrap_or_default();
        let keys = between(head, "&[", "],").unwrap_or_default();
        let keys = keys
            .split("lhs.")
            .skip(1)
            .filter_map(|k| k.split(" ==").next())
            .map(|k| json_name(k).unwrap_or_else(|| literal::camel_case(k)))
            .collect();
        merges.insert(field, Merge { strategy, keys });
    }
    let constant = |name: &str| between(text, &format!("const {name}: &'static str = \""), "\"").map(str::to_owned);
    let resource = match (constant("GROUP"), constant("VERSION"), constant("KIND")) {
        (Some(group), Some(version), Some(kind)) => Some(Resource {
            group,
            version,
            kind,
            plural: constant("URL_PATH_SEGMENT").unwrap_or_default(),
            scope: if text.contains("type Scope = crate::NamespaceResourceScope") { 'N' } else { 'C' },
            list_kind: constant("LIST_KIND"),
        }),
        _ => None,
    };
    Ok(Source { definition: definition.to_owned(), schema, merges, resource })
}

/// The two artefacts: the table of types, and the descriptions, one JSON string a line in the table's order.
fn render(sources: &[Source]) -> Result<(String, String)> {
    let mut types = String::from(HEADER);
    let mut docs = String::new();
    let mut doc = |schema: &Value| {
        let text = schema["description"].as_str().unwrap_or_default();
        docs.push_str(&Value::from(text).to_string());
        docs.push('\n');
    };
    let numbers = numbers::checked_in();
    for source in sources {
        let properties = source.schema["properties"].as_object();
        doc(&source.schema);
        let shape = match facts::scalar(&source.definition) {
            Some(shape) => format!("= {shape}"),
            None if properties.is_some() => "object".to_owned(),
            None => format!("= {}", type_of(&source.schema)?),
        };
        writeln!(types, "{} {shape}", source.definition)?;
        if let Some(r) = &source.resource {
            let group = if r.group.is_empty() { "-" } else { &r.group };
            let plural = if r.plural.is_empty() { "-" } else { &r.plural };
            writeln!(types, "@{group} {} {} {plural} {}", r.version, r.kind, r.scope)?;
        }
        let required: Vec<&str> =
            source.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in properties.into_iter().flatten() {
            doc(property);
            let mut line = format!(" {name} {}", type_of(property)?);
            let optional = facts::optional(&source.definition, name, source.resource.is_some());
            if (required.contains(&name.as_str()) && !optional) || facts::required(&source.definition, name) {
                line.push_str(" !");
            }
            line.push_str(&facts::flags(
                &source.definition,
                name,
                source.merges.get(name).map(|m| (m.strategy.as_str(), m.keys.as_slice())),
            ));
            if let Some(path) = numbers.get(&source.definition).and_then(|n| n.get(name)) {
                let mut parts = path.split(':');
                for (flag, part) in ["n", "g"].iter().zip(&mut parts) {
                    line.push_str(&format!(" {flag}={part}"));
                }
                if let Some(values) = facts::values(&source.definition, name).or(parts.next()) {
                    line.push_str(&format!(" e={values}"));
                }
            }
            writeln!(types, "{line}")?;
        }
        if let Some(list) = source.resource.as_ref().and_then(|r| Some((r, r.list_kind.as_ref()?))) {
            render_list(&mut types, &mut doc, &source.definition, list)?;
        }
    }
    Ok((types, docs))
}

const HEADER: &str =
    "# Generated by hack/generate from k8s-openapi's sources: do not edit. schema/table.rs says how to read it.\n";

fn render_list(
    types: &mut String,
    doc: &mut impl FnMut(&Value),
    item: &str,
    (resource, kind): (&Resource, &String),
) -> Result<()> {
    let prefix = item.rsplit_once('.').context("a name without a dot")?.0;
    let group = if resource.group.is_empty() { "-" } else { &resource.group };
    writeln!(types, "{prefix}.{kind} object\n@{group} {} {kind} - {}", resource.version, resource.scope)?;
    let meta = "&io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
    for (line, text) in [
        (String::new(), format!("{kind} is a list of {}", resource.kind)),
        (" apiVersion s".to_owned(), facts::API_VERSION_DOC.to_owned()),
        (format!(" items []&{item} ! n=2"), format!("List of {}.", resource.plural)),
        (" kind s".to_owned(), facts::KIND_DOC.to_owned()),
        (format!(" metadata {meta} n=1"), facts::LIST_META_DOC.to_owned()),
    ] {
        doc(&serde_json::json!({ "description": text }));
        if !line.is_empty() {
            writeln!(types, "{line}")?;
        }
    }
    Ok(())
}

/// The type expression of a schema.
fn type_of(schema: &Value) -> Result<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return Ok(format!("&{name}"));
    }
    let format = schema["format"].as_str();
    Ok(match (schema["type"].as_str(), format) {
        (Some("string"), None) => "s".to_owned(),
        (Some("string"), Some(format)) => format!("s:{format}"),
        (Some("integer"), Some("int32")) => "i32".to_owned(),
        (Some("integer"), _) => "i64".to_owned(),
        (Some("number"), _) => "f64".to_owned(),
        (Some("boolean"), _) => "b".to_owned(),
        (Some("array"), _) => format!("[]{}", type_of(&schema["items"])?),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            format!("{{}}{}", type_of(&schema["additionalProperties"])?)
        }
        (Some("object"), _) => "o".to_owned(),
        (None, _) => "any".to_owned(),
        (Some(other), _) => bail!("unknown type {other}"),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_checked_in_is_up_to_date() {
        let (types, _) = super::generate().unwrap();
        let checked_in = include_str!("../../../libs/api/src/schema/types.txt");
        assert!(types == checked_in, "run hack/generate");
    }
}
