//! Files, directories, stdin and URLs: documents in YAML or JSON.

use std::path::{Component, Path, PathBuf};

use api::{
    field::go_quote,
    schema::json::{self, First},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    client::{Call, Client, Endpoint, tls},
    failure::{Failure, file_error, plain},
    kustomize,
};

/// `-f`, `-k` and `-R`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FileArgs {
    /// Files, directories or URLs that hold the resources; - is stdin.
    #[arg(long, short = 'f', value_delimiter = ',')]
    pub filename: Vec<String>,
    /// A directory with a kustomization.
    #[arg(long, short = 'k')]
    pub kustomize: Option<String>,
    /// Process the directories of -f with everything below them.
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

/// `-f` and `-R`, of verbs that know no kustomizations and go down into directories unless told otherwise.
#[derive(clap::Args, Clone, Debug)]
pub struct PlainFileArgs {
    /// Files, directories or URLs that hold the resources; - is stdin.
    #[arg(long, short = 'f', value_delimiter = ',')]
    filename: Vec<String>,
    /// Process the directories of -f with everything below them.
    #[arg(long, short = 'R', default_value = "true", action = clap::ArgAction::SetTrue)]
    recursive: bool,
}

impl From<&PlainFileArgs> for FileArgs {
    fn from(args: &PlainFileArgs) -> Self {
        Self { filename: args.filename.clone(), kustomize: None, recursive: args.recursive }
    }
}

/// A document and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its content.
    pub value: Value,
    /// How JSON says it, for messages; YAML is told as what it comes to.
    pub text: Option<String>,
    /// The file, `STDIN` or URL.
    pub source: String,
    /// The number of the text that it is part of.
    pub stream: usize,
}

/// What files hold.
#[derive(Debug, Default)]
pub struct Read {
    /// In order.
    pub documents: Vec<Document>,
    /// What could not be read or is no YAML.
    pub failures: Vec<Unread>,
    /// Whether one file was named.
    pub single: bool,
    /// How many texts have been read.
    streams: usize,
}

/// Something that could not be read.
#[derive(Debug)]
pub struct Unread {
    /// Why.
    pub why: Failure,
    /// How many documents came before it.
    pub at: usize,
    /// The number of the text that it is about.
    pub stream: usize,
}

const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

impl FileArgs {
    /// Whether neither files nor a kustomization are named.
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    /// Upstream's check of verbs that need files.
    ///
    /// # Errors
    /// If there are none.
    pub fn require(&self) -> Result<(), Failure> {
        if self.is_empty() { Err(plain("must specify one of -f and -k")) } else { self.validate() }
    }

