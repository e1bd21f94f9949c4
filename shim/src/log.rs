//! Container logs in the CRI's format: `TIME STREAM F|P TEXT`, a line each, long lines in parts.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Longest text of one entry.
pub const LINE_LIMIT: usize = 16 << 10;

/// A container's log file.
pub struct Log {
    path: String,
    file: Option<File>,
    /// The last entry may have been written in part only.
    torn: bool,
}

impl Log {
    /// Opens the log at `path`, or none when it is empty.
    pub fn open(path: &str) -> std::io::Result<Log> {
        let file = if path.is_empty() { None } else { Some(append(path)?) };
        Ok(Log { path: path.to_owned(), file, torn: false })
    }

    /// Opens the path anew, after a rotation has moved the old file away.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        *self = Log::open(&self.path)?;
        Ok(())
    }

    /// Writes entries. When the disk is full they are lost: waiting would stop the container.
    pub fn write(&mut self, entries: &[u8]) {
        if let (Some(file), false) = (&mut self.file, entries.is_empty()) {
            put(file, &mut self.torn, entries);
        }
    }
}

/// Writes entries; after one that was cut off they begin on a line of their own, so that no other is damaged.
fn put(out: &mut impl Write, torn: &mut bool, entries: &[u8]) {
    let begun = !*torn || out.write_all(b"\n").is_ok();
    *torn = !begun || out.write_all(entries).is_err();
}

fn append(path: &str) -> std::io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

/// Splits `data` into entries at `out`. What does not end in a newline waits in `held`.
pub fn entries(out: &mut Vec<u8>, stamp: &str, stream: &str, held: &mut Vec<u8>, data: &[u8]) {
    for piece in data.split_inclusive(|byte| *byte == b'\n') {
        let (text, ends) = match piece.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (piece, false),
        };
        held.extend_from_slice(text);
        while held.len() > LINE_LIMIT {
            entry(out, stamp, stream, b'P', &held[..LINE_LIMIT]);
            held.drain(..LINE_LIMIT);
        }
        if ends {
            entry(out, stamp, stream, b'F', held);
            held.clear();
        }
    }
    if held.is_empty() {
        // An idle shim holds no buffers.
        *held = Vec::new();
    }
}

/// The entry for what was left when the stream ended.
pub fn last_entry(out: &mut Vec<u8>, stamp: &str, stream: &str, held: &mut Vec<u8>) {
    if !held.is_empty() {
        entry(out, stamp, stream, b'P', held);
        held.clear();
    }
}

fn entry(out: &mut Vec<u8>, stamp: &str, stream: &str, tag: u8, text: &[u8]) {
    out.extend_from_slice(stamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Nanoseconds since the epoch as RFC 3339 in UTC.
pub fn stamp(ns: i64) -> String {
    let (seconds, ns) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date, in years that begin in March (so that the leap day comes last).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_parts() {
        let (mut out, mut held) = (Vec::new(), Vec::new());
        entries(&mut out, "T", "stdout", &mut held, b"one\n\ntw");
        entries(&mut out, "T", "stdout", &mut held, b"o\nrest");
        last_entry(&mut out, "T", "stdout", &mut held);
        assert_eq!(String::from_utf8(out).unwrap(), "T stdout F one\nT stdout F \nT stdout F two\nT stdout P rest\n");
    }

    #[test]
    fn a_full_disk_damages_one_entry_only() {
        struct Disk {
            text: Vec<u8>,
            free: usize,
        }
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let count = bytes.len().min(self.free);
                self.text.extend_from_slice(&bytes[..count]);
                self.free -= count;
                if count == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(count) }
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (mut disk, mut torn) = (Disk { text: Vec::new(), free: 12 }, false);
        for entry in ["T one\n", "T two, cut off\n", "T lost\n"] {
            put(&mut disk, &mut torn, entry.as_bytes());
        }
        disk.free = 100;
        for entry in ["T four\n", "T five\n"] {
            put(&mut disk, &mut torn, entry.as_bytes());
        }
        assert_eq!(String::from_utf8(disk.text).unwrap(), "T one\nT two,\nT four\nT five\n");
    }

    #[test]
    fn long_lines_are_split() {
        let (mut out, mut held) = (Vec::new(), Vec::new());
        entries(&mut out, "T", "stderr", &mut held, &[[b'a'; LINE_LIMIT + 1].as_slice(), b"\n"].concat());
        let expected = format!("T stderr P {}\nT stderr F a\n", "a".repeat(LINE_LIMIT));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn stamps() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(stamp(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(stamp(1_798_761_599_999_999_999), "2026-12-31T23:59:59.999999999Z");
    }
}
