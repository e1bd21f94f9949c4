//! Protobuf's field numbers, the names of types that are no structs and the values of enumerations, read from the Go types that
//! define the Kubernetes API.
//!
//! k8s-openapi's sources know none of them. Numbers never change once given, so what was read is kept in `numbers.txt`
//! (a type a line: its name, then `field=number`, behind it `:v1.Protocol` where Go's type has a name of its own, and behind that
//! `:SCTP|TCP|UDP` where it is an enumeration, with `_` for a space); this
//! reads it anew from checkouts of the Go modules when a version adds fields. A field that JSON shows inside its owner but protobuf in a message of its own has a path (`2.5`), and so has a list
//! whose type has a name (`Verbs`): protobuf makes a message of it whose field 1 is the list. `~` marks fields for which zero is
//! the same as unset.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    rc::Rc,
};

use anyhow::{Context, Result};

/// Paths of numbers by type and field, with `~` where zero is unset, the name of Go's type, and its values.
pub type Numbers = BTreeMap<String, BTreeMap<String, String>>;

/// What is checked in.
pub fn checked_in() -> Numbers {
    let lines = include_str!("../numbers.txt").lines().filter(|l| !l.starts_with('#'));
    let fields = |rest: &str| {
        rest.split(' ').filter_map(|f| f.split_once('=')).map(|(name, path)| (name.to_owned(), path.to_owned())).collect()
    };
    lines.filter_map(|line| line.split_once(' ')).map(|(name, rest)| (name.to_owned(), fields(rest))).collect()
}

struct Field {
    json: String,
    inline: Option<String>,
    number: u32,
    /// Its type as it is written, and where.
    ty: String,
    scope: Rc<Scope>,
    zero_is_unset: bool,
}

/// What names in a file mean.
#[derive(Default)]
struct Scope {
    package: String,
    /// Other packages by the names they have here.
    imports: BTreeMap<String, String>,
}

impl Scope {
    /// A type's package and name.
    fn resolve(&self, ty: &str) -> (String, String) {
        match ty.split_once('.') {
            Some((package, name)) => (self.imports.get(package).cloned().unwrap_or_default(), name.to_owned()),
            None => (self.package.clone(), ty.to_owned()),
        }
    }
}

/// The types of a module.
#[derive(Default)]
struct Types {
    structs: BTreeMap<String, Vec<Field>>,
    /// Types that have a name and are no structs, with what they are.
    named: BTreeMap<String, String>,
    /// Those among them that are marked as enumerations.
    enumerations: BTreeSet<String>,
    /// The constants of such types, sorted.
    constants: BTreeMap<String, BTreeSet<String>>,
}

impl Types {
    /// What is behind a name.
    fn behind(&self, (package, name): &(String, String)) -> Option<&str> {
        self.named.get(&format!("{package}.{name}")).map(String::as_str)
    }

    /// The values of an enumeration, or of one that a list or a map holds.
    fn values(&self, ty: &str, scope: &Scope) -> Option<&BTreeSet<String>> {
        let ty = ty.strip_prefix('*').unwrap_or(ty);
        let held = ty.strip_prefix("[]").or_else(|| ty.strip_prefix("map[")?.split_once(']').map(|(_, value)| value));
        let (package, name) = scope.resolve(held.unwrap_or(ty));
        let name = format!("{package}.{name}");
        if self.enumerations.contains(&name) { self.constants.get(&name) } else { None }
    }

    /// Go's name of a type as its errors tell it, and whether one without a struct is part of it.
    fn go_name(&self, ty: &str, scope: &Scope) -> (String, bool) {
        if let Some(inner) = ty.strip_prefix('*') {
            return self.go_name(inner, scope);
        }
        if let Some(items) = ty.strip_prefix("[]") {
            let (items, named) = self.go_name(items, scope);
            return (format!("[]{items}"), named);
        }
        if let Some((key, value)) = ty.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            let ((key, a), (value, b)) = (self.go_name(key, scope), self.go_name(value, scope));
            return (format!("map[{key}]{value}"), a || b);
        }
        if ty == "byte" {
            return ("uint8".to_owned(), false);
        }
        if ty.starts_with(char::is_lowercase) && !ty.contains('.') {
            return (ty.to_owned(), false);
        }
        let place = scope.resolve(ty);
        let package = place.0.rsplit('.').next().unwrap_or_default();
        (format!("{package}.{}", place.1), self.behind(&place).is_some())
    }
}

/// Reads modules given as `NAME=FOLDER` (`io.k8s.api=../api`) and renders the file for the types in `known`.
pub fn read(modules: &[String], known: &BTreeSet<&str>) -> Result<String> {
    let mut out = String::from(
        "# Protobuf field numbers of API types, names of Go types that are no structs, and values of enumerations, read by `xtask numbers`.\n",
    );
    for module in modules {
        let (name, folder) = module.split_once('=').context("modules are given as NAME=FOLDER")?;
        let mut types = Types::default();
        read_folder(Path::new(folder), name, &mut types)?;
        for name in types.structs.keys() {
            let mut fields = Vec::new();
            flatten(&types, name, "", &mut fields);
            if !fields.is_empty() && known.contains(name.as_str()) {
                writeln!(out, "{name} {}", fields.join(" "))?;
            }
        }
    }
    Ok(out)
}

