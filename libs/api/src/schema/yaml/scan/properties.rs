//! Directives, and what stands before a node: its anchor and its tag.

use super::{Done, Scanner, Token};

impl Scanner<'_> {
    /// The word behind a `&`, `*` or `%`; empty for none.
    fn name_after_sign(&mut self) -> String {
        self.skip();
        let mut name = String::new();
        while self.is_word() {
            self.read(&mut name);
        }
        name
    }

    pub(super) fn anchor(&mut self, alias: bool) -> Done {
        self.save_candidate()?;
        self.key_allowed = false;
        let line = self.mark.line;
        let name = self.name_after_sign();
        if name.is_empty() || !(self.is_space(0) || b"?:,]}%@`".contains(&self.byte(0))) {
            return self.wrong("did not find expected alphabetic or numeric character");
        }
        self.push(if alias { Token::Alias(name) } else { Token::Anchor(name) }, line);
        Ok(())
    }

    pub(super) fn directive(&mut self) -> Done {
        self.unroll(-1);
        self.drop_candidate()?;
        self.key_allowed = false;
        let line = self.mark.line;
        let name = self.name_after_sign();
        if name.is_empty() {
            return self.wrong("could not find expected directive name");
        }
        if !self.is_space(0) {
            return self.wrong("found unexpected non-alphabetical character");
        }
        let token = match name.as_str() {
            "YAML" => self.version()?,
            "TAG" => self.tag_directive()?,
            _ => return self.wrong("found unknown directive name"),
        };
        self.end_of_line()?;
        self.push(token, line);
        Ok(())
    }

    fn version(&mut self) -> Result<Token, String> {
        self.skip_blanks();
        let major = self.version_number()?;
        if self.byte(0) != b'.' {
            return self.wrong("did not find expected digit or '.' character");
        }
        self.skip();
        Ok(Token::Version(major, self.version_number()?))
    }

    fn version_number(&mut self) -> Result<u32, String> {
        let (mut value, mut length) = (0, 0);
        while let digit @ b'0'..=b'9' = self.byte(0) {
            length += 1;
            if length > 2 {
                return self.wrong("found extremely long version number");
            }
            value = value * 10 + u32::from(digit - b'0');
            self.skip();
        }
        if length == 0 { self.wrong("did not find expected version number") } else { Ok(value) }
    }

    fn tag_directive(&mut self) -> Result<Token, String> {
        self.skip_blanks();
        let handle = self.tag_handle(true)?;
        if !self.is_blank(0) {
            return self.wrong("did not find expected whitespace");
        }
        self.skip_blanks();
        let prefix = self.tag_uri(None)?;
        if !self.is_space(0) {
            return self.wrong("did not find expected whitespace or line break");
        }
        Ok(Token::TagDirective { handle, prefix })
    }

    pub(super) fn tag(&mut self) -> Done {
        self.save_candidate()?;
        self.key_allowed = false;
        let line = self.mark.line;
        let (handle, suffix) = if self.byte(1) == b'<' {
            self.skip();
            self.skip();
            let uri = self.tag_uri(None)?;
            if self.byte(0) != b'>' {
                return self.wrong("did not find the expected '>'");
            }
            self.skip();
            (String::new(), uri)
        } else {
            let handle = self.tag_handle(false)?;
            if handle.len() > 1 && handle.ends_with('!') {
                let suffix = self.tag_uri(None)?;
                (handle, suffix)
            } else {
                match self.tag_uri(Some(&handle[1..]))? {
                    suffix if suffix.is_empty() => (suffix, "!".to_owned()),
                    suffix => ("!".to_owned(), suffix),
                }
            }
        };
        if !self.is_space(0) {
            return self.wrong("did not find expected whitespace or line break");
        }
        self.push(Token::Tag { handle, suffix }, line);
        Ok(())
    }

    fn tag_handle(&mut self, directive: bool) -> Result<String, String> {
        const EXPECTED: &str = "did not find expected '!'";
        if self.byte(0) != b'!' {
            return self.wrong(EXPECTED);
        }
        let mut handle = String::new();
        self.read(&mut handle);
        while self.is_word() {
            self.read(&mut handle);
        }
        if self.byte(0) == b'!' {
            self.read(&mut handle);
        } else if directive && handle != "!" {
            return self.wrong(EXPECTED);
        }
        Ok(handle)
    }

    /// What follows a handle, or what was taken for one.
    fn tag_uri(&mut self, head: Option<&str>) -> Result<String, String> {
        let (mut bytes, mut found) = (head.unwrap_or_default().as_bytes().to_vec(), head.is_some());
        while self.is_word() || b";/?:@&=+$,.!~*'()[]%".contains(&self.byte(0)) {
            found = true;
            if self.byte(0) == b'%' {
                self.octets(&mut bytes)?;
            } else {
                bytes.push(self.byte(0));
                self.skip();
            }
        }
        if !found {
            return self.wrong("did not find expected tag URI");
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// One character as `%c3%a9`.
    fn octets(&mut self, out: &mut Vec<u8>) -> Done {
        let mut left = None;
        while left != Some(0) {
            let digit = |ahead| char::from(self.byte(ahead)).to_digit(16);
            let (b'%', Some(high), Some(low)) = (self.byte(0), digit(1), digit(2)) else {
                return self.wrong("did not find URI escaped octet");
            };
            let octet = (high * 16 + low) as u8;
            let width = match octet {
                0..0x80 => Some(1),
                0xc0..0xe0 => Some(2),
                0xe0..0xf0 => Some(3),
                0xf0..0xf8 => Some(4),
                _ => None,
            };
            let rest = match (left, width) {
                (None, None) => return self.wrong("found an incorrect leading UTF-8 octet"),
                (None, Some(width)) => width,
                (Some(rest), _) if octet & 0xc0 == 0x80 => rest,
                (Some(_), _) => return self.wrong("found an incorrect trailing UTF-8 octet"),
            };
            out.push(octet);
            (0..3).for_each(|_| self.skip());
            left = Some(rest - 1);
        }
        Ok(())
    }
}
