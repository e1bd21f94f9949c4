//! `kubectl explain`: the documentation of a resource and its fields, from the server's OpenAPI v3 document of its group and
//! version.

mod older;

use std::collections::BTreeSet;

use api::jsonpath::nodes;
use serde_json::{Value, json};

use crate::{
    client::Call,
    context::Context,
    discovery::{Mapping, split_api_version},
    failure::{Failure, plain},
};

/// What `explain` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The type, and fields after dots.
    #[arg(value_name = "TYPE")]
    pub args: Vec<String>,
    /// Fields of fields too, by name only.
    #[arg(long)]
    pub recursive: bool,
    /// The group and version to explain.
    #[arg(long, default_value = "")]
    pub api_version: String,
    /// plaintext or plaintext-openapiv2.
    #[arg(long, short, default_value = "plaintext")]
    pub output: String,
}

/// Prints documentation.
///
/// # Errors
/// If there is no such resource or field.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    cx.client()?;
    let wanted = match args.args.as_slice() {
        [] => {
            return Err(plain(
                "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.\n",
            ));
        }
        [wanted] => wanted.as_str(),
        _ => return Err(plain("We accept only this format: explain RESOURCE\n")),
    };
    let nodes = nodes(wanted)?;
    let Some(Some(name)) = nodes.first() else { return Err(plain(NO_FIELD_FIRST)) };
    if name.is_empty() {
        return Err(plain("a resource must be present, got: /, Resource="));
    }
    let discovery = cx.discovery()?;
    let found = discovery.find(|catalog| catalog.resource("", "", name).cloned()).await?;
    let Some(mapping) = found else {
        // Upstream shows this one without `error: ` in front.
        let message = format!("the server doesn't have a resource type {}", api::field::go_quote(name));
        return Err(Failure::Verbatim(message, 1));
    };
    discovery.warn_of(name, &mapping);
    let fields = fields(wanted, &nodes, &mapping, !args.api_version.is_empty())?;
    let (group, version) = match args.api_version.as_str() {
        "" => (mapping.group.as_str(), mapping.version.as_str()),
        other => split_api_version(other),
    };
    if args.output == "plaintext-openapiv2" {
        let document = cx.client()?.json(Call::get("/openapi/v2").soon()).await?;
        let page = older::Page::print(&document, args.recursive, (group, version, &mapping.kind), &fields)?;
        print!("{page}");
        return Ok(());
    }
    let at = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
    let not_found = || plain(format!("couldn't find resource for \"{group}/{version}, Resource={}\"", mapping.resource));
    let client = cx.client()?;
    let index = client.json(Call::get("/openapi/v3").soon()).await?;
    let Some(path) = index["paths"][&at]["serverRelativeURL"].as_str() else { return Err(not_found()) };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let call = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .fold(Call::get(path), |call, (name, value)| call.query(name, value));
    let document = client.json(call.soon()).await?;
    if args.output != "plaintext" {
        return Err(plain(format!("unrecognized format: {}", args.output)));
    }
    let known = cx.discovery()?.find(|c| {
        c.mappings.iter().find(|m| m.group == group && m.version == version && m.resource == mapping.resource).cloned()
    });
    let undescribed =
        || plain(format!("GVR ({group}/{version}, Resource={}) not found in OpenAPI schema", mapping.resource));
    let kind = known.await?.ok_or_else(undescribed)?.kind.clone();
    let page = Page { document: &document, recursive: args.recursive };
    print!("{}", page.print(group, version, &kind, &fields)?);
    Ok(())
}

const NO_FIELD_FIRST: &str = "invalid jsonpath syntax, first node must be field node";

/// The fields after a path's resource. Where the path begins with the resource as its group has it (`deployments.apps`), they
/// come after that: only what the bare name stands for is looked at, so `events.events.k8s.io` are core's events.
fn fields(wanted: &str, nodes: &[Option<String>], mapping: &Mapping, versioned: bool) -> Result<Vec<String>, Failure> {
    let names = |nodes: &[Option<String>], wrong| {
        let names: Option<Vec<String>> = nodes.iter().skip(1).cloned().collect();
        names.ok_or_else(|| plain(wrong))
    };
    if versioned {
        return names(nodes, "invalid jsonpath syntax, all nodes must be field nodes");
    }
    match wanted.strip_prefix(&mapping.group_resource()) {
        Some("") => Ok(Vec::new()),
        Some(rest) => names(&api::jsonpath::nodes(rest)?, NO_FIELD_FIRST),
        None => names(nodes, NO_FIELD_FIRST),
    }
}

struct Page<'a> {
    document: &'a Value,
    recursive: bool,
}

/// A schema of a map's values, where it is one.
fn additional(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|a| a.is_object())
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema[name].as_str().unwrap_or_default()
}

fn all_of(schema: &Value) -> &[Value] {
    schema["allOf"].as_array().map(Vec::as_slice).unwrap_or_default()
}

