//! The wire of `exec`, `attach` and `port-forward`: several byte streams over one upgraded HTTP/1.1 connection.
//!
//! Two wires carry the same thing. SPDY/3.1 ([`spdy`]) is what older clients and upstream's container runtimes speak;
//! WebSockets with a channel byte ([`websocket`]) is what new ones speak, and they carry port-forward as SPDY inside a
//! WebSocket. The end that has the container uses [`command`] and [`forward`] and never learns which wire it is; those in
//! between (API server, kubelet) do not take part at all and only carry bytes ([`proxy`]).
//!
//! Absent on purpose: SPDY's flow control. The peers there are (moby/spdystream) neither send nor honour WINDOW_UPDATE;
//! the connection's own back-pressure is what holds a sender back. One unread stream therefore stops its connection.

pub mod client;
pub mod command;
pub mod forward;
pub mod negotiate;
pub mod proxy;
pub mod reader;
pub mod spdy;
pub mod stream;
pub mod websocket;

pub use stream::Stream;
