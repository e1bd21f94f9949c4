//! What descriptions of many kinds have: labels, annotations, tolerations, conditions, events.

use api::selector::{Selector, format_label_selector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::{
    json::Json,
    writer::{Writer, timestamp},
};
use crate::{line, order, verbs::events::interval};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const LONGEST_ANNOTATION: usize = 140;

/// Name and, for what has one, namespace, then labels and annotations.
pub fn heading(w: &mut Writer, object: &Value, namespaced: bool) {
    line!(w, 0, "Name:\t{}", object.text("metadata.name"));
    if namespaced {
        line!(w, 0, "Namespace:\t{}", object.text("metadata.namespace"));
    }
    metadata_maps(w, object);
}

/// Labels and annotations.
pub fn metadata_maps(w: &mut Writer, object: &Value) {
    labels(w, "Labels", &object.pairs("metadata.labels"));
    annotations(w, "Annotations", &object.pairs("metadata.annotations"));
}

/// A value a line under a title, or `<none>`.
pub fn multiline(w: &mut Writer, title: &str, lines: &[String]) {
    w.write(0, &format!("{title}:\t"));
    // Inside of something nested upstream indents each of these once more.
    if lines.is_empty() {
        w.line(0, "<none>");
    }
    for (n, text) in lines.iter().enumerate() {
        if n > 0 {
            w.write(0, "");
            w.write(0, "\t");
        }
        w.line(0, text);
    }
}

/// `key=value` a line.
pub fn labels(w: &mut Writer, title: &str, labels: &[(&str, &str)]) {
    let lines: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    multiline(w, title, &lines);
}

/// Cuts at a number of bytes, as upstream does.
fn shorten(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}...", String::from_utf8_lossy(&text.as_bytes()[..most]))
}

/// `key: value` a line; long ones and those of several lines below their key.
pub fn annotations(w: &mut Writer, title: &str, annotations: &[(&str, &str)]) {
    w.write(0, &format!("{title}:\t"));
    let shown: Vec<_> = annotations.iter().filter(|(key, _)| *key != LAST_APPLIED).collect();
    if shown.is_empty() {
        w.line(0, "<none>");
    }
    for (n, (key, value)) in shown.into_iter().enumerate() {
        if n > 0 {
            w.write(0, "\t");
        }
        let value = value.strip_suffix('\n').unwrap_or(value);
        if value.len() + key.len() + 2 <= LONGEST_ANNOTATION && !value.contains('\n') {
            line!(w, 0, "{key}: {value}");
            continue;
        }
        line!(w, 0, "{key}:");
        for part in value.split('\n') {
            line!(w, 0, "\t  {}", shorten(part, LONGEST_ANNOTATION - 2));
        }
    }
}

/// One toleration: `key=value:Effect op=Exists for 300s`.
fn toleration(toleration: &Value) -> String {
    let (key, value, effect) = (toleration.text("key"), toleration.text("value"), toleration.text("effect"));
    let mut text = key.to_owned();
    if !value.is_empty() {
        text += &format!("={value}");
    }
    if !effect.is_empty() {
        text += &format!(":{effect}");
    }
    if toleration.text("operator") == "Exists" && value.is_empty() {
        text += if key.is_empty() && effect.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration.at("tolerationSeconds").as_i64() {
        text += &format!(" for {seconds}s");
    }
    text
}

/// Tolerations by key.
pub fn tolerations(w: &mut Writer, title: &str, tolerations: &[Value]) {
    let mut sorted: Vec<&Value> = tolerations.iter().collect();
    order::sort_by_key(&mut sorted, |t| t.text("key"));
    let lines: Vec<String> = sorted.into_iter().map(toleration).collect();
    multiline(w, title, &lines);
}

/// Taints by effect and key.
pub fn taints(w: &mut Writer, title: &str, taints: &[Value]) {
    let mut sorted: Vec<&Value> = taints.iter().collect();
    order::sort_by_key(&mut sorted, |t| format!("{},{}", t.text("effect"), t.text("key")));
    let text = |t: &&Value| match (t.text("key"), t.text("value"), t.text("effect")) {
        (key, "", "") => key.to_owned(),
        (key, value, "") => format!("{key}={value}:"),
        (key, "", effect) => format!("{key}:{effect}"),
        (key, value, effect) => format!("{key}={value}:{effect}"),
    };
    let lines: Vec<String> = sorted.iter().map(text).collect();
    multiline(w, title, &lines);
}

fn decoded(selector: &Value) -> Option<LabelSelector> {
    serde_json::from_value(selector.clone()).ok()
}

/// A label selector as text, `<none>` if it is empty.
pub fn label_selector(selector: &Value) -> String {
    format_label_selector(decoded(selector).as_ref())
}

/// A label selector as a list request takes it.
pub fn selector(selector: &Value) -> Selector {
    Selector::from_label_selector(decoded(selector).as_ref()).unwrap_or_else(|_| Selector::nothing())
}

/// A map of labels as text, `<none>` if it is empty.
pub fn set(pairs: &[(&str, &str)]) -> String {
    match pairs {
        [] => "<none>".to_owned(),
        pairs => pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
    }
}

/// `Kind/name` of the controlling owner.
pub fn controller(object: &Value) -> Option<String> {
    let owner = object.items("metadata.ownerReferences").iter().find(|o| o.flag("controller"))?;
    Some(format!("{}/{}", owner.text("kind"), owner.text("name")))
}

/// Conditions with type, status and reason.
pub fn conditions(w: &mut Writer, conditions: &[Value]) {
    if conditions.is_empty() {
        return;
    }
    w.raw("Conditions:\n  Type\tStatus\tReason\n");
    w.line(1, "----\t------\t------");
    for c in conditions {
        line!(w, 1, "{} \t{}\t{}", c.text("type"), c.text("status"), c.text("reason"));
    }
}

/// The events of an object, oldest first. `None` if they are not wanted.
pub fn events(w: &mut Writer, events: Option<&[Value]>) {
    let Some(events) = events else { return };
    if events.is_empty() {
        w.raw("Events:\t<none>\n");
        return;
    }
    let mut sorted: Vec<&Value> = events.iter().collect();
    order::sort_by_key(&mut sorted, |e| timestamp(e.at("lastTimestamp")));
    w.raw("Events:\n  Type\tReason\tAge\tFrom\tMessage\n");
    w.line(1, "----\t------\t----\t----\t-------");
    for e in sorted {
        let age = interval(e, w.now());
        let source = match e.text("source.component") {
            "" => e.text("reportingComponent"),
            component => component,
        };
        line!(w, 1, "{}\t{}\t{age}\t{source}\t{}", e.text("type"), e.text("reason"), e.text("message").trim());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_as_text() {
        let cases = [
            (json!({"operator": "Exists"}), "op=Exists"),
            (
                json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
                "a:NoExecute op=Exists for 300s",
            ),
            (json!({"key": "a", "value": "b", "effect": "NoSchedule"}), "a=b:NoSchedule"),
        ];
        for (given, want) in cases {
            assert_eq!(toleration(&given), want);
        }
    }

    #[test]
    fn selectors_as_text() {
        let given =
            json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]});
        assert_eq!(
            (label_selector(&given), selector(&given).to_string()),
            ("a in (x,y),b=1".into(), "a in (x,y),b=1".into())
        );
        assert_eq!(label_selector(&json!({})), "<none>");
    }
}
