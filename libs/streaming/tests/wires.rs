//! Both ends against each other over every wire, and through the proxy between them.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_streaming::{
    client,
    command::{self, Exit, Options, Size},
    forward,
    negotiate::{Agreed, Rejection, Wire},
    proxy::{self, Backend},
    websocket,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::protocol::Role;

const ALL: Options = Options { stdin: true, stdout: true, stderr: true, tty: false };

/// A "container" that upper-cases its input, complains a little and exits 3.
async fn container(mut command: command::RemoteCommand) {
    let (mut stdin, mut stdout) = (command.stdin.take().unwrap(), command.stdout.take().unwrap());
    let mut input = Vec::new();
    stdin.read_to_end(&mut input).await.unwrap();
    stdout.write_all(&input.to_ascii_uppercase()).await.unwrap();
    if let Some(mut stderr) = command.stderr.take() {
        stderr.write_all(b"oops").await.unwrap();
    }
    drop(stdout);
    command.exit.send(Exit::Code(3)).await;
}

async fn converse(mut client: client::Command, input: &[u8]) -> (Vec<u8>, Vec<u8>, String) {
    let mut stdin = client.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = tokio::spawn(async move {
        stdin.write_all(&input).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let (mut out, mut err, mut last) = (Vec::new(), Vec::new(), String::new());
    let (mut stdout, mut stderr) = (client.stdout.take().unwrap(), client.stderr.take().unwrap());
    let (o, e, l) =
        tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err), client.error.read_to_string(&mut last));
    o.and(e).and(l).unwrap();
    feeding.await.unwrap();
    (out, err, last)
}

fn agreed(wire: Wire, protocol: &str) -> Agreed {
    Agreed { wire, protocol: protocol.to_owned() }
}

#[tokio::test]
async fn a_command_is_the_same_on_every_wire_with_an_end_of_input() {
    let wires = [
        agreed(Wire::Spdy, "v4.channel.k8s.io"),
        agreed(Wire::Spdy, "v3.channel.k8s.io"),
        agreed(Wire::Spdy, ""),
        agreed(Wire::WebSocket, "v5.channel.k8s.io"),
    ];
    let input = b"some words ".repeat(20_000);
    for agreed in wires {
        let (a, b) = tokio::io::duplex(1 << 14);
        let ours = agreed.clone();
        let server = tokio::spawn(async move {
            container(command::streams(b, &ours, ALL).await.unwrap()).await;
        });
        let client = client::Command::open(a, &agreed, ALL).await.unwrap();
        let (out, err, last) = converse(client, &input).await;
        assert!(out == input.to_ascii_uppercase(), "{agreed:?}");
        assert_eq!(err, b"oops");
        let as_status = agreed.protocol.starts_with("v4") || agreed.protocol.starts_with("v5");
        assert_eq!(last.starts_with('{'), as_status, "{last}");
        assert!(last.contains("exit status 3"), "{last}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn base64_channels_carry_output_and_sizes() {
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io", ""] {
        let agreed = agreed(Wire::WebSocket, protocol);
        let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
        let (a, b) = tokio::io::duplex(1 << 14);
        let ours = agreed.clone();
        let server = tokio::spawn(async move {
            let mut command = command::streams(b, &ours, options).await.unwrap();
            let size = command.resize.as_mut().unwrap().next().await.unwrap();
            let text = format!("{}x{}", size.width, size.height);
            command.stdout.take().unwrap().write_all(text.as_bytes()).await.unwrap();
            command.exit.send(Exit::Code(0)).await;
        });
        let mut client = client::Command::open(a, &agreed, options).await.unwrap();
        client.resize(Size { width: 132, height: 43 }).await.unwrap();
        let mut out = String::new();
        client.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
        assert_eq!(out, "132x43");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn forwards_over_spdy_and_through_a_websocket() {
    for agreed in [agreed(Wire::Spdy, "portforward.k8s.io"), agreed(Wire::WebSocket, forward::TUNNEL)] {
        let (a, b) = tokio::io::duplex(1 << 14);
        let ours = agreed.clone();
        let server = tokio::spawn(async move {
            let mut forwards = forward::forwards(b, &ours, &[]).await.unwrap();
            let mut tasks = Vec::new();
            while let Some(forward) = forwards.next().await {
                let target = match forward.port {
                    80 => {
                        let (near, far) = tokio::io::duplex(1 << 10);
                        tokio::spawn(async move {
                            let (mut read, mut write) = tokio::io::split(far);
                            tokio::io::copy(&mut read, &mut write).await.unwrap();
                            write.shutdown().await.unwrap();
                        });
                        Ok(near)
                    }
                    _ => Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
                };
                tasks.push(tokio::spawn(forward.serve("default_web", target)));
            }
            for task in tasks {
                task.await.unwrap();
            }
        });
        let session = client::PortForward::open(a, &agreed).await.unwrap();
        for round in 0..3u8 {
            let (mut data, mut error) = session.connect(80).await.unwrap();
            let payload = vec![round; 100_000];
            let (mut receive, mut send) = tokio::io::split(&mut data);
            let mut got = Vec::new();
            let (sent, read) = tokio::join!(
                async {
                    send.write_all(&payload).await?;
                    send.shutdown().await
                },
                receive.read_to_end(&mut got)
            );
            sent.and(read.map(drop)).unwrap();
            assert!(got == payload);
            let mut text = String::new();
            error.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "");
        }
        let (_data, mut error) = session.connect(81).await.unwrap();
        let mut text = String::new();
        error.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "error forwarding port 81 to pod default_web: connection refused");
        session.close().await;
        server.await.unwrap();
    }
}

#[tokio::test]
async fn forwards_over_channels_begin_with_their_port() {
    let agreed = agreed(Wire::WebSocket, "v4.channel.k8s.io");
    let (a, b) = tokio::io::duplex(1 << 14);
    let server = tokio::spawn(async move {
        let mut forwards = forward::forwards(b, &agreed, &[80, 8080]).await.unwrap();
        let mut served = tokio::task::JoinSet::new();
        while let Some(forward) = forwards.next().await {
            let (near, mut far) = tokio::io::duplex(1 << 10);
            far.write_all(format!("port {}", forward.port).as_bytes()).await.unwrap();
            served.spawn(forward.serve("default_web", Ok(near)));
        }
        served.join_all().await;
        forwards.close().await;
    });
    let socket = websocket::upgraded(a, Role::Client).await;
    let (streams, closer) = websocket::channels(socket, 4, websocket::Format::default(), Role::Client);
    let mut streams = streams.into_iter();
    for port in [80u16, 8080] {
        let (mut data, mut error) = (streams.next().unwrap(), streams.next().unwrap());
        let mut want = port.to_le_bytes().to_vec();
        let mut got = [0; 2];
        error.read_exact(&mut got).await.unwrap();
        assert_eq!(got, want.as_slice());
        want.extend(format!("port {port}").bytes());
        let mut got = vec![0; want.len()];
        data.read_exact(&mut got).await.unwrap();
        assert_eq!(got, want);
    }
    closer.close().await;
    server.await.unwrap();
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn refused(rejection: &Rejection) -> Response<Body> {
    rejection.response().map(|text| Full::from(text).map_err(|e| match e {}).boxed_unsync())
}

fn empty(response: Response<()>) -> Response<Body> {
    response.map(|()| Empty::new().map_err(|e| match e {}).boxed_unsync())
}

/// A CRI streaming server: exec at any path.
async fn exec(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let options = match Options::from_query(request.uri().query().unwrap_or("")) {
        Ok(options) => options,
        Err(rejection) => return Ok(refused(&rejection)),
    };
    Ok(match command::upgrade(&mut request, options) {
        Ok((response, pending)) => {
            tokio::spawn(async move { container(pending.streams().await.unwrap()).await });
            empty(response)
        }
        Err(rejection) => refused(&rejection),
    })
}

async fn listen<F, R>(handler: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Response<Body>, Infallible>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handler = handler.clone();
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(handler))
                    .with_upgrades()
                    .await;
            });
        }
    });
    address
}

