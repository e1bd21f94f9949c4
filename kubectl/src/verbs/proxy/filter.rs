//! What becomes of a request to the proxy, by its method, its host and its path alone.

use std::fmt::Display;

use regex::Regex;

use crate::client::log;

const PLACE: &str = "proxy_server.go:91";

/// Which requests go to the server.
#[derive(Debug)]
pub struct Filter {
    /// Those to these paths, ...
    pub accept_paths: Vec<Regex>,
    /// ... but not to these, ...
    pub reject_paths: Vec<Regex>,
    /// ... by way of these names of ours. What a browser was led to by another name of this machine is nothing of the user's.
    pub accept_hosts: Vec<Regex>,
    /// Nor those with these methods.
    pub reject_methods: Vec<Regex>,
}

impl Filter {
    fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        !matches(path, &self.reject_paths)
            && !matches(method, &self.reject_methods)
            && matches(path, &self.accept_paths)
            && matches(host, &self.accept_hosts)
    }
}

fn matches(text: &str, patterns: &[Regex]) -> bool {
    let found = patterns.iter().find(|pattern| pattern.is_match(text));
    if let Some(pattern) = found {
        log::at(6, PLACE, &format!("{text} matched {pattern}"));
    }
    found.is_some()
}

/// Patterns with commas between them.
///
/// # Errors
/// Go's complaint.
pub fn patterns(text: &str) -> Result<Vec<Regex>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|pattern| Regex::new(pattern).map_err(|error| complaint(pattern, &error))).collect()
}

/// The commonest complaints in Go's words, others in Rust's.
fn complaint(pattern: &str, error: &impl Display) -> String {
    let told = error.to_string();
    let told = told.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let repeated = || pattern.chars().find(|c| "*+?".contains(*c)).map(String::from).unwrap_or_default();
    let why = match told.as_str() {
        "unclosed character class" => format!("missing closing ]: `{}`", &pattern[pattern.rfind('[').unwrap_or(0)..]),
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "repetition operator missing expression" => format!("missing argument to repetition operator: `{}`", repeated()),
        _ => told,
    };
    format!("error parsing regexp: {why}")
}

/// Where requests go.
#[derive(Debug)]
pub struct Routes {
    /// What paths to the server begin with; ends with a slash.
    pub api: String,
    /// What paths to files begin with, where there are files; ends with a slash.
    pub files: Option<String>,
    /// What goes to the server, unless it is everything.
    pub filter: Option<Filter>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to this path of the server.
    Server(String),
    /// It is for this file, by a path that begins with a slash, unescaped.
    File(String),
    /// It should have been to this path.
    Moved(String),
    /// There is nothing.
    Nothing,
    /// It may not go to the server.
    Forbidden,
    /// Its path is none.
    Wrong,
}

