//! `resource.Quantity`: parse, canonical form, arithmetic, rounding.
//!
//! A quantity is held as a whole number of nano-units in 128 bits: the smallest step upstream knows, exact for everything up
//! to 1.7e29 units, and comparison and sums are plain integer work. Upstream falls back to big decimals there; beyond that
//! range parsing fails here.

use std::{cmp::Ordering, fmt, str::FromStr};

/// How a quantity likes to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// Why a string is no quantity; upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of a quantity's form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be represented.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// An unknown suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount with a preferred format. Equality and order are by value.
#[derive(Clone, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// What was parsed, where upstream keeps it verbatim (`1.500`, `+1`).
    text: Option<Box<str>>,
    /// The power of ten in whose multiples upstream counts it in 64 bits; without one upstream holds it as a big decimal.
    scale: Option<i32>,
}

const NANOS: i128 = 1_000_000_000;

impl Default for Quantity {
    fn default() -> Self {
        Self { nanos: 0, format: Format::DecimalSi, text: None, scale: Some(0) }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Divides by `by`, rounding away from zero.
fn divide_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The canonical form of a quantity string: what the API server stores for it.
pub fn canonical(text: &str) -> Result<String, ParseError> {
    text.parse::<Quantity>().map(|q| q.to_string())
}

impl Quantity {
    /// A whole number of units.
    pub fn from_units(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format, text: None, scale: Some(0) }
    }

    /// Thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * 1_000_000, format, text: None, scale: Some(0) }
    }

    /// The amount of an object's quantity; what does not parse counts as nothing.
    pub fn of(value: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Self {
        value.0.parse().unwrap_or_default()
    }

    /// Whole units, rounded away from zero, within 64 bits.
    pub fn value(&self) -> i64 {
        saturate(divide_up(self.nanos, NANOS))
    }

    /// Thousandths, rounded away from zero, within 64 bits.
    pub fn milli_value(&self) -> i64 {
        saturate(divide_up(self.nanos, 1_000_000))
    }

    /// Whether upstream takes it for an amount with a fraction: its thousandths, rounded away from zero, are counted in 64 bits. What
    /// is left of them when they overflow is looked at, or nothing, as the steps go in which upstream multiplies.
    pub fn seems_fractional(&self) -> bool {
        let milli = divide_up(self.nanos, 1_000_000);
        let at_once = self.scale.is_none_or(|scale| matches!(scale, -3..=0 | 3 | 6));
        let counted = if at_once { milli as i64 } else { i64::try_from(milli).unwrap_or(0) };
        counted % 1000 != 0
    }

    /// Units of 10^`scale` (at least -9), rounded away from zero, within 64 bits.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        match u32::try_from(scale + 9).ok().and_then(|s| 10i128.checked_pow(s)) {
            Some(step) => saturate(divide_up(self.nanos, step)),
            None if scale < 0 => saturate(self.nanos),
            None => saturate(self.nanos.signum()),
        }
    }

    /// The nearest float.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The preferred format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The opposite amount.
    pub fn negated(mut self) -> Self {
        self.nanos = self.nanos.saturating_neg();
        self.text = None;
        self
    }

    fn merge(&mut self, nanos: i128, other: &Self) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = nanos;
        self.text = None;
    }
}

impl std::ops::AddAssign<&Quantity> for Quantity {
    fn add_assign(&mut self, other: &Quantity) {
        self.merge(self.nanos.saturating_add(other.nanos), other);
    }
}

impl std::ops::SubAssign<&Quantity> for Quantity {
    fn sub_assign(&mut self, other: &Quantity) {
        self.merge(self.nanos.saturating_sub(other.nanos), other);
    }
}

enum Suffix {
    Decimal(i32, Format),
    Binary(u32),
}

fn suffix(text: &str) -> Result<Suffix, ParseError> {
    let si = |exponent| Ok(Suffix::Decimal(exponent, Format::DecimalSi));
    match text {
        "" => si(0),
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => Ok(Suffix::Binary(10)),
        "Mi" => Ok(Suffix::Binary(20)),
        "Gi" => Ok(Suffix::Binary(30)),
        "Ti" => Ok(Suffix::Binary(40)),
        "Pi" => Ok(Suffix::Binary(50)),
        "Ei" => Ok(Suffix::Binary(60)),
        _ => match text.strip_prefix(['e', 'E']).map(str::parse) {
            Some(Ok(exponent)) => Ok(Suffix::Decimal(exponent, Format::DecimalExponent)),
            _ => Err(ParseError::Suffix),
        },
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `digits * 10^exponent` in nano-units, rounded away from zero.
fn decimal_nanos(mut digits: String, exponent: i32) -> Result<i128, ParseError> {
    let mut scale = i64::from(exponent) + 9;
    let mut lost = false;
    while scale < 0 && !digits.is_empty() {
        lost |= digits.pop() != Some('0');
        scale += 1;
    }
    let digits = digits.trim_start_matches('0');
    let whole: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| ParseError::Numeric)? };
    if whole == 0 {
        return Ok(i128::from(lost));
    }
    let step = u32::try_from(scale).ok().and_then(|s| 10i128.checked_pow(s));
    step.and_then(|s| whole.checked_mul(s)).map(|n| n + i128::from(lost)).ok_or(ParseError::Numeric)
}