async fn ask(address: SocketAddr, uri: &str, headers: http::HeaderMap) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::post(uri).body(Empty::<Bytes>::new()).unwrap();
    *request.headers_mut() = headers;
    request.headers_mut().insert("host", HeaderValue::from_static("x"));
    send.send_request(request).await.unwrap()
}

#[tokio::test]
async fn upgrades_pass_two_proxies() {
    let container = listen(exec).await;
    let through = |next: SocketAddr| {
        move |request: Request<Incoming>| async move {
            let target = request.uri().path_and_query().unwrap().clone();
            let response = proxy::forward(request, &Backend::Tcp(next), target, HeaderValue::from_static("b")).await;
            Ok(response.unwrap().map(BodyExt::boxed_unsync))
        }
    };
    let kubelet = listen(through(container)).await;
    let apiserver = listen(through(kubelet)).await;
    let wires = [(Wire::Spdy, "v4.channel.k8s.io"), (Wire::WebSocket, "v5.channel.k8s.io")];
    for (wire, protocol) in wires {
        let headers = client::upgrade_headers(wire, &[protocol]);
        let response = ask(apiserver, "/exec/x?stdin=true&stdout=true&stderr=true", headers).await;
        assert_eq!(response.status(), 101);
        let agreed = client::agreed(response.headers()).unwrap();
        assert_eq!(agreed.protocol, protocol);
        let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let client = client::Command::open(io, &agreed, ALL).await.unwrap();
        let (out, err, last) = converse(client, b"hello").await;
        assert_eq!((out.as_slice(), err.as_slice()), (&b"HELLO"[..], &b"oops"[..]));
        assert!(last.contains("NonZeroExitCode"), "{last}");
    }
    let response = ask(apiserver, "/exec/x", http::HeaderMap::new()).await;
    let status = response.status();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((status.as_u16(), &text[..]), (400, &b"you must specify at least 1 of stdin, stdout, stderr\n"[..]));
}
