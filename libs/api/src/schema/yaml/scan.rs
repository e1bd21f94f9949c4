//! The tokens of a YAML 1.1 text, one after another and no sooner than they are asked for: what is wrong behind a document is
//! nobody's business.
//!
//! Whether a scalar is a key is known at the `:` behind it, so tokens wait in a queue while one of them may yet turn out to be
//! the first of a key. What is wrong is told in libyaml's words, which people search for.

mod properties;
mod scalars;

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

    /// Where a block collection may begin, one may begin here.
    fn block(&mut self, start: Token, what: &str) -> Done {
        if self.flow > 0 {
            return Ok(());
        }
        if !self.key_allowed {
            return self.wrong(&format!("{what} are not allowed in this context"));
        }
        self.roll(self.mark.column, None, start, self.mark.line)
    }

    fn dash(&mut self) -> Done {
        self.block(Token::SequenceStart, "block sequence entries")?;
        self.drop_candidate()?;
        self.key_allowed = true;
        self.mark_of(Token::Dash);
        Ok(())
    }

    fn key(&mut self) -> Done {
        self.block(Token::MappingStart, "mapping keys")?;
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
            self.block(Token::MappingStart, "mapping values")?;
            self.key_allowed = self.flow == 0;
        }
        self.mark_of(Token::Value);
        Ok(())
    }
}

const NO_COLON: &str = "could not find expected ':'";

pub(super) fn too_deep() -> String {
    format!("exceeded max depth of {MAX_DEPTH}")
}