fn read_folder(folder: &Path, name: &str, types: &mut Types) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let (path, file) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            read_folder(&path, &format!("{name}.{file}"), types)?;
        } else if file.ends_with(".go") && !file.ends_with("_test.go") && !file.contains("generated") {
            read_file(&fs::read_to_string(&path)?, name, types);
        }
    }
    Ok(())
}

fn read_file(text: &str, package: &str, types: &mut Types) {
    let imports = text.lines().filter_map(|line| {
        let (alias, path) = line.trim().strip_suffix('"')?.split_once('"')?;
        let (alias, path) = (alias.trim_start_matches("import").trim(), path.strip_prefix("k8s.io/")?);
        let alias = if alias.is_empty() { path.rsplit('/').next()? } else { alias };
        Some((alias.to_owned(), format!("io.k8s.{}", path.replace('/', "."))))
    });
    let scope = Rc::new(Scope { package: package.to_owned(), imports: imports.collect() });
    let mut current: Option<(String, Vec<Field>)> = None;
    let mut marked = false;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("//") {
            marked |= comment.trim() == "+enum";
            continue;
        }
        let marked = std::mem::take(&mut marked);
        if let Some((ty, value)) = constant(line) {
            types.constants.entry(format!("{package}.{ty}")).or_default().insert(value.to_owned());
        } else if let Some(name) = line.strip_prefix("type ").and_then(|l| l.strip_suffix(" struct {")) {
            current = Some((format!("{package}.{name}"), Vec::new()));
        } else if let Some((name, ty)) = line.strip_prefix("type ").and_then(|l| l.split_once(' ')) {
            if !["=", "interface", "func", "struct"].iter().any(|word| ty.starts_with(word)) {
                types.named.insert(format!("{package}.{name}"), ty.to_owned());
                if marked {
                    types.enumerations.insert(format!("{package}.{name}"));
                }
            }
        } else if line == "}" {
            types.structs.extend(current.take());
        } else if let Some((_, fields)) = &mut current {
            fields.extend(read_field(line.trim(), &scope));
        }
    }
}

/// The type and value of a constant that has a type and is a text: `PodPending PodPhase = "Pending"`, `PathTypeExact =
/// PathType("Exact")`.
fn constant(line: &str) -> Option<(&str, &str)> {
    let (left, right) = line.split_once(" = ")?;
    let (converted, text) = right.split_once('"')?;
    let words: Vec<&str> = left.trim_start_matches("const ").split_whitespace().collect();
    let ty = match (&words[..], converted) {
        ([_, ty], "") => ty,
        ([_], _) => converted.strip_suffix('(')?,
        _ => return None,
    };
    Some((ty, text.split_once('"')?.0))
}

fn tag<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = &line[line.find(&format!("{name}:\""))? + name.len() + 2..];
    rest.split('"').next()
}

fn read_field(line: &str, scope: &Rc<Scope>) -> Option<Field> {
    if line.starts_with("//") {
        return None;
    }
    let (json, proto) = (tag(line, "json")?, tag(line, "protobuf")?);
    let number = proto.split(',').nth(1)?.parse().ok()?;
    let words: Vec<&str> = line.split('`').next()?.split_whitespace().collect();
    let ty = *words.last()?;
    let mut parts = json.split(',');
    let name = parts.next()?.to_owned();
    let flags: Vec<&str> = parts.collect();
    let inline = (name.is_empty() && flags.contains(&"inline")).then(|| format!("{}.{ty}", scope.package));
    let plain = !ty.starts_with(['*', '[']) && !ty.starts_with("map[");
    let zero_is_unset = plain && flags.contains(&"omitempty");
    Some(Field { json: name, inline, number, ty: ty.to_owned(), scope: Rc::clone(scope), zero_is_unset })
}

fn flatten(types: &Types, name: &str, prefix: &str, out: &mut Vec<String>) {
    for field in types.structs.get(name).into_iter().flatten() {
        match &field.inline {
            Some(inner) => flatten(types, inner, &format!("{prefix}{}.", field.number), out),
            None if field.json.is_empty() || field.json == "-" => {}
            None => {
                let list = types.behind(&field.scope.resolve(&field.ty)).is_some_and(|ty| ty.starts_with("[]"));
                let message = if list { ".1" } else { "" };
                let zero = if field.zero_is_unset && !list { "~" } else { "" };
                let go = match types.go_name(&field.ty, &field.scope) {
                    (name, true) => match types.values(&field.ty, &field.scope) {
                        Some(values) => {
                            format!(":{name}:{}", values.iter().map(|v| v.replace(' ', "_")).collect::<Vec<_>>().join("|"))
                        }
                        None => format!(":{name}"),
                    },
                    _ => String::new(),
                };
                out.push(format!("{}={prefix}{}{message}{zero}{go}", field.json, field.number));
            }
        }
    }
}
