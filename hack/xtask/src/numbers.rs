//! Protobuf's field numbers, read from the struct tags of the Go types that define the Kubernetes API.
//!
//! k8s-openapi's sources know no numbers. They never change once given, so what was read is kept in `numbers.txt`
//! (a type a line: its name, then `field=number`); this reads it anew from checkouts of the Go modules when a version adds
//! fields. A field that JSON shows inside its owner but protobuf in a message of its own has a path (`2.5`), and so has a list
//! whose type has a name (`Verbs`): protobuf makes a message of it whose field 1 is the list. `~` marks fields for which zero is
//! the same as unset.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context, Result};

/// Paths of numbers by type and field, with `~` where zero is unset.
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
    /// Its type, with the package.
    ty: String,
    zero_is_unset: bool,
}

/// The types of a module.
#[derive(Default)]
struct Types {
    structs: BTreeMap<String, Vec<Field>>,
    /// Lists that have a name.
    lists: BTreeSet<String>,
}

/// Reads modules given as `NAME=FOLDER` (`io.k8s.api=../api`) and renders the file for the types in `known`.
pub fn read(modules: &[String], known: &BTreeSet<&str>) -> Result<String> {
    let mut out = String::from("# Protobuf field numbers of API types, read by `xtask numbers`.\n");
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
    let mut current: Option<(String, Vec<Field>)> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("type ").and_then(|l| l.strip_suffix(" struct {")) {
            current = Some((format!("{package}.{name}"), Vec::new()));
        } else if let Some((name, _)) = line.strip_prefix("type ").and_then(|l| l.split_once(" []")) {
            types.lists.insert(format!("{package}.{name}"));
        } else if line == "}" {
            types.structs.extend(current.take());
        } else if let Some((_, fields)) = &mut current {
            fields.extend(read_field(line.trim(), package));
        }
    }
}

fn tag<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = &line[line.find(&format!("{name}:\""))? + name.len() + 2..];
    rest.split('"').next()
}

fn read_field(line: &str, package: &str) -> Option<Field> {
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
    let inline = (name.is_empty() && flags.contains(&"inline")).then(|| format!("{package}.{ty}"));
    let plain = !ty.starts_with(['*', '[']) && !ty.starts_with("map[");
    let ty = format!("{package}.{ty}");
    Some(Field { json: name, inline, number, ty, zero_is_unset: plain && flags.contains(&"omitempty") })
}

fn flatten(types: &Types, name: &str, prefix: &str, out: &mut Vec<String>) {
    for field in types.structs.get(name).into_iter().flatten() {
        match &field.inline {
            Some(inner) => flatten(types, inner, &format!("{prefix}{}.", field.number), out),
            None if field.json.is_empty() || field.json == "-" => {}
            None if types.lists.contains(&field.ty) => out.push(format!("{}={prefix}{}.1", field.json, field.number)),
            None => {
                let zero = if field.zero_is_unset { "~" } else { "" };
                out.push(format!("{}={prefix}{}{zero}", field.json, field.number));
            }
        }
    }
}
