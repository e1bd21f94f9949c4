//! The tokens of a YAML 1.1 text, one after another and no sooner than they are asked for: what is wrong behind a document is
//! nobody's business.
//!
//! Whether a scalar is a key is known at the `:` behind it, so tokens wait in a queue while one of them may yet turn out to be
//! the first of a key. What is wrong is told in libyaml's words, which people search for.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
};

/// How deep brackets may nest, and how many indents may be open.
pub(super) const MAX_DEPTH: usize = 10_000;

/// How long a key may be that no `?` announces, in characters.
const KEY_LENGTH: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    StreamEnd,
    Version(u32, u32),
    TagDirective { handle: String, prefix: String },
    DocumentStart,
    DocumentEnd,
    SequenceStart,
    MappingStart,
    BlockEnd,
    BracketOpen,
    BracketClose,
    BraceOpen,
    BraceClose,
    Dash,
    Comma,
    Key,
    Value,
    Alias(String),
    Anchor(String),
    Tag { handle: String, suffix: String },
    Scalar { text: String, plain: bool },
}

/// A token and the line where it begins, from zero.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) line: usize,
}

#[derive(Clone, Copy)]
struct Mark {
    /// In bytes.
    at: usize,
    /// In characters.
    index: usize,
    line: usize,
    column: usize,
}

/// A token that is the first of a key if a `:` follows on its line.
#[derive(Clone, Copy)]
struct Candidate {
    possible: bool,
    /// Nothing but a key can stand there.
    required: bool,
    number: usize,
    mark: Mark,
}

/// A mistake at a line (from zero): on the first one no line is named.
pub(super) fn told(line: usize, why: &str) -> String {
    if line == 0 { format!("yaml: {why}") } else { format!("yaml: line {line}: {why}") }
}

pub(super) struct Scanner<'a> {
    text: &'a [u8],
    /// Why the text ends where it does, if it should not.
    cut: Option<&'static str>,
    /// Whether somebody looked at what was cut off.
    touched: Cell<bool>,
    mark: Mark,
    queue: VecDeque<Placed>,
    /// How many tokens have been taken out of the queue.
    taken: usize,
    /// How many brackets are open.
    flow: usize,
    /// The column of the innermost block, -1 outside of all.
    indent: isize,
    indents: Vec<isize>,
    /// Whether a key may begin here.
    key_allowed: bool,
    /// One for each open bracket, and one outside of all.
    candidates: Vec<Candidate>,
    /// Of the tokens that may begin a key, by their number.
    candidate_at: HashMap<usize, usize>,
    ended: bool,
}

type Done = Result<(), String>;

impl<'a> Scanner<'a> {
    /// Over a text, which is as much of the document as could be read; `cut` is what is wrong behind it.
    pub(super) fn new(text: &'a str, cut: Option<&'static str>) -> Self {
        let mark = Mark { at: 0, index: 0, line: 0, column: 0 };
        Self {
            text: text.as_bytes(),
            cut,
            touched: Cell::new(false),
            mark,
            queue: VecDeque::new(),
            taken: 0,
            flow: 0,
            indent: -1,
            indents: Vec::new(),
            key_allowed: true,
            candidates: vec![Candidate { possible: false, required: false, number: 0, mark }],
            candidate_at: HashMap::new(),
            ended: false,
        }
    }

    /// The next token, which stays.
    pub(super) fn peek(&mut self) -> Result<&Placed, String> {
        self.fill()?;
        // The stream's end stays for whoever asks again.
        Ok(&self.queue[0])
    }

    /// The next token's line.
    pub(super) fn line(&mut self) -> Result<usize, String> {
        self.peek().map(|placed| placed.line)
    }

    /// The next token, which is gone then, but for the stream's end.
    pub(super) fn take(&mut self) -> Result<Placed, String> {
        self.fill()?;
        let Some(placed) = self.queue.pop_front() else { unreachable!("filled") };
        self.taken += 1;
        if placed.token == Token::StreamEnd {
            self.queue.push_front(Placed { token: Token::StreamEnd, line: placed.line });
        }
        Ok(placed)
    }