/// `digits * 10^-places * 2^shift` in nano-units, rounded away from zero and capped at upstream's maximum.
fn binary_nanos(digits: &str, places: usize, shift: u32) -> Result<i128, ParseError> {
    const CAP: i128 = i64::MAX as i128 * NANOS;
    let digits = digits.trim_start_matches('0');
    // More than 30 places are below a nano-unit even for Ei.
    let (digits, places) = if places > 30 {
        let keep = digits.len().saturating_sub(places - 30);
        (&digits[..keep], 30)
    } else {
        (digits, places)
    };
    let whole: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| ParseError::Numeric)? };
    let unit = 10i128.pow(places as u32);
    let (integer, fraction) = (whole / unit, whole % unit);
    let Some(high) = integer.checked_mul(1 << shift).filter(|v| *v <= i128::from(i64::MAX)) else { return Ok(CAP) };
    // fraction / unit * 2^shift * 1e9 without overflow: one decimal digit of the result at a time.
    let mut rest = fraction;
    let mut low: i128 = 0;
    let mut remainder_lost = false;
    for bit in 0..shift {
        rest *= 2;
        let carry = rest / unit;
        rest %= unit;
        low += carry << (shift - 1 - bit);
    }
    let mut nanos = 0;
    for _ in 0..9 {
        rest *= 10;
        nanos = nanos * 10 + rest / unit;
        rest %= unit;
    }
    remainder_lost |= rest != 0;
    Ok(((high + low) * NANOS + nanos + i128::from(remainder_lost)).min(CAP))
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (number, rest) = split_digits(unsigned);
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let exponent = rest[letters..].strip_prefix(['-', '+']).unwrap_or(&rest[letters..]);
        if !split_digits(exponent).1.is_empty() {
            return Err(ParseError::Format);
        }
        let suffix = suffix(rest)?;
        let digits = format!("{number}{fraction}");
        let significant = number.trim_start_matches('0');
        let (magnitude, format, held, kept) = match suffix {
            Suffix::Decimal(exponent, format) => {
                let scale = i64::from(exponent) - fraction.len() as i64;
                let scale = i32::try_from(scale).map_err(|_| ParseError::Numeric)?;
                let small = significant.len().max(1) + fraction.len() <= 18 && scale >= -9;
                let kept = small && scale % 3 == 0 && !significant.is_empty() && !digits.ends_with("000");
                (decimal_nanos(digits, scale)?, format, small.then_some(scale), kept)
            }
            Suffix::Binary(shift) => {
                let nanos = binary_nanos(&digits, fraction.len(), shift)?;
                let whole: Option<i64> = if fraction.is_empty() { significant.parse().ok() } else { None };
                let precise = 15 - significant.len() as i64 - (shift as f32 * 3.0 / 10.0) as i64 > 0;
                let kept = precise && whole.is_some_and(|v| v & 7 != 0);
                let format = if nanos > 0 && nanos < NANOS { Format::DecimalSi } else { Format::BinarySi };
                (nanos, format, (precise && fraction.is_empty()).then_some(0), kept)
            }
        };
        let nanos = if negative { -magnitude } else { magnitude };
        Ok(Self { nanos, format, text: kept.then(|| text.into()), scale: held })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        if self.format == Format::BinarySi && !small && self.is_whole() {
            let mut amount = self.nanos / NANOS;
            let mut power = 0;
            while amount % 1024 == 0 && power < 6 {
                amount /= 1024;
                power += 1;
            }
            return write!(f, "{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut amount = self.nanos;
        let mut exponent = -9i32;
        while amount % 1000 == 0 {
            amount /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{amount}"),
            (Format::DecimalExponent, _) | (_, 21..) => write!(f, "{amount}e{exponent}"),
            _ => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3) as usize];
                write!(f, "{amount}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, want) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("1.500", "1.500"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("8Ki", "8Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("0.0001Ki", "102400u"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1e1", "10"),
            ("1E", "1E"),
            ("0.1n", "1n"),
            ("1e-30", "1e-9"),
            ("-1.5", "-1500m"),
            ("-0.1n", "-1n"),
            ("100Ei", "9223372036854775807"),
            ("1234567890123456789", "1234567890123456789"),
            ("128974848", "128974848"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("1.", "1."),
            (".", "0"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for (text, want) in [
            ("", ParseError::Format),
            ("1 ", ParseError::Format),
            ("1Mb", ParseError::Format),
            ("1.1.1", ParseError::Format),
            ("1Kii", ParseError::Suffix),
            ("1i", ParseError::Suffix),
            ("1e", ParseError::Suffix),
        ] {
            assert_eq!(canonical(text), Err(want), "{text}");
        }
    }

    #[test]
    fn fractions_are_what_upstream_takes_for_them() {
        for (text, want) in [
            ("1", false),
            ("1.5", true),
            ("100m", true),
            ("1.0001", true),
            ("0.9999999", false),
            ("1.5Ki", false),
            ("10P", false),
            ("9300P", false),
            ("9223372036854775", false),
            ("9223372036854776", true),
            ("10000000000000001", true),
            ("1E", false),
            ("8Pi", false),
            ("9Pi", true),
            ("8Ei", false),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().seems_fractional(), want, "{text}");
        }
    }

    #[test]
    fn rounds_away_from_zero() {
        let q: Quantity = "1500m".parse().unwrap();
        assert_eq!((q.value(), q.milli_value(), q.scaled_value(-9)), (2, 1500, 1_500_000_000));
        let q: Quantity = "-1500m".parse().unwrap();
        assert_eq!(q.value(), -2);
        let mut sum = Quantity::default();
        sum += &"1Gi".parse().unwrap();
        sum += &"1Mi".parse().unwrap();
        assert_eq!(sum.to_string(), "1025Mi");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(2000))]

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = canonical(&text);
        }

        #[test]
        fn canonical_keeps_the_value(text in "[+-]?[0-9]{0,20}(\\.[0-9]{0,20})?(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?[0-9]{1,2})") {
            if let Ok(q) = text.parse::<Quantity>() {
                let again: Quantity = q.to_string().parse().unwrap();
                prop_assert_eq!(&again, &q);
            }
        }
    }
}
