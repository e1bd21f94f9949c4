//! Changes, each written into the file that held the entry; new entries into the first file there is.

use std::path::{Path, PathBuf};

use api::field::go_quote;
use base64::Engine;
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{Failure, file_error, plain, usage},
    kubeconfig::{Entry, Kubeconfig, paths},
};

/// The file that new entries go to.
pub fn default_file(cx: &Context) -> PathBuf {
    let (files, _) = paths(cx.globals());
    let existing = files.iter().find(|f| f.exists());
    existing.or(files.last()).cloned().unwrap_or_default()
}

/// The first file in question, as messages name it.
fn shown(cx: &Context) -> String {
    default_file(cx).display().to_string()
}

/// Reads one file, changes it and writes it back.
pub fn change(file: &Path, change: impl FnOnce(&mut Kubeconfig)) -> Result<(), Failure> {
    let mut config = Kubeconfig::read(file)?.unwrap_or_default();
    change(&mut config);
    write(file, &config)
}

fn write(file: &Path, config: &Kubeconfig) -> Result<(), Failure> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let failed = |e: std::io::Error| file_error("open", file.display(), &e);
    // A link is written through, as upstream does.
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let directory = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mode = {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(&file).map_or(0o600, |m| m.permissions().mode() & 0o777)
    };
    let temporary =
        directory.join(format!(".{}.{}", file.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
    let mut out =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).map_err(failed)?;
    let written = out.write_all(api::yaml::to_string(&config.to_value()).as_bytes()).and_then(|()| out.sync_all());
    written.and_then(|()| std::fs::rename(&temporary, &file)).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        file_error("write", file.display(), &error)
    })
}

fn one<'a>(args: &'a [String], verb: &str) -> Result<&'a str, Failure> {
    match args {
        [name] => Ok(name),
        _ => {
            print!("{}", crate::help::of(&crate::cli::declared(), &["config".to_owned(), verb.to_owned()]));
            // Upstream is of two minds about the capital.
            let unexpected = if verb == "set-credentials" { "unexpected" } else { "Unexpected" };
            Err(plain(format!("{unexpected} args: [{}]", args.join(" "))))
        }
    }
}

/// A help page on stdout before a failure, as upstream has it.
pub fn help_first(verb: &str, why: String) -> Failure {
    print!("{}", crate::help::of(&crate::cli::declared(), &["config".to_owned(), verb.to_owned()]));
    plain(why)
}

pub fn delete(cx: &Context, args: &[String], what: &str, list: &str) -> Result<(), Failure> {
    let [name] = args else {
        if what == "user" {
            return Err(usage("config delete-user", "user to delete is required"));
        }
        print!("{}", crate::help::of(&crate::cli::declared(), &["config".to_owned(), format!("delete-{what}")]));
        return Ok(());
    };
    let config = cx.kubeconfig()?;
    let file = shown(cx);
    let Some(entry) = entries(config, list).get(name) else {
        return Err(plain(format!("cannot delete {what} {name}, not in {file}")));
    };
    if what == "context" && config.current_context == *name {
        eprintln!("warning: this removed your active context, use \"kubectl config use-context\" to select a different one");
    }
    change(&entry.origin, |config| {
        entries_mut(config, list).remove(name);
    })?;
    println!("deleted {what} {name} from {file}");
    Ok(())
}

pub fn entries<'a>(config: &'a Kubeconfig, list: &str) -> &'a crate::kubeconfig::Entries {
    match list {
        "clusters" => &config.clusters,
        "users" => &config.users,
        _ => &config.contexts,
    }
}

pub fn entries_mut<'a>(config: &'a mut Kubeconfig, list: &str) -> &'a mut crate::kubeconfig::Entries {
    match list {
        "clusters" => &mut config.clusters,
        "users" => &mut config.users,
        _ => &mut config.contexts,
    }
}

pub fn rename(cx: &Context, args: &[String]) -> Result<(), Failure> {
    let [old, new] = args else {
        return Err(help_first("rename-context", format!("Unexpected args: [{}]", args.join(" "))));
    };
    let config = cx.kubeconfig()?;
    let file = shown(cx);
    let Some(entry) = config.contexts.get(old) else {
        return Err(plain(format!("cannot rename the context {}, it's not in {file}", go_quote(old))));
    };
    if config.contexts.contains_key(new) {
        let (old, new) = (go_quote(old), go_quote(new));
        return Err(plain(format!("cannot rename the context {old}, the context {new} already exists in {file}")));
    }
    change(&entry.origin, |config| {
        if let Some(entry) = config.contexts.remove(old) {
            config.contexts.insert(new.clone(), entry);
        }
    })?;
    if config.current_context == *old {
        change(&config.current_origin, |config| config.current_context.clone_from(new))?;
    }
    println!("Context {} renamed to {}.", go_quote(old), go_quote(new));
    Ok(())
}