    fn fill(&mut self) -> Done {
        loop {
            if !self.queue.is_empty() {
                match self.candidate_at.get(&self.taken).copied() {
                    Some(at) if self.is_valid(at)? && !self.ended => {}
                    _ => return Ok(()),
                }
            }
            let fetched = self.fetch();
            match self.cut.filter(|_| self.touched.get()) {
                Some(why) => return Err(told(0, why)),
                None => fetched?,
            }
        }
    }

    fn wrong<T>(&self, why: &str) -> Result<T, String> {
        let line = self.mark.line;
        Err(told(if line == 0 { 0 } else { line + 1 }, why))
    }

    /// The byte `ahead` of here, 0 at the end.
    fn byte(&self, ahead: usize) -> u8 {
        match self.text.get(self.mark.at + ahead) {
            Some(byte) => *byte,
            None => {
                self.touched.set(true);
                0
            }
        }
    }

    fn is_break(&self, ahead: usize) -> bool {
        match self.byte(ahead) {
            b'\r' | b'\n' => true,
            0xc2 => self.byte(ahead + 1) == 0x85,
            0xe2 => self.byte(ahead + 1) == 0x80 && matches!(self.byte(ahead + 2), 0xa8 | 0xa9),
            _ => false,
        }
    }

    fn is_end(&self, ahead: usize) -> bool {
        self.byte(ahead) == 0
    }

    fn is_blank(&self, ahead: usize) -> bool {
        matches!(self.byte(ahead), b' ' | b'\t')
    }

    fn is_break_or_end(&self, ahead: usize) -> bool {
        self.is_end(ahead) || self.is_break(ahead)
    }

    /// A space, a tab, a line's end or the text's.
    fn is_space(&self, ahead: usize) -> bool {
        self.is_blank(ahead) || self.is_break_or_end(ahead)
    }

    fn is_word(&self) -> bool {
        matches!(self.byte(0), b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'-')
    }

    fn width(&self) -> usize {
        match self.byte(0) {
            0..0x80 => 1,
            0x80..0xe0 => 2,
            0xe0..0xf0 => 3,
            _ => 4,
        }
    }

    fn skip(&mut self) {
        self.mark.at += self.width();
        self.mark.index += 1;
        self.mark.column += 1;
    }

    /// Moves a character into `out`.
    fn read(&mut self, out: &mut String) {
        let start = self.mark.at;
        self.skip();
        let end = self.mark.at.min(self.text.len());
        out.push_str(std::str::from_utf8(&self.text[start..end]).unwrap_or_default());
    }

    /// Moves a line's end into `out`, where it is a newline unless it is one of Unicode's separators.
    fn read_break(&mut self, out: &mut String) {
        let (length, text) = match (self.byte(0), self.byte(1)) {
            (b'\r', b'\n') => (2, "\n"),
            (b'\r' | b'\n', _) => (1, "\n"),
            (0xc2, _) => (2, "\n"),
            _ => (3, if self.byte(2) == 0xa8 { "\u{2028}" } else { "\u{2029}" }),
        };
        out.push_str(text);
        self.mark.index += if self.byte(0) == b'\r' && length == 2 { 2 } else { 1 };
        self.mark.at += length;
        self.mark.column = 0;
        self.mark.line += 1;
    }

    fn skip_break(&mut self) {
        if self.is_break(0) {
            self.read_break(&mut String::new());
        }
    }

    fn skip_blanks(&mut self) {
        while self.is_blank(0) {
            self.skip();
        }
    }

    fn skip_comment(&mut self) {
        if self.byte(0) == b'#' {
            while !self.is_break_or_end(0) {
                self.skip();
            }
        }
    }

    fn push(&mut self, token: Token, line: usize) {
        self.queue.push_back(Placed { token, line });
    }

    /// Puts a token before the one with a number, or at the end where that has been taken.
    fn insert(&mut self, number: Option<usize>, token: Token, line: usize) {
        match number.and_then(|number| number.checked_sub(self.taken)) {
            Some(at) if at <= self.queue.len() => self.queue.insert(at, Placed { token, line }),
            _ => self.push(token, line),
        }
    }

    /// A token of one character.
    fn mark_of(&mut self, token: Token) {
        let line = self.mark.line;
        self.skip();
        self.push(token, line);
    }

