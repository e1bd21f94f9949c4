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
    client::{Answer, Call, Client, tls},
    failure::{Failure, file_error, plain},
    kustomize, server,
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
                match server::check(name) {
                    Ok(()) => origins.push_back(Origin::Url(name.clone())),
                    Err(why) => wrong.push(plain(format!(
                        "the URL passed to filename {} is not valid: parse {}: {why}",
                        go_quote(name),
                        go_quote(name)
                    ))),
                }
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

/// Downloads a URL, three times at most if the server is at fault.
///
/// # Errors
/// What the server said, or why it could not be reached.
pub async fn read_url(url: &str) -> Result<Vec<u8>, Failure> {
    let mut last = plain(format!("unable to read URL {}", go_quote(url)));
    for attempt in 0..3 {
        if attempt > 0 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let answer = follow(url).await?;
        if answer.status == http::StatusCode::OK {
            return Ok(answer.body.to_vec());
        }
        let code = answer.status.as_u16();
        last = plain(format!("unable to read URL {}, server reported {}, status code={code}", go_quote(url), answer.status));
        if code < 500 {
            break;
        }
    }
    Err(last)
}

/// Asks for a URL, and for what it leads to, as far as Go goes.
async fn follow(url: &str) -> Result<Answer, Failure> {
    let mut url = url.to_owned();
    let failed = |url: &str, reason: &str| Failure::Connection {
        host: String::new(),
        request: format!("Get {}", go_quote(url)),
        reason: reason.to_owned(),
    };
    for _ in 0..10 {
        let (origin, target) = split_url(&url);
        if origin.ends_with("://") {
            return Err(failed(&url, "http: no Host in request URL"));
        }
        let mut endpoint = server::parse(origin)?;
        endpoint.proxy = server::proxy("", &endpoint)?;
        if endpoint.scheme == "https" {
            endpoint.tls = Some(std::sync::Arc::new(tls::config(&tls::Material::default())?));
        }
        let target = target.split('#').next().unwrap_or_default();
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let answer = Client::new(endpoint).raw(Call::get(target).accept("*/*").unlogged()).await?;
        let moved = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = answer.headers.get(http::header::LOCATION).and_then(|to| to.to_str().ok());
        match location.filter(|_| moved) {
            Some(location) => url = joined(&url, location),
            None => return Ok(answer),
        }
    }
    Err(failed(&url, "stopped after 10 redirects"))
}

/// `https://host:1` and `/path?query`.
fn split_url(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |at| at + 3);
    url.split_at(url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at))
}

/// Where a redirection leads.
fn joined(url: &str, location: &str) -> String {
    let (origin, target) = split_url(url);
    let scheme = origin.split("://").next().unwrap_or_default();
    let directory = target.split(['?', '#']).next().and_then(|path| path.rsplit_once('/')).map_or("", |(before, _)| before);
    match location {
        to if to.split_once("://").is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric())) => {
            to.to_owned()
        }
        to if to.starts_with("//") => format!("{scheme}:{to}"),
        to if to.starts_with('/') => format!("{origin}{to}"),
        to => format!("{origin}{directory}/{to}"),
    }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn paths_take_no_detours() {
        for (path, want) in
            [("./a.yaml", "a.yaml"), ("d//x/../b", "d/b"), ("../a", "../a"), ("/../a", "/a"), ("a/./b", "a/b")]
        {
            assert_eq!(cleaned(Path::new(path)), Path::new(want), "{path}");
        }
    }

    #[tokio::test]
    async fn redirections_are_followed_ten_times() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = connection.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = match path.as_str() {
                    "/a/end" => "200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\na: b".to_owned(),
                    path => {
                        let to = if path == "/a/1" { "end".to_owned() } else { path.replace("x", "") };
                        format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    }
                };
                connection.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
        });
        assert_eq!(read_url(&format!("http://{address}/a/x1")).await.unwrap(), b"a: b");
        let failure = read_url(&format!("http://{address}/loop")).await.unwrap_err();
        assert_eq!(failure.to_string(), "Unable to connect to the server: stopped after 10 redirects");
    }

    #[test]
    fn redirections_are_read_beside_their_urls() {
        for (location, want) in [
            ("https://b/c", "https://b/c"),
            ("//b:1/c", "http://b:1/c"),
            ("/c?d=https://e", "http://a:1/c?d=https://e"),
            ("c", "http://a:1/x/c"),
        ] {
            assert_eq!(joined("http://a:1/x/y?q=/z", location), want, "{location}");
        }
        assert_eq!(split_url("http://a:1?b"), ("http://a:1", "?b"));
    }

    #[test]
    fn patterns_fit_names() {
        assert!(fits("*.yaml", "a.yaml") && fits("a?[bc].y", "axb.y"));
        assert!(!fits("*.yaml", "a.yml") && !fits("a.b", "axb"));
    }
}
