//! Flag values in upstream's grammar. Components derive `clap::Args` structs whose long names are upstream's
//! (`#[arg(long = "bind-address")]`) and take these as `value_parser`s, so that upstream's command lines work unchanged.

use std::{collections::BTreeMap, time::Duration};

/// Why a flag's value was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Not a duration.
    #[error("time: invalid duration {0:?}")]
    Duration(String),
    /// Not `key=value` pairs.
    #[error("malformed pair, expect string=string: {0:?}")]
    Pair(String),
    /// Not a boolean.
    #[error("invalid value of {0}={1}, expected true or false")]
    Bool(String, String),
}

/// A Go duration: `300ms`, `1m30s`, `1.5h`, `0`. Negative ones are refused: no flag here means anything by them.
pub fn duration(text: &str) -> Result<Duration, FlagError> {
    let bad = || FlagError::Duration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

/// `a=b,c=d`.
pub fn pairs(text: &str) -> Result<BTreeMap<String, String>, FlagError> {
    text.split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| FlagError::Pair(pair.to_owned()))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// `Feature=true,Other=false`.
pub fn feature_gates(text: &str) -> Result<BTreeMap<String, bool>, FlagError> {
    pairs(text)?
        .into_iter()
        .map(|(key, value)| match value.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Ok((key, true)),
            "false" | "f" | "0" => Ok((key, false)),
            _ => Err(FlagError::Bool(key, value)),
        })
        .collect()
}

/// The logging flags every component has.
#[derive(Clone, Debug, clap::Args)]
pub struct LogFlags {
    /// Number for the log level verbosity: 0-3 informational, 4-5 debug, 6 and more everything.
    #[arg(short = 'v', long = "v", default_value_t = 0, global = true)]
    pub verbosity: u8,
    /// The log format: "text" or "json".
    #[arg(long = "logging-format", default_value = "text", value_parser = ["text", "json"], global = true)]
    pub format: String,
    /// If non-empty, write the log to this file instead of standard error.
    #[arg(long = "log-file", global = true)]
    pub file: Option<std::path::PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_go() {
        let cases = [("0", 0), ("300ms", 300), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2h45m", 9_900_000)];
        for (text, want_ms) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(want_ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1.2.3s"] {
            assert_eq!(duration(text), Err(FlagError::Duration(text.to_owned())));
        }
    }

    #[test]
    fn gates_are_booleans() {
        let want = BTreeMap::from([("A".to_owned(), true), ("B".to_owned(), false)]);
        assert_eq!(feature_gates("A=true,B=false"), Ok(want));
        assert_eq!(feature_gates("A=maybe"), Err(FlagError::Bool("A".into(), "maybe".into())));
        assert_eq!(feature_gates("A"), Err(FlagError::Pair("A".into())));
    }
}
