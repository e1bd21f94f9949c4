//! One object from now on: a list, then watches, as client-go's informers ask for them.

use std::time::Duration;

use serde_json::Value;

use super::{Object, items};
use crate::{
    client::{Call, Client, Stream, log},
    failure::Failure,
};

/// How upstream calls what it follows in its log.
const OF: &str = "*unstructured.Unstructured from k8s.io/client-go/tools/watch/informerwatcher.go:146";
const REFLECTOR: &str = "*unstructured.Unstructured (0s) from k8s.io/client-go/tools/watch/informerwatcher.go:146";

/// What passes between two watches.
const PAUSE: Duration = Duration::from_millis(800);

/// What follows one object.
pub struct Follower {
    collection: String,
    selector: String,
    version: String,
    stream: Option<Stream>,
}

impl Follower {
    /// Nothing is asked yet.
    pub fn new(object: &Object) -> Self {
        let selector = format!("metadata.name={}", api::selector::field::escape(&object.name));
        log::at(3, "reflector.go:313", &format!("Starting reflector {REFLECTOR}"));
        Self { collection: object.collection(), selector, version: String::new(), stream: None }
    }

    fn call(&self) -> Call {
        Call::get(self.collection.as_str()).query("fieldSelector", self.selector.as_str())
    }

    /// The object as it is, `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub async fn list(&mut self, client: &Client) -> Result<Option<Value>, Failure> {
        // Any state will do at first; after that, only one that is not older.
        let version = if self.version.is_empty() { "0" } else { self.version.as_str() };
        log::at(3, "reflector.go:349", &format!("Listing and watching {OF}"));
        let list = client.json(self.call().query("limit", "500").query("resourceVersion", version)).await?;
        log::at(2, "reflector.go:376", &format!("Caches populated for {OF}"));
        list["metadata"]["resourceVersion"].as_str().unwrap_or_default().clone_into(&mut self.version);
        // The watch begins before anything is made of the list; that it cannot is found out when it is needed.
        self.stream = self.watch(client).await.ok();
        Ok(items(list).into_iter().next())
    }

    /// The object after its next change, `None` once it is gone.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub async fn next(&mut self, client: &Client) -> Result<Option<Value>, Failure> {
        loop {
            match self.event(client).await {
                Ok(Some((kind, object))) => {
                    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().clone_into(&mut self.version);
                    match kind.as_str() {
                        "BOOKMARK" => continue,
                        "DELETED" => return Ok(None),
                        _ => return Ok(Some(object)),
                    }
                }
                // A server that ends watches at once, or is away, is not asked all the time.
                Ok(None) | Err(Failure::Connection { .. }) => tokio::time::sleep(PAUSE).await,
                // What has happened since is found out by looking.
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    return self.list(client).await;
                }
            }
            self.stream = None;
        }
    }

    async fn event(&mut self, client: &Client) -> Result<Option<(String, Value)>, Failure> {
        if self.stream.is_none() {
            self.stream = Some(self.watch(client).await?);
        }
        match &mut self.stream {
            Some(stream) => stream.event().await,
            None => Ok(None),
        }
    }

    async fn watch(&self, client: &Client) -> Result<Stream, Failure> {
        // Servers end watches; so does the client, after five to ten minutes.
        let seconds = (300.0 * (1.0 + rand::random::<f64>())) as u64;
        let call = self.call().query("allowWatchBookmarks", "true").query("resourceVersion", self.version.as_str());
        client.open(call.query("timeoutSeconds", seconds.to_string()).query("watch", "true")).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        log::at(3, "reflector.go:319", &format!("Stopping reflector {REFLECTOR}"));
    }
}
