//! Who one is: tokens, basic authentication, client certificates, exec plugins, impersonation; in clusters the service account.

use std::{
    io::{IsTerminal, Read, Write},
    process::{Command, Stdio},
};

use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, plain},
    kubeconfig::Chosen,
    terminal,
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

/// Gathers what flags and kubeconfig say of the chosen user, who is asked if they say nothing.
///
/// # Errors
/// If a file cannot be read or a plugin fails.
pub fn gather(chosen: &Chosen) -> Result<Credentials, Failure> {
    let user = &chosen.user;
    let mut found = Credentials::default();
    let token = match (user.text("token"), user.path("tokenFile")) {
        ("", None) => None,
        ("", Some(path)) => {
            let token = std::fs::read_to_string(&path);
            let token = token.map_err(|error| crate::failure::file_error("open", path.display(), &error))?;
            Some(token.trim().to_owned())
        }
        (token, _) => Some(token.to_owned()),
    };
    if let Some(certificate) = user.data("client-certificate")? {
        found.identity = Some((certificate, user.data("client-key")?.unwrap_or_default()));
    }
    let (mut name, mut password) = (user.text("username").to_owned(), user.text("password").to_owned());
    let exec = user.fields.get("exec").filter(|exec| exec.is_object());
    let provider = user.fields.get("auth-provider").filter(|provider| provider.is_object());
    if token.is_none() && found.identity.is_none() && name.is_empty() && exec.is_none() && provider.is_none() {
        (name, password) = ask()?;
    }
    if let Some(token) = token {
        put(&mut found.headers, "authorization", &format!("Bearer {token}"))?;
    } else if !name.is_empty() {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        put(&mut found.headers, "authorization", &format!("Basic {pair}"))?;
    } else if let Some(exec) = exec {
        run_plugin(exec, chosen, &mut found)?;
    } else if let Some(provider) = provider {
        let name = provider["name"].as_str().unwrap_or_default();
        return Err(plain(format!("no Auth Provider found for name {}", api::field::go_quote(name))));
    }
    Ok(found)
}

/// Asks for a name and a password.
fn ask() -> Result<(String, String), Failure> {
    print!("Please enter Username: ");
    std::io::stdout().flush()?;
    let mut name = Vec::new();
    for byte in std::io::stdin().lock().bytes() {
        match byte? {
            space if space.is_ascii_whitespace() && name.is_empty() => {}
            space if space.is_ascii_whitespace() => break,
            byte => name.push(byte),
        }
    }
    if name.is_empty() {
        return Err(plain("EOF"));
    }
    print!("Please enter Password: ");
    std::io::stdout().flush()?;
    if !std::io::stdin().is_terminal() {
        return Err(plain("error reading input for Password"));
    }
    let mut password = String::new();
    terminal::without_echo(|| std::io::stdin().read_line(&mut password))?;
    if password.is_empty() {
        return Err(plain("EOF"));
    }
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok((name, password.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Adds whom one acts as.
///
/// # Errors
/// If a name cannot stand in a header.
pub fn impersonate(chosen: &Chosen, headers: &mut HeaderMap) -> Result<(), Failure> {
    let user = &chosen.user;
    let list = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if user.text("as").is_empty() {
        return Ok(());
    }
    put(headers, "impersonate-user", user.text("as"))?;
    if !user.text("as-uid").is_empty() {
        put(headers, "impersonate-uid", user.text("as-uid"))?;
    }
    for group in list(user.fields.get("as-groups")) {
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
    let interactive = text("interactiveMode") != "Never" && std::io::stdin().is_terminal();
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
    let mut process = Command::new(command);
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