    fn is_valid(&mut self, at: usize) -> Result<bool, String> {
        let candidate = self.candidates[at];
        if !candidate.possible {
            return Ok(false);
        }
        if candidate.mark.line == self.mark.line && candidate.mark.index + KEY_LENGTH >= self.mark.index {
            return Ok(true);
        }
        if candidate.required {
            return self.wrong(NO_COLON);
        }
        self.candidates[at].possible = false;
        Ok(false)
    }

    fn last(&self) -> usize {
        self.candidates.len() - 1
    }

    fn next_number(&self) -> usize {
        self.taken + self.queue.len()
    }

    fn save_candidate(&mut self) -> Done {
        let required = self.flow == 0 && self.indent == self.mark.column as isize;
        if self.key_allowed {
            self.drop_candidate()?;
            let (number, at) = (self.next_number(), self.last());
            self.candidates[at] = Candidate { possible: true, required, number, mark: self.mark };
            self.candidate_at.insert(number, at);
        }
        Ok(())
    }

    fn drop_candidate(&mut self) -> Done {
        let at = self.last();
        let candidate = self.candidates[at];
        if candidate.possible {
            if candidate.required {
                return self.wrong(NO_COLON);
            }
            self.candidates[at].possible = false;
            self.candidate_at.remove(&candidate.number);
        }
        Ok(())
    }

    /// Opens a block at a column, if that is further in than the one that is open.
    fn roll(&mut self, column: usize, number: Option<usize>, token: Token, line: usize) -> Done {
        if self.flow == 0 && self.indent < column as isize {
            self.indents.push(self.indent);
            self.indent = column as isize;
            if self.indents.len() > MAX_DEPTH {
                return self.wrong(&too_deep());
            }
            self.insert(number, token, line);
        }
        Ok(())
    }

