//! `kubectl version`.

use serde_json::{Value, json};

use crate::{
    client::Call,
    context::Context,
    failure::{Failure, plain},
    kustomize,
    output::json,
};

/// What we say we are.
const VERSION: &str = "v1.35.0+knarr1";
const MINOR: i64 = 35;
const ORDER: &[&str] = &[
    "clientVersion",
    "kustomizeVersion",
    "serverVersion",
    "major",
    "minor",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
];

/// What `version` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Nothing.
    #[arg(hide = true)]
    pub args: Vec<String>,
    /// Only the client's version; no server is asked.
    #[arg(long)]
    pub client: bool,
    /// yaml or json.
    #[arg(long, short, default_value = "")]
    pub output: String,
}

fn ours() -> Value {
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    json!({
        "major": "1", "minor": MINOR.to_string(), "gitVersion": VERSION, "gitTreeState": "clean", "platform": platform,
        "compiler": "rustc",
    })
}

/// Whether a server is of our version.
///
/// # Errors
/// Both versions as Go prints them.
pub fn matches(server: &Value) -> Result<(), String> {
    let ours = ours();
    let text = |version: &Value, name: &str| version[name].as_str().unwrap_or_default().to_owned();
    if ["gitVersion", "gitCommit", "gitTreeState"].iter().all(|name| text(&ours, name) == text(server, name)) {
        return Ok(());
    }
    let names = [
        ("Major", "major"),
        ("Minor", "minor"),
        ("GitVersion", "gitVersion"),
        ("GitCommit", "gitCommit"),
        ("GitTreeState", "gitTreeState"),
        ("BuildDate", "buildDate"),
        ("GoVersion", "goVersion"),
        ("Compiler", "compiler"),
        ("Platform", "platform"),
    ];
    let shown = |version: &Value| {
        let fields = names.map(|(field, name)| format!("{field}:{}", api::field::go_quote(&text(version, name))));
        format!("version.Info{{{}}}", fields.join(", "))
    };
    Err(format!("server version (&{}) differs from client version ({})", shown(server), shown(&ours)))
}

/// What upstream says of client and server too far apart.
fn skew(server: &Value) -> Option<String> {
    let number = |name: &str| -> Option<i64> {
        let text = server[name].as_str()?;
        text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok()
    };
    let (major, minor) = (number("major")?, number("minor")?);
    let apart = major != 1 || (minor - MINOR).abs() > 1;
    apart.then(|| {
        format!("WARNING: version difference between client (1.{MINOR}) and server ({major}.{minor}) exceeds the supported minor version skew of +/-1")
    })
}

/// Prints versions.
///
/// # Errors
/// If the server cannot be asked; after our own version has been printed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if !["", "yaml", "json"].contains(&args.output.as_str()) {
        return Err(plain("--output must be 'yaml' or 'json'"));
    }
    if !args.args.is_empty() {
        return Err(plain(format!("extra arguments: [{}]", args.args.join(" "))));
    }
    let mut versions = json!({"clientVersion": ours(), "kustomizeVersion": kustomize::VERSION});
    let mut failure = None;
    if !args.client {
        cx.client()?;
        match server(cx).await {
            Ok(server) => versions["serverVersion"] = server,
            Err(error) => failure = Some(error),
        }
    }
    match args.output.as_str() {
        "json" => println!("{}", json::pretty_in_order(&versions, "  ", ORDER)),
        "yaml" => print!("{}", api::yaml::to_string(&versions)),
        _ => {
            println!("Client Version: {VERSION}");
            println!("Kustomize Version: {}", kustomize::VERSION);
            if let Some(version) = versions["serverVersion"]["gitVersion"].as_str() {
                println!("Server Version: {version}");
            }
        }
    }
    if let Some(warning) = skew(&versions["serverVersion"]) {
        eprintln!("{warning}");
    }
    failure.map_or(Ok(()), Err)
}

async fn server(cx: &Context) -> Result<Value, Failure> {
    let mut version = cx.client()?.json(Call::get("/version").soon()).await?;
    // Fields that clients of this generation don't know.
    if let Some(fields) = version.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("emulation") && !name.starts_with("minCompatibility"));
    }
    Ok(version)
}
