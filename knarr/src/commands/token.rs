//! `knarr token`: makes, lists and takes back the tokens with which agents join.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use client::is_not_found;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use process::flags::duration;
use serde_json::Value;

use crate::{
    commands::{component, small_runtime},
    compose::bootstrap::{NAMESPACE, TOKEN, secret, secret_name},
    token::{Fingerprint, Join},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Path to an administrator's kubeconfig file [default: $KUBECONFIG or ~/.kube/config; a server keeps one in
    /// DATA/admin.kubeconfig].
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token and print it.
    Create {
        /// How long it may be used; 0 is for ever.
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List the tokens, without their secrets.
    List,
    /// Take a token back: nobody can join with it any more. Nodes that have joined stay.
    Delete {
        /// The token, or its id: the six characters before the '.'.
        token: String,
    },
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    small_runtime()?.block_on(async {
        let client = component::client(args.kubeconfig.as_deref(), None).await?;
        match &args.action {
            Action::Create { ttl, description } => create(&client, *ttl, description).await,
            Action::List => list(&client).await,
            Action::Delete { token } => delete(&client, token).await,
        }
    })
}

async fn create(client: &Client, ttl: Duration, description: &str) -> Result<()> {
    let token = Join::generate(authority(client).await?)?;
    let end = || -> Result<String> {
        let end = Timestamp::now().checked_add(SignedDuration::try_from(ttl)?).context("that is too long")?;
        Ok(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    let expiration = if ttl.is_zero() { None } else { Some(end()?) };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets.create(&PostParams::default(), &secret(&token, description, expiration)).await.context("make the token")?;
    println!("{}", token.text());
    Ok(())
}

/// The hash of the authority that the cluster says it has, over a connection that is verified.
async fn authority(client: &Client) -> Result<Fingerprint> {
    let info = Api::<ConfigMap>::namespaced(client.clone(), "kube-public").get("cluster-info").await;
    let info = info.context("read kube-public/cluster-info")?;
    let text = info.data.as_ref().and_then(|data| data.get("kubeconfig")).context("read kube-public/cluster-info")?;
    let config: Value = serde_saphyr::from_str(text)?;
    let data = config.pointer("/clusters/0/cluster/certificate-authority-data").and_then(Value::as_str);
    let pem = String::from_utf8(STANDARD.decode(data.unwrap_or_default())?)?;
    // Where more are trusted, the cluster's own is the last.
    let own = pem.rfind("-----BEGIN").map_or("", |at| &pem[at..]);
    Fingerprint::of_pem(own)
}

async fn list(client: &Client) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let found = secrets.list(&ListParams::default().fields(&format!("type={TOKEN}"))).await.context("list the tokens")?;
    println!("{:<8} {:<22} DESCRIPTION", "ID", "EXPIRES");
    for secret in found {
        let text = |name: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(name));
            value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).filter(|text| !text.is_empty())
        };
        let (end, what) = (text("expiration").unwrap_or_else(|| "<never>".to_owned()), text("description"));
        println!("{:<8} {end:<22} {}", text("token-id").unwrap_or_default(), what.unwrap_or_default());
    }
    Ok(())
}

async fn delete(client: &Client, token: &str) -> Result<()> {
    let credentials = token.rsplit("::").next().unwrap_or(token);
    let id = credentials.split('.').next().unwrap_or(credentials);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    match secrets.delete(&secret_name(id), &DeleteParams::default()).await {
        Ok(_) => println!("token {id} is no longer taken"),
        Err(error) if is_not_found(&error) => bail!("there is no token {id}"),
        Err(error) => return Err(error).context("delete the token"),
    }
    Ok(())
}
