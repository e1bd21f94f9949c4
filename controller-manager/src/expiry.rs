//! Deletes objects when their time is over.
//!
//! Each object has one timer, for the moment at which it is to go. What is deleted is the object that was looked at, not one that has
//! its name since.

use std::{sync::Arc, time::Duration};

use client::{Informer, Key, Next, Object, Queue, Step, is_not_found};
use jiff::Timestamp;
use kube::{
    Api, Resource,
    api::{DeleteParams, Preconditions},
};

use crate::context::Context;

/// Deletes by `api` what `objects` has and `end` says is over (`None`: never), until the context's shutdown.
pub async fn run<K>(
    ctx: Context,
    name: &'static str,
    objects: Informer<K>,
    api: Api<K>,
    end: impl Fn(&K) -> Option<Timestamp> + Send + Sync + 'static,
) where
    K: Object + Resource<DynamicType = ()>,
{
    let queue = Queue::new(name);
    if ctx.until_stopped(objects.synced()).await.is_none() {
        return;
    }
    objects.wake(&queue, |change| change.present().map(|o| Key::of(o.meta())));
    let (api, end) = (Arc::new(api), Arc::new(end));
    client::controller::run(name, queue, 1, ctx.shutdown.clone(), move |key: Key| {
        let (objects, api, end) = (objects.clone(), api.clone(), end.clone());
        async move {
            let Some(object) = objects.get(&key) else { return Ok(Next::Done) };
            let Some(end) = end(&object) else { return Ok(Next::Done) };
            let left = end.duration_since(Timestamp::now());
            if left.is_positive() {
                return Ok(Next::After(Duration::try_from(left).unwrap_or_default()));
            }
            let preconditions = Some(Preconditions { uid: object.meta().uid.clone(), resource_version: None });
            match api.delete(&key.name, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
                Err(error) if is_not_found(&error) => Ok(Next::Done),
                done => done.map(|_| Next::Done).step("deleting what has expired"),
            }
        }
    })
    .await;
}
