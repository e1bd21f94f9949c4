//! In which of YAML's styles a scalar can be written: libyaml's analysis of its characters.

use super::implicit::reads_as_string;

/// How a scalar is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// What libyaml's analysis of a scalar finds.
#[derive(Default)]
pub(super) struct Facts {
    plain_allowed: bool,
    single_allowed: bool,
    literal_allowed: bool,
    multiline: bool,
}

pub(super) fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

pub(super) fn printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

impl Facts {
    pub(super) fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self { plain_allowed: true, single_allowed: true, ..Self::default() };
        }
        let characters: Vec<char> = text.chars().collect();
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut breaks, mut special) = (false, false);
        let (mut edge, mut trailing_space, mut break_space, mut space_break) = (false, false, false, false);
        let (mut previous_space, mut previous_break) = (false, false);
        let mut preceded = true;
        for (at, &c) in characters.iter().enumerate() {
            let last = at + 1 == characters.len();
            let followed = characters.get(at + 1).is_none_or(|n| matches!(n, ' ' | '\t') || is_break(*n));
            indicators |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`'
                    if at == 0 =>
                {
                    true
                }
                '?' | '-' if at == 0 => followed,
                ':' => followed,
                '#' => preceded,
                _ => false,
            };
            special |= !printable(c);
            breaks |= is_break(c);
            if c == ' ' {
                edge |= at == 0 || last;
                trailing_space |= last;
                break_space |= previous_break;
                (previous_space, previous_break) = (true, false);
            } else if is_break(c) {
                edge |= at == 0 || last;
                space_break |= previous_space;
                (previous_space, previous_break) = (false, true);
            } else {
                (previous_space, previous_break) = (false, false);
            }
            preceded = matches!(c, ' ' | '\t') || is_break(c);
        }
        let hard = space_break || special;
        Self {
            plain_allowed: !edge && !break_space && !hard && !breaks && !indicators,
            single_allowed: !break_space && !hard,
            literal_allowed: !trailing_space && !hard,
            multiline: breaks,
        }
    }

    pub(super) fn style(&self, text: &str, key: bool) -> Style {
        let wanted = if text.contains('\n') {
            Style::Literal
        } else if reads_as_string(text) {
            Style::Plain
        } else {
            Style::Double
        };
        let quoted = if self.single_allowed && !(self.multiline && key) { Style::Single } else { Style::Double };
        match wanted {
            Style::Plain if self.plain_allowed => Style::Plain,
            Style::Plain => quoted,
            Style::Literal if self.literal_allowed && !key => Style::Literal,
            _ => Style::Double,
        }
    }
}

pub(super) fn escape(c: char) -> String {
    match c {
        '\0' => "\\0".to_owned(),
        '\u{7}' => "\\a".to_owned(),
        '\u{8}' => "\\b".to_owned(),
        '\t' => "\\t".to_owned(),
        '\n' => "\\n".to_owned(),
        '\u{b}' => "\\v".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\r' => "\\r".to_owned(),
        '\u{1b}' => "\\e".to_owned(),
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\u{85}' => "\\N".to_owned(),
        '\u{2028}' => "\\L".to_owned(),
        '\u{2029}' => "\\P".to_owned(),
        c if u32::from(c) <= 0xff => format!("\\x{:02X}", u32::from(c)),
        c if u32::from(c) <= 0xffff => format!("\\u{:04X}", u32::from(c)),
        c => format!("\\U{:08X}", u32::from(c)),
    }
}
