//! Links in HTML pages that come through a proxy: absolute paths get the proxy's path in front, as upstream's do.
//!
//! A page is read as it flows, a tag at a time: text, comments, scripts and attributes that hold no links pass byte for
//! byte. Pages packed with gzip are unpacked and packed again; other encodings pass as they are.

use std::io::Write;

use flate2::{Compression, write::GzDecoder, write::GzEncoder};

/// Elements whose content is no markup.
const RAW: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript"];
/// A longer tag is none; it passes unread.
const LONGEST_TAG: usize = 64 << 10;

/// Whether an attribute of an element holds an address.
fn is_link(element: &str, attribute: &str) -> bool {
    let attributes: &[&str] = match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    };
    attributes.contains(&attribute)
}

/// Where a page was asked for, and where it comes from.
#[derive(Clone, Debug)]
pub struct Place {
    /// The proxy's path, without a slash at its end.
    pub prefix: String,
    /// The host that the page comes from.
    pub backend: String,
    /// The host that the client asked.
    pub asked: String,
}

impl Place {
    /// The address that a link on the page has behind the proxy; `None` if it stays as it is.
    fn link(&self, url: &str) -> Option<String> {
        let (path, host) = match url.strip_prefix("//").or_else(|| {
            let (scheme, rest) = url.split_once("://")?;
            matches!(scheme, "http" | "https").then_some(rest)
        }) {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (&rest[end..], Some(&rest[..end]))
            }
            None => (url, None),
        };
        let ours = host.is_none_or(|host| host == self.backend || host == self.asked);
        if !ours || !path.starts_with('/') {
            return None;
        }
        // A link to the host that was asked keeps it.
        let kept = host.filter(|host| *host == self.asked).map_or("", |_| &url[..url.len() - path.len()]);
        let path = if path.starts_with(&self.prefix) { path.to_owned() } else { format!("{}{path}", self.prefix) };
        Some(format!("{kept}{path}"))
    }
}

/// The length of the tag at the start of `bytes`, if its end is there.
fn tag_length(bytes: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut value = false;
    for (at, byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if open == *byte => quote = None,
            (Some(_), _) => {}
            // A quote opens a value only after `=`; elsewhere it is a stray.
            (None, b'"' | b'\'') if value => (quote, value) = (Some(*byte), false),
            (None, b'>') => return Some(at + 1),
            (None, byte) => value = *byte == b'=' || value && byte.is_ascii_whitespace(),
        }
    }
    None
}

/// The name of the tag at the start of `tag`, in small letters.
fn element(tag: &[u8]) -> String {
    let name = tag.iter().skip(1).take_while(|b| !b.is_ascii_whitespace() && !b"/>".contains(b));
    name.map(|b| char::from(b.to_ascii_lowercase())).collect()
}

/// Changes links as bytes flow by.
#[derive(Debug)]
pub struct Links {
    place: Place,
    unread: Vec<u8>,
    /// In the content of such an element.
    raw: Option<&'static str>,
}

impl Links {
    /// At the start of a page.
    pub fn new(place: Place) -> Self {
        Self { place, unread: Vec::new(), raw: None }
    }

    /// Takes the next bytes; returns what is decided by now.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut self.unread);
        let mut out = Vec::with_capacity(unread.len());
        let mut rest = unread.as_slice();
        while !rest.is_empty() {
            let Some(length) = self.piece(rest, &mut out) else { break };
            rest = &rest[length..];
        }
        self.unread = rest.to_vec();
        out
    }

    /// What is left at the page's end.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Writes the next piece of the page and returns its length; `None` if its end has not come yet.
    fn piece(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let pass = |out: &mut Vec<u8>, length: usize| {
            out.extend_from_slice(&rest[..length]);
            Some(length)
        };
        if let Some(name) = self.raw {
            let end = rest
                .windows(name.len() + 2)
                .position(|w| w.starts_with(b"</") && w[2..].eq_ignore_ascii_case(name.as_bytes()));
            return match end {
                Some(end) => {
                    self.raw = None;
                    pass(out, (end + 2).max(1))
                }
                // The end may be cut in two.
                None => Some(rest.len().saturating_sub(name.len() + 1)).filter(|l| *l > 0).and_then(|l| pass(out, l)),
            };
        }
        let begin = rest.iter().position(|b| *b == b'<').unwrap_or(rest.len());
        if begin > 0 {
            return pass(out, begin);
        }
        let patience = rest.len() < LONGEST_TAG;
        match rest.get(1) {
            None => None,
            Some(b'!') if b"<!--".starts_with(&rest[..rest.len().min(4)]) => {
                let end = rest.windows(3).skip(4).position(|w| w == b"-->").map(|at| at + 4 + 3);
                end.or((!patience).then_some(rest.len())).and_then(|length| pass(out, length))
            }
            Some(first) if first.is_ascii_alphabetic() => match tag_length(rest) {
                Some(length) => {
                    let name = element(rest);
                    self.raw = RAW.iter().find(|raw| **raw == name).copied();
                    self.tag(&rest[..length], &name, out);
                    Some(length)
                }
                None if patience => None,
                None => pass(out, rest.len()),
            },
            Some(_) => pass(out, 1),
        }
    }

    fn tag(&self, tag: &[u8], name: &str, out: &mut Vec<u8>) {
        let mut at = 1 + name.len();
        let mut written = 0;
        while at < tag.len() {
            let start = at + tag[at..].iter().take_while(|b| b.is_ascii_whitespace() || b"/>\"'".contains(b)).count();
            let end = start + tag[start..].iter().take_while(|b| !b.is_ascii_whitespace() && !b"=/>".contains(b)).count();
            let spaces = |from: usize| from + tag[from..].iter().take_while(|b| b.is_ascii_whitespace()).count();
            let equals = spaces(end);
            if tag.get(equals) != Some(&b'=') {
                // An attribute without a value; `start` moves on in any case.
                at = end.max(start + 1);
                continue;
            }
            let value = spaces(equals + 1);
            let (value, stop) = match tag.get(value) {
                Some(quote @ (b'"' | b'\'')) => {
                    let length = tag[value + 1..].iter().take_while(|b| *b != quote).count();
                    (value + 1, value + 1 + length)
                }
                _ => {
                    let length = tag[value..].iter().take_while(|b| !b.is_ascii_whitespace() && **b != b'>').count();
                    (value, value + length)
                }
            };
            let attribute = String::from_utf8_lossy(&tag[start..end]).to_ascii_lowercase();
            if is_link(name, &attribute)
                && let Some(link) = std::str::from_utf8(&tag[value..stop]).ok().and_then(|url| self.place.link(url))
            {
                out.extend_from_slice(&tag[written..value]);
                out.extend_from_slice(link.as_bytes());
                written = stop;
            }
            at = stop.max(end + 1);
        }
        out.extend_from_slice(&tag[written..]);
    }
}

