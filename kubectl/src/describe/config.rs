//! Kinds that hold data or little of anything: ConfigMaps, Secrets, ServiceAccounts, Namespaces, PriorityClasses.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{json::Json, parts, writer::Writer};
use crate::line;

fn decoded(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text).unwrap_or_default()
}

/// A ConfigMap.
pub fn config_map(w: &mut Writer, map: &Value, events: Option<&[Value]>) {
    parts::heading(w, map, true);
    w.raw("\nData\n====\n");
    for (key, value) in map.pairs("data") {
        line!(w, 0, "{key}:\n----\n{value}\n");
    }
    w.raw("\nBinaryData\n====\n");
    for (key, value) in map.pairs("binaryData") {
        line!(w, 0, "{key}: {} bytes", decoded(value).len());
    }
    w.raw("\n");
    parts::events(w, events);
}

/// A Secret: sizes, and of a service account's token all.
pub fn secret(w: &mut Writer, secret: &Value) {
    parts::heading(w, secret, true);
    line!(w, 0, "\nType:\t{}", secret.text("type"));
    w.raw("\nData\n====\n");
    for (key, value) in secret.pairs("data") {
        let value = decoded(value);
        match (key, secret.text("type")) {
            ("token", "kubernetes.io/service-account-token") => line!(w, 0, "{key}:\t{}", String::from_utf8_lossy(&value)),
            _ => line!(w, 0, "{key}:\t{} bytes", value.len()),
        }
    }
}

/// A ServiceAccount with the names of the token Secrets that are its own.
pub fn service_account(w: &mut Writer, account: &Value, tokens: &[&str], missing: &[&str], events: Option<&[Value]>) {
    parts::heading(w, account, true);
    let names = |field| account.items(field).iter().map(|s| s.text("name")).collect::<Vec<_>>();
    for (title, names) in [
        ("Image pull secrets:", names("imagePullSecrets")),
        ("Mountable secrets: ", names("secrets")),
        ("Tokens:            ", tokens.to_vec()),
    ] {
        if names.is_empty() {
            line!(w, 0, "{title}\t<none>");
        }
        for (n, name) in names.iter().enumerate() {
            let title = if n == 0 { title } else { "                   " };
            let note = if missing.contains(name) { " (not found)" } else { "" };
            line!(w, 0, "{title}\t{name}{note}");
        }
    }
    parts::events(w, events);
}

/// A Namespace. Quotas and limits are said to be absent, where the server knows of such kinds.
pub fn namespace(w: &mut Writer, namespace: &Value, quotas: bool, limits: bool) {
    parts::heading(w, namespace, false);
    line!(w, 0, "Status:\t{}", namespace.text("status.phase"));
    let conditions = namespace.items("status.conditions");
    if !conditions.is_empty() {
        w.line(0, "Conditions:");
        w.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
        w.line(1, "----\t------\t------------------\t------\t-------");
    }
    for c in conditions {
        let time = w.time(c.at("lastTransitionTime"));
        line!(w, 1, "{}\t{}\t{time}\t{}\t{}", c.text("type"), c.text("status"), c.text("reason"), c.text("message"));
    }
    if quotas {
        w.raw("\nNo resource quota.\n");
    }
    if limits {
        w.raw("\nNo LimitRange resource.\n");
    }
}

/// A PriorityClass.
pub fn priority_class(w: &mut Writer, class: &Value, events: Option<&[Value]>) {
    line!(w, 0, "Name:\t{}", class.text("metadata.name"));
    line!(w, 0, "Value:\t{}", class.int("value"));
    line!(w, 0, "GlobalDefault:\t{}", class.flag("globalDefault"));
    line!(w, 0, "PreemptionPolicy:\t{}", class.text("preemptionPolicy"));
    line!(w, 0, "Description:\t{}", class.text("description"));
    line!(w, 0, "Annotations:\t{}", parts::set(&class.pairs("metadata.annotations")));
    parts::events(w, events);
}
