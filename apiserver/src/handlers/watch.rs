//! WATCH: the cache's events as lines, each encoded once and shared by all watchers that take it as it is.

use std::{pin::Pin, sync::Arc, time::Duration};

use api::{
    status::Status,
    table::{ListMeta, Table, partial_metadata},
};
use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{App, Ask, read};
use crate::{
    cache::{Change, Event, Object, Selection, Watcher, object::write_frame},
    error::{self, Result},
    metrics::InFlight,
    registry::Entry,
    wire::{
        negotiate::{self, Encoding, For, Shape},
        options::ListOptions,
    },
};

/// How often a bookmark tells watchers how far they are.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Bytes of initial events that are sent together.
const CHUNK: usize = 64 * 1024;

/// One watch being answered.
struct Stream {
    entry: Arc<Entry>,
    selection: Selection,
    plain: bool,
    shape: Shape,
    encoding: Encoding,
    include: api::table::IncludeObject,
    watcher: Watcher,
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The bookmark that ends the initial events.
    initial_end: Option<u64>,
    bookmarks: bool,
    /// Changes up to this revision are known to the watcher.
    seen: u64,
    // Timers and the shutdown are waited for as long as the watch lasts, not anew with every event.
    next_bookmark: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    columns_sent: bool,
    done: bool,
    _counted: InFlight,
}

/// Starts a watch.
pub async fn watch(app: &App, entry: &Arc<Entry>, ask: &Ask) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, None, For::Watch)?;
    read::check_include(ask, form)?;
    let options = ListOptions::parse(&ask.query, true)?;
    let mut selection = read::selection(entry, ask, &options)?;
    if ask.info.path.contains("/watch/") && !ask.info.name.is_empty() && options.fields.is_none() {
        selection.name = Some(ask.info.name.clone());
    }
    let with_initial = options.send_initial_events.unwrap_or(matches!(options.revision, None | Some(0)));
    let mut seen = 0;
    let (watcher, initial, initial_end) = if with_initial {
        match options.revision {
            None => app.registry.catch_up().await?,
            Some(0) => {}
            Some(revision) => app.registry.reach(revision).await?,
        }
        let (listing, watcher) = entry.cache.list_and_watch(&selection);
        seen = listing.revision;
        let end = (options.send_initial_events == Some(true) && options.bookmarks).then_some(listing.revision);
        (watcher, listing.objects, end)
    } else {
        let from = match options.revision {
            Some(revision) if revision > 0 => revision,
            _ => {
                app.registry.catch_up().await?;
                entry.cache.applied().revision()
            }
        };
        seen = seen.max(from);
        match entry.cache.watch_after(from) {
            Ok(watcher) => (watcher, Vec::new(), None),
            // As upstream, a request that was understood is answered by an event.
            Err(gone) => return Ok(refused(form, &error::gone(gone))),
        }
    };
    let timeout = options
        .timeout_seconds
        .map_or_else(|| Duration::from_secs_f64(1800.0 * (1.0 + rand::rng().random::<f64>())), Duration::from_secs);
    let now = Instant::now();
    let stream = Stream {
        entry: entry.clone(),
        plain: selection.is_plain() && selection.namespace.is_none(),
        selection,
        shape: form.shape,
        encoding: form.encoding,
        include: read::include(ask),
        watcher,
        initial: initial.into_iter(),
        initial_end,
        bookmarks: options.bookmarks,
        seen,
        next_bookmark: Box::pin(tokio::time::sleep_until(now + BOOKMARKS)),
        deadline: Box::pin(tokio::time::sleep_until(now + timeout)),
        shutdown: Box::pin(app.shutdown.clone().cancelled_owned()),
        columns_sent: false,
        done: false,
        _counted: app.metrics.long_running(&ask.info),
    };
    let lines = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), stream))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(form.encoding)));
    Ok(response)
}

fn content_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    }
}

/// A watch of one event, which says why there are no others.
fn refused(form: negotiate::Form, status: &Status) -> Response {
    let line = framed(form.encoding, "ERROR", status.to_bytes().trim_ascii_end());
    let mut response = Response::new(Body::from(line));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(form.encoding)));
    response
}

/// An event as a watch in this encoding sends it.
fn framed(encoding: Encoding, change: &'static str, json: &[u8]) -> Bytes {
    if encoding != Encoding::Protobuf {
        return [b"{\"type\":\"", change.as_bytes(), b"\",\"object\":", json, b"}\n"].concat().into();
    }
    let object: Value = serde_json::from_slice(json).unwrap_or_default();
    let frame = api::protobuf::watch_frame(change, &object).or_else(|error| {
        let status = serde_json::to_value(error::not_marshalable(&error)).unwrap_or_default();
        api::protobuf::watch_frame("ERROR", &status)
    });
    frame.unwrap_or_default().into()
}

