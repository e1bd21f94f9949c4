//! Requests through the server's router, without a socket, and answers taken whole or line by line.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use knarr_apiserver::{Config, testing};
use serde_json::{Value, json};
use tower::Service;

/// A server and the way to it.
pub struct Door {
    pub test: testing::TestServer,
}

/// An answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Code, reason and message of a Status.
    pub fn told(&self) -> (u16, String, String) {
        let status = self.json();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(status["code"], self.status, "{status}");
        (self.status, text("reason"), text("message"))
    }

    /// The object of a request that succeeded.
    pub fn ok(self) -> Value {
        assert!(self.status < 300, "{}: {}", self.status, self.text());
        self.json()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    pub fn warnings(&self) -> Vec<&str> {
        self.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()).collect()
    }
}

pub async fn door() -> Door {
    Door { test: testing::start().await }
}

pub async fn door_with(change: impl FnOnce(&mut Config)) -> Door {
    Door { test: testing::start_with(change).await }
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub const MERGE: &str = "application/merge-patch+json";

pub fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": value}})
}

pub fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

pub fn deployment(name: &str) -> Value {
    let labels = json!({"app": name});
    json!({"metadata": {"name": name}, "spec": {"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

impl Door {
    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.test.server.router().call(request).await.unwrap()
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Body::from(body.into())).unwrap()).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(20), body.collect()).await.expect("the answer ends").unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.ask("PATCH", path, &[("content-type", MERGE)], body.to_string()).await
    }

    pub async fn delete(&self, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask("DELETE", path, &[("content-type", "application/json")], body).await
    }

    /// Starts a watch.
    pub async fn watch(&self, path: &str) -> Lines {
        let response = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Lines { stream: response.into_body().into_data_stream(), read: Vec::new() }
    }

    pub fn store(&self) -> &std::sync::Arc<dyn store::Store> {
        self.test.server.registry().store()
    }
}

/// A watch's events.
pub struct Lines {
    stream: BodyDataStream,
    read: Vec<u8>,
}

impl Lines {
    /// The next event; `None` once the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.stream.next()).await.expect("an event in time");
            self.read.extend_from_slice(&chunk?.unwrap());
        }
    }

    /// Type and name of the next event.
    pub async fn brief(&mut self) -> Option<(String, String)> {
        let event = self.next().await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some((text(&event["type"]), text(&event["object"]["metadata"]["name"])))
    }
}
