//! The node's heartbeat: a Lease in kube-node-lease, renewed four times in its life.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::shared::Ctx;

const NAMESPACE: &str = "kube-node-lease";
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// Renews until `shutdown`.
pub async fn run(ctx: Ctx, shutdown: CancellationToken) {
    let seconds = ctx.config.node_lease_duration_seconds.max(4);
    let every = Duration::from_secs(u64::try_from(seconds / 4).unwrap_or(10));
    let api: Api<Lease> = Api::namespaced(ctx.client.clone(), NAMESPACE);
    let mut retry = FIRST_RETRY;
    let work = async {
        loop {
            let pause = match renew(&ctx, &api, seconds).await {
                Ok(true) => {
                    retry = FIRST_RETRY;
                    every
                }
                // The node has not been seen yet.
                Ok(false) => FIRST_RETRY,
                Err(error) => {
                    tracing::debug!(%error, "lease not renewed");
                    retry = (retry * 2).min(Duration::from_secs(7));
                    retry
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Renews once; true if the lease is the node's, and so goes with it.
async fn renew(ctx: &Ctx, api: &Api<Lease>, seconds: i32) -> Result<bool, kube::Error> {
    let name = &ctx.facts.name;
    let now = MicroTime(ctx.now());
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    let owner = ctx.node.get(&client::Key::cluster(name)).map(|node| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    });
    let params = PatchParams::default();
    match api.patch(name, &params, &Patch::Merge(json!({ "spec": spec }))).await {
        Err(error) if client::is_not_found(&error) => {}
        Ok(lease) if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) => {
            let Some(owner) = owner else { return Ok(false) };
            let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner]}}));
            return api.patch(name, &params, &patch).await.map(|_| true);
        }
        other => return other.map(|_| true),
    }
    let owned = owner.is_some();
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| owned)
}
