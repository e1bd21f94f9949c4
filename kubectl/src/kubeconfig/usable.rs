//! Whether what was chosen of a kubeconfig can be used: upstream's checks, all of them before anything is said.

use api::field::go_quote;
use serde_json::Value;

use super::{Chosen, Entry, Strays};
use crate::failure::{Failure, file_error, plain};

/// Checks what was chosen, as it is done where only the namespace is asked for.
///
/// # Errors
/// All that is wrong.
pub fn check(chosen: &Chosen) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    if chosen.strays.context {
        wrong.push(format!("context was not found for specified context: {}", chosen.context_name));
    }
    if !chosen.strays.user {
        wrong.extend(wrong_with_user(&chosen.user, &chosen.user_name));
    }
    if chosen.strays.cluster {
        wrong.push(format!("no server found for cluster {}", go_quote(&chosen.cluster_name)));
    } else {
        wrong.extend(wrong_with_cluster(&chosen.cluster, &chosen.cluster_name));
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] if chosen.strays.context => Err(Failure::Verbatim(format!("Error in configuration: {one}"), 1)),
        [one] => Err(Failure::Unusable(one.clone())),
        several => Err(Failure::Verbatim(format!("Error in configuration: \n* {}", several.join("\n* ")), 1)),
    }
}

/// Checks what was chosen for a connection: names that were given and are nobody's come first, one at a time.
///
/// # Errors
/// What is wrong.
pub fn connectable(chosen: &Chosen) -> Result<(), Failure> {
    let Strays { context, user, cluster } = chosen.strays;
    let missing = |what: &str, name: &str| Err(plain(format!("{what} {} does not exist", go_quote(name))));
    if user {
        return missing("auth info", &chosen.user_name);
    }
    if context && chosen.asked {
        return missing("context", &chosen.context_name);
    }
    if cluster {
        return missing("cluster", &chosen.cluster_name);
    }
    check(chosen)
}

/// Why a file that a field names cannot be opened.
fn unreadable(entry: &Entry, field: &str, called: &str, whose: &str) -> Option<String> {
    let path = entry.path(field)?;
    let error = std::fs::File::open(&path).err()?;
    let why = file_error("open", path.display(), &error).message();
    Some(format!("unable to read {called} {} for {whose} due to {why}", path.display()))
}

fn wrong_with_user(user: &Entry, name: &str) -> Vec<String> {
    let given = |field: &str| !user.text(field).is_empty();
    let mut wrong = Vec::new();
    if given("client-certificate") || given("client-certificate-data") {
        if given("client-certificate") && given("client-certificate-data") {
            wrong.push(format!(
                "client-cert-data and client-cert are both specified for {name}. client-cert-data will override."
            ));
        }
        if given("client-key") && given("client-key-data") {
            wrong.push(format!(
                "client-key-data and client-key are both specified for {name}; client-key-data will override"
            ));
        }
        if !given("client-key") && !given("client-key-data") {
            wrong.push(format!(
                "client-key-data or client-key must be specified for {name} to use the clientCert authentication method."
            ));
        }
        wrong.extend(unreadable(user, "client-certificate", "client-cert", name));
        wrong.extend(unreadable(user, "client-key", "client-key", name));
    }
    if let Some(exec) = user.fields.get("exec").filter(|exec| exec.is_object()) {
        wrong_with_exec(exec, user, name, &mut wrong);
    }
    if given("token") && (given("username") || given("password")) {
        wrong.push(format!(
            "more than one authentication method found for {name}; found [token basicAuth], only one is allowed"
        ));
    }
    let many = |field: &str| match user.fields.get(field) {
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        _ => false,
    };
    if !given("as") && (given("as-uid") || many("as-groups") || many("as-user-extra")) {
        wrong.push(format!("requesting uid, groups or user-extra for {name} without impersonating a user"));
    }
    wrong
}

