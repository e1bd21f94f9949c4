//! One clonable connection type for clients: a unix socket, or a server in this process.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{ImageService, ImageServiceServer, RuntimeService, RuntimeServiceServer};

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection to a runtime. Clones share it.
#[derive(Clone)]
pub struct Channel {
    inner: Inner,
    news: Option<watch::Receiver<()>>,
}

#[derive(Clone)]
enum Inner {
    Socket(tonic::transport::Channel),
    Local(BoxCloneSyncService<Request, Response, Infallible>),
}

/// An address that names no unix socket.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the address of a unix socket; write unix:///path/to.sock")]
pub struct EndpointError(String);

impl Channel {
    /// A channel to the socket at `endpoint` (`unix:///path` or an absolute path). It connects at the first call and again
    /// after the server went away, so a runtime that starts later or restarts is no error here.
    pub fn connect(endpoint: &str) -> Result<Channel, EndpointError> {
        let path = socket_path(endpoint).ok_or_else(|| EndpointError(endpoint.to_owned()))?;
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        // The authority is not used; CRI servers expect a plain one.
        let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Channel { inner: Inner::Socket(channel), news: None })
    }

    /// A channel to a server in this process.
    pub fn local<R: RuntimeService, I: ImageService>(
        runtime: RuntimeServiceServer<R>,
        images: ImageServiceServer<I>,
    ) -> Channel {
        let service = tower::service_fn(move |request: Request| {
            let (runtime, images) = (runtime.clone(), images.clone());
            async move {
                match request.uri().path().starts_with("/runtime.v1.ImageService/") {
                    true => images.oneshot(request).await,
                    false => runtime.oneshot(request).await,
                }
            }
        });
        Channel { inner: Inner::Local(BoxCloneSyncService::new(service)), news: None }
    }

    /// The same with something that changes when what the runtime's status says may have changed: CRI has no event for it.
    pub fn with_news(self, news: Option<watch::Receiver<()>>) -> Channel {
        Channel { news, ..self }
    }

    /// What was given to [`Channel::with_news`].
    pub fn news(&self) -> Option<watch::Receiver<()>> {
        self.news.clone()
    }
}

/// The path in `unix:///path`, `unix:/path` or `/path`.
fn socket_path(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    path.starts_with('/').then(|| PathBuf::from(path))
}

impl Service<Request> for Channel {
    type Response = Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.inner {
            Inner::Socket(channel) => channel.poll_ready(cx).map_err(Into::into),
            Inner::Local(service) => service.poll_ready(cx).map_err(|never| match never {}),
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match &mut self.inner {
            Inner::Socket(channel) => {
                let response = channel.call(request);
                Box::pin(async move { response.await.map_err(Into::into) })
            }
            Inner::Local(service) => {
                let response = service.call(request);
                Box::pin(async move { response.await.map_err(|never| match never {}) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let paths =
            ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock", "tcp://127.0.0.1:1", "a.sock"].map(socket_path);
        let socket = Some(PathBuf::from("/run/a.sock"));
        assert_eq!(paths, [socket.clone(), socket.clone(), socket, None, None]);
    }
}