    /// Refuses wrong combinations.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), Failure> {
        match (&self.kustomize, self.filename.is_empty(), self.recursive) {
            (Some(_), false, _) => Err(plain("only one of -f or -k can be specified")),
            (Some(_), _, true) => Err(plain("the -k flag can't be used with -f or -R")),
            _ => Ok(()),
        }
    }

    /// What is wrong with paths: they are not there, or hold nothing.
    pub fn check(&self) -> Vec<Failure> {
        let local = |name: &&String| *name != "-" && !name.starts_with("http://") && !name.starts_with("https://");
        self.filename.iter().filter(local).filter_map(|name| self.expand(name).err()).collect()
    }

    /// Reads everything. What is wrong with one document does not keep others from being read.
    ///
    /// # Errors
    /// If a path is not there or a directory holds nothing to read.
    pub async fn read(&self) -> Result<Read, Failure> {
        let mut out = Read { single: self.filename.len() == 1, ..Read::default() };
        if let Some(directory) = self.kustomize.as_deref() {
            out.single = true;
            match kustomize::build(directory, false) {
                Ok(built) => out.take(built.text.as_bytes(), directory),
                Err(failure) => out.failed(failure),
            }
        }
        let mut stdin_used = false;
        for name in &self.filename {
            if name == "-" {
                if std::mem::replace(&mut stdin_used, true) {
                    return Err(plain("standard input cannot be used for multiple arguments"));
                }
                let mut text = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut text)?;
                out.single = false;
                out.take(&text, "STDIN");
            } else if name.starts_with("http://") || name.starts_with("https://") {
                let text = read_url(name).await?;
                out.take(&text, name);
            } else {
                let files = self.expand(name)?;
                out.single &= files.len() == 1;
                for file in files {
                    let source = file.display().to_string();
                    match std::fs::read(&file) {
                        Ok(text) => out.take(&text, &source),
                        Err(error) => {
                            out.streams += 1;
                            out.failed(file_error("open", &source, &error));
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    /// The files of a path or pattern, in order of their names.
    fn expand(&self, name: &str) -> Result<Vec<PathBuf>, Failure> {
        let missing = || plain(format!("the path {} does not exist", go_quote(name)));
        let mut roots = vec![PathBuf::from(name)];
        if std::fs::metadata(name).is_err() {
            roots = glob(name);
            if roots.is_empty() {
                return Err(missing());
            }
        }
        let mut files = Vec::new();
        for root in &roots {
            let metadata = std::fs::metadata(root).map_err(|_| missing())?;
            if metadata.is_dir() {
                walk(root, self.recursive, &mut files).map_err(|e| {
                    plain(format!("error reading {}: {}", go_quote(&root.display().to_string()), crate::failure::go_io(&e)))
                })?;
            } else {
                files.push(root.clone());
            }
        }
        if files.is_empty() {
            return Err(plain(format!("error reading [{name}]: recognized file extensions are [.json .yaml .yml]")));
        }
        Ok(files)
    }
}

impl Read {
    fn failed(&mut self, failure: Failure) {
        self.failures.push(Unread { why: failure, at: self.documents.len(), stream: self.streams });
    }

    fn take(&mut self, text: &[u8], source: &str) {
        self.streams += 1;
        let stream = self.streams;
        for document in contents_in(text) {
            match document {
                Ok((value, text)) => self.documents.push(Document { value, text, source: source.to_owned(), stream }),
                Err(why) => {
                    self.failed(plain(format!("error parsing {source}: {why}")));
                    return;
                }
            }
        }
    }
}

fn walk(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let clean = |entry: std::io::Result<std::fs::DirEntry>| entry.map(|entry| cleaned(&entry.path()));
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)?.map(clean).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                walk(&entry, recursive, files)?;
            }
        } else if entry.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e)) {
            files.push(entry);
        }
    }
    Ok(())
}

/// A path without detours, as Go joins paths: `./a/../b//c` is `b/c`, `/../a` is `/a`.
pub fn cleaned(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => drop(out.pop()),
            Component::ParentDir if out.has_root() => {}
            part => out.push(part),
        }
    }
    out
}

/// Paths that fit a pattern with `*`, `?` and `[...]` in any of its parts.
fn glob(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![if pattern.starts_with('/') { PathBuf::from("/") } else { PathBuf::new() }];
    for part in pattern.split('/').filter(|p| !p.is_empty()) {
        let mut next = Vec::new();
        for base in &found {
            if !part.contains(['*', '?', '[']) {
                next.extend(Some(base.join(part)).filter(|p| p.exists()));
                continue;
            }
            let directory = if base.as_os_str().is_empty() { Path::new(".") } else { base.as_path() };
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
            names.sort();
            next.extend(names.iter().filter(|n| fits(part, n)).map(|n| base.join(n)));
        }
        found = next;
    }
    found
}

/// Whether a name fits a pattern of one path part.
fn fits(pattern: &str, name: &str) -> bool {
    let mut expression = String::from("^");
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        match c {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' => expression.push('['),
            ']' => expression.push(']'),
            '-' | '^' => expression.push(c),
            '\\' => expression.extend(characters.next().map(|c| regex::escape(&c.to_string()))),
            c => expression.push_str(&regex::escape(&c.to_string())),
        }
    }
    expression.push('$');
    regex::Regex::new(&expression).is_ok_and(|r| r.is_match(name))
}

/// The documents of a text: YAML between `---` lines, or JSON values one after another. Empty ones are left out; after the
/// first that does not parse comes nothing.
pub fn documents_in(text: &[u8]) -> Vec<Result<Value, String>> {
    contents_in(text).into_iter().map(|content| content.map(|(value, _)| value)).collect()
}

/// A document, and how JSON says it.
type Content = (Value, Option<String>);

