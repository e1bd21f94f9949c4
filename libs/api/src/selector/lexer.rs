//! Tokens of label selectors.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub token: Token,
    pub text: String,
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

/// Every token of `text`, the end always last. A NUL ends the text, as upstream's reader has it.
pub(super) fn scan(text: &str) -> Vec<Item> {
    let mut rest = text.split('\0').next().unwrap_or_default();
    let mut items = Vec::new();
    loop {
        rest = rest.trim_start_matches(is_space);
        let Some(first) = rest.chars().next() else {
            items.push(Item { token: Token::End, text: String::new() });
            return items;
        };
        let (item, length) = if is_symbol(first) { scan_symbol(rest) } else { scan_word(rest) };
        items.push(item);
        rest = &rest[length..];
    }
}

/// The longest run of symbols that is an operator.
fn scan_symbol(rest: &str) -> (Item, usize) {
    let run = rest.find(|c| !is_symbol(c)).unwrap_or(rest.len());
    let mut found = None;
    for length in 1..=run {
        match symbol(&rest[..length]) {
            Some(token) => found = Some((token, length)),
            None if found.is_some() => break,
            None => {}
        }
    }
    match found {
        Some((token, length)) => (Item { token, text: rest[..length].to_owned() }, length),
        None => {
            let text = format!("error expected: keyword found '{}'", &rest[..run]);
            (Item { token: Token::Error, text }, run)
        }
    }
}

fn scan_word(rest: &str) -> (Item, usize) {
    let length = rest.find(|c| is_symbol(c) || is_space(c)).unwrap_or(rest.len());
    let text = rest[..length].to_owned();
    let token = match text.as_str() {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Identifier,
    };
    (Item { token, text }, length)
}
