//! Documents of a text, which is read as they are asked for: YAML between `---` lines, or JSON values one after another.

use std::{
    fmt,
    io::{Cursor, Read},
};

use api::schema::json::{self, First};
use serde_json::Value;

use crate::failure::file_error;

/// What is read at a time, and what upstream looks at to find out whether a text is JSON.
const PIECE: usize = 4096;

/// A document, and how JSON says it, for messages; YAML is told as what it comes to.
pub type Content = (Value, Option<String>);

/// Documents, one after another. After the first that is wrong comes nothing.
pub struct Documents {
    /// The file, `STDIN` or URL.
    pub source: String,
    input: Box<dyn Read + Send>,
    /// What has been read and not been taken.
    text: Vec<u8>,
    ended: bool,
    form: Form,
    /// How many bytes of JSON have been taken.
    taken: usize,
}

enum Form {
    Unknown,
    Json,
    Yaml,
    Over,
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Documents {
    /// Nothing is read yet.
    pub fn new(source: impl Into<String>, input: impl Read + Send + 'static) -> Self {
        let (source, input) = (source.into(), Box::new(input));
        Self { source, input, text: Vec::new(), ended: false, form: Form::Unknown, taken: 0 }
    }

    /// The next document that is not empty.
    pub fn next(&mut self) -> Option<Result<Content, String>> {
        let found = self.found();
        if found.is_err() {
            self.form = Form::Over;
        }
        found.transpose()
    }

    fn found(&mut self) -> Result<Option<Content>, String> {
        if let Form::Unknown = self.form {
            while self.text.len() < PIECE && self.more()? {}
            if self.text.starts_with(b"\xef\xbb\xbf") {
                self.text.drain(..3);
            }
            let begin = String::from_utf8_lossy(&self.text[..self.text.len().min(PIECE)]);
            self.form = if begin.trim_start().starts_with('{') { Form::Json } else { Form::Yaml };
        }
        match self.form {
            Form::Json => self.json(),
            Form::Yaml => self.yaml(),
            Form::Unknown | Form::Over => Ok(None),
        }
    }

    /// Reads a piece more, if there is any.
    fn more(&mut self) -> Result<bool, String> {
        let mut piece = [0; PIECE];
        while !self.ended {
            match self.input.read(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.text.extend_from_slice(&piece[..length]);
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let path = if self.source == "STDIN" { "/dev/stdin" } else { &self.source };
                    return Err(file_error("read", path, &error).message());
                }
            }
        }
        Ok(false)
    }

    fn json(&mut self) -> Result<Option<Content>, String> {
        loop {
            let first = json::first(&self.text);
            if let First::Value(value, length) = &first
                // Of a number at the end more may come.
                && (self.ended || *length < self.text.len() || matches!(value, Value::Object(_)))
            {
                let (value, length) = (value.clone(), *length);
                let text = String::from_utf8_lossy(&self.text[..length]).trim().to_owned();
                self.text.drain(..length);
                self.taken += length;
                if value.is_null() {
                    continue;
                }
                return Ok(Some((value, Some(text))));
            }
            // Twice as much each time, as it is looked at from its beginning.
            let (before, mut more) = (self.text.len(), false);
            while self.text.len() <= 2 * before && self.more()? {
                more = true;
            }
            match first {
                _ if more => {}
                First::Cut => return Err("unexpected EOF".to_owned()),
                First::Wrong(error, offset) => return Err(format!("json: offset {}: {error}", self.taken + offset)),
                First::Nothing => return Ok(None),
                // It was the last one, which is known only now.
                First::Value(..) => {}
            }
        }
    }

    fn yaml(&mut self) -> Result<Option<Content>, String> {
        while let Some(part) = self.part()? {
            let told = |line: &[u8]| !line.is_empty() && !line.starts_with(b"#");
            if !part.split(|byte| *byte == b'\n').any(|line| told(line.trim_ascii())) {
                continue;
            }
            let parsed = api::schema::yaml::parse(&part);
            let value = parsed.map_err(|why| format!("error converting YAML to JSON: {why}"))?.value;
            if !value.is_null() {
                return Ok(Some((value, None)));
            }
        }
        Ok(None)
    }

    /// What stands before the next line that begins with `---` (what follows on such a line is dropped, as upstream does).
    fn part(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut at = 0;
        loop {
            let end = match self.text[at..].iter().position(|byte| *byte == b'\n') {
                Some(length) => at + length + 1,
                None if self.more()? => continue,
                None if self.text.is_empty() => return Ok(None),
                None => self.text.len(),
            };
            if separates(&self.text[at..end]) || end == self.text.len() && self.ended {
                let rest = self.text.split_off(end);
                let mut part = std::mem::replace(&mut self.text, rest);
                if separates(&part[at..]) {
                    part.truncate(at);
                }
                return Ok(Some(part));
            }
            at = end;
        }
    }
}

fn separates(line: &[u8]) -> bool {
    let rest = line.strip_prefix(b"---").map(<[u8]>::trim_ascii);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"#"))
}

/// All documents of a text.
pub fn documents_in(text: &[u8]) -> Vec<Result<Value, String>> {
    let mut documents = Documents::new("", Cursor::new(text.to_vec()));
    std::iter::from_fn(|| documents.next()).map(|content| content.map(|(value, _)| value)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::json;

    use super::*;

    /// Gives three bytes at a time and counts them.
    struct Slow(Cursor<Vec<u8>>, Arc<AtomicUsize>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = self.0.read(&mut buffer[..3])?;
            self.1.fetch_add(length, Ordering::Relaxed);
            Ok(length)
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
        assert_eq!(values("{} 12"), Ok(vec![json!({}), json!(12)]));
        assert_eq!(values("a: b\n---\nc: d\n---"), Ok(vec![json!({"a": "b"}), json!({"c": "d"})]));
    }

    #[test]
    fn no_more_is_read_than_is_asked_for() {
        for (one, between) in [("a: 1\n", "---\n"), ("{\"a\": 1}\n", "")] {
            let text = format!("{one}{between}").repeat(6000);
            let read = Arc::new(AtomicUsize::new(0));
            let mut documents = Documents::new("x", Slow(Cursor::new(text.clone().into_bytes()), read.clone()));
            assert_eq!(documents.next().unwrap().unwrap().0, json!({"a": 1}));
            let first = read.load(Ordering::Relaxed);
            assert!((PIECE..PIECE + 3).contains(&first), "{first} bytes are read for the first document");
            assert_eq!(std::iter::from_fn(|| documents.next()).filter(Result::is_ok).count(), 5999);
            assert_eq!(read.load(Ordering::Relaxed), text.len());
        }
    }

    #[test]
    fn values_end_where_they_end_however_they_are_read() {
        let text = format!("{{\"a\": \"{}\"}} 123456 true", "é".repeat(5000));
        let slow = Slow(Cursor::new(text.into_bytes()), Arc::default());
        let mut documents = Documents::new("x", slow);
        let values: Vec<Value> = std::iter::from_fn(|| documents.next()).map(|found| found.unwrap().0).collect();
        assert_eq!(values[1..], [json!(123_456), json!(true)]);
    }
}
