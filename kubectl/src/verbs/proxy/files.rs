//! Files of a directory as Go's file server has them: `index.html` for a directory, or a list of what is in it.
//!
//! A request for several ranges gets the whole file, as any server may answer it.

use std::{
    ffi::OsStr,
    io,
    path::{Component, Path},
};

use futures::TryStreamExt;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{
    Timestamp,
    fmt::rfc2822::{DateTimeParser, DateTimePrinter},
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{Body, not_found, said, text};

const HTML: &str = "text/html; charset=utf-8";

/// The answer to a request for what has this name below a directory; the name begins with a slash.
pub async fn answer(base: &Path, name: &str, request: &Parts) -> Response<Body> {
    match find(base, name, request).await {
        Ok(response) => response,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_found(),
            io::ErrorKind::PermissionDenied => said(StatusCode::FORBIDDEN, "403 Forbidden"),
            _ => said(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
        },
    }
}

async fn find(base: &Path, name: &str, request: &Parts) -> io::Result<Response<Body>> {
    if name.ends_with("/index.html") {
        return Ok(moved("./", request));
    }
    // What leads out of the directory leads back into it.
    let inside = Path::new(name).components().fold(base.to_owned(), |mut path, part| {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir if path != base => drop(path.pop()),
            _ => {}
        }
        path
    });
    let about = tokio::fs::metadata(&inside).await?;
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match (about.is_dir(), name.ends_with('/')) {
        (true, false) => return Ok(moved(&format!("{last}/"), request)),
        (false, true) => return Ok(moved(&format!("../{last}"), request)),
        (false, false) => return file(&inside, &about, request).await,
        (true, true) => {}
    }
    let index = inside.join("index.html");
    match tokio::fs::metadata(&index).await {
        Ok(about) if !about.is_dir() => file(&index, &about, request).await,
        _ => list(&inside, &about, request).await,
    }
}

/// Elsewhere, relative to the path that was asked for.
fn moved(to: &str, request: &Parts) -> Response<Body> {
    let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = text(StatusCode::MOVED_PERMANENTLY, String::new());
    if let Ok(to) = HeaderValue::from_str(&format!("{}{query}", crate::client::escape(to, "./~!$&'()*+,;=:@"))) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// When it was changed, to the second.
fn changed(about: &std::fs::Metadata) -> io::Result<Timestamp> {
    let at = Timestamp::try_from(about.modified()?).map_err(io::Error::other)?;
    Timestamp::from_second(at.as_second()).map_err(io::Error::other)
}

/// The time as a header has it, and whether the request knows of nothing newer.
fn dated(at: Timestamp, request: &Parts) -> (Option<HeaderValue>, bool) {
    let printed = DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok();
    let known = request.headers.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    let parser = DateTimeParser::new().relaxed_weekday(true);
    let known = known.and_then(|known| parser.parse_timestamp(known).ok());
    (printed.and_then(|text| HeaderValue::from_str(&text).ok()), known.is_some_and(|known| at <= known))
}

async fn list(folder: &Path, about: &std::fs::Metadata, request: &Parts) -> io::Result<Response<Body>> {
    let (date, is_known) = dated(changed(about)?, request);
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let slash = if entry.file_type().await.is_ok_and(|kind| kind.is_dir()) { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let mut page = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        // A name with a colon would be a URL.
        let colon = name.split('/').next().is_some_and(|first| first.contains(':'));
        let link = format!("{}{}", if colon { "./" } else { "" }, crate::client::escape(&name, "/$&+,:;=@"));
        page += &format!("<a href=\"{}\">{}</a>\n", in_html(&link), in_html(&name));
    }
    page += "</pre>\n";
    let mut response = text(StatusCode::OK, if is_known { String::new() } else { page });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    }
    response.headers_mut().extend(date.map(|date| (header::LAST_MODIFIED, date)));
    Ok(response)
}

fn in_html(text: &str) -> String {
    let escapes = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")];
    escapes.iter().fold(text.to_owned(), |text, (c, escape)| text.replace(*c, escape))
}