/// Where the current context is said, or is to be said.
pub fn current_file(cx: &Context) -> Result<PathBuf, Failure> {
    let config = cx.kubeconfig()?;
    Ok(if config.current_context.is_empty() { default_file(cx) } else { config.current_origin.clone() })
}

pub fn use_context(cx: &Context, args: &[String]) -> Result<(), Failure> {
    let name = one(args, "use-context")?;
    if !cx.kubeconfig()?.contexts.contains_key(name) {
        return Err(plain(format!("no context exists with the name: {}", go_quote(name))));
    }
    change(&current_file(cx)?, |config| name.clone_into(&mut config.current_context))?;
    println!("Switched to context {}.", go_quote(name));
    Ok(())
}

/// The file that an entry is in, or goes to.
fn origin_of(cx: &Context, list: &str, name: &str) -> Result<PathBuf, Failure> {
    let existing = entries(cx.kubeconfig()?, list).get(name);
    Ok(existing.map_or_else(|| default_file(cx), |entry| entry.origin.clone()))
}

/// Changes an entry where it is, or makes it; says whether it was there.
fn upsert(cx: &Context, list: &str, name: &str, work: impl FnOnce(&mut Entry)) -> Result<bool, Failure> {
    let config = cx.kubeconfig()?;
    let existing = entries(config, list).get(name);
    change(&origin_of(cx, list, name)?, |config| work(entries_mut(config, list).entry(name.to_owned()).or_default()))?;
    Ok(existing.is_some())
}

fn put(entry: &mut Entry, field: &str, value: Option<&str>) {
    match value {
        Some("") => {
            entry.fields.remove(field);
        }
        Some(value) => {
            entry.fields.insert(field.to_owned(), value.into());
        }
        None => {}
    }
}

pub fn set_context(cx: &Context, args: &[String], current: bool, namespace: Option<&str>) -> Result<(), Failure> {
    let globals = cx.globals();
    let name = match (args, current) {
        ([], true) => match cx.kubeconfig()?.current_context.as_str() {
            "" => return Err(plain("no current context is set")),
            name => name,
        },
        ([name], false) if !name.is_empty() => name,
        ([_, _, ..], _) => return Err(help_first("set-context", format!("Unexpected args: [{}]", args.join(" ")))),
        ([_, ..], true) => return Err(plain("you cannot specify both a context name and --current")),
        _ => return Err(plain("you must specify a non-empty context name or --current")),
    };
    let existed = upsert(cx, "contexts", name, |entry| {
        put(entry, "cluster", globals.cluster.as_deref());
        put(entry, "user", globals.user.as_deref());
        put(entry, "namespace", namespace);
    })?;
    println!("Context {} {}.", go_quote(name), if existed { "modified" } else { "created" });
    Ok(())
}

/// A file's name as it is written into a kubeconfig: seen from the kubeconfig's directory, unless it is elsewhere.
fn seen_from(origin: &Path, path: &str) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (origin, path) = (absolute(origin), absolute(Path::new(path)));
    let base = origin.parent().unwrap_or(Path::new("/"));
    path.strip_prefix(base).unwrap_or(&path).display().to_string()
}

/// A file for a field: by its name, or its contents.
fn certificate(entry: &mut Entry, origin: &Path, field: &str, path: Option<&str>, contents: Option<&[u8]>) {
    match (path, contents) {
        (None, _) => {}
        (Some(_), Some(contents)) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(contents);
            entry.fields.insert(format!("{field}-data"), encoded.into());
            entry.fields.remove(field);
        }
        (Some(path), None) => {
            put(entry, field, Some(&seen_from(origin, path)));
            entry.fields.remove(&format!("{field}-data"));
        }
    }
}

fn contents(path: Option<&str>, what: &str, embed: Option<bool>) -> Result<Option<Vec<u8>>, Failure> {
    match path.filter(|_| embed == Some(true)) {
        Some(path) => std::fs::read(path)
            .map(Some)
            .map_err(|e| plain(format!("could not stat {what} file {path}: {}", file_error("stat", path, &e).message()))),
        None => Ok(None),
    }
}

pub fn set_cluster(
    cx: &Context,
    args: &[String],
    embed: Option<bool>,
    proxy: Option<&str>,
    server: Option<&str>,
) -> Result<(), Failure> {
    let name = one(args, "set-cluster")?;
    let globals = cx.globals();
    let path = globals.certificate_authority.as_deref();
    if embed == Some(true) && path.is_none() {
        return Err(plain("you must specify a --certificate-authority to embed"));
    }
    if path.is_some() && globals.insecure_skip_tls_verify {
        return Err(plain("you cannot specify a certificate authority and insecure mode at the same time"));
    }
    let data = contents(path, "certificate-authority", embed)?;
    let origin = origin_of(cx, "clusters", name)?;
    upsert(cx, "clusters", name, |entry| {
        put(entry, "server", server);
        put(entry, "tls-server-name", globals.tls_server_name.as_deref());
        put(entry, "proxy-url", proxy);
        if globals.insecure_skip_tls_verify {
            entry.fields.insert("insecure-skip-tls-verify".to_owned(), true.into());
            entry.fields.remove("certificate-authority");
            entry.fields.remove("certificate-authority-data");
        }
        if path.is_some() {
            entry.fields.remove("insecure-skip-tls-verify");
        }
        certificate(entry, &origin, "certificate-authority", path, data.as_deref());
    })?;
    println!("Cluster {} set.", go_quote(name));
    Ok(())
}

