//! Templates into blocks.

use super::{Block, Bound, Error, Node, error};

/// What stands inside one pair of braces.
enum Action {
    Nodes(Vec<Node>),
    Range(Vec<Node>),
    End,
}

pub(super) fn template(text: &str) -> Result<Vec<Block>, Error> {
    let mut flat = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            flat.push(Ok(rest[..open].to_owned()));
        }
        let mut reader = Reader { text: &rest[open + 1..], at: 0 };
        flat.push(Err(reader.action()?));
        rest = &reader.text[reader.at..];
    }
    if !rest.is_empty() {
        flat.push(Ok(rest.to_owned()));
    }
    Ok(nest(flat))
}

/// Pairs ranges with their ends; a range that is not closed holds all that follows.
fn nest(flat: Vec<Result<String, Action>>) -> Vec<Block> {
    let mut open: Vec<(Vec<Node>, Vec<Block>)> = Vec::new();
    let mut blocks = Vec::new();
    for item in flat {
        match item {
            Ok(text) => blocks.push(Block::Text(text)),
            Err(Action::Nodes(nodes)) => blocks.push(Block::Action(nodes)),
            Err(Action::Range(nodes)) => open.push((nodes, std::mem::take(&mut blocks))),
            Err(Action::End) => match open.pop() {
                Some((nodes, outer)) => {
                    let body = std::mem::replace(&mut blocks, outer);
                    blocks.push(Block::Range(nodes, body));
                }
                None => blocks.push(Block::StrayEnd),
            },
        }
    }
    while let Some((nodes, outer)) = open.pop() {
        let body = std::mem::replace(&mut blocks, outer);
        blocks.push(Block::Range(nodes, body));
    }
    blocks
}

struct Reader<'a> {
    /// From just behind the opening brace on.
    text: &'a str,
    at: usize,
}

