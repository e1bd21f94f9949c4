//! gzip of large answers, when asked for: level 1 beyond 128 KiB, as upstream.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, header};

/// Smaller answers are sent as they are.
const AT_LEAST: usize = 128 * 1024;

/// Whether the client takes gzip.
pub fn wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|clause| {
        let (coding, parameters) = clause.split_once(';').unwrap_or((clause, ""));
        coding.trim() == "gzip" && !matches!(parameters.trim().replace(' ', "").as_str(), "q=0" | "q=0.0")
    })
}

/// Whether so many bytes are worth it.
pub fn worthwhile(length: usize) -> bool {
    length > AT_LEAST
}

/// The pieces compressed into one.
pub fn gzip<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    for piece in pieces {
        encoder.write_all(piece).ok()?;
    }
    encoder.finish().ok().map(Bytes::from)
}
