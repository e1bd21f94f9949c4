//! What two runs of the same thing cannot have in common, each replaced by a mark of the same width.

use std::sync::LazyLock;

use regex::{Captures, Regex};

struct Mask {
    pattern: Regex,
    mark: &'static str,
}

static MASKS: LazyLock<Vec<Mask>> = LazyLock::new(|| {
    let mask = |pattern: &str, mark| Mask { pattern: Regex::new(pattern).expect("a pattern"), mark };
    vec![
        mask(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
        // Times of the present year: scripts write other years.
        mask(r"20(2[6-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        mask(r"20(2[6-9]|[3-9]\d)-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", "TIME"),
        mask(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} 20(2[6-9]|[3-9]\d) \d\d:\d\d:\d\d \+0000", "TIME"),
        // What servers make up: the volumes of tokens, names with a random end.
        mask(r"kube-api-access-[a-z0-9]{5}\b", "kube-api-access-"),
    ]
});

static PORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"127\.0\.0\.1:\d{4,5}").expect("a pattern"));
static LOG_TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^([EWIF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ ([a-z_]+\.go):\d+\]").expect("a pattern"));

/// A mistake in flags: builds of cloud vendors leave it to their framework, which says `Error: `.
static FLAG_ERROR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^Error: (unknown flag|unknown shorthand flag|invalid argument|flag needs|required flag)")
        .expect("a pattern")
});

/// They log some errors, where upstream's own build prints them.
static COMMAND_FAILED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?m)^E\d{4} \S+ +\d+ run\.go:\d+\] "command failed" err="(.*)"$"#).expect("a pattern"));

/// Errors of several lines.
static COMMAND_FAILED_AT_LENGTH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^E\d{4} \S+ +\d+ run\.go:\d+\] "command failed" err=<\n((?:\t.*\n)+) >\n$"#).expect("a pattern")
});

static TEMPORARY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b(kubectl-edit-|LIVE-|MERGED-|kubectl_replace_)[A-Za-z0-9]+").expect("a pattern"));
static FILE_TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9} \+0000").expect("a pattern"));

/// What client-go's cache logs of its watches: when one ends, or how, is decided by timing.
static REFLECTOR: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^[EWI]\d{4} \S+ +\d+ reflector\.go:\d+\] .*\n").expect("a pattern"));

/// The text without what must differ; `folder` is where it was printed.
pub fn mask(text: &str, folder: &str) -> String {
    let mut text = text.replace(folder, "DIR");
    text = PORT.replace_all(&text, "SERVER").into_owned();
    let error = |found: &Captures<'_>| format!("error: {}", found[1].replace("\\\"", "\""));
    text = COMMAND_FAILED.replace_all(&text, error).into_owned();
    if let Some(found) = COMMAND_FAILED_AT_LENGTH.captures(&text) {
        text = format!("error: {}\n", found[1].trim_end_matches('\n').replace("\n\t", "\n").trim_start_matches('\t'));
    }
    text = REFLECTOR.replace_all(&text, "").into_owned();
    text = FLAG_ERROR.replace(&text, "error: ${1}").into_owned();
    text = LOG_TIME.replace_all(&text, "${1}TIME ${2}]").into_owned();
    text = TEMPORARY.replace_all(&text, "${1}").into_owned();
    text = FILE_TIME.replace_all(&text, "TIME").into_owned();
    for Mask { pattern, mark } in MASKS.iter() {
        let same_width = |found: &Captures<'_>| {
            let width = found[0].chars().count();
            format!("{mark:_<width$}").chars().take(width.max(1)).collect::<String>()
        };
        text = pattern.replace_all(&text, same_width).into_owned();
    }
    text
}

static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)\b(?:(\d+)m)?(\d+)s\b( *)($)?").expect("a pattern"));

/// Whether two texts are the same but for ages that a few seconds make different.
pub fn same(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let seconds = |found: &Captures<'_>| {
        let part = |n| found.get(n).map_or(0, |part| part.as_str().parse::<i64>().unwrap_or(0));
        part(1) * 60 + part(2)
    };
    // Ten seconds are a character more than nine: what follows in the line must be where it was.
    let width = |found: &Captures<'_>| if found.get(4).is_some() { 0 } else { found[0].len() };
    let ages = |text: &str| AGE.captures_iter(text).map(|found| (width(&found), seconds(&found))).collect::<Vec<_>>();
    let (of_a, of_b) = (ages(a), ages(b));
    let near = |((width, x), (other, y)): (&(usize, i64), &(usize, i64))| width == other && (x - y).abs() <= 5;
    of_a.len() == of_b.len() && of_a.iter().zip(&of_b).all(near) && AGE.replace_all(a, "AGE") == AGE.replace_all(b, "AGE")
}

#[test]
fn ages_may_differ_by_a_second() {
    assert!(same("a 5s b", "a 6s b"));
    assert!(!same("a 5s b", "a 6s  b"));
    assert!(same("a 9s\nb 9s   c", "a 10s\nb 10s  c"));
    assert!(!same("a 9s  b", "a 10s  b"));
    assert!(!same("a 300s", "a 30s"));
}

#[test]
fn logs_of_caches_are_dropped() {
    let text = "a\nE1121 11:00:00.000000     123 reflector.go:150] \"Unhandled Error\" err=\"x\"\nb\n";
    assert_eq!(mask(text, "/t/x"), "a\nb\n");
}

#[test]
fn marks_keep_the_width() {
    let text = "a x http://127.0.0.1:12345 /t/x 2026-11-21T01:02:03Z 2001-01-01T00:00:00Z";
    assert_eq!(mask(text, "/t/x"), "a x http://SERVER DIR TIME________________ 2001-01-01T00:00:00Z");
}