fn is_terminator(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn action(&mut self) -> Result<Action, Error> {
        let mut nodes = Vec::new();
        let mut range = false;
        let mut end = false;
        loop {
            if self.eat("}") {
                return Ok(match (range, end) {
                    (true, _) => Action::Range(nodes),
                    (false, true) => Action::End,
                    _ => Action::Nodes(nodes),
                });
            }
            if self.eat("[?(") {
                nodes.push(self.filter()?);
                continue;
            }
            if self.eat("..") {
                if nodes.last() == Some(&Node::Recursive) {
                    return error("invalid multiple recursive descent");
                }
                nodes.push(Node::Recursive);
                if self.peek().is_some_and(is_word) {
                    nodes.push(self.field());
                }
                continue;
            }
            match self.next() {
                None | Some('\r' | '\n') => return error("unclosed action"),
                Some(' ' | '@' | '$') => {}
                Some('[') => self.array(&mut nodes)?,
                Some(quote @ ('"' | '\'')) => nodes.push(Node::Text(self.quoted(quote)?)),
                Some('.') => nodes.push(self.field()),
                Some(c) if matches!(c, '+' | '-') || c.is_numeric() => nodes.push(self.number(c)?),
                Some(c) if is_word(c) => {
                    self.at -= c.len_utf8();
                    let length = self.rest().find(is_terminator).unwrap_or(self.rest().len());
                    let word = &self.rest()[..length];
                    self.at += length;
                    match word {
                        "range" => range = true,
                        "end" => end = true,
                        "true" | "false" => nodes.push(Node::Bool(word == "true")),
                        _ => nodes.push(Node::Unknown(word.to_owned())),
                    }
                }
                Some(c) => {
                    return error(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c)));
                }
            }
        }
    }

    /// After the dot: up to a terminator that no backslash escapes.
    fn field(&mut self) -> Node {
        let start = self.at;
        while let Some(c) = self.peek() {
            if is_terminator(c) {
                break;
            }
            self.next();
            if c == '\\' {
                self.next();
            }
        }
        match &self.text[start..self.at] {
            "*" => Node::Wildcard,
            name => Node::Field(name.replace('\\', "")),
        }
    }

    fn number(&mut self, first: char) -> Result<Node, Error> {
        let start = self.at - first.len_utf8();
        while self.peek().is_some_and(|c| c == '.' || c.is_numeric()) {
            self.next();
        }
        let text = &self.text[start..self.at];
        if let Ok(int) = text.parse() {
            return Ok(Node::Int(int));
        }
        match text.parse() {
            Ok(float) => Ok(Node::Float(float)),
            Err(_) => error(format!("cannot parse number {text}")),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, Error> {
        let start = self.at;
        let mut before = quote;
        loop {
            match self.next() {
                None | Some('\n') => return error("unterminated quoted string"),
                Some(c) if c == quote && before != '\\' => break,
                Some(c) => before = c,
            }
        }
        let inner = &self.text[start..self.at - 1];
        unescape(inner, quote).ok_or_else(|| Error(format!("unquote string {quote}{inner}{quote} error invalid syntax")))
    }

    fn array(&mut self, nodes: &mut Vec<Node>) -> Result<(), Error> {
        let start = self.at;
        loop {
            match self.next() {
                None | Some('\n') => return error("unterminated array"),
                Some(']') => break,
                Some(_) => {}
            }
        }
        let inner = &self.text[start..self.at - 1];
        let inner = if inner == "*" { ":" } else { inner };
        if inner.contains(',') {
            let parts = inner.split(',').map(|part| nodes_of(&format!("[{}]", part.trim_matches(' '))));
            nodes.push(Node::Union(parts.collect::<Result<_, _>>()?));
            return Ok(());
        }
        let key = inner.strip_prefix('\'').and_then(|k| k.strip_suffix('\'')).filter(|k| !k.contains('\''));
        if let Some(key) = key {
            nodes.extend(nodes_of(&format!(".{key}"))?);
            return Ok(());
        }
        nodes.push(Node::Slice(slice(inner)?));
        Ok(())
    }

    fn filter(&mut self) -> Result<Node, Error> {
        let start = self.at;
        let (mut begin, mut end, mut pair, mut before) = (false, false, '"', '(');
        loop {
            let c = match self.next() {
                None | Some('\n') => return error("unterminated filter"),
                Some(c) => c,
            };
            match c {
                '"' | '\'' if !begin => {
                    begin = true;
                    pair = c;
                }
                '"' | '\'' if before != '\\' && c == pair => end = true,
                ')' if begin == end => break,
                _ => {}
            }
            before = c;
        }
        let inner = &self.text[start..self.at - 1];
        if self.next() != Some(']') {
            return error("unclosed array expect ]");
        }
        // `LEFT OPERATOR RIGHT`, none of them empty.
        let is_operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
        let split = inner.find(is_operator).filter(|at| *at > 0).and_then(|at| {
            let length = inner[at..].find(|c| !is_operator(c))?;
            Some((&inner[..at], &inner[at..at + length], &inner[at + length..]))
        });
        Ok(match split {
            Some((left, operator, right)) => {
                Node::Filter { left: nodes_of(left)?, right: nodes_of(right)?, operator: operator.to_owned() }
            }
            None => Node::Filter { left: nodes_of(inner)?, right: Vec::new(), operator: "exists".to_owned() },
        })
    }
}

/// The nodes of an expression as if it stood in braces.
fn nodes_of(text: &str) -> Result<Vec<Node>, Error> {
    let closed = format!("{text}}}");
    match (Reader { text: &closed, at: 0 }).action()? {
        Action::Nodes(nodes) | Action::Range(nodes) => Ok(nodes),
        Action::End => Ok(vec![Node::Unknown("end".to_owned())]),
    }
}

/// `START[:END[:STEP]]`, each a number or nothing.
fn slice(text: &str) -> Result<[Bound; 3], Error> {
    let invalid = || Error(format!("invalid array index {text}"));
    let parts: Vec<&str> = text.split(':').collect();
    let numeric = |p: &str| p.strip_prefix('-').unwrap_or(p).bytes().all(|b| b.is_ascii_digit());
    if parts.len() > 3 || !parts.iter().all(|p| numeric(p)) {
        return Err(invalid());
    }
    let mut bounds = [Bound::default(); 3];
    for (bound, part) in bounds.iter_mut().zip(&parts) {
        if !part.is_empty() {
            let value = part.parse().map_err(|_| Error(format!("array index {part} is not a number")))?;
            *bound = Bound { value, known: true, derived: false };
        }
    }
    if parts.len() == 1 {
        bounds[1] = Bound { value: bounds[0].value.saturating_add(1), known: true, derived: true };
    }
    Ok(bounds)
}

/// Go's escapes within quotes; `None` is a syntax error.
fn unescape(text: &str, quote: char) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let hex = |chars: &mut std::str::Chars<'_>, digits: usize| {
            let text: String = chars.by_ref().take(digits).collect();
            (text.len() == digits).then(|| u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)).flatten()
        };
        out.push(match chars.next()? {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\\' => '\\',
            'x' => hex(&mut chars, 2)?,
            'u' => hex(&mut chars, 4)?,
            'U' => hex(&mut chars, 8)?,
            c if c == quote => c,
            _ => return None,
        });
    }
    Some(out)
}
