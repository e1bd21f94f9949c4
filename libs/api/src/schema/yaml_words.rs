//! What is wrong with a YAML document, in the words of the parser that upstream uses: people search for these sentences.
//!
//! Go's parser counts lines from zero and adds one for mistakes that its scanner finds, not for those that its grammar finds;
//! on the first line it names no line. Our parser sees some mistakes at another token, so each kind says where upstream would
//! have stood.

use serde_saphyr::Error;

use super::yaml::{KEY_INVALID, KEY_UNSUPPORTED, MAX_DEPTH};

/// Where upstream stands when it complains.
enum Stands {
    /// No line is named.
    Nowhere,
    /// The scanner, at this line (from one).
    Scanner(u64),
    /// The grammar, at this line (from one).
    Grammar(u64),
}

/// The message for an error in a text.
pub(super) fn message(text: &str, error: &Error) -> String {
    let shown = error.without_snippet().to_string();
    let said = shown.lines().next().unwrap_or_default();
    let place = error.location();
    let line = place.as_ref().map_or(0, |at| at.line());
    let column = place.as_ref().map_or(0, |at| at.column());
    if let Some((_, float)) = said.split_once("non-finite float `") {
        // It is written as JSON in between.
        let value = if float.starts_with('-') { "-Inf" } else { "+Inf" };
        let value = if float.to_lowercase().contains("nan") { "NaN" } else { value };
        return format!("json: unsupported value: {value}");
    }
    let problem = said.rsplit_once(" at line ").map_or(said, |(problem, _)| problem);
    if problem.contains(KEY_UNSUPPORTED) {
        return problem.to_owned();
    }
    if problem.contains(KEY_INVALID) {
        return format!("yaml: {problem}");
    }
    let (stands, problem) = words(text, said, line, column);
    let named = match stands {
        Stands::Nowhere => 0,
        Stands::Scanner(line) if line > 1 => line,
        Stands::Grammar(line) => line.saturating_sub(1),
        Stands::Scanner(_) => 0,
    };
    if named == 0 { format!("yaml: {problem}") } else { format!("yaml: line {named}: {problem}") }
}

