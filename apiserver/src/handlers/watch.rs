//! WATCH: the cache's events as lines, each encoded once and shared by all watchers that take it as it is.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use api::{
    status::Status,
    table::{ListMeta, Table, partial_metadata},
};
use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use http_body::Frame;
use jiff::Timestamp;
use process::quiet::Quiet;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{App, Ask, read};
use crate::{
    cache::{Change, Event, Object, Selection, Watcher, object::write_frame},
    error::{self, Result as Answer},
    metrics::InFlight,
    registry::{Entry, check_key},
    wire::{
        negotiate::{self, Encoding, For, Shape},
        options::ListOptions,
    },
};

/// How often a bookmark tells watchers how far they are.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How long a watch may be asked to go on: a century. Clocks end, later.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);
/// Bytes of initial events that are sent together.
const CHUNK: usize = 64 * 1024;

/// What happens to a watch apart from changes.
enum Occasion {
    Bookmark,
    Deadline,
    Shutdown,
}

/// Waits for the next of them.
struct Occasions {
    bookmark: Option<Pin<Box<Sleep>>>,
    deadline: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Future for Occasions {
    type Output = Occasion;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Occasion> {
        if let Some(bookmark) = &mut self.bookmark
            && bookmark.as_mut().poll(cx).is_ready()
        {
            bookmark.as_mut().reset(Instant::now() + BOOKMARKS);
            return Poll::Ready(Occasion::Bookmark);
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Occasion::Deadline);
        }
        self.shutdown.as_mut().poll(cx).map(|()| Occasion::Shutdown)
    }
}

/// One watch being answered.
struct Stream {
    entry: Arc<Entry>,
    selection: Selection,
    plain: bool,
    shape: Shape,
    encoding: Encoding,
    include: api::table::IncludeObject,
    watcher: Watcher,
    /// Room for the events that are being written.
    events: Vec<Arc<Event>>,
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The bookmark that ends the initial events.
    initial_end: Option<u64>,
    bookmarks: bool,
    /// Changes up to this revision are known to the watcher.
    seen: u64,
    occasions: Quiet<Occasions>,
    columns_sent: bool,
    done: bool,
    _counted: InFlight,
}

/// Starts a watch.
pub async fn watch(app: &App, entry: &Arc<Entry>, ask: &Ask) -> Answer<Response> {
    let form = negotiate::accept(&ask.headers, None, For::Watch)?;
    read::check_include(ask, form)?;
    let options = ListOptions::parse(&ask.query, true)?;
    let mut selection = read::selection(entry, ask, &options)?;
    if ask.info.path.contains("/watch/") && !ask.info.name.is_empty() {
        let asked = options.fields.as_ref().map(|fields| fields.requires("metadata.name"));
        if asked.is_some_and(|name| name != Some(ask.info.name.as_str())) {
            return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        selection.name = Some(ask.info.name.clone());
    }
    let revision = options.revision.clone()?;
    let named = || options.fields.as_ref().and_then(|fields| fields.requires("metadata.name"));
    if let (true, Some(name)) = (entry.info().namespaced, selection.name.as_deref().or_else(named)) {
        check_key(entry.info(), &ask.info.namespace, &format!("/{name}"))?;
    }
    let with_initial = options.send_initial_events.unwrap_or(matches!(revision, None | Some(0)));
    let mut seen = 0;
    let (watcher, initial, initial_end) = if with_initial {
        match revision {
            None => app.registry.catch_up().await?,
            Some(0) => {}
            Some(revision) => app.registry.reach(revision).await?,
        }
        let (listing, watcher) = entry.cache.list_and_watch(&selection);
        seen = listing.revision;
        let end = (options.send_initial_events == Some(true) && options.bookmarks).then_some(listing.revision);
        (watcher, listing.objects, end)
    } else {
        let from = match revision {
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
    let timeout = match options.timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds).min(LONGEST),
        None => Duration::from_secs_f64(1800.0 * (1.0 + rand::rng().random::<f64>())),
    };
    let now = Instant::now();
    let stream = Stream {
        entry: entry.clone(),
        plain: selection.is_plain() && selection.namespace.is_none(),
        selection,
        shape: form.shape,
        encoding: form.encoding,
        include: read::include(ask),
        watcher,
        events: Vec::new(),
        initial: initial.into_iter(),
        initial_end,
        bookmarks: options.bookmarks,
        seen,
        occasions: Quiet::new(Occasions {
            bookmark: options.bookmarks.then(|| Box::pin(tokio::time::sleep_until(now + BOOKMARKS))),
            deadline: Box::pin(tokio::time::sleep_until(now + timeout)),
            shutdown: Box::pin(app.shutdown.clone().cancelled_owned()),
        }),
        columns_sent: false,
        done: false,
        _counted: app.metrics.long_running(&ask.info),
    };
    let mut response = Response::new(Body::new(stream));
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
            Shape::Object | Shape::Unfit(_) => json,
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
            Shape::Object | Shape::Unfit(_) => {
                json!({"kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata})
            }
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

    /// What these events are to this watcher, all in one piece.
    fn lines(&mut self, events: &[Arc<Event>]) -> Option<Bytes> {
        let mut first = None;
        let mut all = BytesMut::new();
        for event in events {
            let Some(line) = self.line(event) else { continue };
            match first.take() {
                None if all.is_empty() => first = Some(line),
                before => {
                    before.iter().for_each(|before| all.extend_from_slice(before));
                    all.extend_from_slice(&line);
                }
            }
        }
        if let Some(last) = events.last() {
            self.seen = self.seen.max(last.revision());
        }
        first.or_else(|| (!all.is_empty()).then(|| all.freeze()))
    }

    /// The next bytes to send; `None` ends the watch.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(chunk) = self.take_initial() {
            return Poll::Ready(Some(chunk));
        }
        loop {
            // Taken before the events: everything up to it is among them.
            let applied = self.entry.cache.applied().revision();
            let mut events = std::mem::take(&mut self.events);
            let polled = self.watcher.poll(cx, &mut events);
            let lines = self.lines(&events);
            events.clear();
            self.events = events;
            match polled {
                // Overtaken: the stream ends, and the client goes on from the last revision that it has seen.
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(())) if lines.is_some() => return Poll::Ready(lines),
                Poll::Ready(Ok(())) => continue,
                Poll::Pending => {}
            }
            return match Pin::new(&mut self.occasions).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Occasion::Bookmark) => Poll::Ready(Some(self.progress(applied))),
                Poll::Ready(Occasion::Deadline) => {
                    self.done = true;
                    Poll::Ready(self.bookmarks.then(|| self.progress(applied)))
                }
                Poll::Ready(Occasion::Shutdown) => Poll::Ready(None),
            };
        }
    }

    /// A bookmark of a revision up to which everything has been sent.
    fn progress(&mut self, applied: u64) -> Bytes {
        self.seen = self.seen.max(applied);
        self.bookmark(self.seen, false)
    }
}

// Polled as it is: a stream made of a future would move all of this with every event.
impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let bytes = this.poll_bytes(cx);
        if let Shape::Unfit(_) = this.shape {
            // As upstream, who finds out at the first event that none can be sent, and hangs up.
            return bytes.map(|_| None);
        }
        bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn trimmed(mut json: Vec<u8>) -> Bytes {
    while json.last() == Some(&b'\n') {
        json.pop();
    }
    json.into()
}
