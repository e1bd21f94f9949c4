//! Durations as people read them: kubectl's AGE columns, and Go's `time.Duration` strings.

use jiff::{SignedDuration, Timestamp};

/// `time: invalid duration "x"` and its kin, as Go's `time.ParseDuration` says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Two or three significant figures: `59s`, `5m30s`, `3h5m`, `2d4h`, `5y`. Upstream's `HumanDuration`.
pub fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let two = |high: i64, high_unit: char, low: i64, low_unit: char| match low {
        0 => format!("{high}{high_unit}"),
        _ => format!("{high}{high_unit}{low}{low_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(hours / 24, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', (hours / 24) % 365, 'd'),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// One figure: `59s`, `5m`, `3h`, `2d`, `1y`. Upstream's `ShortHumanDuration`.
pub fn short_human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let hours = seconds / 3600;
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 60 => format!("{seconds}s"),
        () if seconds < 3600 => format!("{}m", seconds / 60),
        () if hours < 24 => format!("{hours}h"),
        () if hours < 24 * 365 => format!("{}d", hours / 24),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// The AGE column: [`human`] since `then`, or `<unknown>`.
pub fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".to_owned(), |then| human(now.duration_since(then)))
}

/// Go's `Duration.String`: `1h2m3.5s`, `1.5ms`, `0s`.
pub fn go_string(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let decimal = |unit: u128| {
        let (whole, rest) = (magnitude / unit, magnitude % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000)),
        _ => {
            let minutes = magnitude / 60_000_000_000;
            let rest = magnitude % 60_000_000_000;
            let (whole, fraction) = (rest / 1_000_000_000, rest % 1_000_000_000);
            let mut seconds = whole.to_string();
            if fraction != 0 {
                seconds = format!("{seconds}.{}", format!("{fraction:09}").trim_end_matches('0'));
            }
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// Go's `time.ParseDuration`: `1h30m`, `-1.5s`, `300ms`, `0`.
pub fn parse_go(text: &str) -> Result<SignedDuration, ParseError> {
    let invalid = || ParseError(format!("time: invalid duration {}", quote_time(text)));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        // Go reads numbers before it looks for units.
        if !whole.is_empty() && whole.parse::<i64>().is_err() {
            return Err(invalid());
        }
        let unit_len = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let (unit, after) = after.split_at(unit_len);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(ParseError(format!("time: missing unit in duration {}", quote_time(text)))),
            _ => {
                let (unit, text) = (quote_time(unit), quote_time(text));
                return Err(ParseError(format!("time: unknown unit {unit} in duration {text}")));
            }
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(scale).and_then(|v| total.checked_add(v)).ok_or_else(invalid)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = after;
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(if negative { -total } else { total }))
}

/// A text as Go's messages of times and durations quote it: bytes that are not printable ASCII as numbers.
pub fn quote_time(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' | 0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn human_forms() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (53 * 3600, "2d5h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (8 * 365 * 86400, "8y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(human(SignedDuration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn go_forms() {
        for text in ["0s", "1ns", "1.5µs", "300ms", "1.5s", "1m0s", "1h0m0.5s", "-2h45m0s"] {
            assert_eq!(go_string(parse_go(text).unwrap()), text);
        }
        assert_eq!(parse_go("5").unwrap_err().to_string(), "time: missing unit in duration \"5\"");
        assert_eq!(parse_go("5x").unwrap_err().to_string(), "time: unknown unit \"x\" in duration \"5x\"");
        assert_eq!(parse_go("").unwrap_err().to_string(), "time: invalid duration \"\"");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(1000))]

        #[test]
        fn parse_never_panics(text in "\\PC{0,20}|[0-9.hmsnuµ-]{0,30}") {
            let _ = parse_go(&text);
        }

        #[test]
        fn go_round_trip(nanos in any::<i64>()) {
            prop_assume!(nanos != i64::MIN);
            let d = SignedDuration::from_nanos(nanos);
            prop_assert_eq!(parse_go(&go_string(d)).unwrap(), d);
        }
    }
}
