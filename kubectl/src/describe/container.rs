//! Containers of pods and of pod templates.

use std::collections::HashMap;

use api::{field::go_quote, quantity::Quantity};
use serde_json::Value;

use super::{
    json::{Json, go_list},
    writer::Writer,
};
use crate::{line, order};

/// A list of containers under a label. `pod` is `None` for a template, which has no statuses and no values yet.
pub fn containers(w: &mut Writer, label: &str, containers: &[Value], statuses: &[Value], pod: Option<&Value>) {
    let space = if pod.is_some() { "" } else { "  " };
    let none = if containers.is_empty() { " <none>" } else { "" };
    line!(w, 0, "{space}{label}:{none}");
    let statuses: HashMap<&str, &Value> = statuses.iter().map(|s| (s.text("name"), s)).collect();
    let indent = if pod.is_some() { "" } else { " " };
    for container in containers {
        let status = statuses.get(container.text("name")).copied();
        line!(w, 1, "{indent}{}:", container.text("name"));
        basics(w, container, status);
        command(w, "Command", &container.texts("command"));
        command(w, "Args", &container.texts("args"));
        if let Some(status) = status {
            state(w, "State", status.at("state"));
            if status.has("lastState.terminated") {
                state(w, "Last State", status.at("lastState"));
            }
            line!(w, 2, "Ready:\t{}", if status.flag("ready") { "True" } else { "False" });
            line!(w, 2, "Restart Count:\t{}", status.int("restartCount"));
        }
        resources(w, 2, container.at("resources"));
        for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")] {
            if container.has(field) {
                line!(w, 2, "{title}:\t{}", probe(container.at(field)));
            }
        }
        env_from(w, container.items("envFrom"));
        environment(w, container, pod);
        mounts(w, container);
    }
}

fn basics(w: &mut Writer, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        line!(w, 2, "Container ID:\t{}", status.text("containerID"));
    }
    line!(w, 2, "Image:\t{}", container.text("image"));
    if let Some(status) = status {
        line!(w, 2, "Image ID:\t{}", status.text("imageID"));
    }
    ports(w, "Port", container.items("ports"), "containerPort");
    ports(w, "Host Port", container.items("ports"), "hostPort");
    let profile = container.at("securityContext.seccompProfile");
    if !profile.is_null() {
        line!(w, 2, "SeccompProfile:\t{}", profile.text("type"));
        if profile.text("type") == "Localhost" {
            line!(w, 3, "LocalhostProfile:\t{}", profile.text("localhostProfile"));
        }
    }
}

fn ports(w: &mut Writer, title: &str, ports: &[Value], field: &str) {
    let text: Vec<String> = ports.iter().map(|p| format!("{}/{}", p.int(field), p.text("protocol"))).collect();
    match text.as_slice() {
        [] => line!(w, 2, "{title}:\t<none>"),
        [one] => line!(w, 2, "{title}:\t{one}"),
        several => line!(w, 2, "{title}s:\t{}", several.join(", ")),
    }
}

fn command(w: &mut Writer, title: &str, words: &[&str]) {
    if words.is_empty() {
        return;
    }
    line!(w, 2, "{title}:");
    for word in words.iter().flat_map(|word| word.split('\n')) {
        w.line(3, word);
    }
}

/// Limits and requests at a level.
pub fn resources(w: &mut Writer, level: usize, resources: &Value) {
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let amounts = resources.pairs(field);
        if !amounts.is_empty() {
            line!(w, level, "{title}:");
        }
        for (name, amount) in amounts {
            let amount = api::quantity::canonical(amount).unwrap_or_else(|_| amount.to_owned());
            line!(w, level + 1, "{name}:\t{amount}");
        }
    }
}

