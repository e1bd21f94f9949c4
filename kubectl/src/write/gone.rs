//! Waiting until an object is gone.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    client::{Call, Client},
    failure::{Failure, plain},
    resources::Object,
};

/// Waits until the object is not there, or another of its name is: one with another uid than `uid`, if that is known.
///
/// # Errors
/// `timed out waiting for the condition on pods/x`, or the server's refusal.
pub async fn gone(client: &Client, object: &Object, uid: Option<&str>, within: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    let late = || plain(format!("timed out waiting for the condition on {}/{}", object.mapping.resource, object.name));
    match timeout_at(deadline, watched(client, object, uid)).await {
        Ok(done) => done,
        Err(_) => Err(late()),
    }
}

async fn watched(client: &Client, object: &Object, uid: Option<&str>) -> Result<(), Failure> {
    loop {
        let current = match object.latest(client).await {
            Err(failure) if failure.is_not_found() => return Ok(()),
            answer => answer?,
        };
        if other(&current, uid) {
            return Ok(());
        }
        let version = current["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let call = Call::get(object.collection())
            .query("fieldSelector", format!("metadata.name={}", api::selector::field::escape(&object.name)))
            .query("resourceVersion", version)
            .query("watch", "true");
        let mut stream = client.open(call).await?;
        // A watch that ends or breaks is followed by another look.
        while let Ok(Some((kind, current))) = stream.event().await {
            if kind == "DELETED" || other(&current, uid) {
                return Ok(());
            }
        }
    }
}

fn other(current: &Value, uid: Option<&str>) -> bool {
    let current = current["metadata"]["uid"].as_str().unwrap_or_default();
    uid.is_some_and(|uid| !current.is_empty() && current != uid)
}
