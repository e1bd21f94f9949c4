//! Text to nodes.

use std::collections::BTreeMap;

use api::field::go_quote;

use super::{At, Literal, Node, Operand, Pipe};

/// What stands between braces, or outside of them.
#[derive(Debug)]
enum Piece {
    Text(String),
    /// The words of an action and its line.
    Action(Vec<Token>, usize),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `.a`, `.`: field names; empty for the dot.
    Field(String, At),
    Variable(String, At),
    Word(String, At),
    /// What it says, and how that is written.
    Text(String, String, At),
    Number(String, At),
    Char(char, String, At),
    Open,
    Close,
    Bar,
    Comma,
    Declare,
    Assign,
    /// White space: `.a .b` are two operands, `.a.b` is one.
    Space,
}

fn wrong<T>(line: usize, why: impl std::fmt::Display) -> Result<T, String> {
    Err(format!("template: output:{line}: {why}"))
}

/// A template's own nodes and those it defines.
pub(super) type Parsed = (Vec<Node>, BTreeMap<String, Vec<Node>>);

pub(super) fn template(text: &str) -> Result<Parsed, String> {
    let pieces = pieces(text)?;
    let lines = text.matches('\n').count() + 1;
    let mut parser = Parser {
        pieces: pieces.into_iter().peekable(),
        defined: BTreeMap::new(),
        variables: vec!["$".into()],
        lines,
        ranges: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        End::Eof => Ok((nodes, parser.defined)),
        End::Closed(line) => wrong(line, "unexpected {{end}}"),
        End::Else(_, line) => wrong(line, "unexpected {{else}}"),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut out = Vec::new();
    let (mut rest, mut line) = (text, 1);
    let mut trim_next = false;
    loop {
        let open = rest.find("{{");
        let mut plain = &rest[..open.unwrap_or(rest.len())];
        line += plain.matches('\n').count();
        if trim_next {
            plain = plain.trim_start_matches([' ', '\t', '\r', '\n']);
        }
        let Some(open) = open else {
            out.push(Piece::Text(plain.to_owned()));
            break;
        };
        let mut inner = &rest[open + 2..];
        if inner.starts_with('-') && inner[1..].starts_with([' ', '\t', '\r', '\n']) {
            plain = plain.trim_end_matches([' ', '\t', '\r', '\n']);
            inner = &inner[1..];
        }
        out.push(Piece::Text(plain.to_owned()));
        let trimmed = inner.trim_start();
        if let Some(comment) = trimmed.strip_prefix("/*") {
            let Some(close) = comment.find("*/") else { return wrong(line, "unclosed comment") };
            line += inner[..inner.len() - comment.len() + close].matches('\n').count();
            let after = &comment[close + 2..];
            let ended = after.trim_start();
            (rest, trim_next) = match (ended.strip_prefix("-}}"), after.strip_prefix("}}")) {
                (Some(rest), _) => (rest, true),
                (None, Some(rest)) => (rest, false),
                _ => return wrong(line, "comment ends before closing delimiter"),
            };
            continue;
        }
        let (tokens, after, trim) = tokens(inner, text, line)?;
        out.push(Piece::Action(tokens, line));
        line += inner[..inner.len() - after.len()].matches('\n').count();
        (rest, trim_next) = (after, trim);
    }
    out.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
    Ok(out)
}

/// Where the rest of a text begins.
fn place(whole: &str, rest: &str) -> At {
    let before = &whole[..whole.len() - rest.len()];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    At { line: 1 + before.matches('\n').count(), column: before.len() - start }
}

/// The words of an action, what comes after its braces, and whether they trim it; the action ends the whole text.
fn tokens<'a>(text: &'a str, whole: &str, line: usize) -> Result<(Vec<Token>, &'a str, bool), String> {
    let mut out = Vec::new();
    let mut rest = text;
    let word = |rest: &str| rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    loop {
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((out, after, false));
        }
        let Some(first) = rest.chars().next() else { return wrong(line, "unclosed action") };
        if first.is_whitespace() {
            let trimmed = rest.trim_start();
            if let Some(after) = trimmed.strip_prefix("-}}") {
                return Ok((out, after, true));
            }
            out.push(Token::Space);
            rest = trimmed;
            continue;
        }
        let next = rest[first.len_utf8()..].chars().next();
        let length = match first {
            '.' if !next.is_some_and(|c| c.is_ascii_digit()) => {
                let end = 1 + word(&rest[1..]);
                out.push(Token::Field(rest[1..end].to_owned(), place(whole, rest)));
                end
            }
            '$' => {
                let end = 1 + word(&rest[1..]);
                out.push(Token::Variable(rest[..end].to_owned(), place(whole, rest)));
                end
            }
            '"' => {
                let (text, length) = quoted(rest, line)?;
                out.push(Token::Text(text, rest[..length].to_owned(), place(whole, rest)));
                length
            }
            '`' => match rest[1..].find('`') {
                Some(end) => {
                    out.push(Token::Text(rest[1..=end].to_owned(), rest[..end + 2].to_owned(), place(whole, rest)));
                    end + 2
                }
                None => return wrong(line, "unterminated raw quoted string"),
            },
            '\'' => {
                let mut inner = rest[1..].chars();
                let c = match inner.next() {
                    Some('\\') => match inner.next() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some(c) => c,
                        None => return wrong(line, "unterminated character constant"),
                    },
                    Some(c) => c,
                    None => return wrong(line, "unterminated character constant"),
                };
                let left = inner.as_str();
                let Some(after) = left.strip_prefix('\'') else { return wrong(line, "unterminated character constant") };
                let length = rest.len() - after.len();
                out.push(Token::Char(c, rest[..length].to_owned(), place(whole, rest)));
                length
            }
            '(' | ')' | '|' | ',' | '=' => {
                out.push(match first {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    '|' => Token::Bar,
                    ',' => Token::Comma,
                    _ => Token::Assign,
                });
                1
            }
            ':' if next == Some('=') => {
                out.push(Token::Declare);
                2
            }
            c if c.is_ascii_digit()
                || matches!(c, '+' | '-' | '.') && next.is_some_and(|c| c.is_ascii_digit() || c == '.') =>
            {
                let signs = |at: usize, c: char| matches!(c, '+' | '-') && (at == 0 || rest[..at].ends_with(['e', 'E']));
                let end =
                    rest.char_indices().find(|(at, c)| !(c.is_alphanumeric() || matches!(c, '.' | '_') || signs(*at, *c)));
                let end = end.map_or(rest.len(), |(at, _)| at);
                out.push(Token::Number(rest[..end].to_owned(), place(whole, rest)));
                end
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = word(rest);
                out.push(Token::Word(rest[..end].to_owned(), place(whole, rest)));
                end
            }
            c if c.is_ascii_graphic() => {
                return wrong(line, format!("unexpected {} in command", go_quote(&c.to_string())));
            }
            c => return wrong(line, format!("unrecognized character in action: U+{:04X} {}", u32::from(c), go_char(c))),
        };
        let named = matches!(out.last(), Some(Token::Field(..) | Token::Variable(..) | Token::Word(..)));
        rest = &rest[length..];
        if let Some(next) = rest.chars().next()
            && named
            && !(next.is_whitespace() || matches!(next, '.' | ',' | '|' | ':' | '(' | ')') || rest.starts_with("}}"))
        {
            return wrong(line, format!("bad character U+{:04X} {}", u32::from(next), go_char(next)));
        }
    }
}

