//! Lines on stderr in klog's form, each with the place in upstream's program that says the same: `--vmodule` goes by these.

use std::{sync::OnceLock, time::Duration};

use api::field::go_quote;
use http::{HeaderMap, Uri, header};
use hyper::body::Incoming;

use super::Call;
use crate::failure::Failure;

/// How much is logged: `-v`, and `--vmodule` for single files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verbosity {
    /// `-v`.
    pub level: i32,
    /// `--vmodule`: patterns of file names without `.go`, and levels.
    pub modules: Vec<(String, i32)>,
}

static WANTED: OnceLock<Verbosity> = OnceLock::new();

/// Says once how much is logged; nothing is until then.
pub fn set(verbosity: Verbosity) {
    // The first one counts: there is one command line in a process.
    let _ = WANTED.set(verbosity);
}

impl Verbosity {
    fn of(&self, place: &str) -> i32 {
        let file = place.split('.').next().unwrap_or_default();
        let named = self.modules.iter().find(|(pattern, _)| matches(pattern, file));
        self.level.max(named.map_or(0, |(_, level)| *level))
    }
}

/// `*` is any text, `?` any character.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => name.char_indices().map(|(i, _)| i).chain([name.len()]).any(|i| matches(&pattern[1..], &name[i..])),
        Some(c) => name
            .chars()
            .next()
            .is_some_and(|first| (c == '?' || c == first) && matches(&pattern[c.len_utf8()..], &name[first.len_utf8()..])),
    }
}

/// What klog puts before a message: severity, time, process, place.
fn head(severity: char, place: &str) -> String {
    let now = jiff::Zoned::now();
    format!("{severity}{} {:>7} {place}] ", now.strftime("%m%d %H:%M:%S%.6f"), std::process::id())
}

/// A line for who asked for `level` of the file at `place`.
pub fn at(level: i32, place: &str, text: &str) {
    if WANTED.get().is_some_and(|wanted| wanted.of(place) >= level) {
        eprintln!("{}{}", head('I', place), text.strip_suffix('\n').unwrap_or(text));
    }
}

fn is_wanted(level: i32, place: &str) -> bool {
    WANTED.get().is_some_and(|wanted| wanted.of(place) >= level)
}

/// A warning.
pub fn warning(place: &str, text: &str) {
    eprintln!("{}{text}", head('W', place));
}

/// An error that is gone on from.
pub fn error(place: &str, text: &str) {
    eprintln!("{}{text}", head('E', place));
}

/// An error that upstream logs at a place of its own and goes on from.
pub fn unhandled(place: &str, error: &str) {
    eprintln!("{}\"Unhandled Error\" err={}", head('E', place), go_quote(error));
}

/// An error at a place of its own that ends the program there.
pub fn fatal(place: &str, error: &str) -> String {
    format!("{}{error}", head('F', place))
}

/// What a failure comes from, in full. What is invalid is told in full anyway, unless it is one of several.
pub fn failed(failure: &Failure) {
    match failure {
        Failure::Many(failures) => failures.iter().for_each(in_full),
        Failure::Status(status) if status.reason == "Invalid" => {}
        failure => in_full(failure),
    }
}

fn in_full(failure: &Failure) {
    match failure {
        Failure::Status(status) => {
            let json = serde_json::to_string_pretty(status).unwrap_or_default();
            at(4, "helpers.go:246", &format!("server response object: %s[{json}]"));
        }
        Failure::Connection { request, reason, .. } => {
            at(4, "helpers.go:264", &format!("Connection error: {}: {reason}", request.replace('"', "")));
        }
        _ => {}
    }
}

/// A kubeconfig was read.
pub fn loaded(file: &str) {
    at(6, "loader.go:402", &format!("Config loaded from file:  {file}"));
}

/// A value as klog writes it: lines of their own for a text of several.
fn value(text: &str) -> String {
    if text.contains('\n') {
        let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
        format!("<\n\t{}\n >", lines.join("\n\t"))
    } else {
        go_quote(text)
    }
}

/// A request's or an answer's body; of long ones the beginning, unless level 10 is asked for.
fn body(title: &str, bytes: &[u8]) {
    const PLACE: &str = "helper.go:113";
    let most = match () {
        () if is_wanted(10, PLACE) => usize::MAX,
        () if is_wanted(9, PLACE) => 10 << 10,
        () if is_wanted(8, PLACE) => 1 << 10,
        () => return,
    };
    let text = String::from_utf8_lossy(bytes);
    let shown = if text.len() > most {
        let end = text.floor_char_boundary(most);
        format!("{} [truncated {} chars]", &text[..end], text.len() - end)
    } else {
        text.into_owned()
    };
    at(8, PLACE, &format!("\"{title} Body\" body={}", value(&shown)));
}

/// A header's name as Go writes it.
fn canonical(name: &str) -> String {
    let parts = name.split('-').map(|part| {
        let mut letters = part.chars();
        letters.next().map_or_else(String::new, |first| format!("{}{}", first.to_ascii_uppercase(), letters.as_str()))
    });
    parts.collect::<Vec<_>>().join("-")
}

fn headers(place: &str, level: i32, headers: &HeaderMap) {
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        let shown = match text.split_once(' ') {
            Some((scheme, _)) if name == header::AUTHORIZATION => format!("{scheme} <masked>"),
            _ => text.into_owned(),
        };
        at(level, place, &format!("    {}: {shown}", canonical(name.as_str())));
    }
}

/// A request that is about to be sent.
pub fn request(call: &Call, uri: &Uri, sent: &HeaderMap) {
    body("Request", &call.body);
    at(7, "round_trippers.go:470", &format!("{} {uri}", call.method));
    at(7, "round_trippers.go:476", "Request Headers:");
    headers("round_trippers.go:480", 7, sent);
}

/// What came of it.
pub fn response<E>(call: &Call, uri: &Uri, answer: &Result<http::Response<Incoming>, E>, took: Duration) {
    let status = answer.as_ref().map_or_else(|_| String::new(), |answer| answer.status().to_string());
    let took = took.as_millis();
    if is_wanted(7, "round_trippers.go:581") {
        at(7, "round_trippers.go:581", &format!("Response Status: {status} in {took} milliseconds"));
    } else {
        at(6, "round_trippers.go:560", &format!("{} {uri} {status} in {took} milliseconds", call.method));
    }
    if let Ok(answer) = answer {
        at(8, "round_trippers.go:584", "Response Headers:");
        headers("round_trippers.go:587", 8, answer.headers());
    }
}

/// The answer's body, read whole.
pub fn answered(bytes: &[u8]) {
    body("Response", bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_files_can_be_louder() {
        let modules = vec![("round*".to_owned(), 7), ("lo?der".to_owned(), 6)];
        let wanted = Verbosity { level: 2, modules };
        let levels = ["round_trippers.go:1", "loader.go:402", "helper.go:113"].map(|place| wanted.of(place));
        assert_eq!(levels, [7, 6, 2]);
    }

    #[test]
    fn values_are_written_as_klog_does() {
        assert_eq!((value("").as_str(), value("{}\n").as_str()), ("\"\"", "<\n\t{}\n >"));
        assert_eq!(canonical("x-kubernetes-pf-uid"), "X-Kubernetes-Pf-Uid");
    }
}
