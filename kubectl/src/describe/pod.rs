//! Pods and pod templates.

use api::quantity::Quantity;
use serde_json::Value;

use super::{
    container::{containers, resources},
    json::Json,
    parts,
    volume::volumes,
    writer::Writer,
};
use crate::{line, order};

/// A pod.
pub fn describe(w: &mut Writer, pod: &Value, events: Option<&[Value]>) {
    let (spec, status) = (pod.at("spec"), pod.at("status"));
    line!(w, 0, "Name:\t{}", pod.text("metadata.name"));
    line!(w, 0, "Namespace:\t{}", pod.text("metadata.namespace"));
    if let Some(priority) = spec.at("priority").as_i64() {
        line!(w, 0, "Priority:\t{priority}");
    }
    let optional = |w: &mut Writer, title: &str, text: &str| {
        if !text.is_empty() {
            line!(w, 0, "{title}:\t{text}");
        }
    };
    optional(w, "Priority Class Name", spec.text("priorityClassName"));
    optional(w, "Runtime Class Name", spec.text("runtimeClassName"));
    optional(w, "Service Account", spec.text("serviceAccountName"));
    match spec.text("nodeName") {
        "" => w.line(0, "Node:\t<none>"),
        node => line!(w, 0, "Node:\t{node}/{}", status.text("hostIP")),
    }
    if status.has("startTime") {
        line!(w, 0, "Start Time:\t{}", w.time(status.at("startTime")));
    }
    parts::metadata_maps(w, pod);
    if pod.has("metadata.deletionTimestamp") && !matches!(status.text("phase"), "Failed" | "Succeeded") {
        line!(w, 0, "Status:\tTerminating (lasts {})", w.since(pod.at("metadata.deletionTimestamp")));
        line!(w, 0, "Termination Grace Period:\t{}s", pod.int("metadata.deletionGracePeriodSeconds"));
    } else {
        line!(w, 0, "Status:\t{}", status.text("phase"));
    }
    optional(w, "Reason", status.text("reason"));
    optional(w, "Message", status.text("message"));
    let profile = spec.at("securityContext.seccompProfile");
    optional(w, "SeccompProfile", profile.text("type"));
    if profile.text("type") == "Localhost" {
        line!(w, 0, "LocalhostProfile:\t{}", profile.text("localhostProfile"));
    }
    line!(w, 0, "IP:\t{}", status.text("podIP"));
    match status.items("podIPs") {
        [] => w.line(0, "IPs:\t<none>"),
        ips => {
            w.line(0, "IPs:");
            ips.iter().for_each(|ip| line!(w, 1, "IP:\t{}", ip.text("ip")));
        }
    }
    optional(w, "Controlled By", &parts::controller(pod).unwrap_or_default());
    optional(w, "NominatedNodeName", status.text("nominatedNodeName"));
    if spec.has("resources") {
        w.line(0, "Resources:");
        resources(w, 1, spec.at("resources"));
    }
    let of_kind = |w: &mut Writer, label: &str, field: &str, statuses: &str| {
        containers(w, label, spec.items(field), status.items(statuses), Some(pod));
    };
    if !spec.items("initContainers").is_empty() {
        of_kind(w, "Init Containers", "initContainers", "initContainerStatuses");
    }
    of_kind(w, "Containers", "containers", "containerStatuses");
    if !spec.items("ephemeralContainers").is_empty() {
        of_kind(w, "Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses");
    }
    gates_and_conditions(w, spec, status);
    volumes(w, spec.items("volumes"), false);
    let class = match status.text("qosClass") {
        "" => qos(spec),
        class => class,
    };
    line!(w, 0, "QoS Class:\t{class}");
    placement(w, "", spec);
    spread(w, "", spec.items("topologySpreadConstraints"));
    parts::events(w, events);
}

fn gates_and_conditions(w: &mut Writer, spec: &Value, status: &Value) {
    let conditions = status.items("conditions");
    let gates = spec.items("readinessGates");
    if !gates.is_empty() {
        w.raw("Readiness Gates:\n  Type\tStatus\n");
    }
    for gate in gates {
        let found = conditions.iter().find(|c| c.text("type") == gate.text("conditionType"));
        line!(w, 1, "{} \t{} ", gate.text("conditionType"), found.map_or("<none>", |c| c.text("status")));
    }
    if !conditions.is_empty() {
        w.raw("Conditions:\n  Type\tStatus\n");
    }
    for c in conditions {
        line!(w, 1, "{} \t{} ", c.text("type"), c.text("status"));
    }
}

