//! The nodes of YAML documents, put together from tokens.

use std::collections::HashMap;

use super::scan::{MAX_DEPTH, Scanner, Token, told, too_deep};

/// More nodes than this are refused: each takes many times the bytes it was written in.
const MAX_NODES: usize = 500_000;

/// What begins the full form of YAML's own tags (`!!str`).
pub(super) const OWN_TAGS: &str = "tag:yaml.org,2002:";

#[derive(Debug)]
pub(super) struct Node {
    /// Where it begins, from zero.
    pub(super) line: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar {
        text: String,
        /// In its full form; empty for none.
        tag: String,
        /// It stands there without quotes, so that it may be more than a text.
        plain: bool,
    },
    Sequence(Vec<usize>),
    /// A key, its value, and so on.
    Mapping(Vec<usize>),
    Alias {
        name: String,
        of: usize,
    },
}

/// Reads the documents of a stream, one by one.
pub(super) struct Composer<'a> {
    scanner: Scanner<'a>,
    /// Of the last document that was read.
    pub(super) nodes: Vec<Node>,
    anchors: HashMap<String, usize>,
    /// Handles of tags and what they stand for.
    tags: Vec<(String, String)>,
    begun: bool,
    depth: usize,
}

type Found = Result<usize, String>;

impl<'a> Composer<'a> {
    pub(super) fn new(scanner: Scanner<'a>) -> Self {
        Self { scanner, nodes: Vec::new(), anchors: HashMap::new(), tags: Vec::new(), begun: false, depth: 0 }
    }

    /// The next document's outermost node.
    pub(super) fn document(&mut self) -> Result<Option<usize>, String> {
        self.nodes.clear();
        self.anchors.clear();
        let first = !std::mem::replace(&mut self.begun, true);
        while !first && self.scanner.peek()?.token == Token::DocumentEnd {
            self.scanner.take()?;
        }
        let root = match &self.scanner.peek()?.token {
            Token::StreamEnd => return Ok(None),
            Token::Version(..) | Token::TagDirective { .. } | Token::DocumentStart => self.announced()?,
            _ if first => {
                self.directives()?;
                self.node(true, false)?
            }
            _ => self.announced()?,
        };
        if self.scanner.peek()?.token == Token::DocumentEnd {
            self.scanner.take()?;
        }
        self.tags.clear();
        Ok(Some(root))
    }

    /// A document that begins with directives or `---`.
    fn announced(&mut self) -> Found {
        self.directives()?;
        if self.scanner.peek()?.token != Token::DocumentStart {
            return self.wrong("did not find expected <document start>");
        }
        self.scanner.take()?;
        match &self.scanner.peek()?.token {
            Token::Version(..)
            | Token::TagDirective { .. }
            | Token::DocumentStart
            | Token::DocumentEnd
            | Token::StreamEnd => {
                let line = self.scanner.line()?;
                self.empty(line)
            }
            _ => self.node(true, false),
        }
    }

    fn directives(&mut self) -> Result<(), String> {
        let mut version = false;
        loop {
            match self.scanner.peek()?.token.clone() {
                Token::Version(..) if version => return self.wrong("found duplicate %YAML directive"),
                Token::Version(1, 1) => version = true,
                Token::Version(..) => return self.wrong("found incompatible YAML document"),
                Token::TagDirective { handle, prefix } => {
                    if self.tags.iter().any(|(known, _)| *known == handle) {
                        return self.wrong("found duplicate %TAG directive");
                    }
                    self.tags.push((handle, prefix));
                }
                _ => break,
            }
            self.scanner.take()?;
        }
        for (handle, prefix) in [("!", "!"), ("!!", OWN_TAGS)] {
            if !self.tags.iter().any(|(known, _)| known == handle) {
                self.tags.push((handle.to_owned(), prefix.to_owned()));
            }
        }
        Ok(())
    }

    /// What is wrong with the next token.
    fn wrong<T>(&mut self, why: &str) -> Result<T, String> {
        Err(told(self.scanner.line()?, why))
    }