fn words(text: &str, said: &str, line: u64, column: u64) -> (Stands, String) {
    let has = |part: &str| said.contains(part);
    // The line after the last one, where the document ends.
    let end = text.matches('\n').count() as u64 + 1;
    // Where the grammar sees that: one further on where the last line has no end.
    let after = end + u64::from(!text.ends_with('\n'));
    let scanner = |at: u64, problem: &str| (Stands::Scanner(at), problem.to_owned());
    let grammar = |at: u64, problem: &str| (Stands::Grammar(at), problem.to_owned());
    let rest = text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
    let from: String = rest.chars().skip(column.saturating_sub(1) as usize).collect();
    let before: String = rest.chars().take(column.saturating_sub(1) as usize).collect();
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}')) {
        (Stands::Nowhere, "control characters are not allowed".to_owned())
    } else if has("budget breached: Depth") || has("recursion limit exceeded") {
        (Stands::Scanner(line), format!("exceeded max depth of {MAX_DEPTH}"))
    } else if has("budget breached") || has("alias replay") {
        (Stands::Nowhere, "document contains excessive aliasing".to_owned())
    } else if has("mapping values are not allowed") {
        scanner(line, "mapping values are not allowed in this context")
    } else if has("multiline quoted scalar") || has("unclosed quote") || has("unexpected end of stream") {
        scanner(end, "found unexpected end of stream")
    } else if has("block scalar content cannot start with a tab") {
        scanner(line + 1, "found a tab character where an indentation space is expected")
    } else if has("wrongly indented line in block scalar") {
        grammar(line, "did not find expected key")
    } else if has("found a tab") {
        scanner(line + 1, "found a tab character that violates indentation")
    } else if has("tabs disallowed") || has("unexpected character") {
        scanner(line, "found character that cannot start any token")
    } else if has("simple key expected") {
        scanner(line + 1, "could not find expected ':'")
    } else if has("found unknown escape character") {
        scanner(line, "found unknown escape character")
    } else if has("did not find expected comment or line break") {
        scanner(line, "did not find expected comment or line break")
    } else if has("did not find expected key") || has("trailing content after") {
        grammar(line, "did not find expected key")
    } else if has("did not find expected '-' indicator") {
        grammar(line, "did not find expected '-' indicator")
    } else if has("flow mapping, did not find expected ',' or '}'") {
        grammar(line, "did not find expected ',' or '}'")
    } else if has("surrogate") {
        scanner(line, "found invalid Unicode character escape code")
    } else if has("invalid !!binary base64") {
        (Stands::Nowhere, "!!binary value contains invalid base64 data".to_owned())
    } else if has("YAML merge value") {
        (Stands::Nowhere, "map merge requires map or sequence of maps as the value".to_owned())
    } else if has("illegal placement of ':' indicator") || has("mismatched bracket '['") {
        grammar(line, "did not find expected ',' or ']'")
    } else if has("mismatched bracket '{'") {
        grammar(line, "did not find expected ',' or '}'")
    } else if has("unclosed bracket") {
        match text.trim_end().chars().last() {
            Some('[' | '{' | ',') => grammar(after, "did not find expected node content"),
            _ if has("'{'") => grammar(after, "did not find expected ',' or '}'"),
            _ => grammar(after, "did not find expected ',' or ']'"),
        }
    } else if has("misplaced bracket") {
        match before.trim_end().chars().last() {
            Some(':' | '-' | ',' | '[' | '{') | None => grammar(line, "did not find expected node content"),
            Some(_) => grammar(line, "did not find expected key"),
        }
    } else if has("unknown anchor") {
        let name: String = from.chars().skip(1).take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect();
        (Stands::Nowhere, format!("unknown anchor '{name}' referenced"))
    } else {
        let problem = said.rsplit_once(" at line ").map_or(said, |(problem, _)| problem);
        // What is done meanwhile is told in Go's errors only where they are not shown.
        let problem =
            problem.split_once(", ").filter(|(while_, _)| while_.starts_with("while ")).map_or(problem, |(_, why)| why);
        (Stands::Scanner(line), problem.replace("hexadecimal", "hexdecimal"))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn mistakes_are_told_as_upstream_does() {
        for (text, want) in [
            ("a: b: c\n", "yaml: mapping values are not allowed in this context"),
            ("a: b\nc: d: e\n", "yaml: line 2: mapping values are not allowed in this context"),
            ("a: \"unclosed\n", "yaml: line 2: found unexpected end of stream"),
            ("a: \"unclosed", "yaml: found unexpected end of stream"),
            ("b: 1\na: [c", "yaml: line 2: did not find expected ',' or ']'"),
            ("a: -.inf", "json: unsupported value: -Inf"),
            ("a: .NaN", "json: unsupported value: NaN"),
            ("%FOO\n---\na: 1\n", "yaml: found unknown directive name"),
            ("# c\n%FOO\n---\na: 1\n", "yaml: line 2: found unknown directive name"),
            ("a:\n\tb: c\n", "yaml: line 2: found character that cannot start any token"),
            ("a: [1, 2\nb: 3\n", "yaml: line 1: did not find expected ',' or ']'"),
            ("a: 1\nb\nc: 2\n", "yaml: line 3: could not find expected ':'"),
            ("a: 1\n- b\n", "yaml: line 1: did not find expected key"),
            ("- a\nb: c\n", "yaml: line 1: did not find expected '-' indicator"),
            ("a: *x\n", "yaml: unknown anchor 'x' referenced"),
            ("a: @x\n", "yaml: found character that cannot start any token"),
            ("a:\n  b: {c\n", "yaml: line 2: did not find expected ',' or '}'"),
            ("c: [\n", "yaml: line 1: did not find expected node content"),
            ("a: 1\nb: \"c\" d\n", "yaml: line 1: did not find expected key"),
            ("\ta: 1\n", "yaml: found character that cannot start any token"),
            ("# c\n \t\na: 1\n", "yaml: line 2: found character that cannot start any token"),
            ("...\n", "yaml: did not find expected node content"),
            ("a: >-\n\tx\n", "yaml: line 2: found a tab character where an indentation space is expected"),
            ("a: |2\n x\n", "yaml: line 1: did not find expected key"),
            ("a: {b: c\nd: e}\n", "yaml: line 1: did not find expected ',' or '}'"),
            ("a: \"\\x4\"\n", "yaml: did not find expected hexdecimal number"),
            ("a: \"\\ud800\"\n", "yaml: found invalid Unicode character escape code"),
            ("a: !<x\n", "yaml: did not find the expected '>'"),
            ("a: *\n", "yaml: did not find expected alphabetic or numeric character"),
            ("<<: a\n", "yaml: map merge requires map or sequence of maps as the value"),
            ("b:\n  a: !!binary \"*\"\n", "yaml: !!binary value contains invalid base64 data"),
            ("~: x", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"x\""),
            ("? [a, 1]\n: c", "yaml: invalid map key: []interface {}{\"a\", 1}"),
            ("? {a: b}\n: c", "yaml: invalid map key: map[interface {}]interface {}{\"a\":\"b\"}"),
            ("a: {{ .x }}\n", "yaml: invalid map key: map[interface {}]interface {}{\".x\":interface {}(nil)}"),
        ] {
            assert_eq!(super::super::yaml::parse(text.as_bytes()).unwrap_err(), want, "{text:?}");
        }
    }
}
