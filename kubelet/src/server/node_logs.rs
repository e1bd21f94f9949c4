//! `/logs/PATH`: the node's own logs, as files and directories below /var/log. A link that leads out of there leads nowhere.

use std::{
    io,
    path::{Path, PathBuf},
};

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio_util::io::ReaderStream;

use super::{Refusal, streams::decode};

const ROOT: &str = "/var/log";

/// Answers it.
pub async fn handle(request: Request) -> Result<Response, Refusal> {
    let path = decode(request.uri().path());
    answer(Path::new(ROOT), path.strip_prefix("/logs").unwrap_or(&path)).await
}

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    File(PathBuf),
    /// Names in it, directories with a slash.
    Directory(Vec<String>),
}

fn find(root: &Path, path: &str) -> io::Result<Found> {
    let root = root.canonicalize()?;
    let found = root.join(path.trim_start_matches('/')).canonicalize()?;
    let kind = found.metadata()?;
    if !found.starts_with(&root) || !(kind.is_dir() || kind.is_file()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    if kind.is_file() {
        return Ok(Found::File(found));
    }
    let entries = found.read_dir()?.collect::<io::Result<Vec<_>>>()?;
    let slash = |entry: &std::fs::DirEntry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { "/" } else { "" };
    let mut names: Vec<String> =
        entries.iter().map(|entry| format!("{}{}", entry.file_name().to_string_lossy(), slash(entry))).collect();
    names.sort();
    Ok(Found::Directory(names))
}

async fn answer(root: &Path, path: &str) -> Result<Response, Refusal> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Refusal(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
        }
        io::ErrorKind::PermissionDenied => Refusal(StatusCode::FORBIDDEN, "403 Forbidden\n".to_owned()),
        _ => Refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n".to_owned()),
    };
    let (at, wanted) = (root.to_owned(), path.to_owned());
    let found = tokio::task::spawn_blocking(move || find(&at, &wanted)).await.map_err(|e| refused(io::Error::other(e)))?;
    match found.map_err(refused)? {
        Found::Directory(_) if !path.ends_with('/') => {
            // Names in the listing are relative.
            let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("logs");
            Ok((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, format!("{}/", escaped(name)))]).into_response())
        }
        Found::Directory(names) => {
            let line = |name: &String| format!("<a href=\"{}\">{}</a>\n", escaped(name), text(name));
            let lines: String = names.iter().map(line).collect();
            Ok(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], format!("<pre>\n{lines}</pre>\n")).into_response())
        }
        Found::File(path) => {
            let file = tokio::fs::File::open(&path).await.map_err(refused)?;
            let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            Ok((kind, Body::from_stream(ReaderStream::new(file))).into_response())
        }
    }
}

/// A name as part of a URL.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A name as text of a page.
fn text(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn get(root: &Path, path: &str) -> (u16, String) {
        let response = answer(root, path).await.unwrap_or_else(IntoResponse::into_response);
        let location = response.headers().get(header::LOCATION).map(|l| l.to_str().unwrap().to_owned());
        let code = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (code, location.unwrap_or_else(|| String::from_utf8(body.to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn files_and_directories_below_the_root_and_nothing_else() {
        let dir = Dir(std::env::temp_dir().join(format!("knarr-logs-{}", std::process::id())));
        let root = dir.0.join("log");
        std::fs::create_dir_all(root.join("a&b")).unwrap();
        std::fs::write(root.join("a&b/x.log"), "line\n").unwrap();
        std::fs::write(dir.0.join("secret"), "no").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        let nothing = || (404, "404 page not found\n".to_owned());
        let list = "<pre>\n<a href=\"a%26b/\">a&amp;b/</a>\n<a href=\"out\">out</a>\n</pre>\n";
        assert_eq!(get(&root, "/").await, (200, list.to_owned()));
        assert_eq!(get(&root, "").await, (301, "logs/".to_owned()));
        assert_eq!(get(&root, "/a&b").await, (301, "a%26b/".to_owned()));
        assert_eq!(get(&root, "/a&b/x.log").await, (200, "line\n".to_owned()));
        for bad in ["/out", "/../secret", "/none", "/a&b/x.log/y"] {
            assert_eq!(get(&root, bad).await, nothing(), "{bad}");
        }
    }
}