fn state(w: &mut Writer, title: &str, state: &Value) {
    let reason = |w: &mut Writer, of: &Value| {
        for (title, field) in [("Reason", "reason"), ("Message", "message")] {
            if !of.text(field).is_empty() {
                line!(w, 3, "{title}:\t{}", of.text(field));
            }
        }
    };
    if state.has("running") {
        line!(w, 2, "{title}:\tRunning");
        line!(w, 3, "Started:\t{}", w.time(state.at("running.startedAt")));
    } else if state.has("terminated") {
        let end = state.at("terminated");
        line!(w, 2, "{title}:\tTerminated");
        reason(w, end);
        line!(w, 3, "Exit Code:\t{}", end.int("exitCode"));
        if end.int("signal") > 0 {
            line!(w, 3, "Signal:\t{}", end.int("signal"));
        }
        line!(w, 3, "Started:\t{}", w.time(end.at("startedAt")));
        line!(w, 3, "Finished:\t{}", w.time(end.at("finishedAt")));
    } else {
        line!(w, 2, "{title}:\tWaiting");
        if !state.text("waiting.reason").is_empty() {
            line!(w, 3, "Reason:\t{}", state.text("waiting.reason"));
        }
    }
}

/// An IntOrString as text.
pub fn int_or_string(value: &Value) -> String {
    value.as_str().map_or_else(|| value.as_i64().unwrap_or(0).to_string(), str::to_owned)
}

/// Joins a host and a port; brackets around IPv6 addresses.
pub fn host_port(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A probe on one line.
pub fn probe(probe: &Value) -> String {
    let numbers = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        probe.int("initialDelaySeconds"),
        probe.int("timeoutSeconds"),
        probe.int("periodSeconds"),
        probe.int("successThreshold"),
        probe.int("failureThreshold")
    );
    let action = if probe.has("exec") {
        format!("exec {}", go_list(&probe.texts("exec.command")))
    } else if probe.has("httpGet") {
        let get = probe.at("httpGet");
        let host = host_port(get.text("host"), &int_or_string(get.at("port")));
        format!("http-get {}", url(&get.text("scheme").to_lowercase(), &host, get.text("path")))
    } else if probe.has("tcpSocket") {
        format!("tcp-socket {}:{}", probe.text("tcpSocket.host"), int_or_string(probe.at("tcpSocket.port")))
    } else if probe.has("grpc") {
        format!("grpc <pod>:{} {}", probe.int("grpc.port"), probe.text("grpc.service"))
    } else {
        "unknown".to_owned()
    };
    format!("{action} {numbers}")
}

/// A URL as Go's `url.URL` prints it: the path is escaped.
fn url(scheme: &str, host: &str, path: &str) -> String {
    let mut text = if scheme.is_empty() { String::new() } else { format!("{scheme}:") };
    text += &format!("//{host}");
    if !path.is_empty() && !path.starts_with('/') {
        text.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => text.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' | b'!' | b'*'
            | b'\'' | b'(' | b')' => text.push(char::from(byte)),
            other => text += &format!("%{other:02X}"),
        }
    }
    text
}

fn env_from(w: &mut Writer, sources: &[Value]) {
    if sources.is_empty() {
        return;
    }
    w.line(2, "Environment Variables from:");
    for source in sources {
        let (kind, from) = match (source.has("configMapRef"), source.has("secretRef")) {
            (true, _) => ("ConfigMap", source.at("configMapRef")),
            (false, true) => ("Secret", source.at("secretRef")),
            (false, false) => ("", &Value::Null),
        };
        let prefix = match source.text("prefix") {
            "" => String::new(),
            prefix => format!(" with prefix '{prefix}'"),
        };
        line!(w, 3, "{}\t{kind}{prefix}\tOptional: {}", from.text("name"), from.flag("optional"));
    }
}

