//! Cells of tables: durations, containers, selectors as upstream prints them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, MicroTime, ObjectMeta, Time},
};
use serde_json::Value;

/// `metadata.name` as a cell.
pub fn name(metadata: &ObjectMeta) -> Value {
    Value::from(metadata.name.as_deref().unwrap_or_default())
}

/// Time since creation as a cell.
pub fn age(metadata: &ObjectMeta, now: Timestamp) -> Value {
    Value::from(since(metadata.creation_timestamp.as_ref(), now))
}

/// `metadata.creationTimestamp` as a cell.
pub fn created(metadata: &ObjectMeta) -> Value {
    serde_json::to_value(&metadata.creation_timestamp).unwrap_or_default()
}

/// Time since `time`, `<unknown>` if unset.
pub fn since(time: Option<&Time>, now: Timestamp) -> String {
    time.map_or_else(|| "<unknown>".to_owned(), |time| human_duration(nanoseconds(time.0, now)))
}

/// [`since`] for microsecond timestamps.
pub fn since_micro(time: Option<&MicroTime>, now: Timestamp) -> String {
    time.map_or_else(|| "<unknown>".to_owned(), |time| human_duration(nanoseconds(time.0, now)))
}

fn nanoseconds(from: Timestamp, to: Timestamp) -> i128 {
    to.as_nanosecond() - from.as_nanosecond()
}

/// A duration with two to three significant figures: `90s`, `5m30s`, `3h`, `2d4h`, `3y20d`.
pub fn human_duration(nanoseconds: i128) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let two = |big: i128, unit: &str, small: i128, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match hours {
        _ if seconds < 0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        ..8 => two(hours, "h", minutes % 60, "m"),
        ..48 => format!("{hours}h"),
        ..192 => two(hours / 24, "d", hours % 24, "h"),
        ..17_520 => format!("{}d", hours / 24),
        ..70_080 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// Labels as `a=b,c=d`, `<none>` if there are none.
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    match labels {
        Some(labels) if !labels.is_empty() => {
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        }
        _ => "<none>".to_owned(),
    }
}

/// A label selector in its string form, requirements in order of their keys.
pub fn selector(selector: &LabelSelector) -> String {
    let mut parts: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        parts.push((key, format!("{key}={value}")));
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let key = requirement.key.as_str();
        let mut values: Vec<&str> = requirement.values.iter().flatten().map(String::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push((
            key,
            match requirement.operator.as_str() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                _ => return "<invalid>".to_owned(),
            },
        ));
    }
    parts.sort_by(|a, b| a.0.cmp(b.0));
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// Names and images of containers, each joined by commas.
pub fn containers(containers: &[Container]) -> (String, String) {
    let names: Vec<_> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<_> = containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    (names.join(","), images.join(","))
}

/// [`containers`] of a pod template.
pub fn template(template: Option<&PodTemplateSpec>) -> (String, String) {
    containers(template.and_then(|t| t.spec.as_ref()).map_or(&[], |spec| &spec.containers))
}

/// Up to three items and how many more there are; `<unset>` if none.
pub fn with_more(items: &[String]) -> String {
    const MAX: usize = 3;
    match items.len() {
        0 => "<unset>".to_owned(),
        count if count > MAX => format!("{} + {} more...", items[..MAX].join(","), count - MAX),
        _ => items.join(","),
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
pub fn host_port(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        let got: Vec<_> =
            cases.iter().map(|(seconds, _)| human_duration(i128::from(*seconds as i64) * 1_000_000_000)).collect();
        assert_eq!(got, cases.map(|(_, text)| text.to_owned()));
    }

    #[test]
    fn selectors_print_sorted() {
        let parsed: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["y", "x"]},
                {"key": "a", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        assert_eq!(selector(&parsed), "!a,b=1,c in (x,y)");
    }
}