/// [`Links`] inside gzip.
pub struct Packed {
    unpack: GzDecoder<Vec<u8>>,
    links: Links,
    pack: GzEncoder<Vec<u8>>,
}

impl Packed {
    /// At the start of a page.
    pub fn new(place: Place) -> Self {
        Self {
            unpack: GzDecoder::new(Vec::new()),
            links: Links::new(place),
            pack: GzEncoder::new(Vec::new(), Compression::fast()),
        }
    }

    /// Takes the next bytes; returns what is decided by now.
    pub fn feed(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        self.unpack.write_all(bytes)?;
        self.unpack.flush()?;
        let page = self.links.feed(&std::mem::take(self.unpack.get_mut()));
        self.pack.write_all(&page)?;
        self.pack.flush()?;
        Ok(std::mem::take(self.pack.get_mut()))
    }

    /// What is left at the page's end.
    pub fn finish(&mut self) -> std::io::Result<Vec<u8>> {
        self.unpack.try_finish()?;
        let mut page = self.links.feed(&std::mem::take(self.unpack.get_mut()));
        page.extend(self.links.finish());
        self.pack.write_all(&page)?;
        self.pack.try_finish()?;
        Ok(std::mem::take(self.pack.get_mut()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn place() -> Place {
        Place { prefix: "/p".into(), backend: "10.42.0.5:80".into(), asked: "api:6443".into() }
    }

    const PAGE: &str = r#"<!doctype html><!-- <a href="/no"> --><HTML><a class='x>y' HREF="/a?b=1">one</a> 1 < 2
        <a href=/a/b>two</a><a href="c">three</a><img src='//10.42.0.5:80/i.png' alt="/x"><a href="//other/a">
        <script src="/s.js">if (a < b) { document.write('<a href="/no">'); }</SCRIPT><form action = "/f"/>
        <a href="http://api:6443/z"><a href="/p/already"><input disabled src=""></HTML"#;
    const WANT: &str = r#"<!doctype html><!-- <a href="/no"> --><HTML><a class='x>y' HREF="/p/a?b=1">one</a> 1 < 2
        <a href=/p/a/b>two</a><a href="c">three</a><img src='/p/i.png' alt="/x"><a href="//other/a">
        <script src="/p/s.js">if (a < b) { document.write('<a href="/no">'); }</SCRIPT><form action = "/p/f"/>
        <a href="http://api:6443/p/z"><a href="/p/already"><input disabled src=""></HTML"#;

    #[test]
    fn links_are_changed_wherever_the_page_is_cut() {
        for size in [1, 2, 3, 7, 50, PAGE.len()] {
            let mut links = Links::new(place());
            let mut got: Vec<u8> = PAGE.as_bytes().chunks(size).flat_map(|piece| links.feed(piece)).collect();
            got.extend(links.finish());
            assert_eq!(String::from_utf8(got).unwrap(), WANT, "{size}");
        }
    }

    #[test]
    fn a_packed_page_stays_packed() {
        let mut pack = GzEncoder::new(Vec::new(), Compression::fast());
        pack.write_all(PAGE.as_bytes()).unwrap();
        let page = pack.finish().unwrap();
        let mut links = Packed::new(place());
        let mut got: Vec<u8> = page.chunks(40).flat_map(|piece| links.feed(piece).unwrap()).collect();
        got.extend(links.finish().unwrap());
        let mut text = String::new();
        flate2::read::GzDecoder::new(got.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, WANT);
    }

    #[test]
    fn pages_without_paths_pass_unchanged() {
        let letters = b"<a =\">!-/'";
        for number in 0..letters.len().pow(5) {
            let page: Vec<u8> = (0..5).map(|place| letters[number / letters.len().pow(place) % letters.len()]).collect();
            let mut links = Links::new(place());
            let mut got: Vec<u8> = page.chunks(1 + number % 3).flat_map(|piece| links.feed(piece)).collect();
            got.extend(links.finish());
            assert_eq!(got, page);
        }
    }
}