fn placement(w: &mut Writer, space: &str, spec: &Value) {
    parts::labels(w, &format!("{space}Node-Selectors"), &spec.pairs("nodeSelector"));
    parts::tolerations(w, &format!("{space}Tolerations"), spec.items("tolerations"));
}

fn spread(w: &mut Writer, space: &str, constraints: &[Value]) {
    if constraints.is_empty() {
        return;
    }
    let mut sorted: Vec<&Value> = constraints.iter().collect();
    order::sort_by_key(&mut sorted, |c| c.text("topologyKey"));
    let text = |c: &Value| {
        let rule = format!(
            "{}:{} when max skew {} is exceeded",
            c.text("topologyKey"),
            c.text("whenUnsatisfiable"),
            c.int("maxSkew")
        );
        match c.has("labelSelector") {
            true => format!("{rule} for selector {}", parts::label_selector(c.at("labelSelector"))),
            false => rule,
        }
    };
    let lines: Vec<String> = sorted.into_iter().map(text).collect();
    parts::multiline(w, &format!("{space}Topology Spread Constraints"), &lines);
}

/// The template of a controller's pods.
pub fn template(w: &mut Writer, template: &Value) {
    w.line(0, "Pod Template:");
    if template.is_null() {
        w.write(1, "<unset>");
        return;
    }
    let spec = template.at("spec");
    parts::labels(w, "  Labels", &template.pairs("metadata.labels"));
    let annotations = template.pairs("metadata.annotations");
    if !annotations.is_empty() {
        parts::annotations(w, "  Annotations", &annotations);
    }
    if !spec.text("serviceAccountName").is_empty() {
        line!(w, 1, "Service Account:\t{}", spec.text("serviceAccountName"));
    }
    if !spec.items("initContainers").is_empty() {
        containers(w, "Init Containers", spec.items("initContainers"), &[], None);
    }
    containers(w, "Containers", spec.items("containers"), &[], None);
    volumes(w, spec.items("volumes"), true);
    spread(w, "  ", spec.items("topologySpreadConstraints"));
    if !spec.text("priorityClassName").is_empty() {
        line!(w, 1, "Priority Class Name:\t{}", spec.text("priorityClassName"));
    }
    placement(w, "  ", spec);
}

/// The class of a pod whose status does not tell yet: what the pod itself asks for, or else its containers together.
fn qos(spec: &Value) -> &'static str {
    let whole = spec.has("resources").then_some(spec);
    let containers = || spec.items("containers").iter().chain(spec.items("initContainers"));
    let parts: Vec<&Value> = whole.map_or_else(|| containers().collect(), |whole| vec![whole]);
    let positive = |part: &Value, kind: &str, name: &str| -> Option<Quantity> {
        part.at("resources").at(kind).text(name).parse().ok().filter(|amount| *amount > Quantity::default())
    };
    let sum = |kind: &str, name: &str| {
        parts.iter().filter_map(|part| positive(part, kind, name)).reduce(|mut sum, amount| {
            sum += &amount;
            sum
        })
    };
    let amounts = ["cpu", "memory"].map(|name| (sum("requests", name), sum("limits", name)));
    if amounts.iter().all(|(request, limit)| request.is_none() && limit.is_none()) {
        return "BestEffort";
    }
    let limited = |part: &&Value| ["cpu", "memory"].iter().all(|name| positive(part, "limits", name).is_some());
    if parts.iter().all(limited) && amounts.iter().all(|(request, limit)| request == limit) {
        return "Guaranteed";
    }
    "Burstable"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_without_a_status() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!({}), "BestEffort"),
            (json!({"limits": both, "requests": both}), "Guaranteed"),
            (json!({"requests": both}), "Burstable"),
            (json!({"limits": both}), "Burstable"),
        ];
        for (given, want) in cases {
            assert_eq!(qos(&spec(given)), want);
        }
        let whole =
            json!({"containers": [{"resources": {"requests": both}}], "resources": {"limits": both, "requests": both}});
        assert_eq!(qos(&whole), "Guaranteed");
    }
}