impl Routes {
    /// What becomes of a request for a path, escaped as it came, by way of `host` (with or without a port).
    pub fn fate(&self, method: &str, path: &str, host: &str) -> Fate {
        let clean = cleaned(path);
        let known = [Some(&self.api), self.files.as_ref()];
        let with_slash = format!("{clean}/");
        if known.iter().flatten().any(|prefix| **prefix == with_slash) {
            return Fate::Moved(with_slash);
        }
        if clean != path {
            return Fate::Moved(clean);
        }
        let Some(decoded) = unescaped(path) else { return Fate::Wrong };
        let serves = |prefix: &&String| decoded.starts_with(prefix.as_bytes());
        let Some(prefix) = known.into_iter().flatten().filter(serves).max_by_key(|prefix| prefix.len()) else {
            return Fate::Nothing;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.files.as_ref() == Some(prefix) {
            return Fate::File(format!("/{}", text(&decoded[prefix.len()..])));
        }
        // A prefix that the server's own paths begin with is part of them.
        let taken = if prefix.starts_with("/api") { 0 } else { prefix.len() - 1 };
        let asked = text(&decoded[taken..]);
        let host = without_port(host);
        if self.filter.as_ref().is_some_and(|filter| !filter.accepts(method, &asked, host)) {
            log::at(3, "proxy_server.go:135", &format!("Filter rejecting {method} {asked} {host}"));
            return Fate::Forbidden;
        }
        if self.filter.is_some() {
            log::at(3, "proxy_server.go:131", &format!("Filter accepting {method} {asked} {host}"));
        }
        Fate::Server(format!("/{}", &path[escaped_length(path, taken + 1)..]))
    }
}

/// A path that begins with a slash and has no empty, `.` or `..` parts; what ends with a slash still does.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// The bytes that an escaped path stands for.
fn unescaped(path: &str) -> Option<Vec<u8>> {
    let mut bytes = path.bytes();
    let mut out = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

/// How long the part of a well-escaped path is that stands for its first `count` bytes.
fn escaped_length(path: &str, count: usize) -> usize {
    (0..count).fold(0, |at, _| at + if path.as_bytes()[at] == b'%' { 3 } else { 1 })
}

/// The host without its port, where that is what follows the last colon.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if name.starts_with('[') && name.ends_with(']') => &name[1..name.len() - 1],
        Some((name, _)) if !name.contains([':', '[', ']']) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(api: &str, files: Option<&str>) -> Routes {
        let of = |text: &str| patterns(text).unwrap();
        let filter = Filter {
            accept_paths: of("^.*"),
            reject_paths: of("^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach"),
            accept_hosts: of(r"^localhost$,^127\.0\.0\.1$,^\[::1\]$"),
            reject_methods: of("^DELETE$"),
        };
        Routes { api: api.to_owned(), files: files.map(str::to_owned), filter: Some(filter) }
    }

    fn fate(routes: &Routes, path: &str) -> Fate {
        routes.fate("GET", path, "localhost:8001")
    }

    #[test]
    fn paths_lead_to_the_server_or_to_files() {
        let server = |path: &str| Fate::Server(path.to_owned());
        let moved = |path: &str| Fate::Moved(path.to_owned());
        let all = routes("/", Some("/static/"));
        assert_eq!(fate(&all, "/"), server("/"));
        assert_eq!(fate(&all, "/api/v1/pods"), server("/api/v1/pods"));
        assert_eq!(fate(&all, "/api/v1/a%2Fb"), server("/api/v1/a%2Fb"));
        assert_eq!(fate(&all, "/static/a%20b/c"), Fate::File("/a b/c".to_owned()));
        assert_eq!(fate(&all, "/static/%2e%2e/c"), Fate::File("/../c".to_owned()));
        assert_eq!(fate(&all, "/static"), moved("/static/"));
        assert_eq!(fate(&all, "//static/../api/"), moved("/api/"));
        assert_eq!(fate(&all, "/api%zz"), Fate::Wrong);
        assert_eq!(fate(&all, "/api%+1"), Fate::Wrong);
        let part = routes("/api/", None);
        assert_eq!((fate(&part, "/api/v1"), fate(&part, "/apis")), (server("/api/v1"), Fate::Nothing));
        let other = routes("/cu/", None);
        assert_eq!(fate(&other, "/cu/api/v1"), server("/api/v1"));
        assert_eq!(fate(&other, "/%63u/api%2Fv1"), server("/api%2Fv1"));
        assert_eq!(fate(&other, "/cu%2Fapi"), server("/api"));
        assert_eq!(fate(&other, "/api"), Fate::Nothing);
    }

    #[test]
    fn what_browsers_could_be_led_to_is_forbidden() {
        let all = routes("/", None);
        for path in ["/api/v1/namespaces/a/pods/b/exec", "/api/v1/namespaces/a/pods/b%2Fattach", "/%61pi/v1/pods/x/exec"] {
            assert_eq!(fate(&all, path), Fate::Forbidden, "{path}");
        }
        let from = |host: &str| all.fate("GET", "/api", host) != Fate::Forbidden;
        let hosts = ["localhost", "127.0.0.1:1", "[::1]", "[::1]:8001", "evil", "evil:localhost", "localhost.evil", ""];
        assert_eq!(hosts.map(from), [true, true, true, false, false, false, false, false]);
        assert_eq!(all.fate("DELETE", "/api", "localhost"), Fate::Forbidden);
    }

    #[test]
    fn patterns_are_complained_about_in_gos_words() {
        let wrong = |text: &str| patterns(text).err().unwrap_or_default();
        assert_eq!(wrong("a,["), "error parsing regexp: missing closing ]: `[`");
        assert_eq!(wrong("*"), "error parsing regexp: missing argument to repetition operator: `*`");
        assert_eq!(wrong("(a"), "error parsing regexp: missing closing ): `(a`");
        assert_eq!(wrong("a)"), "error parsing regexp: unexpected ): `a)`");
        assert_eq!(wrong(""), "");
    }
}