impl Stream {
    fn hooks(&self) -> &dyn api::kind::Hooks {
        self.entry.hooks()
    }

    /// Whether cached lines can be sent as they are.
    fn verbatim(&self) -> bool {
        self.shape == Shape::Object && self.encoding == Encoding::Json && !self.entry.converts()
    }

    /// An object's JSON as this watch shows it.
    fn show(&mut self, object: &Object) -> Bytes {
        let json = self.entry.encoded(object);
        match self.shape {
            Shape::Object => json,
            Shape::Metadata(_) => trimmed(partial_metadata(&json)),
            Shape::Table(version) => {
                let meta = ListMeta { resource_version: object.revision().to_string(), ..ListMeta::default() };
                let columns = (!self.columns_sent).then_some(self.entry.info().columns);
                self.columns_sent = true;
                let mut table = Table::new(version, &meta, columns, self.include);
                table.row(&self.hooks().cells_from_bytes(object.json(), Timestamp::now()), &json);
                trimmed(table.finish())
            }
        }
    }

    /// The line that an event is for this watcher, if it is one.
    fn line(&mut self, event: &Event) -> Option<Bytes> {
        if event.revision() <= self.seen {
            return None;
        }
        let (change, object) = if self.plain {
            (event.change, &event.object)
        } else {
            let is = event.change != Change::Deleted && self.selection.matches(&event.object, self.hooks());
            let was = event.previous.as_ref().is_some_and(|p| self.selection.matches(p, self.hooks()));
            match (was, is) {
                (false, false) => return None,
                (false, true) => (Change::Added, &event.object),
                (true, true) => (Change::Modified, &event.object),
                (true, false) => (Change::Deleted, event.left()),
            }
        };
        if self.verbatim() {
            return Some(match change {
                Change::Added => event.added().clone(),
                _ => object.frame().clone(),
            });
        }
        let json = self.show(object);
        Some(framed(self.encoding, change.name(), &json))
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let info = self.entry.info();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Object => json!({"kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata}),
            Shape::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata})
            }
            Shape::Table(version) => json!({
                "kind": "Table", "apiVersion": version, "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null,
                "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}],
            }),
        };
        framed(self.encoding, "BOOKMARK", object.to_string().as_bytes())
    }

    fn take_initial(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < CHUNK {
            let Some(object) = self.initial.next() else { break };
            let json = self.show(&object);
            match self.encoding {
                Encoding::Protobuf => out.extend_from_slice(&framed(self.encoding, Change::Added.name(), &json)),
                _ => write_frame(&mut out, Change::Added, &json),
            }
        }
        if self.initial.len() == 0
            && let Some(revision) = self.initial_end.take()
        {
            let line = self.bookmark(revision, true);
            out.extend_from_slice(&line);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// The next bytes to send; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        if let Some(chunk) = self.take_initial() {
            return Some(chunk);
        }
        loop {
            // Taken before the events: everything up to it is among them.
            let applied = self.entry.cache.applied().revision();
            let events = match self.watcher.ready() {
                Ok(events) => events,
                // Overtaken: the stream ends, and the client goes on from the last revision that it has seen.
                Err(_) => return None,
            };
            let mut lines = Vec::new();
            for event in &events {
                lines.extend(self.line(event));
            }
            if let Some(last) = events.last() {
                self.seen = self.seen.max(last.revision());
            }
            match lines.len() {
                0 if !events.is_empty() => continue,
                0 => {}
                1 => return lines.pop(),
                _ => return Some(lines.concat().into()),
            }
            tokio::select! {
                biased;
                alive = self.watcher.changed() => {
                    if !alive {
                        return None;
                    }
                }
                () = &mut self.next_bookmark, if self.bookmarks => {
                    self.next_bookmark.as_mut().reset(Instant::now() + BOOKMARKS);
                    self.seen = self.seen.max(applied);
                    let revision = self.seen;
                    return Some(self.bookmark(revision, false));
                }
                () = &mut self.deadline => {
                    self.done = true;
                    if !self.bookmarks {
                        return None;
                    }
                    self.seen = self.seen.max(applied);
                    let revision = self.seen;
                    return Some(self.bookmark(revision, false));
                }
                () = &mut self.shutdown => return None,
            }
        }
    }
}

fn trimmed(mut json: Vec<u8>) -> Bytes {
    while json.last() == Some(&b'\n') {
        json.pop();
    }
    json.into()
}