    fn add(&mut self, line: usize, content: Content) -> Found {
        if self.nodes.len() >= MAX_NODES {
            return Err(told(0, &format!("a document may have {MAX_NODES} nodes")));
        }
        self.nodes.push(Node { line, content });
        Ok(self.nodes.len() - 1)
    }

    /// A node that nobody wrote.
    fn empty(&mut self, line: usize) -> Found {
        self.add(line, Content::Scalar { text: String::new(), tag: String::new(), plain: true })
    }

    /// A node. Outside of brackets it may be a block; the value of a key may be a list without an indent of its own.
    fn node(&mut self, block: bool, unindented: bool) -> Found {
        if let Token::Alias(name) = &self.scanner.peek()?.token {
            let (name, line) = (name.clone(), self.scanner.line()?);
            let Some(of) = self.anchors.get(&name).copied() else {
                return Err(told(0, &format!("unknown anchor '{name}' referenced")));
            };
            self.scanner.take()?;
            return self.add(line, Content::Alias { name, of });
        }
        let line = self.scanner.line()?;
        let (mut anchor, mut tag) = (None, None);
        for _ in 0..2 {
            match self.scanner.peek()?.token.clone() {
                Token::Anchor(name) if anchor.is_none() => anchor = Some(name),
                Token::Tag { handle, suffix } if tag.is_none() => tag = Some((handle, suffix, self.scanner.line()?)),
                _ => break,
            }
            self.scanner.take()?;
        }
        // What is between the tag and the handle it should have is looked at first.
        self.scanner.peek()?;
        let tag = match tag {
            None => String::new(),
            Some((handle, suffix, _)) if handle.is_empty() => suffix,
            Some((handle, suffix, line)) => match self.tags.iter().find(|(known, _)| *known == handle) {
                Some((_, prefix)) => format!("{prefix}{suffix}"),
                None => return Err(told(line, "found undefined tag handle")),
            },
        };
        match self.scanner.peek()?.token.clone() {
            Token::Scalar { text, plain } => {
                self.scanner.take()?;
                let plain = if tag.is_empty() { plain } else { tag == "!" };
                let node = self.add(line, Content::Scalar { text, tag, plain })?;
                self.anchored(anchor, node);
                Ok(node)
            }
            Token::Dash if unindented => self.collection(line, anchor, Self::unindented_sequence),
            Token::BracketOpen => self.collection(line, anchor, Self::bracketed),
            Token::BraceOpen => self.collection(line, anchor, Self::braced),
            Token::SequenceStart if block => self.collection(line, anchor, Self::block_sequence),
            Token::MappingStart if block => self.collection(line, anchor, Self::block_mapping),
            _ if anchor.is_some() || !tag.is_empty() => {
                let plain = tag.is_empty();
                let node = self.add(line, Content::Scalar { text: String::new(), tag, plain })?;
                self.anchored(anchor, node);
                Ok(node)
            }
            _ => self.wrong("did not find expected node content"),
        }
    }

    fn anchored(&mut self, anchor: Option<String>, node: usize) {
        if let Some(name) = anchor {
            self.anchors.insert(name, node);
        }
    }

