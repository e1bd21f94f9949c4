//! `-o custom-columns`: a table of JSONPath expressions.

use api::jsonpath::{JsonPath, go_format};
use serde_json::Value;

use super::table::TabWriter;
use crate::{
    describe::writer::escape,
    failure::{Failure, plain},
};

/// Headers and what stands under them.
#[derive(Clone, Debug)]
pub struct CustomColumns {
    /// Paths are read when they are used, as upstream does: the headers are printed all the same.
    columns: Vec<(String, Result<JsonPath, String>)>,
    /// `--no-headers`.
    pub no_headers: bool,
}

impl CustomColumns {
    /// `NAME:.metadata.name,RSRC:.metadata.resourceVersion`.
    ///
    /// # Errors
    /// Upstream's complaints.
    pub fn parse(spec: &str) -> Result<Self, Failure> {
        if spec.is_empty() {
            return Err(plain("custom-columns format specified but no custom columns given"));
        }
        let parts = spec.split(',').map(|part| {
            let Some((header, path)) = part.split_once(':') else {
                return Err(plain(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")));
            };
            Ok((header.to_owned(), path.to_owned()))
        });
        Self::of(parts.collect::<Result<_, _>>()?)
    }

    /// A file with a line of headers and a line of paths.
    ///
    /// # Errors
    /// Upstream's complaints.
    pub fn parse_file(text: &str) -> Result<Self, Failure> {
        let mut lines = text.lines();
        let mut line = |what: &str| {
            let line = lines.next().ok_or_else(|| {
                plain(format!(
                    "invalid template, missing {what} line. Expected format is one line of space separated headers, one line of \
                     space separated column specs."
                ))
            })?;
            Ok::<_, Failure>(line.split_whitespace().map(str::to_owned).collect::<Vec<String>>())
        };
        let (headers, paths) = (line("header")?, line("spec")?);
        if headers.len() != paths.len() {
            return Err(plain(format!(
                "number of headers ({}) and field specifications ({}) don't match",
                headers.len(),
                paths.len()
            )));
        }
        Self::of(headers.into_iter().zip(paths).collect())
    }

    fn of(parts: Vec<(String, String)>) -> Result<Self, Failure> {
        let columns = parts.into_iter().map(|(header, path)| {
            let path = api::jsonpath::relaxed(&path).map_err(|e| plain(e.0))?;
            let path = JsonPath::parse(&path).map(|path| path.allow_missing_keys(true)).map_err(|e| e.0);
            Ok((header, path))
        });
        Ok(Self { columns: columns.collect::<Result<_, Failure>>()?, no_headers: false })
    }

    /// An object's row, or the rows of a list's items, under the headers.
    ///
    /// # Errors
    /// If a path does not apply.
    pub fn print(&self, object: &Value) -> Result<String, Failure> {
        let items = match object["items"].as_array() {
            Some(items) if object["kind"].as_str().is_some_and(|k| k.ends_with("List")) => items.iter().collect(),
            _ => vec![object],
        };
        let mut rows: Vec<Vec<String>> = Vec::new();
        if !self.no_headers {
            rows.push(self.columns.iter().map(|(header, _)| header.clone()).collect());
        }
        if let Some(Err(why)) = self.columns.iter().map(|(_, path)| path).find(|path| path.is_err()) {
            print!("{}", TabWriter::default().lines(&rows));
            return Err(plain(why.clone()));
        }
        for item in items {
            let cells = self.columns.iter().filter_map(|(_, path)| path.as_ref().ok()).map(|path| {
                let found: Vec<String> = path.find(item)?.iter().flatten().map(|v| go_format(v)).collect();
                Ok(if found.is_empty() { "<none>".to_owned() } else { escape(&found.join(",")).into_owned() })
            });
            rows.push(cells.collect::<Result<_, api::jsonpath::Error>>()?);
        }
        Ok(TabWriter::default().lines(&rows))
    }
}
