//! PEM (RFC 7468) as upstream reads it: text before, between and after blocks is skipped, headers of a block are noticed.

use base64::{Engine, engine::general_purpose::STANDARD};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `CERTIFICATE`.
    pub label: String,
    /// Whether there are headers (`Proc-Type: ...`) before the data.
    pub has_headers: bool,
    /// The decoded data.
    pub data: Vec<u8>,
}

/// Every well-formed block in order.
pub fn blocks(pem: &[u8]) -> Vec<Block> {
    let Ok(text) = std::str::from_utf8(pem) else { return Vec::new() };
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim_end).peekable();
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES)) else { continue };
        let end = format!("{END}{label}{DASHES}");
        let (mut data, mut has_headers, mut closed) = (String::new(), false, false);
        while let Some(line) = lines.next_if(|line| !line.starts_with(BEGIN)) {
            if line == end {
                closed = true;
                break;
            }
            if line.contains(':') {
                has_headers = true;
            } else {
                data.push_str(line.trim());
            }
        }
        if let (true, Ok(data)) = (closed, STANDARD.decode(&data)) {
            found.push(Block { label: label.to_owned(), has_headers, data });
        }
    }
    found
}

/// A block without headers, lines of 64 characters.
pub fn encode(label: &str, data: &[u8]) -> String {
    let text = STANDARD.encode(data);
    let mut out = format!("{BEGIN}{label}{DASHES}\n");
    for at in (0..text.len()).step_by(64) {
        out.push_str(&text[at..text.len().min(at + 64)]);
        out.push('\n');
    }
    out.push_str(&format!("{END}{label}{DASHES}\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_other_text() {
        let one = encode("A", &[7; 100]);
        let text = format!(
            "hello\n{one}between\r\n-----BEGIN B-----\nProc-Type: 4\n\nAQI=\n-----END B-----\n-----BEGIN C-----\nAQ"
        );
        let want = [
            Block { label: "A".into(), has_headers: false, data: vec![7; 100] },
            Block { label: "B".into(), has_headers: true, data: vec![1, 2] },
        ];
        assert_eq!(blocks(text.as_bytes()), want);
        assert!(blocks(b"-----BEGIN A-----\n!!\n-----END A-----\n\xff").is_empty());
    }
}