fn contents_in(text: &[u8]) -> Vec<Result<Content, String>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let Ok(text) = std::str::from_utf8(text) else {
        let why = api::schema::yaml::parse(text).err().unwrap_or_default();
        return vec![Err(format!("error converting YAML to JSON: {why}"))];
    };
    if text.trim_start().starts_with('{') {
        return json_in(text);
    }
    let mut out = Vec::new();
    for document in split(text) {
        match api::schema::yaml::parse(document.as_bytes()) {
            Ok(parsed) if parsed.value.is_null() => {}
            Ok(parsed) => out.push(Ok((parsed.value, None))),
            Err(error) => {
                out.push(Err(format!("error converting YAML to JSON: {error}")));
                return out;
            }
        }
    }
    out
}

/// JSON values one after another.
fn json_in(text: &str) -> Vec<Result<Content, String>> {
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        match json::first(&text.as_bytes()[at..]) {
            First::Value(Value::Null, length) => at += length,
            First::Value(value, length) => {
                out.push(Ok((value, text.get(at..at + length).map(|text| text.trim().to_owned()))));
                at += length;
            }
            First::Nothing => return out,
            First::Cut => {
                out.push(Err("unexpected EOF".to_owned()));
                return out;
            }
            First::Wrong(error, offset) => {
                out.push(Err(format!("json: offset {}: {error}", at + offset)));
                return out;
            }
        }
    }
}

/// Splits at lines that begin with `---` (what follows on such a line is dropped, as upstream does).
fn split(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        let rest = line.strip_prefix("---").map(str::trim);
        if rest.is_some_and(|r| r.is_empty() || r.starts_with('#')) {
            out.push(&text[start..at]);
            start = end;
        }
        at = end;
    }
    out.push(&text[start..]);
    out.retain(|d| d.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    out
}

/// Downloads a URL, three times at most.
///
/// # Errors
/// What the server said, or why it could not be reached.
pub async fn read_url(url: &str) -> Result<Vec<u8>, Failure> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = match rest.find('/') {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, "/"),
    };
    let default = if scheme == "https" { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls = if scheme == "https" { Some(std::sync::Arc::new(tls::config(&tls::Material::default())?)) } else { None };
    let (scheme, authority) = (scheme.to_owned(), authority.to_owned());
    let client = Client::new(Endpoint { scheme, authority, host, port, tls, ..Endpoint::default() });
    let mut last = plain(format!("unable to read URL {}", go_quote(url)));
    for attempt in 0..3 {
        if attempt > 0 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        match client.raw(Call::get(path)).await {
            Ok(answer) if answer.status == http::StatusCode::OK => return Ok(answer.body.to_vec()),
            Ok(answer) => {
                let code = answer.status.as_u16();
                last = plain(format!(
                    "unable to read URL {}, server reported {}, status code={code}",
                    go_quote(url),
                    answer.status
                ));
                if code < 500 {
                    break;
                }
            }
            Err(other) => return Err(other),
        }
    }
    Err(last)
}

/// Parses JSON or YAML given on a command line (patches).
///
/// # Errors
/// If it is neither.
pub fn parse_text(text: &str) -> Result<Value, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    match Value::deserialize(&mut json) {
        Ok(value) if json.end().is_ok() => Ok(value),
        _ => api::schema::yaml::parse(text.as_bytes()).map(|p| p.value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_take_no_detours() {
        for (path, want) in
            [("./a.yaml", "a.yaml"), ("d//x/../b", "d/b"), ("../a", "../a"), ("/../a", "/a"), ("a/./b", "a/b")]
        {
            assert_eq!(cleaned(Path::new(path)), Path::new(want), "{path}");
        }
    }

    #[test]
    fn streams_hold_documents() {
        let values = |text: &str| documents_in(text.as_bytes()).into_iter().collect::<Result<Vec<_>, _>>();
        assert_eq!(
            values("---\n# c\n---\na: 1\n--- # x\nb: |\n  ---x\n"),
            Ok(vec![json!({"a": 1}), json!({"b": "---x\n"})])
        );
        assert_eq!(values("{\"a\":1}\n{\"b\":2}"), Ok(vec![json!({"a": 1}), json!({"b": 2})]));
        assert_eq!(
            values("{a: 1}"),
            Err("json: offset 2: invalid character 'a' looking for beginning of object key string".to_owned())
        );
        assert!(values("a: [").is_err_and(|e| e.starts_with("error converting YAML to JSON: yaml: ")));
    }

    #[test]
    fn patterns_fit_names() {
        assert!(fits("*.yaml", "a.yaml") && fits("a?[bc].y", "axb.y"));
        assert!(!fits("*.yaml", "a.yml") && !fits("a.b", "axb"));
    }
}