fn environment(w: &mut Writer, container: &Value, pod: Option<&Value>) {
    let variables = container.items("env");
    line!(w, 2, "Environment:{}", if variables.is_empty() { "\t<none>" } else { "" });
    for variable in variables {
        let name = variable.text("name");
        let from = variable.at("valueFrom");
        if from.is_null() {
            for (n, part) in variable.text("value").split('\n').enumerate() {
                match n {
                    0 => line!(w, 3, "{name}:\t{part}"),
                    _ => line!(w, 3, "\t{part}"),
                }
            }
        } else if from.has("fieldRef") {
            let field = from.at("fieldRef");
            let value = pod.map_or("", |pod| field_value(pod, field.text("fieldPath")));
            line!(w, 3, "{name}:\t{value} ({}:{})", field.text("apiVersion"), field.text("fieldPath"));
        } else if from.has("resourceFieldRef") {
            let field = from.at("resourceFieldRef");
            let resource = field.text("resource");
            let value = match resource_value(container, field) {
                Some(0) if matches!(resource, "limits.cpu" | "limits.memory") => "node allocatable".to_owned(),
                Some(value) => value.to_string(),
                None => String::new(),
            };
            line!(w, 3, "{name}:\t{value} ({resource})");
        } else if from.has("secretKeyRef") {
            let key = from.at("secretKeyRef");
            let optional = key.flag("optional");
            line!(
                w,
                3,
                "{name}:\t<set to the key '{}' in secret '{}'>\tOptional: {optional}",
                key.text("key"),
                key.text("name")
            );
        } else if from.has("configMapKeyRef") {
            let key = from.at("configMapKeyRef");
            let (of, optional) = (key.text("name"), key.flag("optional"));
            line!(w, 3, "{name}:\t<set to the key '{}' of config map '{of}'>\tOptional: {optional}", key.text("key"));
        }
    }
}

/// Of the fields of a pod, a client knows but these two by their selectable names.
fn field_value<'a>(pod: &'a Value, path: &str) -> &'a str {
    match path {
        "metadata.name" | "metadata.namespace" => pod.text(path),
        _ => "",
    }
}

/// A container's limit or request in units of the divisor.
fn resource_value(container: &Value, field: &Value) -> Option<i64> {
    let (kind, name) = field.text("resource").split_once('.')?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !known || !matches!(kind, "limits" | "requests") {
        return None;
    }
    let amounts = container.at("resources").at(kind);
    let amount: Quantity = amounts.get(name).and_then(Value::as_str).unwrap_or("0").parse().unwrap_or_default();
    let divisor: Quantity = field.text("divisor").parse().unwrap_or_default();
    let divisor = if divisor.is_zero() { Quantity::from_units(1, divisor.format()) } else { divisor };
    let (amount, divisor) = match name {
        "cpu" => (amount.milli_value(), divisor.milli_value()),
        _ => (amount.value(), divisor.value()),
    };
    Some((amount as f64 / divisor as f64).ceil() as i64)
}

fn mounts(w: &mut Writer, container: &Value) {
    let mut mounts: Vec<&Value> = container.items("volumeMounts").iter().collect();
    order::sort_by_key(&mut mounts, |m| m.text("mountPath"));
    let none = if mounts.is_empty() { "\t<none>" } else { "" };
    line!(w, 2, "Mounts:{none}");
    for mount in mounts {
        let mut flags = if mount.flag("readOnly") { "ro".to_owned() } else { "rw".to_owned() };
        if !mount.text("subPath").is_empty() {
            flags += &format!(",path={}", go_quote(mount.text("subPath")));
        }
        line!(w, 3, "{} from {} ({flags})", mount.text("mountPath"), mount.text("name"));
    }
    let mut devices: Vec<&Value> = container.items("volumeDevices").iter().collect();
    order::sort_by_key(&mut devices, |d| d.text("devicePath"));
    if !devices.is_empty() {
        line!(w, 2, "Devices:{none}");
    }
    for device in devices {
        line!(w, 3, "{} from {}", device.text("devicePath"), device.text("name"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_on_one_line() {
        let cases = [
            (
                json!({"httpGet": {"path": "/a b", "port": "web", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
                "http-get http://:web/a%20b delay=0s timeout=1s period=10s #success=1 #failure=3",
            ),
            (json!({"exec": {"command": ["a", "b"]}}), "exec [a b] delay=0s timeout=0s period=0s #success=0 #failure=0"),
            (json!({"tcpSocket": {"port": 80}}), "tcp-socket :80 delay=0s timeout=0s period=0s #success=0 #failure=0"),
        ];
        for (given, want) in cases {
            assert_eq!(probe(&given), want);
        }
    }

    #[test]
    fn resources_in_units_of_the_divisor() {
        let container = json!({"resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}});
        let value =
            |resource: &str, divisor: &str| resource_value(&container, &json!({"resource": resource, "divisor": divisor}));
        let got =
            [value("limits.cpu", "0"), value("limits.cpu", "1m"), value("limits.memory", "1Mi"), value("limits.x", "1")];
        assert_eq!(got, [Some(2), Some(1500), Some(1024), None]);
    }
}
