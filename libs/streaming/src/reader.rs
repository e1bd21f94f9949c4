//! One stream of bytes to a WebSocket client, as messages: what `log` answers to one who cannot read a plain body.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, Role, frame::coding::CloseCode},
};

use crate::{
    negotiate::{self, Rejection},
    websocket,
};

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// A request that has been answered 101.
pub struct Pending {
    upgrade: OnUpgrade,
    base64: bool,
}

/// Answers a WebSocket request.
pub fn upgrade<B>(request: &mut Request<B>) -> Result<(Response<()>, Pending), Rejection> {
    let (agreed, response) = negotiate::agree(request.headers(), &[], &[BINARY, BASE64])?;
    Ok((response, Pending { upgrade: hyper::upgrade::on(request), base64: agreed.protocol == BASE64 }))
}

impl Pending {
    /// Sends all of `bytes`, a message a piece; returns when they have ended or the client has left.
    pub async fn send<E>(self, bytes: impl Stream<Item = Result<Bytes, E>>) -> Result<(), hyper::Error> {
        send(TokioIo::new(self.upgrade.await?), self.base64, bytes).await;
        Ok(())
    }
}

async fn send<T, E>(io: T, base64: bool, bytes: impl Stream<Item = Result<Bytes, E>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = websocket::upgraded(io, Role::Server).await.split();
    // What the client says is of no interest, that it leaves is; reading also answers its pings.
    let left = async { while let Some(Ok(_)) = source.next().await {} };
    let sent = async {
        let mut bytes = std::pin::pin!(bytes);
        while let Some(Ok(piece)) = bytes.next().await {
            let message = if base64 { Message::text(STANDARD.encode(&piece)) } else { Message::binary(piece) };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
        let _ = sink.send(Message::Close(Some(normal))).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = left => {}
        () = sent => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(base64: bool) -> Vec<Message> {
        let (near, far) = tokio::io::duplex(1 << 10);
        let pieces = ["one", "two"].map(|piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)));
        tokio::spawn(send(far, base64, futures::stream::iter(pieces)));
        let client = websocket::upgraded(near, Role::Client).await;
        client.filter_map(|message| async { message.ok() }).collect().await
    }

    #[tokio::test]
    async fn every_piece_is_a_message_and_then_comes_a_close() {
        let close = Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }));
        assert_eq!(received(false).await, [Message::binary("one"), Message::binary("two"), close.clone()]);
        assert_eq!(received(true).await, [Message::text("b25l"), Message::text("dHdv"), close]);
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_it() {
        let (near, far) = tokio::io::duplex(1 << 10);
        drop(near);
        send(far, false, futures::stream::pending::<Result<Bytes, std::convert::Infallible>>()).await;
    }
}
