//! `/containerLogs/NAMESPACE/POD/CONTAINER`.

use std::path::PathBuf;

use axum::{
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use tokio_stream::wrappers::ReceiverStream;

use super::{App, Refusal, streams::decode};
use crate::{
    logs::read::{self, Options, Source},
    pod::{
        record::{PodRecord, Record, State as ContainerState},
        spec,
    },
};

/// Pieces of a log on their way to the client.
const IN_FLIGHT: usize = 8;

/// What the client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Query {
    previous: bool,
    options: Options,
}

fn query(text: &str, now: Timestamp) -> Result<Query, String> {
    let mut q = Query::default();
    let number = |key: &str, value: &str| {
        value.parse::<i64>().ok().filter(|n| *n >= 0).ok_or_else(|| format!("invalid {key}: {value:?}"))
    };
    for (key, value) in text.split('&').filter_map(|p| p.split_once('=')) {
        let value = decode(value);
        let on = matches!(value.as_str(), "true" | "1" | "True");
        match key {
            "follow" => q.options.follow = on,
            "previous" => q.previous = on,
            "timestamps" => q.options.timestamps = on,
            "tailLines" => q.options.tail = Some(usize::try_from(number(key, &value)?).unwrap_or(usize::MAX)),
            "limitBytes" => q.options.limit = Some(u64::try_from(number(key, &value)?).unwrap_or(u64::MAX)),
            "sinceSeconds" => {
                let ago = SignedDuration::from_secs(number(key, &value)?);
                q.options.since = Some(now.saturating_sub(ago).unwrap_or(Timestamp::MIN));
            }
            "sinceTime" => q.options.since = Some(value.parse().map_err(|_| format!("invalid sinceTime: {value:?}"))?),
            "stream" => {
                q.options.source = match value.as_str() {
                    "Stdout" => Source::Stdout,
                    "Stderr" => Source::Stderr,
                    _ => Source::All,
                }
            }
            _ => {}
        }
    }
    Ok(q)
}

/// Which instance's log to read; the error is upstream's message.
///
/// `last` is the container that its status tells of as the one before: of a container that waits to be started again that is
/// the newest there is.
fn choose<'a>(
    record: &'a PodRecord,
    pod: &str,
    name: &str,
    (waiting, last): (&str, Option<&str>),
    previous: bool,
) -> Result<&'a Record, String> {
    let latest = record.latest(name);
    let chosen = match previous {
        true => latest
            .filter(|l| l.is_exited() && last == Some(l.id.as_str()))
            .or_else(|| latest.and_then(|l| record.previous(name, &l.id))),
        false => latest
            .filter(|l| l.state != ContainerState::Created)
            .or_else(|| latest.and_then(|l| record.previous(name, &l.id))),
    };
    chosen.ok_or_else(|| match previous {
        true => format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"),
        false => format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {waiting}"),
    })
}

/// Streams a container's log.
pub async fn handle(
    State(app): State<App>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let query = query(request.uri().query().unwrap_or_default(), app.ctx.now()).map_err(bad)?;
    let (pod, record) = app.find(&namespace, &name, None).await?;
    if spec::member(&pod, &container).is_none() {
        let message = format!("container \"{container}\" not found in pod \"{name}\"");
        return Err(Refusal(StatusCode::NOT_FOUND, message));
    }
    let said = pod.status.iter().flat_map(|s| {
        s.container_statuses.iter().chain(&s.init_container_statuses).chain(&s.ephemeral_container_statuses).flatten()
    });
    let said = said.into_iter().find(|s| s.name == container);
    let waiting = said.and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.as_deref()).unwrap_or("ContainerCreating");
    let last = said.and_then(|s| s.last_state.as_ref()?.terminated.as_ref()?.container_id.as_deref());
    let last = last.and_then(|id| id.split_once("://")).map(|(_, id)| id);
    let chosen = choose(&record, &name, &container, (waiting, last), query.previous).map_err(bad)?;
    let path = PathBuf::from(&chosen.log_path);
    let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(IN_FLIGHT);
    let running = chosen.may_live().then(|| read::Running { runtime: app.ctx.runtime.clone(), id: chosen.id.clone() });
    let changes = app.ctx.pod_changes.subscribe();
    tokio::spawn(async move {
        if let Err(error) = read::stream(&path, &query.options, running, changes, &send).await {
            // The client has gone if this cannot be sent.
            let _ = send.send(Err(error)).await;
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receive));
    Ok(([(header::CONTENT_TYPE, "text/plain"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let now = Timestamp::from_second(1000).unwrap();
        let q = query("follow=true&tailLines=5&sinceSeconds=10&timestamps=true&limitBytes=7&previous=1", now).unwrap();
        let options = Options {
            follow: true,
            timestamps: true,
            tail: Some(5),
            limit: Some(7),
            since: Some(Timestamp::from_second(990).unwrap()),
            source: Source::All,
        };
        assert_eq!(q, Query { previous: true, options });
        let since = query("sinceSeconds=9223372036854775807", now).unwrap().options.since;
        assert_eq!(since, Some(Timestamp::MIN));
        assert_eq!(query("tailLines=-1", now), Err("invalid tailLines: \"-1\"".to_owned()));
        let at = query("sinceTime=2026-11-21T02%3A00%3A00Z", now).unwrap().options.since.unwrap();
        assert_eq!(at, "2026-11-21T02:00:00Z".parse().unwrap());
    }

    #[test]
    fn what_has_no_log_says_so() {
        let none = PodRecord::default();
        let text = |previous| choose(&none, "p", "c", ("ContainerCreating", None), previous).unwrap_err();
        assert_eq!(text(false), "container \"c\" in pod \"p\" is waiting to start: ContainerCreating");
        assert_eq!(text(true), "previous terminated container \"c\" in pod \"p\" not found");
    }
}
