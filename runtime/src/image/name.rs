//! Images' names: `[registry/]repository[:tag][@digest]`, as docker made them known.
//!
//! Taken apart by hand: the regular expression by which `oci-client` does it counts up to 127 characters of any script, takes
//! 15 MiB of memory when it is first used, and keeps them.

use oci_client::Reference;

use crate::error::{Error, Result};

const HUB: &str = "docker.io";
const LONGEST_REPOSITORY: usize = 255;

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
    let tag = tag.map(str::to_owned);
    Ok(match (tag, digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag, digest),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (tag, None) => Reference::with_tag(registry, repository, tag.unwrap_or_else(|| "latest".to_owned())),
    })
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

fn check_digest(digest: &str) -> std::result::Result<(), &'static str> {
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

    /// `oci-client`'s own reading, which knows every rule.
    #[test]
    fn names_are_read_as_others_read_them() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let (at, short, other) =
            (format!("a@{digest}"), format!("a@{}", &digest[..50]), format!("a@md5:{}", "0".repeat(32)));
        let (both, long, long_tag) = (format!("r.io:1/a/b:t@{digest}"), "a".repeat(256), format!("a:{}", "t".repeat(129)));
        let names = [
            "busybox",
            "busybox:1.36",
            "me/app",
            "Me/app",
            "me/App",
            "ME/a/b",
            "localhost/hello:1",
            "localhost:5000/x/y:z",
            "a:5000",
            "test.com:tag",
            "test.com/repo:tag",
            "index.docker.io/nginx",
            "docker.io/nginx",
            "docker.io/library/nginx:1",
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:b:c",
            "a:b/c",
            "host:/a",
            "host:1x/a",
            "-a/b",
            "a-/b",
            "a--b",
            "a__b",
            "a___b",
            "a._b",
            "a..b",
            "a-.b",
            ".a",
            "a.",
            "a.b/",
            "h..t/a",
            "a@",
            "a@b",
            "a:t@",
            "a b",
            "ä",
            "a:ä",
            "a:-x",
            "a:.x",
            "a:_x.-9",
            "A",
            "a/b/C",
            "x.y:80/a_b/c-d:E",
            "foo_bar.com:8080",
            "foo_bar.com:8080/a",
            "xn--n3h.com/i:t",
            "a:b@c@d",
            &at,
            &short,
            &other,
            &both,
            &long,
            &long_tag,
        ];
        let whole = |reference: Option<Reference>| reference.map(|r| (r.registry().to_owned(), r.whole()));
        for name in names {
            let theirs = if name == "a:ä" { None } else { name.parse().ok() };
            assert_eq!(whole(parse(name).ok()), whole(theirs), "{name:?}");
        }
    }
}