async fn file(path: &Path, about: &std::fs::Metadata, request: &Parts) -> io::Result<Response<Body>> {
    let (date, is_known) = dated(changed(about)?, request);
    let mut file = tokio::fs::File::open(path).await?;
    let size = about.len();
    let asked = request.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    // A range of what it was before is none of what it is now.
    let condition = request.headers.get(header::IF_RANGE);
    let asked = asked.filter(|_| condition.is_none_or(|condition| Some(condition) == date.as_ref()));
    let (status, first, count) = match asked.map_or(Ok(None), |asked| range(asked, size)) {
        _ if is_known => (StatusCode::NOT_MODIFIED, 0, 0),
        Ok(None) => (StatusCode::OK, 0, size),
        Ok(Some((first, count))) => (StatusCode::PARTIAL_CONTENT, first, count),
        Err(why) => {
            let mut response = said(StatusCode::RANGE_NOT_SATISFIABLE, why);
            response.headers_mut().extend(whole(size).map(|all| (header::CONTENT_RANGE, all)));
            return Ok(response);
        }
    };
    let kind = match kind(path) {
        Some(kind) => kind,
        None => {
            let mut beginning = Vec::new();
            (&mut file).take(512).read_to_end(&mut beginning).await?;
            guessed(&beginning)
        }
    };
    file.seek(io::SeekFrom::Start(first)).await?;
    let pieces = ReaderStream::new(file.take(count)).map_ok(Frame::data).map_err(Into::into);
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(date.map(|date| (header::LAST_MODIFIED, date)));
    if is_known {
        return Ok(response);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::PARTIAL_CONTENT {
        let part = HeaderValue::from_str(&format!("bytes {first}-{}/{size}", first + count - 1));
        headers.extend(part.ok().map(|part| (header::CONTENT_RANGE, part)));
    }
    Ok(response)
}

fn whole(size: u64) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("bytes */{size}")).ok()
}

/// The first byte and the number of bytes of the one range asked for, of so many; nothing for all of them.
fn range(asked: &str, size: u64) -> Result<Option<(u64, u64)>, &'static str> {
    const INVALID: &str = "invalid range";
    let one = asked.strip_prefix("bytes=").ok_or(INVALID)?.trim();
    if one.contains(',') {
        return Ok(None);
    }
    let (first, last) = one.split_once('-').ok_or(INVALID)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| INVALID);
    let (first, last) = match (first.trim(), last.trim()) {
        ("", count) => (size - number(count)?.min(size), size),
        (first, "") => (number(first)?, size),
        (first, last) => (number(first)?, number(last)?.saturating_add(1)),
    };
    if first >= size {
        return if size == 0 { Ok(None) } else { Err("invalid range: failed to overlap") };
    }
    if last <= first {
        return Err(INVALID);
    }
    Ok(Some((first, last.min(size) - first)))
}

/// What a file is by the ending of its name.
fn kind(path: &Path) -> Option<&'static str> {
    let ending = path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase();
    Some(match ending.as_str() {
        "avif" => "image/avif",
        "css" => "text/css; charset=utf-8",
        "gif" => "image/gif",
        "htm" | "html" => HTML,
        "jpeg" | "jpg" => "image/jpeg",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "wasm" => "application/wasm",
        "webp" => "image/webp",
        "xml" => "text/xml; charset=utf-8",
        _ => return None,
    })
}

/// What a file is by its beginning: a page, text, or bytes.
fn guessed(beginning: &[u8]) -> &'static str {
    let start = beginning.trim_ascii_start();
    let is_page = ["<!doctype html", "<html"]
        .iter()
        .any(|mark| start.get(..mark.len()).is_some_and(|found| found.eq_ignore_ascii_case(mark.as_bytes())));
    let is_binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    match (is_page, beginning.iter().any(is_binary)) {
        (true, _) => HTML,
        (_, true) => "application/octet-stream",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_part() {
        let of = |asked: &str| range(asked, 10);
        assert_eq!(of("bytes=1-2"), Ok(Some((1, 2))));
        assert_eq!(of("bytes=4-"), Ok(Some((4, 6))));
        assert_eq!(of("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(of("bytes=-30"), Ok(Some((0, 10))));
        assert_eq!(of("bytes=8-18446744073709551615"), Ok(Some((8, 2))));
        assert_eq!(of("bytes=0-1,3-4"), Ok(None));
        assert_eq!(range("bytes=0-", 0), Ok(None));
        for asked in ["bytes=10-", "bytes=-0"] {
            assert_eq!(of(asked), Err("invalid range: failed to overlap"), "{asked}");
        }
        for asked in ["bytes=2-1", "bytes=x-1", "bytes=1", "lines=1-2", "bytes=-"] {
            assert_eq!(of(asked), Err("invalid range"), "{asked}");
        }
    }

    #[tokio::test]
    async fn nothing_outside_the_directory_is_served() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("www")).unwrap();
        for (name, content) in [("secret", "s"), ("www/a b", "inside"), ("www/x&<y>", "")] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let get = async |name: &str| {
            let (request, ()) = http::Request::get("/").body(()).unwrap().into_parts();
            let response = answer(&folder.path().join("www"), name, &request).await;
            let status = response.status().as_u16();
            (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
        };
        assert_eq!(get("/../a b").await, (200, "inside".to_owned()));
        assert_eq!(get("/../secret").await.0, 404);
        assert_eq!(get("/..//../www/../secret").await.0, 404);
        let (status, page) = get("/").await;
        assert_eq!(status, 200);
        assert!(
            page.ends_with("<a href=\"a%20b\">a b</a>\n<a href=\"x&amp;%3Cy%3E\">x&amp;&lt;y&gt;</a>\n</pre>\n"),
            "{page}"
        );
    }
}