/// A character as Go's `%#U` shows it.
fn go_char(c: char) -> String {
    format!("'{c}'")
}

/// A Go string in double quotes and its length with them.
fn quoted(text: &str, line: usize) -> Result<(String, usize), String> {
    let mut out = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((out, at + 1)),
            '\n' => break,
            '\\' => {
                let Some((_, escape)) = characters.next() else { break };
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                if digits > 0 {
                    let code: String = characters.by_ref().take(digits).map(|(_, c)| c).collect();
                    let Some(c) = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) else { break };
                    out.push(c);
                } else {
                    out.push(match escape {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'a' => '\u{7}',
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'v' => '\u{b}',
                        c => c,
                    });
                }
            }
            c => out.push(c),
        }
    }
    wrong(line, "unterminated quoted string")
}

enum End {
    Eof,
    Closed(usize),
    /// The words after `else`, and the line.
    Else(Vec<Token>, usize),
}

struct Parser {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
    defined: BTreeMap<String, Vec<Node>>,
    variables: Vec<String>,
    lines: usize,
    ranges: usize,
}

fn tight(tokens: &[Token]) -> &[Token] {
    let start = tokens.iter().position(|t| *t != Token::Space).unwrap_or(tokens.len());
    let end = tokens.iter().rposition(|t| *t != Token::Space).map_or(start, |e| e + 1);
    &tokens[start..end]
}

