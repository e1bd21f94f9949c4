//! Scalars: block ones, quoted ones and plain ones.

use super::{Done, Scanner, Token};

impl Scanner<'_> {
    pub(super) fn block_scalar(&mut self, literal: bool) -> Done {
        self.drop_candidate()?;
        self.key_allowed = true;
        let line = self.mark.line;
        self.skip();
        let (mut chomp, mut step) = (None, None);
        for _ in 0..2 {
            match self.byte(0) {
                sign @ (b'+' | b'-') if chomp.is_none() => chomp = Some(sign),
                b'0' if step.is_none() => return self.wrong("found an indentation indicator equal to 0"),
                digit @ b'1'..=b'9' if step.is_none() => step = Some(isize::from(digit - b'0')),
                _ => break,
            }
            self.skip();
        }
        self.end_of_line()?;
        let mut indent = step.map_or(0, |step| self.indent.max(0) + step);
        let (mut text, mut first_break, mut breaks) = (String::new(), String::new(), String::new());
        self.block_breaks(&mut indent, &mut breaks)?;
        let mut led = false;
        while self.mark.column as isize == indent && !self.is_end(0) {
            let blank = self.is_blank(0);
            if !literal && first_break.starts_with('\n') && !led && !blank {
                if breaks.is_empty() {
                    text.push(' ');
                }
            } else {
                text.push_str(&first_break);
            }
            first_break.clear();
            text.push_str(&breaks);
            breaks.clear();
            led = blank;
            while !self.is_break_or_end(0) {
                self.read(&mut text);
            }
            if self.is_break(0) {
                self.read_break(&mut first_break);
            }
            self.block_breaks(&mut indent, &mut breaks)?;
        }
        if chomp != Some(b'-') {
            text.push_str(&first_break);
        }
        if chomp == Some(b'+') {
            text.push_str(&breaks);
        }
        self.push(Token::Scalar { text, plain: false }, line);
        Ok(())
    }

    /// Indents and empty lines; an indent of 0 is not known yet.
    fn block_breaks(&mut self, indent: &mut isize, breaks: &mut String) -> Done {
        let mut widest = 0;
        loop {
            let inside = |column: usize| *indent == 0 || (column as isize) < *indent;
            while inside(self.mark.column) && self.byte(0) == b' ' {
                self.skip();
            }
            widest = widest.max(self.mark.column as isize);
            if inside(self.mark.column) && self.byte(0) == b'\t' {
                return self.wrong("found a tab character where an indentation space is expected");
            }
            if !self.is_break(0) {
                break;
            }
            self.read_break(breaks);
        }
        if *indent == 0 {
            *indent = widest.max(self.indent + 1).max(1);
        }
        Ok(())
    }

    pub(super) fn quoted(&mut self, single: bool) -> Done {
        self.save_candidate()?;
        self.key_allowed = false;
        let line = self.mark.line;
        let quote = self.byte(0);
        self.skip();
        let mut text = String::new();
        let mut gap = Gap::default();
        loop {
            if self.at_sign(b'-') || self.at_sign(b'.') {
                return self.wrong("found unexpected document indicator");
            }
            if self.is_end(0) {
                return self.wrong("found unexpected end of stream");
            }
            gap.broken = false;
            while !self.is_space(0) {
                match self.byte(0) {
                    b'\'' if single && self.byte(1) == b'\'' => {
                        text.push('\'');
                        self.skip();
                        self.skip();
                    }
                    byte if byte == quote => break,
                    b'\\' if !single && self.is_break(1) => {
                        self.skip();
                        self.skip_break();
                        gap.broken = true;
                        break;
                    }
                    b'\\' if !single => self.escape(&mut text)?,
                    _ => self.read(&mut text),
                }
            }
            if self.byte(0) == quote {
                break;
            }
            self.gap(&mut gap, None)?;
            gap.join(&mut text);
        }
        self.skip();
        self.push(Token::Scalar { text, plain: false }, line);
        Ok(())
    }

    fn escape(&mut self, text: &mut String) -> Done {
        let digits = match self.byte(1) {
            b'x' => 2,
            b'u' => 4,
            b'U' => 8,
            _ => 0,
        };
        if digits == 0 {
            text.push(match self.byte(1) {
                b'0' => '\0',
                b'a' => '\u{7}',
                b'b' => '\u{8}',
                b't' | b'\t' => '\t',
                b'n' => '\n',
                b'v' => '\u{b}',
                b'f' => '\u{c}',
                b'r' => '\r',
                b'e' => '\u{1b}',
                same @ (b' ' | b'"' | b'\'' | b'\\') => char::from(same),
                b'N' => '\u{85}',
                b'_' => '\u{a0}',
                b'L' => '\u{2028}',
                b'P' => '\u{2029}',
                _ => return self.wrong("found unknown escape character"),
            });
        }
        self.skip();
        self.skip();
        if digits > 0 {
            let mut code = 0;
            for ahead in 0..digits {
                let Some(digit) = char::from(self.byte(ahead)).to_digit(16) else {
                    return self.wrong("did not find expected hexdecimal number");
                };
                code = code << 4 | digit;
            }
            let Some(character) = char::from_u32(code) else {
                return self.wrong("found invalid Unicode character escape code");
            };
            text.push(character);
            (0..digits).for_each(|_| self.skip());
        }
        Ok(())
    }

    /// Spaces and ends of lines inside of a scalar; where tabs are no indent, the column up to which.
    fn gap(&mut self, gap: &mut Gap, indent: Option<isize>) -> Done {
        while self.is_blank(0) || self.is_break(0) {
            if self.is_break(0) {
                if gap.broken {
                    self.read_break(&mut gap.breaks);
                } else {
                    gap.blanks.clear();
                    self.read_break(&mut gap.first);
                    gap.broken = true;
                }
            } else if gap.broken {
                if self.byte(0) == b'\t' && indent.is_some_and(|indent| (self.mark.column as isize) < indent) {
                    return self.wrong("found a tab character that violates indentation");
                }
                self.skip();
            } else {
                self.read(&mut gap.blanks);
            }
        }
        Ok(())
    }

    pub(super) fn plain(&mut self) -> Done {
        self.save_candidate()?;
        self.key_allowed = false;
        let (line, indent) = (self.mark.line, self.indent + 1);
        let mut text = String::new();
        let mut gap = Gap::default();
        while !(self.at_sign(b'-') || self.at_sign(b'.') || self.byte(0) == b'#') {
            while !self.is_space(0) {
                let byte = self.byte(0);
                if byte == b':' && self.is_space(1) || self.flow > 0 && b",?[]{}".contains(&byte) {
                    break;
                }
                gap.join(&mut text);
                gap.broken = false;
                self.read(&mut text);
            }
            if !(self.is_blank(0) || self.is_break(0)) {
                break;
            }
            self.gap(&mut gap, Some(indent))?;
            if self.flow == 0 && (self.mark.column as isize) < indent {
                break;
            }
        }
        if gap.broken {
            self.key_allowed = true;
        }
        self.push(Token::Scalar { text, plain: true }, line);
        Ok(())
    }
}

/// What lies between two words of a scalar.
#[derive(Default)]
struct Gap {
    blanks: String,
    first: String,
    breaks: String,
    /// A line has ended.
    broken: bool,
}

impl Gap {
    /// One end of a line becomes a space, of several all but the first stay.
    fn join(&mut self, text: &mut String) {
        if !self.broken {
            text.push_str(&self.blanks);
        } else if !self.first.starts_with('\n') {
            text.push_str(&self.first);
            text.push_str(&self.breaks);
        } else if self.breaks.is_empty() {
            text.push(' ');
        } else {
            text.push_str(&self.breaks);
        }
        self.blanks.clear();
        self.first.clear();
        self.breaks.clear();
    }
}
