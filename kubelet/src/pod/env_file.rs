//! Files that containers write for the environment of others (`env.valueFrom.fileKeyRef`, KEP-3721).
//!
//! What is understood is a narrow part of a shell's syntax, as upstream has it since v1.35: `NAME='value'`, where the value is
//! literal and may go on over lines, comments, blank lines. Everything up to the wanted name has to be in order.

/// A line may be shorter than this.
const LONGEST_LINE: usize = 64 * 1024;

/// The file is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a pod's volume has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFile {
    /// The path on the host, for messages.
    pub path: String,
    /// What it says, if it could be read.
    pub text: Option<String>,
}

/// The value of `key`, empty if the file does not set it.
pub fn find(text: &str, key: &str) -> Result<String, Malformed> {
    let mut lines = text.lines().map(|line| if line.len() < LONGEST_LINE { Ok(line) } else { Err(Malformed) });
    while let Some(line) = lines.next() {
        let line = line?.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(Malformed)?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(Malformed);
        }
        let value = match value.starts_with([' ', '\t']) {
            // As a shell has it: nothing is assigned.
            true => String::new(),
            false => quoted(value, &mut lines)?,
        };
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

/// A value in single quotes that begins here and ends on this line or on one of those that follow.
fn quoted<'a>(first: &'a str, lines: &mut impl Iterator<Item = Result<&'a str, Malformed>>) -> Result<String, Malformed> {
    let mut rest = first.strip_prefix('\'').ok_or(Malformed)?;
    let mut value = String::new();
    loop {
        if let Some((end, after)) = rest.split_once('\'') {
            let after = after.trim_start_matches([' ', '\t']);
            value.push_str(end);
            return if after.is_empty() || after.starts_with('#') { Ok(value) } else { Err(Malformed) };
        }
        value.push_str(rest);
        value.push('\n');
        rest = lines.next().ok_or(Malformed)??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_single_quotes() {
        let text = "\n # a comment\n  A='one' # of two\r\nB='$x \"y\"\n#z'\nC= 'nothing'\nA='late'\nD='un'quoted\nE='e'\n";
        let found = ["A", "B", "C", "D", "E"].map(|key| find(text, key));
        let wanted = ["one", "$x \"y\"\n#z", ""].map(|value| Ok(value.to_owned()));
        assert_eq!(found[..3], wanted);
        assert_eq!(found[3..], [Err(Malformed), Err(Malformed)]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let long = format!("A='{}'", "x".repeat(LONGEST_LINE));
        for text in ["A", "A=one", "A=\"one\"", "A ='one'", "='one'", "A='one", "A='one'two", long.as_str()] {
            assert_eq!(find(text, "A"), Err(Malformed), "{text:.20}");
        }
        assert_eq!(find("A=''\n", "B"), Ok(String::new()));
    }
}
