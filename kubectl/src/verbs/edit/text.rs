//! The text around what is edited: the heading, the reasons in it, and comments.

use serde_json::Value;

use super::Mode;
use crate::resources::{Object, documents_in};

/// Why the file is shown again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons(Vec<(String, Vec<String>)>);

impl Reasons {
    /// One reason.
    pub fn of(head: String) -> Self {
        Self(vec![(head, Vec::new())])
    }

    /// An object is not valid, for these causes.
    pub fn invalid(object: &Object, causes: Vec<String>) -> Self {
        let named = format!("{} {}", object.mapping.group_resource(), api::field::go_quote(&object.name));
        Self(vec![(format!("{named} was not valid"), causes)])
    }

    /// More reasons.
    pub fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What stands above the objects.
pub fn heading(mode: Mode, reasons: &Reasons) -> String {
    let mut text = match mode {
        Mode::LastApplied => concat!(
            "# Please edit the 'last-applied-configuration' annotations below.\n",
            "# Lines beginning with a '#' will be ignored, and an empty file will abort the edit.\n#\n"
        ),
        Mode::Live | Mode::BeforeCreate => concat!(
            "# Please edit the object below. Lines beginning with a '#' will be ignored,\n",
            "# and an empty file will abort the edit. If an error occurs while saving this file will be\n",
            "# reopened with the relevant failures.\n#\n"
        ),
    }
    .to_owned();
    for (head, causes) in &reasons.0 {
        let colon = if causes.is_empty() { "" } else { ":" };
        text.push_str(&format!("# {}{colon}\n", commented(head)));
        causes.iter().for_each(|cause| text.push_str(&format!("# * {}\n", commented(cause))));
        text.push_str("#\n");
    }
    text
}

/// Keeps lines within a comment.
fn commented(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        out.push(c);
        if c == '\n' && characters.peek().is_some_and(|next| *next != '#') {
            out.push_str("# ");
        }
    }
    out
}

/// The text without lines that are comments.
pub fn stripped(text: &str) -> String {
    let comment = |line: &str| {
        let line = line.trim();
        line.starts_with('#') && !line.starts_with("#!")
    };
    text.split_inclusive('\n').filter(|line| !comment(line)).collect()
}

/// What the text says, comments aside: its value where it is YAML, else its lines.
pub fn without_comments(text: &str) -> Result<Vec<Value>, String> {
    let values: Result<Vec<Value>, String> = documents_in(text.as_bytes()).into_iter().collect();
    values.map_err(|_| stripped(text))
}

/// Whether there is more than comments and empty lines.
pub fn says_something(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_in_the_heading() {
        let reasons = Reasons(vec![("x was not valid".to_owned(), vec!["a: b\nc".to_owned()])]);
        let text = heading(Mode::LastApplied, &reasons);
        assert!(text.ends_with("#\n# x was not valid:\n# * a: b\n# c\n#\n"), "{text}");
    }

    #[test]
    fn comments_say_nothing() {
        assert_eq!(without_comments("# a\nb: c\n"), without_comments("b: c"));
        assert_eq!(without_comments("b: [\n# x\n"), Err("b: [\n".to_owned()));
        assert!(!says_something("# a\n\n  # b\n"));
    }
}
