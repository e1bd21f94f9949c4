//! Files, directories, stdin and URLs: documents in YAML or JSON.

use std::{
    collections::VecDeque,
    fs::File,
    io::Cursor,
    path::{Component, Path, PathBuf},
};

use api::field::go_quote;
use serde::Deserialize;
use serde_json::Value;

use super::documents::Documents;
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

/// Where documents come from. Nothing of it has been read yet.
#[derive(Debug)]
pub enum Origin {
    /// The directory of a kustomization.
    Kustomization(String),
    /// Standard input.
    Stdin,
    /// What a server sends.
    Url(String),
    /// A file.
    File(PathBuf),
}

impl Origin {
    /// Begins to read.
    ///
    /// # Errors
    /// If it cannot be built, fetched or opened.
    pub async fn open(self) -> Result<Documents, Failure> {
        match self {
            Self::Kustomization(directory) => {
                let built = kustomize::build(&directory, false)?;
                Ok(Documents::new(directory, Cursor::new(built.text)))
            }
            Self::Stdin => Ok(Documents::new("STDIN", std::io::stdin())),
            Self::Url(url) => {
                let text = read_url(&url).await?;
                Ok(Documents::new(url, Cursor::new(text)))
            }
            Self::File(path) => {
                let source = path.display().to_string();
                let file = File::open(&path).map_err(|error| file_error("open", &source, &error))?;
                Ok(Documents::new(source, file))
            }
        }
    }
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

    /// All that is named, in order; whether that is one file; and what is wrong: paths that are not there, or hold nothing.
    pub fn origins(&self) -> (VecDeque<Origin>, bool, Vec<Failure>) {
        let mut origins: VecDeque<Origin> = self.kustomize.clone().map(Origin::Kustomization).into_iter().collect();
        let mut single = self.filename.len() == 1 || self.kustomize.is_some();
        let mut wrong = Vec::new();
        for name in &self.filename {
            if name == "-" {
                if origins.iter().any(|origin| matches!(origin, Origin::Stdin)) {
                    wrong.push(plain("standard input cannot be used for multiple arguments"));
                }
                single = false;
                origins.push_back(Origin::Stdin);
            } else if name.starts_with("http://") || name.starts_with("https://") {
                origins.push_back(Origin::Url(name.clone()));
            } else {
                match self.expand(name) {
                    Ok(files) => {
                        single &= files.len() == 1;
                        origins.extend(files.into_iter().map(Origin::File));
                    }
                    Err(failure) => wrong.push(failure),
                }
                if origins.is_empty() && wrong.is_empty() {
                    wrong.push(plain(format!("error reading [{name}]: recognized file extensions are [.json .yaml .yml]")));
                }
            }
        }
        (origins, single, wrong)
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
        Ok(files)
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
    fn patterns_fit_names() {
        assert!(fits("*.yaml", "a.yaml") && fits("a?[bc].y", "axb.y"));
        assert!(!fits("*.yaml", "a.yml") && !fits("a.b", "axb"));
    }
}
