//! exec, attach and port-forward as a kubelet fetches them, and the pod network behind them.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use std::path::Path;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use knarr_runtime::Runtime;
use knarr_runtime::network::OwnSettings;
use streaming::client::{Command, PortForward, agreed, upgrade_headers};
use streaming::command::{Options, Size};
use streaming::negotiate::{Agreed, Wire};
use streaming::stream::Receive;
use support::{Namespace, Node, Place, eventually, script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Io = TokioIo<hyper::upgrade::Upgraded>;

/// Fetches a URL; the status code if it does not lead to streams.
async fn fetch(url: &str, wire: Wire, protocols: &[&'static str]) -> Result<(Io, Agreed), u16> {
    let uri: http::Uri = url.parse().unwrap();
    let connection = tokio::net::TcpStream::connect(uri.authority().unwrap().as_str()).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    tokio::spawn(driver.with_upgrades());
    let mut request = http::Request::post(uri.path_and_query().unwrap().as_str());
    request.headers_mut().unwrap().extend(upgrade_headers(wire, protocols));
    request = request.header("host", uri.authority().unwrap().as_str());
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(response.status().as_u16());
    }
    let agreed = agreed(response.headers()).unwrap();
    Ok((TokioIo::new(hyper::upgrade::on(response).await.unwrap()), agreed))
}

async fn command(url: &str, wire: Wire, options: Options) -> Command {
    let protocol = if wire == Wire::Spdy { "v4.channel.k8s.io" } else { "v5.channel.k8s.io" };
    let (io, agreed) = fetch(url, wire, &[protocol]).await.unwrap();
    Command::open(io, &agreed, options).await.unwrap()
}

async fn all(stream: &mut Receive) -> String {
    let mut text = Vec::new();
    while let Some(bytes) = stream.next().await {
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text).unwrap()
}

/// Reads until the text is there.
async fn until(stream: &mut Receive, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let more = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        text += std::str::from_utf8(&more.expect("in time").unwrap_or_else(|| panic!("ended after {text:?}"))).unwrap();
    }
    text
}

