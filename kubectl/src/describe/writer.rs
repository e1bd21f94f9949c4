//! Text in levels and columns: lines are indented by two spaces a level, and cells that end in a tab form columns with the
//! cells above and below them (Go's `text/tabwriter`, which upstream writes descriptions with).

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use serde_json::Value;

use crate::output::tabs::Tabs;

/// The moment and place that descriptions are read in.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Ages count from here back.
    pub now: Timestamp,
    /// Times are told in this zone.
    pub zone: TimeZone,
}

impl Clock {
    /// Here and now.
    pub fn system() -> Self {
        Self { now: Timestamp::now(), zone: TimeZone::system() }
    }
}

/// A description being written.
#[derive(Debug)]
pub struct Writer {
    text: String,
    base: usize,
    clock: Clock,
}

/// Writes one line at a level: `line!(w, 1, "Name:\t{name}")`.
#[macro_export]
macro_rules! line {
    ($w:expr, $level:expr, $($format:tt)*) => {
        $w.line($level, &format!($($format)*))
    };
}

impl Writer {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self { text: String::new(), base: 0, clock }
    }

    /// A line at a level.
    pub fn line(&mut self, level: usize, text: &str) {
        self.write(level, text);
        self.text.push('\n');
    }

    /// Text at a level that does not end the line.
    pub fn write(&mut self, level: usize, text: &str) {
        self.text.extend(std::iter::repeat_n("  ", level + self.base));
        self.raw(text);
    }

    /// Text as it is, but for what a terminal would obey.
    pub fn raw(&mut self, text: &str) {
        self.text.push_str(&escape(text));
    }

    /// Writes something some levels deeper.
    pub fn nested(&mut self, levels: usize, write: impl FnOnce(&mut Self)) {
        self.base += levels;
        write(self);
        self.base -= levels;
    }

    /// The moment the description is read at.
    pub fn now(&self) -> Timestamp {
        self.clock.now
    }

    /// How long ago a timestamp field was, or `<unknown>`.
    pub fn since(&self, time: &Value) -> String {
        api::duration::age(timestamp(time), self.clock.now)
    }

    /// A timestamp field as RFC 1123 has it, with a numeric zone; a missing one is Go's zero time.
    pub fn time(&self, time: &Value) -> String {
        let Some(time) = timestamp(time) else { return "Mon, 01 Jan 0001 00:00:00 +0000".to_owned() };
        let here = time.to_zoned(self.clock.zone.clone());
        strtime::format("%a, %d %b %Y %H:%M:%S %z", &here).unwrap_or_default()
    }

    /// A timestamp field as Go prints times; a missing one is Go's zero time.
    pub fn go_time(&self, time: &Value) -> String {
        let Some(time) = timestamp(time) else { return "0001-01-01 00:00:00 +0000 UTC".to_owned() };
        let here = time.to_zoned(self.clock.zone.clone());
        strtime::format("%Y-%m-%d %H:%M:%S %z %Z", &here).unwrap_or_default()
    }

    /// All of it, its tabs as they are: what upstream prints where it aligns nothing.
    pub fn unaligned(self) -> String {
        self.text
    }

    /// All of it, aligned.
    pub fn finish(self) -> String {
        Tabs { least: 0, padding: 2, remembered: None }.align(&self.text)
    }
}

/// A timestamp field.
pub fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Makes what would control a terminal visible.
pub fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    match text.contains(['\x1b', '\r']) {
        true => text.replace('\x1b', "^[").replace('\r', "\\r").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_zone() {
        let clock = Clock { now: "2026-01-02T03:04:05Z".parse().unwrap(), zone: TimeZone::UTC };
        let writer = Writer::new(clock);
        let got = (writer.time(&Value::Null), writer.time(&"2026-01-02T03:04:00Z".into()), writer.since(&Value::Null));
        let want = ("Mon, 01 Jan 0001 00:00:00 +0000", "Fri, 02 Jan 2026 03:04:00 +0000", "<unknown>");
        assert_eq!((got.0.as_str(), got.1.as_str(), got.2.as_str()), (want.0, want.1, want.2));
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(escape("a\x1b[31mb\r"), "a^[[31mb\\r");
    }
}
