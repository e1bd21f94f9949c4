//! Images' names: `[registry/]repository[:tag][@digest]`, as docker made them known.
//!
//! Taken apart by hand: the regular expression by which others do it takes 15 MiB of memory when it is first used.

use crate::error::{Error, Result};

const HUB: &str = "docker.io";
const LONGEST_REPOSITORY: usize = 255;

/// A complete name; it has a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `host[:port]`.
    pub registry: String,
    /// Without the registry.
    pub repository: String,
    /// Without its colon.
    pub tag: Option<String>,
    /// `sha256:...`
    pub digest: Option<String>,
}

impl Reference {
    /// Without tag and digest.
    pub fn bare(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// With everything that it has.
    pub fn whole(&self) -> String {
        let part = |mark: char, part: &Option<String>| part.as_ref().map(|part| format!("{mark}{part}")).unwrap_or_default();
        format!("{}{}{}", self.bare(), part(':', &self.tag), part('@', &self.digest))
    }
}

/// A name as people write it, complete: with registry, and a tag where neither tag nor digest is given.
pub fn normalize(name: &str) -> Result<Reference> {
    parse(name).map_err(|why| Error::Invalid(format!("image name {name:?}: {why}")))
}

fn parse(text: &str) -> std::result::Result<Reference, &'static str> {
    const MALFORMED: &str = "invalid reference format";
    if text.is_empty() {
        return Err("repository name must have at least one component");
    }
    let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match named[last..].split_once(':') {
        Some((component, tag)) => (&named[..last + component.len()], Some(tag)),
        None => (named, None),
    };
    if !is_path(path) || !tag.is_none_or(is_tag) {
        return Err(MALFORMED);
    }
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    let (registry, repository) = split_registry(path);
    if repository.len() > LONGEST_REPOSITORY {
        return Err("repository name must not be more than 255 characters");
    }
    let tag = tag.or(digest.is_none().then_some("latest")).map(str::to_owned);
    Ok(Reference { registry, repository, tag, digest: digest.map(str::to_owned) })
}

/// Components, of which the first may be a host instead if others follow.
fn is_path(path: &str) -> bool {
    match path.split_once('/') {
        Some((first, rest)) => (is_component(first) || is_host(first)) && rest.split('/').all(is_component),
        None => is_component(path),
    }
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |part: &str| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-');
    text.starts_with(is_inner) && text.ends_with(is_inner) && text.split(is_inner).all(is_separator)
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    let is_label = |label: &str| {
        label.starts_with(is_edge) && label.ends_with(is_edge) && label.chars().all(|c| is_edge(c) || c == '-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len())
        && text.starts_with(is_word)
        && text.chars().all(|c| is_word(c) || matches!(c, '.' | '-'))
}

/// Whether it has a digest's form.
pub(super) fn check_digest(digest: &str) -> std::result::Result<(), &'static str> {
    let (algorithm, hex) = digest.split_once(':').ok_or("invalid reference format")?;
    if hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("invalid reference format");
    }
    let wanted = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    if hex.len() == wanted { Ok(()) } else { Err("invalid checksum digest length") }
}

/// (registry, repository); a first component is a registry if it cannot be somebody's name at the hub.
fn split_registry(path: &str) -> (String, String) {
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (HUB, path),
    };
    let registry = if registry == "index.docker.io" { HUB } else { registry };
    match registry == HUB && !repository.contains('/') {
        true => (registry.to_owned(), format!("library/{repository}")),
        false => (registry.to_owned(), repository.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As docker's own reading, which others' expressions repeat, has them.
    #[test]
    fn names_are_read_as_others_read_them() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let (at, both) = (format!("a@{digest}"), format!("r.io:1/a/b:t@{digest}"));
        let complete = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("Me/app", "docker.io/Me/app:latest"),
            ("ME/a/b", "docker.io/ME/a/b:latest"),
            ("localhost/hello:1", "localhost/hello:1"),
            ("localhost:5000/x/y:z", "localhost:5000/x/y:z"),
            ("a:5000", "docker.io/library/a:5000"),
            ("test.com:tag", "docker.io/library/test.com:tag"),
            ("test.com/repo:tag", "test.com/repo:tag"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("a--b", "docker.io/library/a--b:latest"),
            ("a__b", "docker.io/library/a__b:latest"),
            ("a:_x.-9", "docker.io/library/a:_x.-9"),
            ("x.y:80/a_b/c-d:E", "x.y:80/a_b/c-d:E"),
            ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080"),
            ("xn--n3h.com/i:t", "xn--n3h.com/i:t"),
            (&at, &format!("docker.io/library/a@{digest}")),
            (&both, &both),
        ];
        for (name, whole) in complete {
            assert_eq!(parse(name).map(|reference| reference.whole()), Ok(whole.to_owned()), "{name:?}");
        }
        let (short, other) = (&at[..52], format!("a@md5:{}", "0".repeat(32)));
        let (long, long_tag) = ("a".repeat(256), format!("a:{}", "t".repeat(129)));
        #[rustfmt::skip]
        let malformed = [
            "me/App", "", ":", "/", "a/", "/a", "a//b", "a:", "a:b:c", "a:b/c", "host:/a", "host:1x/a", "-a/b", "a-/b", "a___b",
            "a._b", "a..b", "a-.b", ".a", "a.", "a.b/", "h..t/a", "a@", "a@b", "a:t@", "a b", "ä", "a:ä", "a:-x", "a:.x", "A",
            "a/b/C", "foo_bar.com:8080/a", "a:b@c@d", short, &other, &long, &long_tag,
        ];
        for name in malformed {
            assert!(parse(name).is_err(), "{name:?}");
        }
    }
}
