//! `kubectl certificate`: requests for certificates, approved or denied.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client::{Call, Client},
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, OutputArgs},
    resources::{FileArgs, Object, Query},
    write::Show,
};

/// What `certificate` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What else there is; nothing of it means anything.
    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// What can be done with requests.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Approve a certificate signing request
    Approve(Which),
    /// Deny a certificate signing request
    Deny(Which),
}

/// What requests are meant.
#[derive(clap::Args, Debug)]
pub struct Which {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    files: FileArgs,
    /// Decide again what has been decided
    #[arg(long)]
    force: bool,
    /// Names
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// No such requests, or what failed.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (which, approve) = match args.command {
        None => {
            print!("{}", crate::help::of(&crate::cli::declared(), &["certificate".to_owned()]));
            return Ok(());
        }
        Some(Command::Approve(which)) => (which, true),
        Some(Command::Deny(which)) => (which, false),
    };
    let operation = if approve { "approved" } else { "denied" };
    let show = Show::new(&which.print, operation, DryRun::None)?;
    cx.client()?;
    if which.names.is_empty() && which.files.is_empty() {
        return Err(plain("one or more CSRs must be specified as <name> or -f <filename>"));
    }
    let query = Query {
        args: &which.names,
        files: Some(&which.files),
        default_type: Some("certificatesigningrequests"),
        latest: true,
        no_default_namespace: true,
        ..Query::default()
    };
    let mut found = false;
    let work = async |object: Object| {
        if (object.mapping.group.as_str(), object.mapping.kind.as_str())
            != ("certificates.k8s.io", "CertificateSigningRequest")
        {
            let of = if object.mapping.group.is_empty() { String::new() } else { format!(".{}", object.mapping.group) };
            let what = format!("{}{of}", object.mapping.kind);
            return Err(plain(format!("can only handle CertificateSigningRequest.certificates.k8s.io objects, got {what}")));
        }
        let decided = decide(cx.client()?, &object, approve, which.force).await?;
        found = true;
        show.typed(&decided)
    };
    query.visit(cx, work).await?;
    if !found {
        println!("No resources found");
    }
    Ok(())
}

/// Adds the decision, as long as somebody else is faster.
async fn decide(client: &Client, object: &Object, approve: bool, force: bool) -> Result<Value, Failure> {
    let (wanted, other) = if approve { ("Approved", "Denied") } else { ("Denied", "Approved") };
    for _ in 0..10 {
        let mut request = object.latest(client).await?;
        let has = |kind: &str| request["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind);
        if has(other) {
            let name = api::field::go_quote(&object.name);
            return Err(plain(format!("certificate signing request {name} is already {other}")));
        }
        if has(wanted) && !force {
            return Ok(request);
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": wanted,
            "status": "True",
            "reason": if approve { "KubectlApprove" } else { "KubectlDeny" },
            "message": format!("This CSR was {} by kubectl certificate {}.", wanted.to_lowercase(), if approve { "approve" } else { "deny" }),
            "lastUpdateTime": now,
        });
        match request["status"]["conditions"].as_array_mut() {
            Some(conditions) => conditions.push(condition),
            None => request["status"]["conditions"] = json!([condition]),
        }
        match client.json(Call::put(format!("{}/approval", object.path()), &request)).await {
            Err(failure) if failure.is_conflict() => tokio::time::sleep(Duration::from_millis(50)).await,
            other => return other,
        }
    }
    Err(plain(format!("certificate signing request {} changes all the time", api::field::go_quote(&object.name))))
}