impl<'a> Page<'a> {
    fn print(&self, group: &str, version: &str, kind: &str, fields: &[String]) -> Result<String, Failure> {
        let gvk = json!({"group": group, "version": version, "kind": kind});
        let schemas = self.document["components"]["schemas"].as_object();
        let is_it =
            |schema: &&Value| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.contains(&gvk));
        let Some(schema) = schemas.into_iter().flat_map(|s| s.values()).find(is_it) else {
            return Err(plain(format!("GVK map[group:{group} kind:{kind} version:{version}] not found in OpenAPI schema")));
        };
        let mut out = String::new();
        if !group.is_empty() {
            out.push_str(&format!("GROUP:      {group}\n"));
        }
        out.push_str(&format!("KIND:       {kind}\nVERSION:    {version}\n\n"));
        let body = self.output(schema, fields, &BTreeSet::new());
        if body.is_empty() {
            // Upstream has printed this much by then.
            print!("{out}");
            return Err(plain(format!(
                "field {} does not exist",
                api::field::go_quote(fields.last().map_or("", String::as_str))
            )));
        }
        Ok(out + &body + "\n")
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let Some(path) = text(schema, "$ref").strip_prefix("#/") else { return schema };
        path.split('/').try_fold(self.document, |value, key| value.get(key)).unwrap_or(schema)
    }

    /// What is said of a field below a schema; nothing if there is none.
    fn output(&self, schema: &'a Value, fields: &[String], seen: &BTreeSet<&'a str>) -> String {
        let reference = text(schema, "$ref");
        let resolved = self.resolve(schema);
        let Some((first, rest)) = fields.split_first() else {
            let mut description = self.description(resolved);
            if description.is_empty() {
                description = "<empty>".to_owned();
            }
            let mut out = format!("DESCRIPTION:\n{}\n", indent(&wrap(&description, 76), 4));
            let list = self.field_list(resolved, 1, &BTreeSet::new());
            if !list.is_empty() {
                out.push_str(&format!("FIELDS:\n{list}"));
            }
            return out;
        };
        if !reference.is_empty() && seen.contains(reference) {
            return String::new();
        }
        let mut seen = seen.clone();
        seen.insert(reference);
        if let Some(inner) = resolved["properties"].get(first) {
            let mut out = String::new();
            if rest.is_empty() {
                out.push_str(&format!("FIELD: {first} <{}>\n{}\n\n", self.type_of(inner), enumeration(inner, None)));
            }
            return out + &self.output(inner, rest, &BTreeSet::new());
        }
        if let Some(items) = resolved.get("items") {
            return self.output(items, fields, &seen);
        }
        if let Some(values) = additional(resolved) {
            return self.output(values, fields, &seen);
        }
        all_of(resolved).iter().map(|one| self.output(one, fields, &seen)).find(|o| !o.is_empty()).unwrap_or_default()
    }

    fn description(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        let own = text(schema, "description");
        let mut out = if own.is_empty() { String::new() } else { format!("{own}\n") };
        all_of(schema).iter().for_each(|one| out.push_str(&self.description(one)));
        if let Some(items) = schema.get("items") {
            out.push_str(&self.description(items));
        }
        if let Some(values) = additional(schema) {
            out.push_str(&self.description(values));
        }
        out
    }

    fn field_list(&self, schema: &'a Value, level: usize, seen: &BTreeSet<&'a str>) -> String {
        let reference = text(schema, "$ref");
        if !reference.is_empty() && seen.contains(reference) {
            return String::new();
        }
        let mut seen = seen.clone();
        if !reference.is_empty() {
            seen.insert(reference);
        }
        let resolved = self.resolve(schema);
        let mut out = String::new();
        let mut properties: Vec<(&String, &Value)> = resolved["properties"].as_object().into_iter().flatten().collect();
        properties.sort_by_key(|(name, _)| *name);
        for (name, field) in properties {
            let required = resolved["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name));
            out.push_str(&self.field_detail(name, field, required, level));
            if self.recursive {
                out.push_str(&self.field_list(field, level + 1, &seen));
            }
        }
        all_of(resolved).iter().for_each(|one| out.push_str(&self.field_list(one, level, &seen)));
        if let Some(items) = resolved.get("items") {
            out.push_str(&self.field_list(items, level, &seen));
        }
        if let Some(values) = additional(resolved) {
            out.push_str(&self.field_list(values, level, &seen));
        }
        out
    }

    fn field_detail(&self, name: &str, schema: &'a Value, required: bool, level: usize) -> String {
        let margin = level * 2;
        let required = if required { " -required-" } else { "" };
        let values = enumeration(schema, Some(margin));
        let mut out = format!("{}\t<{}>{required}{values}\n", indent(name, margin), self.type_of(schema));
        if !self.recursive {
            let description = match text(schema, "description") {
                "" => "<no description>",
                description => description,
            };
            out.push_str(&format!("{}\n\n", indent(&wrap(description, 78 - margin.min(70)), margin + 2)));
        }
        out
    }

    /// `string`, `[]Container`, `map[string]string`.
    fn type_of(&self, schema: &'a Value) -> String {
        if let Some(items) = schema.get("items") {
            return format!("[]{}", self.type_of(items));
        }
        if let Some(values) = additional(schema) {
            return format!("map[string]{}", self.type_of(values));
        }
        if let ([one], None) = (all_of(schema), schema.get("properties")) {
            return self.type_of(one);
        }
        let reference = text(schema, "$ref");
        if !reference.is_empty() {
            let resolved = self.resolve(schema);
            return match text(resolved, "type") {
                "" | "object" => reference.rsplit(['/', '.']).next().unwrap_or("Object").to_owned(),
                other => other.to_owned(),
            };
        }
        match text(schema, "type") {
            "" | "object" => "Object".to_owned(),
            other => other.to_owned(),
        }
    }
}