async fn exec(node: &Node, id: &str, text: &str, options: Options) -> String {
    let request = cri::ExecRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", text].map(String::from).to_vec(),
        tty: options.tty,
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
    };
    node.cri().exec(request).await.unwrap().into_inner().url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_streams_on_both_wires() {
    let node = Node::start().await;
    let id = node.container("exec", script("main", "sleep 1000")).await;
    let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
    for wire in [Wire::Spdy, Wire::WebSocket] {
        let url = exec(&node, &id, "echo err >&2; cat; exit 3", options).await;
        let mut client = command(&url, wire, options).await;
        let mut stdin = client.stdin.take().unwrap();
        let large = "x".repeat(200_000);
        stdin.write_all(large.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
        assert_eq!(all(client.stdout.as_mut().unwrap()).await, large);
        assert_eq!(all(client.stderr.as_mut().unwrap()).await, "err\n");
        let end = all(&mut client.error).await;
        assert!(end.contains("NonZeroExitCode") && end.contains("\"3\""), "{end}");
        assert_eq!(fetch(&url, wire, &["v4.channel.k8s.io"]).await.err(), Some(404), "a URL is good once");
    }
}

/// Whoever runs the runtime hears that its socket cannot be had, and may run it again: nothing of it was given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_whose_socket_cannot_be_had_may_run_again() {
    let place = Place::new();
    let socket = place.dir.path().join("cri.sock");
    // No file that could be removed.
    std::fs::create_dir(&socket).unwrap();
    let config = knarr_runtime::Config { socket: Some(socket.clone()), ..place.config() };
    let runtime = Runtime::start_with(config, std::sync::Arc::new(support::NoNetwork)).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(20), runtime.run(Default::default())).await;
    assert!(refused.expect("an answer").is_err());

    std::fs::remove_dir(&socket).unwrap();
    runtime.images().import(support::image::busybox().as_slice()).unwrap();
    let node = Node::of(place, runtime);
    let id = node.container("again", script("main", "sleep 1000")).await;
    let options = Options { stdin: false, stdout: true, stderr: false, tty: false };
    let url = exec(&node, &id, "echo there", options).await;
    assert_eq!(all(command(&url, Wire::Spdy, options).await.stdout.as_mut().unwrap()).await, "there\n");
    assert_eq!(node.ended(&node.container("end", script("main", "exit 5")).await).await.exit_code, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal() {
    let node = Node::start().await;
    let id = node.container("tty", script("main", "sleep 1000")).await;
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    let url = exec(&node, &id, "tty; read line; stty size; echo got $line; exit 4", options).await;
    let mut client = command(&url, Wire::WebSocket, options).await;
    client.resize(Size { width: 100, height: 30 }).await.unwrap();
    let mut out = client.stdout.take().unwrap();
    until(&mut out, "/dev/pts/0").await;
    client.stdin.as_mut().unwrap().write_all(b"hello\r").await.unwrap();
    let said = until(&mut out, "got hello").await;
    assert!(said.contains("30 100"), "{said:?}");
    assert!(all(&mut client.error).await.contains("\"4\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_asks_for_its_terminals_size_at_once_is_told() {
    let node = Node::start().await;
    let id = node.container("size", script("main", "sleep 1000")).await;
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    for wire in [Wire::Spdy, Wire::WebSocket].repeat(5) {
        let url = exec(&node, &id, "stty size", options).await;
        let mut client = command(&url, wire, options).await;
        // On the way from the client.
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.resize(Size { width: 100, height: 30 }).await.unwrap();
        assert_eq!(all(client.stdout.as_mut().unwrap()).await, "30 100\r\n");
    }
    // Who has no size runs all the same.
    let url = exec(&node, &id, "echo there", options).await;
    let mut client = command(&url, Wire::WebSocket, options).await;
    assert_eq!(all(client.stdout.as_mut().unwrap()).await, "there\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching() {
    let node = Node::start().await;
    let mut config = script("main", "while read line; do echo out $line; echo err $line >&2; done; echo end");
    (config.stdin, config.stdin_once) = (true, true);
    let id = node.container("attach", config).await;
    let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
    let attach = async |options: Options| {
        let request = cri::AttachRequest {
            container_id: id.clone(),
            stdin: options.stdin,
            tty: false,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let url = node.cri().attach(request).await.unwrap().into_inner().url;
        command(&url, Wire::Spdy, options).await
    };
    let mut client = attach(options).await;
    let mut watcher = attach(Options { stdin: false, ..options }).await;
    let mut stdin = client.stdin.take().unwrap();
    // The second client is attached once it hears something.
    let mut heard = String::new();
    while heard.is_empty() {
        stdin.write_all(b"ping\n").await.unwrap();
        until(client.stdout.as_mut().unwrap(), "out ping").await;
        let next = watcher.stdout.as_mut().unwrap().next();
        if let Ok(Some(bytes)) = tokio::time::timeout(Duration::from_millis(100), next).await {
            heard = String::from_utf8(bytes.to_vec()).unwrap();
        }
    }
    until(client.stderr.as_mut().unwrap(), "err ping").await;
    stdin.shutdown().await.unwrap();
    until(client.stdout.as_mut().unwrap(), "end").await;
    let status = node.ended(&id).await;
    assert_eq!(status.exit_code, 0);
    assert!(support::log(&status).contains("stdout F end\n"));
}

/// A client that has no more to say leaves a container whose input is not its alone, and that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_attached_client_that_ends_its_input_leaves() {
    let node = Node::start().await;
    let mut config = script("main", "read line; echo got $line; exec sleep 60");
    config.stdin = true;
    let id = node.container("attach", config).await;
    let options = Options { stdin: true, stdout: true, stderr: false, tty: false };
    let request = cri::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: false };
    let url = node.cri().attach(request).await.unwrap().into_inner().url;
    let mut client = command(&url, Wire::Spdy, options).await;
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"ping\n").await.unwrap();
    until(client.stdout.as_mut().unwrap(), "got ping").await;
    stdin.shutdown().await.unwrap();
    assert!(all(&mut client.error).await.contains("Success"));
    let request = cri::ContainerStatusRequest { container_id: id, verbose: false };
    let status = node.cri().container_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_terminal() {
    let node = Node::start().await;
    let mut config = script("main", "tty; read line; stty size; echo got $line; sleep 1000");
    (config.stdin, config.tty) = (true, true);
    let id = node.container("console", config).await;
    let request = cri::AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let url = node.cri().attach(request).await.unwrap().into_inner().url;
    let mut client = command(&url, Wire::WebSocket, Options { stdin: true, stdout: true, stderr: false, tty: true }).await;
    client.resize(Size { width: 90, height: 20 }).await.unwrap();
    // The size goes another way than the input does.
    let size = async || node.exec(&id, &["stty", "-F", "/dev/console", "size"]).await.0;
    eventually("the terminal has the size", async || (size().await == "20 90\n").then_some(())).await;
    client.stdin.as_mut().unwrap().write_all(b"hello\r").await.unwrap();
    let said = until(client.stdout.as_mut().unwrap(), "got hello").await;
    assert!(said.contains("20 90"), "{said:?}");
    let log = support::log(&node.status(&id).await);
    assert!(log.starts_with("stdout F /dev/console") || log.starts_with("stdout F /dev/pts/0"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_have_addresses_and_ports_are_forwarded() {
    let place = Place::new();
    let namespace = Namespace::new();
    let mut config = place.config();
    config.own =
        OwnSettings { pod_cidr: Some("10.42.9.0/24".into()), namespace: Some(namespace.path()), ..OwnSettings::default() };
    let runtime = Runtime::start(config.clone()).await.unwrap();
    let node = Node::of(place, runtime);
    node.runtime.images().import(support::image::busybox().as_slice()).unwrap();
    let pod = node.pod("server");
    let sandbox = node.run(&pod).await;
    let id = node
        .create(
            &sandbox,
            &pod,
            script(
                "main",
                "ip -4 -o addr show eth0 | grep -o 'inet [0-9./]*'; while :; do echo pong | nc -l -p 8080 127.0.0.1; done",
            ),
        )
        .await;
    node.start_container(&id).await.unwrap();
    let address = async || {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
        node.cri().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap().network.unwrap().ip
    };
    let first = address().await;
    assert!(first.starts_with("10.42.9."), "{first}");
    node.says(&id, |log| log.contains(&format!("inet {first}/32"))).await;
    let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![] };
    let url = node.cri().port_forward(request).await.unwrap().into_inner().url;
    let (io, agreed) = fetch(&url, Wire::Spdy, &["portforward.k8s.io"]).await.unwrap();
    let client = PortForward::open(io, &agreed).await.unwrap();
    let mut answer = [0; 5];
    let answers = async {
        // The server listens soon after it has said its address.
        while client.connect(8080).await.unwrap().0.read_exact(&mut answer).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answers).await.unwrap();
    assert_eq!(&answer, b"pong\n");
    let (_data, mut error) = client.connect(9).await.unwrap();
    assert!(all(&mut error).await.contains("error forwarding port 9"));
    // Addresses survive a restart of the runtime, and go with their pods.
    let place = node.stop().await;
    let node = Node::of(place, Runtime::start(config).await.unwrap());
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let status = node.cri().pod_sandbox_status(request).await;
    assert_eq!(status.unwrap().into_inner().status.unwrap().network.unwrap().ip, first);
    node.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    let leases = |dir: &Path| std::fs::read_dir(dir.join("state/network/addresses")).map_or(0, |all| all.count());
    assert_eq!(leases(node.place.dir.path()), 0);
}
