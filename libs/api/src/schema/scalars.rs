//! Scalars that stand in texts, read as Go reads them, with its complaints.

use serde_json::Value;

use crate::{duration::quote_time, quantity::Quantity};

/// Bytes in base64, read as Go reads them: lines may be broken anywhere, and the bits behind the last byte may be set. The error
/// is where Go's decoder stops.
pub fn from_base64(text: &str) -> Result<Vec<u8>, usize> {
    let bytes = text.as_bytes();
    let digit = |byte: u8| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let mut signs = bytes.iter().copied().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    loop {
        let mut quantum: Vec<u8> = Vec::with_capacity(4);
        let ended = loop {
            if quantum.len() == 4 {
                break false;
            }
            match (signs.next(), quantum.len()) {
                (None, 0) => return Ok(out),
                (None, read) => return Err(bytes.len() - read),
                (Some((at, byte)), read) => match digit(byte) {
                    Some(digit) => quantum.push(digit),
                    None if byte != b'=' || read < 2 => return Err(at),
                    None if read == 3 => break true,
                    None => match signs.next() {
                        Some((_, b'=')) => break true,
                        Some((at, _)) => return Err(at - 1),
                        None => return Err(bytes.len()),
                    },
                },
            }
        };
        let bits = quantum.iter().chain([0; 4].iter()).take(4).fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        out.extend(&bits.to_be_bytes()[1..quantum.len()]);
        if ended {
            return signs.next().map_or(Ok(out), |(at, _)| Err(at));
        }
    }
}

/// Reads a time as Go does, with its complaints: an RFC 3339 time, of which a micro time has exactly six decimals.
pub fn check_time(text: &str, micro: bool) -> Result<(), String> {
    const PARTS: [(&str, u32, u32, &str); 11] = [
        ("2006", 0, 9999, ""),
        ("-", 0, 0, ""),
        ("01", 1, 12, "month"),
        ("-", 0, 0, ""),
        ("02", 0, 31, "day"),
        ("T", 0, 0, ""),
        ("15", 0, 23, "hour"),
        (":", 0, 0, ""),
        ("04", 0, 59, "minute"),
        (":", 0, 0, ""),
        ("05", 0, 59, "second"),
    ];
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let refuse = |rest: &str, part: &str| {
        Err(format!("parsing time {} as \"{layout}\": cannot parse {} as \"{part}\"", quote_time(text), quote_time(rest)))
    };
    let wrong = |what: &str| Err(format!("parsing time {}: {what}", quote_time(text)));
    let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = text;
    for (part, low, high, name) in PARTS {
        if part.len() == 1 {
            let Some(after) = rest.strip_prefix(part) else { return refuse(rest, part) };
            rest = after;
            continue;
        }
        if digits(rest) < part.len() {
            return refuse(rest, part);
        }
        let (number, after) = rest.split_at(part.len());
        if !number.parse().is_ok_and(|number: u32| (low..=high).contains(&number)) {
            return wrong(&format!("{name} out of range"));
        }
        rest = after;
    }
    let decimals = rest.strip_prefix('.').map_or(0, digits);
    if micro && decimals < 6 {
        return refuse(rest, ".000000");
    }
    rest = match (micro, decimals) {
        (true, _) => &rest[7..],
        (false, 0) => rest,
        (false, decimals) => &rest[1 + decimals..],
    };
    let after = rest.strip_prefix('Z').or_else(|| {
        let zone = rest.strip_prefix(['+', '-'])?;
        let fits = digits(zone) == 2 && zone[2..].strip_prefix(':').is_some_and(|minutes| digits(minutes) >= 2);
        fits.then(|| &zone[5..])
    });
    match after {
        None => refuse(rest, "Z07:00"),
        Some("") if text.parse::<jiff::Timestamp>().is_ok() => Ok(()),
        Some("") => wrong("day out of range"),
        Some(extra) => wrong(&format!("extra text: {}", quote_time(extra))),
    }
}

/// Puts a quantity into its canonical form, a text; numbers are quantities, too.
pub fn canonical_quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        other => other.to_string(),
    };
    let quantity: Quantity = text.parse().map_err(|e: crate::quantity::ParseError| e.to_string())?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        let cases = [
            ("2024-01-02T03:04:05Z", false, ""),
            ("2024-01-02T03:04:05.5+01:00", false, ""),
            ("2024-01-02T03:04:05.123456Z", true, ""),
            ("2024-01-02T03:04:05Z", true, r#"cannot parse "Z" as ".000000""#),
            ("2024-01-02T03:04:05.1234567Z", true, r#"cannot parse "7Z" as "Z07:00""#),
            ("2024-01-02 03:04:05Z", false, r#"cannot parse " 03:04:05Z" as "T""#),
            ("2024-13-02T03:04:05Z", false, "month out of range"),
            ("2024-02-30T03:04:05Z", false, "day out of range"),
            ("2024-02-03T03:04Z", false, r#"cannot parse "Z" as ":""#),
            ("2024-02-03T03:04:05", false, r#"cannot parse "" as "Z07:00""#),
            ("2024-02-03T03:04:05Zé", false, r#"extra text: "\xc3\xa9""#),
            ("é", true, r#"cannot parse "\xc3\xa9" as "2006""#),
        ];
        for (text, micro, want) in cases {
            let told = check_time(text, micro).err().unwrap_or_default();
            assert!(told.ends_with(want) && told.is_empty() == want.is_empty(), "{text}: {told}");
        }
    }
}