fn wrong_with_exec(exec: &Value, user: &Entry, name: &str, wrong: &mut Vec<String>) {
    let text = |field: &str| exec[field].as_str().unwrap_or_default();
    if user.fields.get("auth-provider").is_some_and(Value::is_object) {
        wrong.push(format!("authProvider cannot be provided in combination with an exec plugin for {name}"));
    }
    for field in ["command", "apiVersion"] {
        if text(field).is_empty() {
            wrong.push(format!("{field} must be specified for {name} to use exec authentication plugin"));
        }
    }
    let variables = exec["env"].as_array().into_iter().flatten();
    let nameless = variables.filter(|variable| variable["name"].as_str().unwrap_or_default().is_empty());
    for _ in nameless {
        wrong.push(format!("env variable name must be specified for {name} to use exec authentication plugin"));
    }
    match text("interactiveMode") {
        "Never" | "IfAvailable" | "Always" => {}
        // Versions before v1 have a default.
        "" if matches!(
            text("apiVersion"),
            "client.authentication.k8s.io/v1beta1" | "client.authentication.k8s.io/v1alpha1"
        ) => {}
        "" => wrong.push(format!("interactiveMode must be specified for {name} to use exec authentication plugin")),
        other => wrong.push(format!("invalid interactiveMode for {name}: {}", go_quote(other))),
    }
}

fn wrong_with_cluster(cluster: &Entry, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let proxy = cluster.text("proxy-url");
    if !proxy.is_empty()
        && let Err(why) = crate::server::proxy_url(proxy)
    {
        let (proxy, name) = (go_quote(proxy), go_quote(name));
        wrong.push(format!("invalid 'proxy-url' {proxy} for cluster {name}: {why}"));
    }
    let authority = cluster.text("certificate-authority");
    if !authority.is_empty() && !cluster.text("certificate-authority-data").is_empty() {
        wrong.push(format!(
            "certificate-authority-data and certificate-authority are both specified for {name}. certificate-authority-data will override."
        ));
    }
    wrong.extend(unreadable(cluster, "certificate-authority", "certificate-authority", name));
    wrong
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn told(user: &Value, cluster: &Value) -> Option<String> {
        let entry = |value: &Value| Entry {
            fields: value.as_object().cloned().unwrap_or_default(),
            origin: Path::new("/x/config").to_owned(),
        };
        let (user, cluster) = (entry(user), entry(cluster));
        let names = ("u".to_owned(), "c".to_owned());
        let chosen = Chosen { user, cluster, user_name: names.0, cluster_name: names.1, ..Chosen::default() };
        check(&chosen).err().map(|failure| failure.to_string())
    }

    #[test]
    fn names_that_are_nobodys_are_told() {
        let strays = Strays { context: true, user: true, cluster: true };
        let names = ("a".to_owned(), "u".to_owned(), "c".to_owned());
        let (context_name, user_name, cluster_name) = names;
        let chosen = Chosen { context_name, user_name, cluster_name, strays, asked: true, ..Chosen::default() };
        let told = |result: Result<(), Failure>| result.unwrap_err().to_string();
        assert_eq!(
            told(check(&chosen)),
            "Error in configuration: \n\
             * context was not found for specified context: a\n\
             * no server found for cluster \"c\""
        );
        assert_eq!(told(connectable(&chosen)), "error: auth info \"u\" does not exist");
        let strays = Strays { context: true, ..Strays::default() };
        let chosen = Chosen { strays, asked: false, ..chosen };
        assert_eq!(told(connectable(&chosen)), "Error in configuration: context was not found for specified context: a");
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        assert_eq!(told(&json!({}), &json!({})), None);
        assert_eq!(
            told(&json!({"token": "a", "username": "b"}), &json!({})).as_deref(),
            Some("error: more than one authentication method found for u; found [token basicAuth], only one is allowed")
        );
        assert_eq!(
            told(&json!({"client-certificate": "none"}), &json!({"certificate-authority": "none"})).as_deref(),
            Some(
                "Error in configuration: \n\
                 * client-key-data or client-key must be specified for u to use the clientCert authentication method.\n\
                 * unable to read client-cert /x/none for u due to open /x/none: no such file or directory\n\
                 * unable to read certificate-authority /x/none for c due to open /x/none: no such file or directory"
            )
        );
    }
}
