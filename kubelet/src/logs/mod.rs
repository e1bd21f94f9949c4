//! Container logs in CRI's format: `2026-11-21T02:00:00.123456789Z stdout F text`, `P` for a line that goes on.

pub mod read;
pub mod rotate;

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// One record of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time stamp as it stands there.
    pub stamp: &'a [u8],
    /// Whether it came from standard error.
    pub stderr: bool,
    /// The line goes on in the next record.
    pub partial: bool,
    /// The text, without the newline.
    pub text: &'a [u8],
}

/// Parses one record (without its newline); `None` if it is damaged.
pub fn parse(record: &[u8]) -> Option<Line<'_>> {
    let mut parts = record.splitn(4, |b| *b == b' ');
    let (stamp, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = tag.split(|b| *b == b':').any(|t| t == b"P");
    Some(Line { stamp, stderr, partial, text })
}

/// The end of a log: at most `lines` lines and `bytes` bytes, for termination messages.
pub fn last_lines(path: &Path, lines: usize, bytes: usize) -> String {
    let mut tail = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let size = file.metadata().map_or(0, |m| m.len());
        // Records carry about 50 bytes besides their text; eight times the text is plenty.
        let from = size.saturating_sub(8 * bytes as u64);
        if file.seek(SeekFrom::Start(from)).is_ok() {
            // A short read is as good as none here.
            let _ = file.take(8 * bytes as u64).read_to_end(&mut tail);
        }
    }
    let records: Vec<&[u8]> = tail.split(|b| *b == b'\n').filter(|r| !r.is_empty()).collect();
    let mut text = Vec::new();
    for record in &records[records.len().saturating_sub(lines)..] {
        if let Some(line) = parse(record) {
            text.extend_from_slice(line.text);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    String::from_utf8_lossy(&text[text.len().saturating_sub(bytes)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let line = parse(b"2026-11-21T02:00:00Z stderr P a b").unwrap();
        assert_eq!(line, Line { stamp: b"2026-11-21T02:00:00Z", stderr: true, partial: true, text: b"a b" });
        assert_eq!(parse(b"2026-11-21T02:00:00Z stdout F ").unwrap().text, b"");
        assert_eq!(parse(b"garbage"), None);
    }

    #[test]
    fn the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text: String = (0..100).map(|i| format!("T stdout F line {i}\n")).collect();
        std::fs::write(&path, text).unwrap();
        assert_eq!(last_lines(&path, 2, 2048), "line 98\nline 99\n");
        assert_eq!(last_lines(&path, 80, 5), "e 99\n");
    }
}
