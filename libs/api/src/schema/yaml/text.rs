//! Bytes to text, as libyaml's reader does it: UTF-8, or UTF-16 with a mark, without control characters.

use std::borrow::Cow;

/// How many bytes are read at once.
const CHUNK: usize = 512;

/// What can be read of a document, and what is wrong behind that. The reader looks at a whole chunk at once: nothing of a chunk
/// with something wrong in it can be read.
pub(super) fn readable(bytes: &[u8]) -> (Cow<'_, str>, Option<&'static str>) {
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest, CHUNK - 3),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => utf8(bytes, CHUNK),
    }
}

fn utf8(bytes: &[u8], first: usize) -> (Cow<'_, str>, Option<&'static str>) {
    // The usual case.
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.chars().all(is_allowed)
    {
        return (text.into(), None);
    }
    let (mut start, mut end) = (0, first.min(bytes.len()));
    loop {
        let mut at = start;
        let found = loop {
            match character(&bytes[at..end]) {
                Ok(0) => break None,
                Ok(width) => at += width,
                Err(why) => break Some(why),
            }
        };
        let cut = match found {
            Some(Wrong::Cut) if end == bytes.len() => at,
            Some(Wrong::Because(_)) => start,
            _ => {
                (start, end) = (at, (at + CHUNK).min(bytes.len()));
                continue;
            }
        };
        let why = match found {
            Some(Wrong::Because(why)) => why,
            _ => "incomplete UTF-8 octet sequence",
        };
        return (String::from_utf8_lossy(&bytes[..cut]), Some(why));
    }
}

enum Wrong {
    /// The bytes end in the middle of a character.
    Cut,
    Because(&'static str),
}

/// How many bytes the first character has, 0 at the end.
fn character(bytes: &[u8]) -> Result<usize, Wrong> {
    let Some(&lead) = bytes.first() else { return Ok(0) };
    let (width, bits) = match lead {
        0..0x80 => (1, lead),
        0xc0..0xe0 => (2, lead & 0x1f),
        0xe0..0xf0 => (3, lead & 0x0f),
        0xf0..0xf8 => (4, lead & 0x07),
        _ => return Err(Wrong::Because("invalid leading UTF-8 octet")),
    };
    let Some(rest) = bytes.get(1..width) else { return Err(Wrong::Cut) };
    if rest.iter().any(|byte| byte & 0xc0 != 0x80) {
        return Err(Wrong::Because("invalid trailing UTF-8 octet"));
    }
    let code = rest.iter().fold(u32::from(bits), |code, byte| code << 6 | u32::from(byte & 0x3f));
    if code < [0, 0, 0x80, 0x800, 0x1_0000][width] {
        return Err(Wrong::Because("invalid length of a UTF-8 sequence"));
    }
    match char::from_u32(code) {
        None => Err(Wrong::Because("invalid Unicode character")),
        Some(c) if is_allowed(c) => Ok(width),
        Some(_) => Err(Wrong::Because(CONTROL)),
    }
}

const CONTROL: &str = "control characters are not allowed";

fn is_allowed(c: char) -> bool {
    let controls = matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
    !controls || matches!(c, '\t' | '\n' | '\r' | '\u{85}')
}

/// Of a text in UTF-16 nothing can be read if something is wrong in it.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> (Cow<'_, str>, Option<&'static str>) {
    let mut units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).peekable();
    let mut text = String::new();
    while let Some(first) = units.next() {
        let why = match (first, units.peek().copied()) {
            (0xdc00..0xe000, _) => "unexpected low surrogate area",
            (0xd800..0xdc00, None) => "incomplete UTF-16 surrogate pair",
            (0xd800..0xdc00, Some(second)) => {
                units.next();
                match char::decode_utf16([first, second]).next() {
                    Some(Ok(c)) => {
                        text.push(c);
                        continue;
                    }
                    _ => "expected low surrogate area",
                }
            }
            _ => match char::from_u32(u32::from(first)).filter(|c| is_allowed(*c)) {
                Some(c) => {
                    text.push(c);
                    continue;
                }
                None => CONTROL,
            },
        };
        return ("".into(), Some(why));
    }
    (text.into(), (bytes.len() % 2 == 1).then_some("incomplete UTF-16 character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_before_the_chunk_that_cannot_be_read() {
        let read = |bytes: &[u8]| {
            let (text, why) = readable(bytes);
            (text.into_owned(), why)
        };
        assert_eq!(read("é\u{85}\t😀".as_bytes()), ("é\u{85}\t😀".to_owned(), None));
        for (bytes, why) in [
            (&b"a\xff"[..], "invalid leading UTF-8 octet"),
            (b"a\xc3(", "invalid trailing UTF-8 octet"),
            (b"\xc0\x80", "invalid length of a UTF-8 sequence"),
            (b"\xed\xa0\x80", "invalid Unicode character"),
            (b"a\0", "control characters are not allowed"),
            (b"\xff\xfea", "incomplete UTF-16 character"),
            (b"\xff\xfe\x00\xd8", "incomplete UTF-16 surrogate pair"),
            (b"\xfe\xff\xdc\x00", "unexpected low surrogate area"),
        ] {
            assert_eq!(read(bytes), (String::new(), Some(why)), "{bytes:?}");
        }
        assert_eq!(read(b"a\xc3"), ("a".to_owned(), Some("incomplete UTF-8 octet sequence")));
        assert_eq!(read(b"\xff\xfea\0\x3d\xd8\x00\xde"), ("a😀".to_owned(), None));
        // 511 bytes and half of a character, which begins the next chunk.
        let long = format!("{}é{}\u{1}", "a".repeat(511), "b".repeat(600));
        assert_eq!(read(long.as_bytes()).0.len(), 511 + 512);
    }
}