    /// A list or a map, known by its anchor from its beginning on.
    fn collection(&mut self, line: usize, anchor: Option<String>, read: fn(&mut Self) -> Result<Content, String>) -> Found {
        let node = self.add(line, Content::Sequence(Vec::new()))?;
        self.anchored(anchor, node);
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(told(0, &too_deep()));
        }
        self.nodes[node].content = read(self)?;
        self.depth -= 1;
        Ok(node)
    }

    /// A node, or nothing where one of `ends` comes next. `line` is where nothing would be.
    fn unless(&mut self, ends: &[Token], line: usize, block: bool, unindented: bool) -> Found {
        if ends.contains(&self.scanner.peek()?.token) { self.empty(line) } else { self.node(block, unindented) }
    }

    fn block_sequence(&mut self) -> Result<Content, String> {
        self.scanner.take()?;
        let mut items = Vec::new();
        loop {
            match self.scanner.peek()?.token {
                Token::Dash => {
                    let line = self.scanner.take()?.line;
                    items.push(self.unless(&[Token::Dash, Token::BlockEnd], line, true, false)?);
                }
                Token::BlockEnd => break,
                _ => return self.wrong("did not find expected '-' indicator"),
            }
        }
        self.scanner.take()?;
        Ok(Content::Sequence(items))
    }

    fn unindented_sequence(&mut self) -> Result<Content, String> {
        let mut items = Vec::new();
        while self.scanner.peek()?.token == Token::Dash {
            let line = self.scanner.take()?.line;
            let ends = [Token::Dash, Token::Key, Token::Value, Token::BlockEnd];
            items.push(self.unless(&ends, line, true, false)?);
        }
        Ok(Content::Sequence(items))
    }

    fn block_mapping(&mut self) -> Result<Content, String> {
        const ENDS: [Token; 3] = [Token::Key, Token::Value, Token::BlockEnd];
        self.scanner.take()?;
        let mut entries = Vec::new();
        loop {
            match self.scanner.peek()?.token {
                Token::Key => {
                    let line = self.scanner.take()?.line;
                    entries.push(self.unless(&ENDS, line, true, true)?);
                }
                Token::BlockEnd => break,
                _ => return self.wrong("did not find expected key"),
            }
            let line = self.scanner.line()?;
            entries.push(match self.scanner.peek()?.token {
                Token::Value => {
                    self.scanner.take()?;
                    self.unless(&ENDS, line, true, true)?
                }
                _ => self.empty(line)?,
            });
        }
        self.scanner.take()?;
        Ok(Content::Mapping(entries))
    }

    /// Between two entries in brackets; whether there is another one.
    fn another(&mut self, first: bool, end: &Token, why: &str) -> Result<bool, String> {
        if self.scanner.peek()?.token == *end {
            return Ok(false);
        }
        if !first {
            if self.scanner.peek()?.token != Token::Comma {
                return self.wrong(why);
            }
            self.scanner.take()?;
        }
        Ok(self.scanner.peek()?.token != *end)
    }

    fn bracketed(&mut self) -> Result<Content, String> {
        self.scanner.take()?;
        let mut items = Vec::new();
        while self.another(items.is_empty(), &Token::BracketClose, "did not find expected ',' or ']'")? {
            items.push(match self.scanner.peek()?.token {
                Token::Key => {
                    let line = self.scanner.line()?;
                    self.collection(line, None, Self::pair)?
                }
                _ => self.node(false, false)?,
            });
        }
        self.scanner.take()?;
        Ok(Content::Sequence(items))
    }

    /// `a: b` between brackets: a map with one entry.
    fn pair(&mut self) -> Result<Content, String> {
        self.scanner.take()?;
        let key = match self.scanner.peek()?.token {
            // What ends it is passed over with the key that is not there.
            Token::Value | Token::Comma | Token::BracketClose => {
                let line = self.scanner.take()?.line;
                self.empty(line)?
            }
            _ => self.node(false, false)?,
        };
        let value = self.bracket_value(&Token::BracketClose)?;
        Ok(Content::Mapping(vec![key, value]))
    }

    fn bracket_value(&mut self, end: &Token) -> Found {
        if self.scanner.peek()?.token == Token::Value {
            self.scanner.take()?;
            let next = &self.scanner.peek()?.token;
            if *next != Token::Comma && next != end {
                return self.node(false, false);
            }
        }
        let line = self.scanner.line()?;
        self.empty(line)
    }

    fn braced(&mut self) -> Result<Content, String> {
        self.scanner.take()?;
        let mut entries = Vec::new();
        while self.another(entries.is_empty(), &Token::BraceClose, "did not find expected ',' or '}'")? {
            if self.scanner.peek()?.token == Token::Key {
                self.scanner.take()?;
                let line = self.scanner.line()?;
                entries.push(self.unless(&[Token::Value, Token::Comma, Token::BraceClose], line, false, false)?);
                entries.push(self.bracket_value(&Token::BraceClose)?);
            } else {
                entries.push(self.node(false, false)?);
                let line = self.scanner.line()?;
                entries.push(self.empty(line)?);
            }
        }
        self.scanner.take()?;
        Ok(Content::Mapping(entries))
    }
}
