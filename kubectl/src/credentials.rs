//! Who one is: tokens, basic authentication, client certificates, exec plugins, impersonation; in clusters the service account.

use std::process::{Command, Stdio};

use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use crate::{
    cli::Globals,
    failure::{Failure, plain},
    kubeconfig::Chosen,
};

/// What is presented to the server.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// With every request.
    pub headers: HeaderMap,
    /// A client certificate and its key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

fn put(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), Failure> {
    let wrong = || plain(format!("net/http: invalid header field value for {}", api::field::go_quote(name)));
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
    value.set_sensitive(name == header::AUTHORIZATION);
    headers.append(name, value);
    Ok(())
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| crate::failure::file_error("open", path.display(), &e))
}

/// Gathers what flags and the chosen user say. Flags win.
///
/// # Errors
/// If a file cannot be read or a plugin fails.
pub fn gather(chosen: &Chosen, globals: &Globals) -> Result<Credentials, Failure> {
    let user = &chosen.user;
    let mut found = Credentials::default();
    let flag = |flag: &Option<String>| flag.clone().filter(|f| !f.is_empty());
    let basic = (flag(&globals.username), flag(&globals.password));
    if flag(&globals.token).is_some() && (basic.0.is_some() || basic.1.is_some()) {
        return Err(plain("--token and --username/--password are mutually exclusive"));
    }
    let token = match flag(&globals.token) {
        Some(token) => Some(token),
        None if basic.0.is_some() => None,
        None => match (user.path("tokenFile"), user.text("token")) {
            // Upstream reads the file first and falls back on the text.
            (Some(path), text) => match std::fs::read_to_string(&path) {
                Ok(token) => Some(token.trim().to_owned()),
                Err(_) if !text.is_empty() => Some(text.to_owned()),
                Err(error) => return Err(crate::failure::file_error("open", path.display(), &error)),
            },
            (None, "") => None,
            (None, text) => Some(text.to_owned()),
        },
    };
    let certificate = match &globals.client_certificate {
        Some(path) => Some(read(path.as_ref())?),
        None => user.data("client-certificate")?,
    };
    let key = match &globals.client_key {
        Some(path) => Some(read(path.as_ref())?),
        None => user.data("client-key")?,
    };
    found.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(plain("tls: client certificate and key must both be given")),
    };
    let (name, password) = match basic {
        (Some(name), password) => (name, password.unwrap_or_default()),
        (None, _) => (user.text("username").to_owned(), user.text("password").to_owned()),
    };
    if let Some(token) = token {
        put(&mut found.headers, "authorization", &format!("Bearer {token}"))?;
    } else if !name.is_empty() {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        put(&mut found.headers, "authorization", &format!("Basic {pair}"))?;
    } else if let Some(exec) = user.fields.get("exec").filter(|e| e.is_object()) {
        run_plugin(exec, chosen, &mut found)?;
    } else if user.fields.contains_key("auth-provider") {
        let name = user.fields["auth-provider"]["name"].as_str().unwrap_or_default();
        return Err(plain(format!("no Auth Provider found for name {}", api::field::go_quote(name))));
    }
    impersonate(chosen, globals, &mut found.headers)?;
    Ok(found)
}

fn impersonate(chosen: &Chosen, globals: &Globals, headers: &mut HeaderMap) -> Result<(), Failure> {
    let user = &chosen.user;
    let list = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let name = globals.impersonate.clone().unwrap_or_else(|| user.text("as").to_owned());
    let uid = globals.impersonate_uid.clone().unwrap_or_else(|| user.text("as-uid").to_owned());
    let groups = match globals.impersonate_groups.as_slice() {
        [] => list(user.fields.get("as-groups")),
        groups => groups.to_vec(),
    };
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() {
            return Ok(());
        }
        let user = &chosen.user_name;
        return Err(plain(format!("requesting uid, groups or user-extra for {user} without impersonating a user")));
    }
    put(headers, "impersonate-user", &name)?;
    if !uid.is_empty() {
        put(headers, "impersonate-uid", &uid)?;
    }
    for group in groups {
        put(headers, "impersonate-group", &group)?;
    }
    for (key, values) in user.fields.get("as-user-extra").and_then(Value::as_object).into_iter().flatten() {
        for value in list(Some(values)) {
            put(headers, &format!("impersonate-extra-{}", crate::client::escape(key, "")), &value)?;
        }
    }
    Ok(())
}

/// Runs an exec plugin (client.authentication.k8s.io) and takes what it gives.
fn run_plugin(exec: &Value, chosen: &Chosen, found: &mut Credentials) -> Result<(), Failure> {
    let text = |name: &str| exec[name].as_str().unwrap_or_default();
    let (command, version) = (text("command"), text("apiVersion"));
    let interactive = text("interactiveMode") != "Never" && std::io::IsTerminal::is_terminal(&std::io::stdin());
    let mut spec = json!({"interactive": interactive});
    if exec["provideClusterInfo"] == true {
        let mut cluster = serde_json::Map::new();
        for name in ["server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url"] {
            if let Some(value) = chosen.cluster.fields.get(name) {
                cluster.insert(name.to_owned(), value.clone());
            }
        }
        spec["cluster"] = Value::Object(cluster);
    }
    let info = json!({"kind": "ExecCredential", "apiVersion": version, "spec": spec});
    let path = match command.contains('/') {
        true => chosen.user.origin.parent().unwrap_or(std::path::Path::new("")).join(command),
        false => command.into(),
    };
    let mut process = Command::new(path);
    process.args(exec["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for pair in exec["env"].as_array().into_iter().flatten() {
        process.env(pair["name"].as_str().unwrap_or_default(), pair["value"].as_str().unwrap_or_default());
    }
    process.env("KUBERNETES_EXEC_INFO", info.to_string()).stderr(Stdio::inherit());
    process.stdin(if interactive { Stdio::inherit() } else { Stdio::null() });
    let failed = |why: String| plain(format!("getting credentials: {why}"));
    let output = match process.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let hint = text("installHint");
            let hint = if hint.is_empty() { String::new() } else { format!("\n\n{hint}") };
            return Err(failed(format!("exec: executable {command} not found{hint}")));
        }
        Err(error) => return Err(failed(format!("exec: {error}"))),
    };
    if !output.status.success() {
        let code = output.status.code().unwrap_or(-1);
        return Err(failed(format!("exec: executable {command} failed with exit code {code}")));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|e| failed(format!("decoding stdout: {e}")))?;
    if answer["apiVersion"] != version {
        let got = answer["apiVersion"].as_str().unwrap_or_default();
        return Err(failed(format!(
            "exec plugin is configured to use API version {version}, plugin returned version {got}"
        )));
    }
    let status = &answer["status"];
    if let Some(token) = status["token"].as_str() {
        put(&mut found.headers, "authorization", &format!("Bearer {token}"))?;
    }
    if let (Some(certificate), Some(key)) = (status["clientCertificateData"].as_str(), status["clientKeyData"].as_str()) {
        found.identity = Some((certificate.as_bytes().to_vec(), key.as_bytes().to_vec()));
    }
    if !status.is_object() {
        return Err(failed("exec plugin didn't return a status field".to_owned()));
    }
    Ok(())
}