/// An exec plugin's flags.
#[derive(Debug, Default)]
pub struct Exec {
    pub command: Option<String>,
    pub api_version: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub interactive_mode: Option<String>,
    pub provide_cluster_info: Option<bool>,
    /// An auth provider, and what it is told.
    pub provider: Option<String>,
    pub provider_args: Vec<String>,
}

pub fn set_credentials(cx: &Context, args: &[String], embed: Option<bool>, exec: &Exec) -> Result<(), Failure> {
    let name = one(args, "set-credentials")?;
    let globals = cx.globals();
    if globals.token.is_some() && (globals.username.is_some() || globals.password.is_some()) {
        return Err(plain(
            "you cannot specify more than one authentication method at the same time: --token, --username/--password",
        ));
    }
    let (crt, key) = (globals.client_certificate.as_deref(), globals.client_key.as_deref());
    if embed == Some(true) && crt.is_none() && key.is_none() {
        return Err(plain("you must specify a --client-certificate or --client-key to embed"));
    }
    for pair in &exec.env {
        if !pair.contains('=') && !pair.ends_with('-') {
            return Err(help_first("set-credentials", format!("invalid exec-env format: {pair}")));
        }
    }
    for pair in &exec.provider_args {
        if !pair.contains('=') && !pair.ends_with('-') {
            return Err(help_first("set-credentials", format!("invalid auth-provider-arg format: {pair}")));
        }
    }
    if exec.interactive_mode.as_deref().is_some_and(|mode| !["IfAvailable", "Never", "Always"].contains(&mode)) {
        return Err(plain("invalid interactive mode type, can be only IfAvailable, Never, Always"));
    }
    let (crt_data, key_data) = (contents(crt, "client-certificate", embed)?, contents(key, "client-key", embed)?);
    let origin = origin_of(cx, "users", name)?;
    upsert(cx, "users", name, |entry| {
        certificate(entry, &origin, "client-certificate", crt, crt_data.as_deref());
        certificate(entry, &origin, "client-key", key, key_data.as_deref());
        if globals.token.is_some() {
            put(entry, "token", globals.token.as_deref());
            entry.fields.remove("username");
            entry.fields.remove("password");
        }
        if globals.username.is_some() || globals.password.is_some() {
            put(entry, "username", globals.username.as_deref());
            put(entry, "password", globals.password.as_deref());
            entry.fields.remove("token");
        }
        if let Some(provider) = &exec.provider {
            let block = entry.fields.entry("auth-provider").or_insert_with(|| json!({}));
            if block["name"] != provider.as_str() {
                *block = json!({"name": provider, "config": {}});
            }
            set_provider(block, &exec.provider_args);
        } else if let Some(block) = entry.fields.get_mut("auth-provider") {
            set_provider(block, &exec.provider_args);
        }
        if let Some(command) = &exec.command {
            let plugin = entry.fields.entry("exec").or_insert_with(|| json!({}));
            plugin["command"] = command.as_str().into();
            set_plugin(plugin, exec);
        } else if let Some(plugin) = entry.fields.get_mut("exec") {
            set_plugin(plugin, exec);
        }
    })?;
    println!("User {} set.", go_quote(name));
    Ok(())
}

fn set_provider(block: &mut Value, args: &[String]) {
    for pair in args {
        match pair.split_once('=') {
            Some((name, value)) => block["config"][name] = value.into(),
            None => {
                if let Some(config) = block["config"].as_object_mut() {
                    config.remove(pair.trim_end_matches('-'));
                }
            }
        }
    }
}

fn set_plugin(plugin: &mut Value, exec: &Exec) {
    if let Some(version) = &exec.api_version {
        plugin["apiVersion"] = version.as_str().into();
    }
    if !exec.args.is_empty() {
        plugin["args"] = exec.args.clone().into();
    }
    if let Some(mode) = &exec.interactive_mode {
        plugin["interactiveMode"] = mode.as_str().into();
    }
    if let Some(provide) = exec.provide_cluster_info {
        plugin["provideClusterInfo"] = provide.into();
    }
    let mut env = plugin["env"].as_array().cloned().unwrap_or_default();
    for pair in &exec.env {
        let (name, value) = pair.split_once('=').map_or((pair.trim_end_matches('-'), None), |(n, v)| (n, Some(v)));
        env.retain(|e| e["name"] != name);
        env.extend(value.map(|value| json!({"name": name, "value": value})));
    }
    if !env.is_empty() {
        plugin["env"] = env.into();
    }
}
