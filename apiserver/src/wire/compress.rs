//! gzip of large answers, when asked for: level 1 beyond 128 KiB, as upstream.

use std::io::Write;

use api::status::Status;
use axum::{body::Body, response::Response};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::error;

/// Smaller answers are sent as they are.
const AT_LEAST: u64 = 128 * 1024;

/// Whether the client takes gzip.
pub fn wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|clause| {
        let (coding, parameters) = clause.split_once(';').unwrap_or((clause, ""));
        coding.trim() == "gzip" && !matches!(parameters.trim().replace(' ', "").as_str(), "q=0" | "q=0.0")
    })
}

/// The answer compressed, if it is large, there as a whole, and nothing else than itself yet.
pub async fn large(response: Response) -> Response {
    let length = response.body().size_hint().exact();
    if length.is_none_or(|length| length <= AT_LEAST) || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut head, mut body) = response.into_parts();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    while let Some(frame) = body.frame().await {
        let piece = frame.map(|frame| frame.into_data().unwrap_or_default());
        let written = piece.map_err(std::io::Error::other).and_then(|piece| encoder.write_all(&piece));
        if let Err(error) = written {
            return error::respond(&Status::internal(&format!("cannot compress the answer: {error}")));
        }
    }
    // Writing to memory does not fail.
    let zipped = encoder.finish().unwrap_or_default();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(head, Body::from(zipped))
}
