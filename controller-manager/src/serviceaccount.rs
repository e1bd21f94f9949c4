//! Gives every namespace its `default` ServiceAccount.
//!
//! Watches namespaces and ServiceAccounts of that name; owns nothing (accounts go with their namespace). Safe to run twice: it
//! creates what is missing and nothing else.

use std::sync::Arc;

use client::{Change, Error, Informer, Key, Next, Options, Queue, Step, is_already_exists, is_not_found};
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::PostParams;

use crate::{context::Context, replicas::namespace_is_terminating};

const NAME: &str = "serviceaccount-controller";
const ACCOUNT: &str = "default";

struct Controller {
    ctx: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

/// Whether objects can be created in the namespace.
pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase.is_none_or(|p| p == "Active")
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let accounts = ctx.informers.get_with(&(), Options::fields(format!("metadata.name={ACCOUNT}")));
    let this = Arc::new(Controller { namespaces: ctx.informer(), accounts, ctx: ctx.clone() });
    if ctx.until_stopped(futures::future::join(this.namespaces.synced(), this.accounts.synced())).await.is_none() {
        return;
    }
    this.namespaces.wake(&queue, |change| change.present().map(|n| Key::of(&n.metadata)));
    this.accounts.wake(&queue, |change| match change {
        Change::Deleted(account) => account.metadata.namespace.as_deref().map(Key::cluster),
        _ => None,
    });
    let workers = ctx.config.concurrent_serviceaccount_token_syncs;
    client::controller::run(NAME, queue, workers, ctx.shutdown.clone(), move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let active = self.namespaces.get(&key).is_some_and(|n| is_active(&n));
        if !active || self.accounts.get(&Key::new(&key.name, ACCOUNT)).is_some() {
            return Ok(Next::Done);
        }
        let metadata =
            ObjectMeta { name: Some(ACCOUNT.to_owned()), namespace: Some(key.name.to_string()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match self.ctx.api::<ServiceAccount>(&key.name).create(&PostParams::default(), &account).await {
            Err(error) if is_already_exists(&error) || is_not_found(&error) || namespace_is_terminating(&error) => {
                Ok(Next::Done)
            }
            written => written.map(|_| Next::Done).step("creating the default ServiceAccount"),
        }
    }
}
