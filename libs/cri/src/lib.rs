//! The container runtime interface: messages and services generated from `proto/runtime/v1/api.proto`, and [`Channel`], the
//! one way to reach a runtime.
//!
//! A kubelet talks to our own runtime or to another (containerd) without knowing which: `RuntimeServiceClient<Channel>` and
//! `ImageServiceClient<Channel>` work over a unix socket and over a connection inside the process alike. The second skips
//! sockets and HTTP/2 framing but not the messages' encoding, so both ways stay equal in behaviour; what it saves is a
//! connection's tasks and several wake-ups a call.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use knarr_cri as cri;
//! let channel = cri::Channel::connect("unix:///run/containerd/containerd.sock")?;
//! let mut runtime = cri::RuntimeServiceClient::new(channel.clone());
//! let version = runtime.version(cri::VersionRequest::default()).await?.into_inner();
//! # Ok(()) }
//! ```

mod channel;

/// Everything of the interface's version 1, as generated.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

pub use channel::{Channel, EndpointError};
pub use v1::image_service_client::ImageServiceClient;
pub use v1::image_service_server::{ImageService, ImageServiceServer};
pub use v1::runtime_service_client::RuntimeServiceClient;
pub use v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
pub use v1::*;

/// Largest message either side accepts: a list of every container of a full node stays far below.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Credentials never reach a log: only who they are for.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}
