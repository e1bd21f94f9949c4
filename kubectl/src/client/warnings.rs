//! Warnings, the server's in `Warning` headers and our own, each text once.

use std::{
    collections::HashSet,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
};

use http::HeaderMap;

/// What was warned of already.
#[derive(Default)]
pub struct Warnings(Mutex<HashSet<String>>);

impl Warnings {
    /// How many different ones there were.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Prints the new ones.
    pub fn note(&self, headers: &HeaderMap) {
        for header in headers.get_all(http::header::WARNING) {
            for text in texts(&String::from_utf8_lossy(header.as_bytes())) {
                self.tell(&text);
            }
        }
    }

    /// Prints a text if it is new.
    pub fn tell(&self, text: &str) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned()) {
            eprintln!("{} {text}", label());
        }
    }
}

fn label() -> &'static str {
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb") || std::env::var_os("NO_COLOR").is_some();
    if std::io::stderr().is_terminal() && !dumb { "\u{1b}[33;1mWarning:\u{1b}[0m" } else { "Warning:" }
}

/// The texts of code 299 in a header: `299 - "text" "date", 299 ...`.
fn texts(header: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = header.trim();
    while let Some((code, after)) = rest.split_once(' ') {
        let Some((_agent, after)) = after.trim_start().split_once(' ') else { break };
        let Some(quoted) = after.trim_start().strip_prefix('"') else { break };
        let (text, after) = unquote(quoted);
        if code == "299" && !text.is_empty() {
            out.push(text);
        }
        let mut after = after.trim_start();
        if let Some(date) = after.strip_prefix('"') {
            after = unquote(date).1.trim_start();
        }
        rest = after.trim_start_matches(',').trim_start();
    }
    out
}

fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (text, &quoted[at + 1..]),
            '\\' => text.extend(characters.next().map(|(_, c)| c)),
            c => text.push(c),
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_may_hold_several() {
        assert_eq!(texts("299 - \"a \\\"b\\\"\", 199 - \"no\", 299 x \"c\" \"date\""), ["a \"b\"", "c"]);
        assert_eq!(texts("nonsense"), Vec::<String>::new());
    }
}