impl Parser {
    fn list(&mut self) -> Result<(Vec<Node>, End), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, line) => (tokens, line),
            };
            let words = tight(&tokens);
            let (keyword, rest) = match words.split_first() {
                Some((Token::Word(word, _), rest)) => (word.as_str(), rest),
                _ => ("", words),
            };
            match keyword {
                "end" => return Ok((nodes, End::Closed(line))),
                "else" => return Ok((nodes, End::Else(tight(rest).to_vec(), line))),
                "if" | "with" | "range" => nodes.push(self.control(keyword, rest, line)?),
                "break" | "continue" if self.ranges == 0 => {
                    return wrong(line, format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "template" | "define" | "block" => {
                    let (name, at, rest) = match tight(rest).split_first() {
                        Some((Token::Text(name, _, at), rest)) => (name, *at, rest),
                        Some((token, _)) => return wrong(line, format!("unexpected {} in {keyword} clause", shown(token))),
                        None => return wrong(line, format!("unexpected {} in {keyword} clause", "\"}}\"")),
                    };
                    let rest = tight(rest);
                    if keyword != "define" {
                        let pipe = if rest.is_empty() { None } else { Some(self.pipe(rest, line)?) };
                        nodes.push(Node::Template(name.clone(), pipe, at));
                    }
                    if keyword != "template" {
                        let kept = std::mem::replace(&mut self.variables, vec!["$".into()]);
                        let (body, end) = self.list()?;
                        self.variables = kept;
                        if !matches!(end, End::Closed(_)) {
                            return wrong(self.lines, "unexpected EOF");
                        }
                        if self.defined.insert(name.clone(), body).is_some() {
                            return wrong(line, format!("template: multiple definition of template {}", go_quote(name)));
                        }
                    }
                }
                _ if words.is_empty() => return wrong(line, "missing value for command"),
                _ => nodes.push(Node::Action(self.pipe(words, line)?)),
            }
        }
        Ok((nodes, End::Eof))
    }

    fn control(&mut self, keyword: &str, words: &[Token], line: usize) -> Result<Node, String> {
        let scope = self.variables.len();
        if tight(words).is_empty() {
            return wrong(line, format!("missing value for {keyword}"));
        }
        let pipe = self.pipe_of(tight(words), line, keyword == "range")?;
        self.ranges += usize::from(keyword == "range");
        let (body, end) = self.list()?;
        self.ranges -= usize::from(keyword == "range");
        let other = match end {
            End::Closed(_) => Vec::new(),
            End::Eof => return wrong(self.lines, "unexpected EOF"),
            End::Else(words, line) => match words.split_first() {
                None => match self.list()? {
                    (nodes, End::Closed(_)) => nodes,
                    (_, End::Else(..)) => return wrong(line, "expected end; found {{else}}"),
                    (_, End::Eof) => return wrong(self.lines, "unexpected EOF"),
                },
                Some((Token::Word(word, _), rest))
                    if (word == "if" && keyword == "if") || (word == "with" && keyword == "with") =>
                {
                    vec![self.control(word, rest, line)?]
                }
                Some(_) => return wrong(line, "unexpected token in else"),
            },
        };
        self.variables.truncate(scope);
        Ok(match keyword {
            "if" => Node::If(pipe, body, other),
            "with" => Node::With(pipe, body, other),
            _ => Node::Range(pipe, body, other),
        })
    }

    fn pipe(&mut self, words: &[Token], line: usize) -> Result<Pipe, String> {
        self.pipe_of(words, line, false)
    }

    fn pipe_of(&mut self, words: &[Token], line: usize, ranges: bool) -> Result<Pipe, String> {
        let mut pipe = Pipe::default();
        let mut words = words;
        let dense: Vec<&Token> = words.iter().filter(|t| **t != Token::Space).collect();
        let (names, operator) = match dense.as_slice() {
            [Token::Variable(a, _), operator @ (Token::Declare | Token::Assign), ..] => (vec![a.clone()], Some(*operator)),
            [
                Token::Variable(a, _),
                Token::Comma,
                Token::Variable(b, _),
                operator @ (Token::Declare | Token::Assign),
                ..,
            ] => (vec![a.clone(), b.clone()], Some(*operator)),
            [Token::Variable(..), Token::Comma, Token::Variable(..), Token::Comma, ..] if ranges => {
                return wrong(line, "too many declarations in range");
            }
            _ => (Vec::new(), None),
        };
        if let Some(operator) = operator {
            let at = words.iter().position(|t| t == operator).map_or(0, |at| at + 1);
            words = tight(&words[at..]);
            pipe.assigns = *operator == Token::Assign;
        }
        let commands = split(words);
        let last = commands.len() - 1;
        for (at, command) in commands.into_iter().enumerate() {
            let operands = self.operands(tight(command), line)?;
            match (operands.is_empty(), at) {
                (false, _) => pipe.commands.push(operands),
                (true, 0) if last > 0 => return wrong(line, "unexpected \"|\" in command"),
                (true, 0) => return wrong(line, "missing value for command"),
                // What comes to nothing after the last bar is passed over.
                (true, at) if at == last => {}
                (true, _) => return wrong(line, "unexpected \"|\" in command"),
            }
        }
        // Whether there is such a variable to assign to is found out when it is done.
        self.variables.extend(names.iter().cloned());
        pipe.variables = names;
        Ok(pipe)
    }

    fn known(&self, name: &str, line: usize) -> Result<(), String> {
        if self.variables.iter().any(|v| v == name) {
            Ok(())
        } else {
            wrong(line, format!("undefined variable {}", go_quote(name)))
        }
    }

    fn operands(&mut self, words: &[Token], line: usize) -> Result<Vec<Operand>, String> {
        let mut out: Vec<Operand> = Vec::new();
        let mut at = 0;
        let mut apart = true;
        while at < words.len() {
            let operand = match &words[at] {
                Token::Space => {
                    apart = true;
                    at += 1;
                    continue;
                }
                Token::Field(name, _) if !apart && name.is_empty() => return wrong(line, "unexpected <.> in operand"),
                Token::Field(name, place) if !apart => {
                    match out.last_mut() {
                        Some(Operand::Field(fields, at)) => {
                            if fields.len() == 1 {
                                *at = *place;
                            }
                            fields.push(name.clone());
                        }
                        Some(Operand::Variable(_, fields, at)) => {
                            if fields.is_empty() {
                                *at = *place;
                            }
                            fields.push(name.clone());
                        }
                        Some(Operand::Pipe(_, fields)) => fields.push(name.clone()),
                        _ if name.is_empty() => return wrong(line, "unexpected <.> in operand"),
                        _ => return wrong(line, format!("unexpected .{name} after term")),
                    }
                    at += 1;
                    continue;
                }
                Token::Field(name, at) if name.is_empty() => Operand::Dot(*at),
                Token::Field(name, at) => Operand::Field(vec![name.clone()], *at),
                Token::Variable(name, at) => {
                    self.known(name, line)?;
                    Operand::Variable(name.clone(), Vec::new(), *at)
                }
                Token::Word(word, at) => match word.as_str() {
                    "true" | "false" => Operand::Literal(Literal::Bool(word == "true"), word.clone(), *at),
                    "nil" => Operand::Nil(*at),
                    name if super::functions::NAMES.contains(&name) => Operand::Function(name.to_owned(), *at),
                    name => return wrong(line, format!("function {} not defined", go_quote(name))),
                },
                Token::Text(text, source, at) => Operand::Literal(Literal::Text(text.clone()), source.clone(), *at),
                Token::Char(c, source, at) => Operand::Literal(Literal::Int(i64::from(u32::from(*c))), source.clone(), *at),
                Token::Number(text, at) => {
                    let literal = number(text).or_else(|what| wrong(line, format!("{what}: {}", go_quote(text))))?;
                    Operand::Literal(literal, text.clone(), *at)
                }
                Token::Open => {
                    let mut depth = 0;
                    let close = words[at..].iter().position(|t| {
                        depth += i32::from(*t == Token::Open) - i32::from(*t == Token::Close);
                        depth == 0
                    });
                    let Some(close) = close else { return wrong(line, "unclosed left paren") };
                    let inner = self.pipe(tight(&words[at + 1..at + close]), line)?;
                    at += close;
                    Operand::Pipe(Box::new(inner), Vec::new())
                }
                Token::Close => return wrong(line, "unexpected right paren"),
                other => return wrong(line, format!("unexpected {} in operand", shown(other))),
            };
            out.push(operand);
            apart = false;
            at += 1;
        }
        Ok(out)
    }
}