/// A field's possible values: all of them, a line each, or with a margin the first four in one line.
fn enumeration(schema: &Value, margin: Option<usize>) -> String {
    let Some(values) = schema["enum"].as_array().filter(|v| !v.is_empty()) else { return String::new() };
    let shown = |value: &Value| match value.as_str() {
        Some("") => "\"\"".to_owned(),
        _ => api::jsonpath::go_format(value),
    };
    match margin {
        None => format!("ENUM:{}", values.iter().map(|v| format!("\n    {}", shown(v))).collect::<String>()),
        Some(margin) => {
            let listed: Vec<String> = values.iter().take(4).map(shown).collect();
            let more = if values.len() > 4 { ", ...." } else { "" };
            format!("\n{}enum: {}{more}", " ".repeat(margin), listed.join(", "))
        }
    }
}

fn indent(text: &str, amount: usize) -> String {
    let margin = " ".repeat(amount);
    format!("{margin}{}", text.replace('\n', &format!("\n{margin}")))
}

/// Breaks lines between words so that they are not longer than a limit. Lines that were broken before stay so.
fn wrap(text: &str, limit: usize) -> String {
    let (mut out, mut word, mut space) = (String::new(), String::new(), String::new());
    let (mut current, mut word_length, mut space_length) = (0, 0, 0);
    for c in text.chars() {
        if c == '\n' {
            if word.is_empty() {
                if current + space_length <= limit {
                    out.push_str(&space);
                }
            } else {
                out.push_str(&space);
                out.push_str(&word);
            }
            space.clear();
            word.clear();
            (current, word_length, space_length) = (0, 0, 0);
            out.push(c);
        } else if c.is_whitespace() && c != '\u{a0}' {
            if space.is_empty() || !word.is_empty() {
                current += space_length + word_length;
                out.push_str(&space);
                out.push_str(&word);
                space.clear();
                word.clear();
                (word_length, space_length) = (0, 0);
            }
            space.push(c);
            space_length += 1;
        } else {
            word.push(c);
            word_length += 1;
            if current + word_length + space_length > limit && word_length < limit {
                out.push('\n');
                current = 0;
                space.clear();
                space_length = 0;
            }
        }
    }
    if word.is_empty() {
        if current + space_length <= limit {
            out.push_str(&space);
        }
    } else {
        out.push_str(&space);
        out.push_str(&word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrap("aa bb cc", 5), "aa bb\ncc");
        assert_eq!(wrap("aa\nbb", 5), "aa\nbb");
        assert_eq!(wrap("aaaaaaaaaa b", 5), "aaaaaaaaaa\nb");
    }

    #[test]
    fn pages_have_upstreams_layout() {
        let document = json!({"components": {"schemas": {
            "x.Thing": {"type": "object", "description": "A thing.", "required": ["spec"], "x-kubernetes-group-version-kind": [
                {"group": "g", "version": "v1", "kind": "Thing"}],
                "properties": {"spec": {"description": "Wish.", "allOf": [{"$ref": "#/components/schemas/x.Spec"}]}}},
            "x.Spec": {"type": "object", "description": "The wish.", "properties": {
                "mode": {"type": "string", "enum": ["A", "", "C", "D", "E"]}, "tags": {"type": "array", "items": {"type": "string"}}}},
        }}});
        let page = |recursive, fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|f| (*f).to_owned()).collect();
            Page { document: &document, recursive }.print("g", "v1", "Thing", &fields).unwrap_or_else(|e| e.to_string())
        };
        let head = "GROUP:      g\nKIND:       Thing\nVERSION:    v1\n\n";
        assert_eq!(
            page(false, &[]),
            format!("{head}DESCRIPTION:\n    A thing.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    Wish.\n\n\n")
        );
        assert_eq!(
            page(true, &[]),
            format!(
                "{head}DESCRIPTION:\n    A thing.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    mode\t<string>\n    enum: A, \"\", C, D, ....\n    tags\t<[]string>\n\n"
            )
        );
        assert_eq!(
            page(false, &["spec", "mode"]),
            format!(
                "{head}FIELD: mode <string>\nENUM:\n    A\n    \"\"\n    C\n    D\n    E\n\nDESCRIPTION:\n    <empty>\n\n"
            )
        );
        assert_eq!(page(false, &["spec", "none"]), "error: field \"none\" does not exist");
    }
}
