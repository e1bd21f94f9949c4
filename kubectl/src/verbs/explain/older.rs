//! `-o plaintext-openapiv2`: the page as older clients made it, from the server's OpenAPI v2 document.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::failure::{Failure, plain};

/// Where lines end.
const WIDTH: usize = 80;

/// What a schema is.
enum Shape<'a> {
    Reference(&'a str, &'a Value),
    Array(&'a Value),
    /// A type with fields.
    Kind,
    Map(Option<&'a Value>),
    Primitive(&'a str),
    /// Anything at all.
    Arbitrary,
}

/// A document, and the page that is being made of it.
pub struct Page<'a> {
    document: &'a Value,
    recursive: bool,
    out: String,
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema[name].as_str().unwrap_or_default()
}

impl<'a> Page<'a> {
    /// The page of a kind's field.
    ///
    /// # Errors
    /// There is no such kind or field; what there was to print by then is printed.
    pub fn print(
        document: &'a Value,
        recursive: bool,
        (group, version, kind): (&str, &str, &str),
        fields: &[String],
    ) -> Result<String, Failure> {
        let mut page = Page { document, recursive, out: String::new() };
        let gvk = serde_json::json!({"group": group, "version": version, "kind": kind});
        let definitions = document["definitions"].as_object();
        let is_it =
            |schema: &&Value| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.contains(&gvk));
        let Some(schema) = definitions.into_iter().flat_map(|all| all.values()).find(is_it) else {
            let full = if group.is_empty() { format!("/{version}") } else { format!("{group}/{version}") };
            return Err(plain(format!("couldn't find resource for \"{full}, Kind={kind}\"")));
        };
        let found = page.find(schema, fields).map_err(plain)?;
        let shown = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let head = format!("KIND:     {kind}\nVERSION:  {shown}\n\n");
        page.model(found, &head, fields.last().map_or("", String::as_str), None, Vec::new());
        Ok(page.out)
    }

    fn shape(&self, schema: &'a Value) -> Shape<'a> {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.trim_start_matches("#/definitions/");
            return Shape::Reference(name, &self.document["definitions"][name]);
        }
        match text(schema, "type") {
            "array" => Shape::Array(&schema["items"]),
            "object" | "" if schema["properties"].is_object() => Shape::Kind,
            "object" => Shape::Map(schema.get("additionalProperties").filter(|inner| inner.is_object())),
            "" => Shape::Arbitrary,
            primitive => Shape::Primitive(primitive),
        }
    }

    fn find(&self, schema: &'a Value, path: &[String]) -> Result<&'a Value, String> {
        let Some((first, rest)) = path.split_first() else { return Ok(schema) };
        match self.shape(schema) {
            Shape::Reference(_, inner) | Shape::Array(inner) | Shape::Map(Some(inner)) => self.find(inner, path),
            Shape::Map(None) | Shape::Primitive(_) | Shape::Arbitrary => Ok(schema),
            Shape::Kind => match schema["properties"].get(first) {
                Some(field) => self.find(field, rest),
                None => Err(format!("field {} does not exist", api::field::go_quote(first))),
            },
        }
    }

    fn type_of(&self, schema: &'a Value) -> String {
        match self.shape(schema) {
            Shape::Reference(_, inner) => self.type_of(inner),
            Shape::Array(inner) => format!("[]{}", self.type_of(inner)),
            Shape::Map(inner) => format!("map[string]{}", inner.map(|inner| self.type_of(inner)).unwrap_or_default()),
            Shape::Kind => "Object".to_owned(),
            Shape::Primitive(name) => name.to_owned(),
            Shape::Arbitrary => String::new(),
        }
    }

    /// The page from a schema on; what stands around the type (lists, references) only adds its descriptions.
    fn model(&mut self, schema: &'a Value, head: &str, name: &str, of_type: Option<String>, mut said: Vec<&'a str>) {
        let description = text(schema, "description");
        match self.shape(schema) {
            Shape::Reference(_, inner) => {
                said.push(description);
                self.model(inner, head, name, of_type, said);
            }
            Shape::Array(inner) | Shape::Map(Some(inner)) => {
                said.push(description);
                let of_type = of_type.or_else(|| Some(self.type_of(schema)));
                self.model(inner, head, name, of_type, said);
            }
            Shape::Kind => {
                self.out.push_str(head);
                let of_type = of_type.unwrap_or_else(|| self.type_of(schema));
                if !name.is_empty() {
                    self.out.push_str(&format!("RESOURCE: {name} <{of_type}>\n\n"));
                }
                said.push(description);
                self.descriptions(&said);
                self.out.push_str("\nFIELDS:\n");
                match self.recursive {
                    true => self.names(schema, 3, &mut BTreeSet::new()),
                    false => self.fields(schema),
                }
            }
            Shape::Primitive(_) => {
                self.out.push_str(head);
                let of_type = of_type.unwrap_or_else(|| self.type_of(schema));
                self.out.push_str(&format!("FIELD:    {name} <{of_type}>\n\n"));
                said.push(description);
                self.descriptions(&said);
            }
            shape @ (Shape::Map(None) | Shape::Arbitrary) => {
                self.out.push_str(head);
                if matches!(shape, Shape::Map(_)) {
                    // The map says it, and so does what it holds.
                    said.push(description);
                }
                said.push(description);
                self.descriptions(&said);
            }
        }
    }

    fn line(&mut self, indent: usize, text: &str) {
        if !text.is_empty() {
            self.out.extend(std::iter::repeat_n(' ', indent));
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn wrapped(&mut self, indent: usize, text: &str) {
        for line in wrap(text, WIDTH - indent) {
            self.line(indent, &line);
        }
    }

    fn descriptions(&mut self, all: &[&str]) {
        self.line(0, "DESCRIPTION:");
        for (at, description) in all.iter().enumerate().filter(|(_, description)| !description.is_empty()) {
            if at > 0 {
                self.line(0, "");
            }
            self.wrapped(5, description);
        }
        if all.iter().all(|description| description.is_empty()) {
            self.wrapped(5, "<empty>");
        }
    }

    fn sorted(schema: &'a Value) -> Vec<(&'a String, &'a Value)> {
        let mut fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
        fields.sort_by_key(|(name, _)| *name);
        fields
    }

    fn fields(&mut self, schema: &'a Value) {
        for (name, field) in Self::sorted(schema) {
            let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
            let required = if required { " -required-" } else { "" };
            let of_type = self.type_of(field);
            self.line(3, &format!("{name}\t<{of_type}>{required}"));
            self.wrapped(5, text(field, "description"));
            self.line(0, "");
        }
    }

    /// Fields of fields by name; a type inside of itself is not gone into again.
    fn names(&mut self, schema: &'a Value, indent: usize, inside: &mut BTreeSet<&'a str>) {
        match self.shape(schema) {
            Shape::Reference(name, inner) if inside.insert(name) => {
                self.names(inner, indent, inside);
                inside.remove(name);
            }
            Shape::Array(inner) | Shape::Map(Some(inner)) => self.names(inner, indent, inside),
            Shape::Kind => {
                for (name, field) in Self::sorted(schema) {
                    let of_type = self.type_of(field);
                    self.line(indent, &format!("{name}\t<{of_type}>"));
                    self.names(field, indent + 3, inside);
                }
            }
            _ => {}
        }
    }
}

/// Whether a line looks like the beginning of an item of a list.
fn is_item(line: &str) -> bool {
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let after = match line.len() - digits.len() {
        0 => line.strip_prefix(['-', '*']),
        _ => Some(digits.strip_prefix('.').unwrap_or(digits)),
    };
    after.is_some_and(|after| after.starts_with(char::is_whitespace))
}

/// Words in lines of a width; empty lines, code and lists stay apart.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut out, mut line): (Vec<String>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut last = "";
    fn flush<'a>(line: &mut Vec<&'a str>, last: &mut &'a str, out: &mut Vec<String>) {
        if !line.is_empty() {
            *last = "";
            out.push(line.join(" "));
            line.clear();
        }
    }
    for source in text.split('\n') {
        if source.starts_with("    ") {
            flush(&mut line, &mut last, &mut out);
            out.push(source.to_owned());
            continue;
        }
        let trimmed = source.trim();
        if !out.is_empty() && trimmed.is_empty() {
            flush(&mut line, &mut last, &mut out);
            out.push(String::new());
            continue;
        }
        if last.ends_with(':') || trimmed.is_empty() || is_item(trimmed) {
            flush(&mut line, &mut last, &mut out);
        }
        for word in source.split_whitespace() {
            last = word;
            let length = line.iter().map(|word| word.len() + 1).sum::<usize>() + word.len();
            if !line.is_empty() && length > width {
                flush(&mut line, &mut last, &mut out);
            }
            line.push(word);
        }
    }
    flush(&mut line, &mut last, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_have_the_older_layout() {
        let document = json!({"definitions": {
            "Thing": {"type": "object", "description": "A thing.", "required": ["spec"],
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Thing"}],
                "properties": {"spec": {"description": "Wish.", "$ref": "#/definitions/Spec"}}},
            "Spec": {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}},
        }});
        let page = |recursive, fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|f| (*f).to_owned()).collect();
            Page::print(&document, recursive, ("", "v1", "Thing"), &fields).unwrap_or_else(|e| e.to_string())
        };
        let head = "KIND:     Thing\nVERSION:  v1\n\n";
        assert_eq!(
            page(false, &[]),
            format!("{head}DESCRIPTION:\n     A thing.\n\nFIELDS:\n   spec\t<Object> -required-\n     Wish.\n\n")
        );
        assert_eq!(
            page(true, &["spec"]),
            format!("{head}RESOURCE: spec <Object>\n\nDESCRIPTION:\n     Wish.\n\nFIELDS:\n   tags\t<[]string>\n")
        );
        assert_eq!(page(false, &["none"]), "error: field \"none\" does not exist");
    }

    #[test]
    fn lists_and_code_stay_apart() {
        assert_eq!(wrap("a b\nc:\nd\n- e\n    code\n\nf", 10), ["a b c:", "d", "- e", "    code", "", "f"]);
    }
}
