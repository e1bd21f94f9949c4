//! Cells of tables: durations, containers, selectors as upstream prints them.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, MicroTime, ObjectMeta, Time},
};
use serde_json::Value;

pub use crate::selector::format_set as labels;
use crate::{duration, selector::Selector};

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
    duration::age(time.map(|time| time.0), now)
}

/// [`since`] for microsecond timestamps.
pub fn since_micro(time: Option<&MicroTime>, now: Timestamp) -> String {
    duration::age(time.map(|time| time.0), now)
}

/// A label selector in its string form, requirements in order of their keys.
pub fn selector(selector: &LabelSelector) -> String {
    Selector::from_label_selector(Some(selector)).map_or_else(|_| "<invalid>".to_owned(), |selector| selector.to_string())
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