/// Splits at bars outside of parentheses.
fn split(words: &[Token]) -> Vec<&[Token]> {
    let mut out = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, word) in words.iter().enumerate() {
        match word {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Bar if depth == 0 => {
                out.push(&words[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&words[start..]);
    out
}

/// A token as messages name it.
fn shown(token: &Token) -> String {
    match token {
        Token::Word(text, _) | Token::Number(text, _) | Token::Variable(text, _) => go_quote(text),
        Token::Text(_, source, _) | Token::Char(_, source, _) => go_quote(source),
        Token::Field(name, _) if name.is_empty() => "<.>".to_owned(),
        Token::Field(name, _) => format!("<.{name}>"),
        Token::Open => "\"(\"".to_owned(),
        Token::Close => "\")\"".to_owned(),
        Token::Bar => "\"|\"".to_owned(),
        Token::Comma => "\",\"".to_owned(),
        Token::Declare => "\":=\"".to_owned(),
        Token::Assign => "\"=\"".to_owned(),
        Token::Space => "\" \"".to_owned(),
    }
}

fn number(text: &str) -> Result<Literal, &'static str> {
    // Underscores stand between digits, or after a prefix.
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let lone = |(at, _): (usize, &u8)| !digit(at.checked_sub(1)) || !digit(Some(at + 1));
    if bytes.iter().enumerate().filter(|(_, b)| **b == b'_').any(lone) {
        return Err("illegal number syntax");
    }
    let bare = text.replace('_', "");
    let (negative, digits) = match bare.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, bare.strip_prefix('+').unwrap_or(&bare)),
    };
    let lower = digits.to_lowercase();
    let int = match lower.get(..2) {
        Some("0x") => i64::from_str_radix(&lower[2..], 16).ok(),
        Some("0b") => i64::from_str_radix(&lower[2..], 2).ok(),
        Some("0o") => i64::from_str_radix(&lower[2..], 8).ok(),
        _ if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit()) => {
            i64::from_str_radix(&lower, 8).ok()
        }
        _ => lower.parse().ok(),
    };
    match int {
        Some(int) => Ok(Literal::Int(if negative { -int } else { int })),
        None if lower.bytes().all(|b| b.is_ascii_digit()) => Err("integer overflow"),
        None => bare.parse().ok().filter(|f: &f64| f.is_finite()).map(Literal::Float).ok_or("bad number syntax"),
    }
}
