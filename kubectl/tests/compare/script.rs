//! Scripts as text; `main.rs` says how they are written.

use serde_json::Value;

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// A heading.
    Heading(String),
    /// Write a file.
    File(String, String),
    /// A request to both servers.
    Request { method: String, path: String, body: Option<Value> },
    /// A command that must succeed, and its standard input.
    Run(String, String),
    /// A command whose outcomes are compared, and its standard input.
    Compare(String, String),
}

/// Steps with their line numbers.
pub type Script = Vec<(usize, Step)>;

/// Reads a script.
pub fn parse(text: &str) -> Result<Script, String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut script = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = (at + 1, lines[at]);
        at += 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut body = String::new();
        while let Some(more) = lines.get(at).and_then(|line| line.strip_prefix('|')) {
            body.push_str(more.strip_prefix(' ').unwrap_or(more));
            body.push('\n');
            at += 1;
        }
        let (what, rest) = line.split_once(' ').ok_or_else(|| format!("line {number}: {line:?} says nothing to do"))?;
        script.push((number, step(what, rest, body).map_err(|error| format!("line {number}: {error}"))?));
    }
    Ok(script)
}

fn step(what: &str, rest: &str, body: String) -> Result<Step, String> {
    Ok(match what {
        "@" => Step::Heading(rest.to_owned()),
        "+" => Step::File(rest.to_owned(), body),
        "%" => Step::Run(rest.to_owned(), body),
        "$" => Step::Compare(rest.to_owned(), body),
        ">" => {
            let (method, path) = rest.split_once(' ').ok_or("a request has a method and a path")?;
            let body = match body.as_str() {
                "" => None,
                yaml => Some(serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?),
            };
            Step::Request { method: method.to_owned(), path: path.to_owned(), body }
        }
        other => return Err(format!("{other:?} is nothing to do")),
    })
}

#[test]
fn scripts_are_read() {
    let text = "# c\n@ h\n+ f\n| a\n|  b\n> PUT /x\n| {a: 1}\n\n$ kubectl x\n| in\n";
    let want = vec![
        (2, Step::Heading("h".into())),
        (3, Step::File("f".into(), "a\n b\n".into())),
        (6, Step::Request { method: "PUT".into(), path: "/x".into(), body: Some(serde_json::json!({"a": 1})) }),
        (9, Step::Compare("kubectl x".into(), "in\n".into())),
    ];
    assert_eq!(parse(text), Ok(want));
}
