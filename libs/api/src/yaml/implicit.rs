//! What YAML 1.1 makes of plain scalars: which are read back as the strings they are, and which as something else.

/// Whether YAML 1.1 reads a plain scalar back as a string.
pub(super) fn reads_as_string(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N",
        "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF",
        "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    if WORDS.contains(&text) {
        return false;
    }
    match text.as_bytes()[0] {
        b'.' => !yaml_float(text),
        b'0'..=b'9' | b'+' | b'-' => {
            let bare = text.replace('_', "");
            !(timestamp(text) || integer(&bare) || yaml_float(&bare) || binary(&bare) || base60(text))
        }
        _ => true,
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// Go's `ParseInt(text, 0, 64)` or `ParseUint`.
fn integer(text: &str) -> bool {
    let signed = text.starts_with(['+', '-']);
    let bare = if signed { &text[1..] } else { text };
    let lower = bare.to_ascii_lowercase();
    let (radix, rest) = match lower.as_str() {
        t if t.starts_with("0x") => (16, &t[2..]),
        t if t.starts_with("0b") => (2, &t[2..]),
        t if t.starts_with("0o") => (8, &t[2..]),
        t if t.len() > 1 && t.starts_with('0') => (8, &t[1..]),
        t => (10, t),
    };
    if rest.is_empty() || !rest.chars().all(|c| c.is_digit(radix)) {
        return false;
    }
    match u64::from_str_radix(rest, radix) {
        Ok(value) if text.starts_with('-') => value <= 1 << 63,
        Ok(value) if signed => value < 1 << 63,
        Ok(_) => true,
        Err(_) => false,
    }
}

fn binary(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    rest.strip_prefix("0b").is_some_and(|b| !b.is_empty() && b.len() <= 64 && b.bytes().all(|c| matches!(c, b'0' | b'1')))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
pub(crate) fn yaml_float(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = digits(rest);
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if whole == 0 && count == 0 {
            return false;
        }
        rest = &fraction[count..];
    } else if whole == 0 {
        return false;
    }
    match rest.strip_prefix(['e', 'E']) {
        None => rest.is_empty(),
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
    }
}

/// `[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?`
fn base60(text: &str) -> bool {
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !rest.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let (rest, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let mut parts = rest.split(':');
    let whole = parts.next().unwrap_or_default();
    let mut count = 0;
    let sixties = parts.all(|p| {
        count += 1;
        let bytes = p.as_bytes();
        match bytes {
            [d] => d.is_ascii_digit(),
            [t, d] => (b'0'..=b'5').contains(t) && d.is_ascii_digit(),
            _ => false,
        }
    });
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    sixties && count > 0 && number(whole) && number(fraction)
}

/// One or two digits within bounds, and what follows them.
fn number(text: &str, low: u32, high: u32) -> Option<(u32, &str)> {
    let count = digits(text);
    if !(1..=2).contains(&count) {
        return None;
    }
    let value: u32 = text[..count].parse().ok()?;
    (low..=high).contains(&value).then(|| (value, &text[count..]))
}

/// `2006-1-2`, `2006-1-2T15:4:5.999999999Z07:00`, the same with `t` or a space, the latter also without a zone.
pub(crate) fn timestamp(text: &str) -> bool {
    if digits(text) != 4 || text.as_bytes().get(4) != Some(&b'-') {
        return false;
    }
    let parse = || {
        let year: u32 = text[..4].parse().ok()?;
        let (month, rest) = number(&text[5..], 1, 12)?;
        let (day, rest) = number(rest.strip_prefix('-')?, 1, 31)?;
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let longest = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day > longest {
            return None;
        }
        if rest.is_empty() {
            return Some(true);
        }
        let spaced = rest.starts_with(' ');
        let (_, rest) = number(rest.strip_prefix(['T', 't', ' '])?, 0, 23)?;
        let (_, rest) = number(rest.strip_prefix(':')?, 0, 59)?;
        let (_, rest) = number(rest.strip_prefix(':')?, 0, 59)?;
        let rest = match rest.strip_prefix(['.', ',']) {
            Some(fraction) if digits(fraction) > 0 => &fraction[digits(fraction)..],
            Some(_) => return None,
            None => rest,
        };
        if spaced {
            return Some(rest.is_empty());
        }
        if rest == "Z" {
            return Some(true);
        }
        let zone = rest.strip_prefix(['+', '-'])?;
        let bytes = zone.as_bytes();
        let numeric = |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|b| b.iter().all(u8::is_ascii_digit));
        Some(bytes.len() == 5 && bytes[2] == b':' && numeric(0..2) && numeric(3..5))
    };
    parse().unwrap_or(false)
}
