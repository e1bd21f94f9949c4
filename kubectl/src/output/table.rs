//! Aligned columns, and the server's tables.

use serde_json::{Map, Value};

use super::tabs::Tabs;
use crate::discovery::{Mapping, type_name};

/// Columns as kubectl's tab writer aligns them: at least six wide, three spaces between, the last one as long as it is.
/// Widths are remembered, so that what is printed later (a watch) stays in line.
#[derive(Clone, Debug)]
pub struct TabWriter(Tabs);

impl Default for TabWriter {
    fn default() -> Self {
        Self(Tabs { least: 6, padding: 3, remembered: Some(Vec::new()) })
    }
}

impl TabWriter {
    /// Rows of cells as lines. Tabs in a cell make several of it, newlines several rows.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        let text: String = rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect();
        self.0.align(&text)
    }
}

/// What is shown besides the server's columns.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// No line of headers.
    pub no_headers: bool,
    /// Columns of lesser priority too.
    pub wide: bool,
    /// The namespace as the first column.
    pub with_namespace: bool,
    /// `pod/` before names; group and kind.
    pub with_kind: Option<(String, String)>,
    /// Labels with a column of their own.
    pub label_columns: Vec<String>,
    /// All labels in the last column.
    pub show_labels: bool,
}

/// Prints tables of one kind, one after another, under one line of headers.
#[derive(Clone, Debug, Default)]
pub struct TablePrinter {
    options: Options,
    columns: Vec<Value>,
    printed_headers: bool,
}

fn column(name: &str) -> Value {
    Value::Object(Map::from_iter([("name".to_owned(), name.into()), ("type".to_owned(), "string".into())]))
}

/// Text for a terminal: nothing that moves the cursor.
pub fn escaped(text: &str) -> String {
    text.replace('\u{1b}', "^[").replace('\r', "\\r")
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => match text.find(['\n', '\r', '\u{c}']) {
            Some(at) => format!("{}...", escaped(&text[..at])),
            None => escaped(text),
        },
        other => escaped(&api::jsonpath::go_format(other)),
    }
}

/// `a=1,b=2`, `<none>`.
pub fn labels_text(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn event_text(event: &str) -> String {
    format!("{event:8}")
}

impl TablePrinter {
    /// A printer that has printed nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// The rows of a table (or of objects that the server made no table of), headers first if they are due. `event` is what a
    /// watch said.
    pub fn rows(&mut self, table: &Value, event: Option<&str>, now: jiff::Timestamp) -> Vec<Vec<String>> {
        let made;
        let table = if table["kind"] == "Table" {
            table
        } else {
            made = plain_table(table, now);
            &made
        };
        let rows = table["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
        let mut headers = !self.options.no_headers;
        if self.printed_headers && (own.is_empty() || own == self.columns) {
            headers = false;
        }
        if !own.is_empty() && own != self.columns {
            self.columns = own;
            self.printed_headers = false;
        }
        if !rows.is_empty() {
            self.printed_headers = true;
        }
        let columns = self.shown_columns(event.is_some());
        let mut out = Vec::new();
        if headers && !rows.is_empty() {
            let names = columns.iter().filter(|c| self.shows(c));
            out.push(names.map(|c| c["name"].as_str().unwrap_or_default().to_uppercase()).collect());
        }
        for row in rows {
            let cells = self.cells(row, event);
            let shown = columns.iter().zip(&cells).filter(|(c, _)| self.shows(c));
            out.push(shown.map(|(_, cell)| cell_text(cell)).collect());
        }
        out
    }

    fn shows(&self, column: &Value) -> bool {
        self.options.wide || column["priority"].as_i64().unwrap_or_default() == 0
    }

    fn shown_columns(&self, event: bool) -> Vec<Value> {
        let mut columns = Vec::new();
        if event {
            columns.push(column("Event"));
        }
        if self.options.with_namespace {
            columns.push(column("Namespace"));
        }
        columns.extend(self.columns.iter().cloned());
        let short = |label: &String| label.rsplit('/').next().unwrap_or_default().to_uppercase();
        columns.extend(self.options.label_columns.iter().map(|label| column(&short(label))));
        if self.options.show_labels {
            columns.push(column("Labels"));
        }
        columns
    }

    fn cells(&self, row: &Value, event: Option<&str>) -> Vec<Value> {
        let metadata = &row["object"]["metadata"];
        let mut own = row["cells"].as_array().cloned().unwrap_or_default();
        own.resize(self.columns.len(), Value::Null);
        if let Some((group, kind)) = &self.options.with_kind
            && let Some(at) = self.columns.iter().position(|c| c["format"] == "name" && c["type"] == "string")
        {
            own[at] = format!("{}/{}", type_name(group, kind), own[at].as_str().unwrap_or_default()).into();
        }
        let mut cells: Vec<Value> = event.map(|e| Value::from(event_text(e))).into_iter().collect();
        if self.options.with_namespace {
            cells.push(metadata["namespace"].clone());
        }
        cells.extend(own);
        for label in &self.options.label_columns {
            cells.push(metadata["labels"][label].clone());
        }
        if self.options.show_labels {
            cells.push(labels_text(&metadata["labels"]).into());
        }
        cells
    }
}

/// The table of an object or list that the server made none of: names and ages.
fn plain_table(object: &Value, now: jiff::Timestamp) -> Value {
    let items = object["items"].as_array().cloned().unwrap_or_else(|| vec![object.clone()]);
    let rows: Vec<Value> = items
        .into_iter()
        .map(|item| {
            let created: Option<jiff::Timestamp> =
                item["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse().ok());
            let cells = [item["metadata"]["name"].clone(), api::duration::age(created, now).into()];
            serde_json::json!({"cells": cells, "object": item})
        })
        .collect();
    serde_json::json!({
        "kind": "Table",
        "columnDefinitions": [{"name": "Name", "type": "string", "format": "name"}, {"name": "Age", "type": "string"}],
        "rows": rows,
    })
}

/// Whether a mapping's kind is what [`Options::with_kind`] wants.
pub fn kind_of(mapping: &Mapping) -> (String, String) {
    (mapping.group.clone(), mapping.kind.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["NAME", "A", "AGE"], ["web-0123456789", "x", "5m"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(TabWriter::default().lines(&rows), "NAME             A     AGE\nweb-0123456789   x     5m\n");
    }

    #[test]
    fn tables_are_decorated() {
        let table = json!({"kind": "Table", "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "priority": 0}, {"name": "Node", "type": "string", "priority": 1}],
            "rows": [{"cells": ["a", "n"], "object": {"metadata": {"namespace": "ns", "labels": {"x/app": "w"}}}}]});
        let options = Options {
            with_namespace: true,
            with_kind: Some(("apps".to_owned(), "Deployment".to_owned())),
            label_columns: vec!["x/app".to_owned()],
            show_labels: true,
            ..Options::default()
        };
        let mut printer = TablePrinter::new(options);
        let now = jiff::Timestamp::UNIX_EPOCH;
        let want = [vec!["NAMESPACE", "NAME", "APP", "LABELS"], vec!["ns", "deployment.apps/a", "w", "x/app=w"]];
        assert_eq!(printer.rows(&table, None, now), want);
        assert_eq!(printer.rows(&table, None, now).len(), 1);
    }
}