    /// Closes the blocks that are further in than a column.
    fn unroll(&mut self, column: isize) {
        while self.flow == 0 && self.indent > column {
            self.push(Token::BlockEnd, self.mark.line);
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    fn fetch(&mut self) -> Done {
        self.skip_to_token();
        self.unroll(self.mark.column as isize);
        // Signs may be four characters long.
        self.byte(3);
        let (first, outside) = (self.byte(0), self.flow == 0);
        match first {
            0 => return self.stream_end(),
            b'%' if self.mark.column == 0 => return self.directive(),
            b'-' if self.at_sign(b'-') => return self.document_sign(Token::DocumentStart),
            b'.' if self.at_sign(b'.') => return self.document_sign(Token::DocumentEnd),
            b'[' => return self.open(Token::BracketOpen),
            b'{' => return self.open(Token::BraceOpen),
            b']' => return self.close(Token::BracketClose),
            b'}' => return self.close(Token::BraceClose),
            b',' => {
                self.drop_candidate()?;
                self.key_allowed = true;
                self.mark_of(Token::Comma);
                return Ok(());
            }
            b'-' if self.is_space(1) => return self.dash(),
            b'?' if !outside || self.is_space(1) => return self.key(),
            b':' if !outside || self.is_space(1) => return self.value(),
            b'*' | b'&' => return self.anchor(first == b'*'),
            b'!' => return self.tag(),
            b'|' | b'>' if outside => return self.block_scalar(first == b'|'),
            b'\'' | b'"' => return self.quoted(first == b'\''),
            _ => {}
        }
        if b"\t#|>%@`".contains(&first) {
            return self.wrong("found character that cannot start any token");
        }
        self.plain()
    }

    /// Whether a line begins with three of a character, alone.
    fn at_sign(&self, of: u8) -> bool {
        self.mark.column == 0 && (0..3).all(|ahead| self.byte(ahead) == of) && self.is_space(3)
    }

    fn skip_to_token(&mut self) {
        loop {
            if self.mark.at == 0 && self.text.starts_with(b"\xef\xbb\xbf") {
                self.skip();
            }
            // Tabs are no indent.
            while self.byte(0) == b' ' || (self.byte(0) == b'\t' && (self.flow > 0 || !self.key_allowed)) {
                self.skip();
            }
            self.skip_comment();
            if !self.is_break(0) {
                return;
            }
            self.skip_break();
            if self.flow == 0 {
                self.key_allowed = true;
            }
        }
    }

    fn stream_end(&mut self) -> Done {
        if self.mark.column != 0 {
            self.mark.column = 0;
            self.mark.line += 1;
        }
        self.unroll(-1);
        self.drop_candidate()?;
        self.key_allowed = false;
        self.push(Token::StreamEnd, self.mark.line);
        self.ended = true;
        Ok(())
    }

    fn document_sign(&mut self, token: Token) -> Done {
        self.unroll(-1);
        self.drop_candidate()?;
        self.key_allowed = false;
        self.mark_of(token);
        self.skip();
        self.skip();
        Ok(())
    }

    fn open(&mut self, token: Token) -> Done {
        self.save_candidate()?;
        self.candidates.push(Candidate { possible: false, required: false, number: self.next_number(), mark: self.mark });
        self.flow += 1;
        if self.flow > MAX_DEPTH {
            return self.wrong(&too_deep());
        }
        self.key_allowed = true;
        self.mark_of(token);
        Ok(())
    }

    fn close(&mut self, token: Token) -> Done {
        self.drop_candidate()?;
        if self.flow > 0 {
            self.flow -= 1;
            if let Some(inner) = self.candidates.pop() {
                // Where nothing was in the brackets this is the bracket's own candidate: `{}: x` is no key, as with libyaml.
                self.candidate_at.remove(&inner.number);
            }
        }
        self.key_allowed = false;
        self.mark_of(token);
        Ok(())
    }

    fn dash(&mut self) -> Done {
        if self.flow == 0 {
            if !self.key_allowed {
                return self.wrong("block sequence entries are not allowed in this context");
            }
            self.roll(self.mark.column, None, Token::SequenceStart, self.mark.line)?;
        }
        self.drop_candidate()?;
        self.key_allowed = true;
        self.mark_of(Token::Dash);
        Ok(())
    }

    fn key(&mut self) -> Done {
        if self.flow == 0 {
            if !self.key_allowed {
                return self.wrong("mapping keys are not allowed in this context");
            }
            self.roll(self.mark.column, None, Token::MappingStart, self.mark.line)?;
        }
        self.drop_candidate()?;
        self.key_allowed = self.flow == 0;
        self.mark_of(Token::Key);
        Ok(())
    }

    fn value(&mut self) -> Done {
        let at = self.last();
        if self.is_valid(at)? {
            let Candidate { number, mark, .. } = self.candidates[at];
            self.insert(Some(number), Token::Key, mark.line);
            self.roll(mark.column, Some(number), Token::MappingStart, mark.line)?;
            self.candidates[at].possible = false;
            self.candidate_at.remove(&number);
            self.key_allowed = false;
        } else {
            if self.flow == 0 {
                if !self.key_allowed {
                    return self.wrong("mapping values are not allowed in this context");
                }
                self.roll(self.mark.column, None, Token::MappingStart, self.mark.line)?;
            }
            self.key_allowed = self.flow == 0;
        }
        self.mark_of(Token::Value);
        Ok(())
    }

    fn anchor(&mut self, alias: bool) -> Done {
        self.save_candidate()?;
        self.key_allowed = false;
        let line = self.mark.line;
        self.skip();
        let mut name = String::new();
        while self.is_word() {
            self.read(&mut name);
        }
        if name.is_empty() || !(self.is_space(0) || b"?:,]}%@`".contains(&self.byte(0))) {
            return self.wrong("did not find expected alphabetic or numeric character");
        }
        self.push(if alias { Token::Alias(name) } else { Token::Anchor(name) }, line);
        Ok(())
    }

    fn directive(&mut self) -> Done {
        self.unroll(-1);
        self.drop_candidate()?;
        self.key_allowed = false;
        let line = self.mark.line;
        self.skip();
        let mut name = String::new();
        while self.is_word() {
            self.read(&mut name);
        }
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

    /// Nothing but a comment, and the line's end.
    fn end_of_line(&mut self) -> Done {
        self.skip_blanks();
        self.skip_comment();
        if !self.is_break_or_end(0) {
            return self.wrong("did not find expected comment or line break");
        }
        self.skip_break();
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

    fn tag(&mut self) -> Done {
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

    fn block_scalar(&mut self, literal: bool) -> Done {
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

    fn quoted(&mut self, single: bool) -> Done {
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

    fn plain(&mut self) -> Done {
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

const NO_COLON: &str = "could not find expected ':'";

pub(super) fn too_deep() -> String {
    format!("exceeded max depth of {MAX_DEPTH}")
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
