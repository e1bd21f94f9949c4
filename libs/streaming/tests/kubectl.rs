//! The real kubectl against our server ends, where one is installed: exec and port-forward as people use them.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, process::Stdio};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_streaming::{
    command::{self, Exit, Options},
    forward,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

type Answer = Response<Full<Bytes>>;

fn json(value: &serde_json::Value) -> Answer {
    let mut response = Response::new(Full::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

async fn shell(pending: command::Pending, query: &str) {
    let mut command = pending.streams().await.unwrap();
    let mut input = Vec::new();
    if !query.contains("command=quick")
        && let Some(mut stdin) = command.stdin.take()
    {
        stdin.read_to_end(&mut input).await.unwrap();
    }
    if let Some(mut stdout) = command.stdout.take() {
        stdout.write_all(&input.to_ascii_uppercase()).await.unwrap();
        stdout.write_all(b"done\n").await.unwrap();
    }
    if let Some(mut stderr) = command.stderr.take() {
        stderr.write_all(b"careful\n").await.unwrap();
    }
    let code = if query.contains("command=fail") { 7 } else { 0 };
    command.exit.send(Exit::Code(code)).await;
}

async fn echo(mut forwards: forward::PortForward) {
    while let Some(forward) = forwards.next().await {
        let (near, far) = tokio::io::duplex(1 << 10);
        tokio::spawn(async move {
            let (read, mut write) = tokio::io::split(far);
            let mut line = String::new();
            BufReader::new(read).read_line(&mut line).await.unwrap();
            write.write_all(format!("you said {line}").as_bytes()).await.unwrap();
        });
        tokio::spawn(forward.serve("default_web", Ok(near)));
    }
}

async fn handle(mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let answered = match request.uri().path() {
        "/api" => return Ok(json(&json!({"kind": "APIVersions", "versions": ["v1"]}))),
        "/version" => return Ok(json(&json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"}))),
        "/apis" => return Ok(json(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))),
        "/api/v1" => {
            let pods = json!({"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                "verbs": ["get"], "shortNames": ["po"]});
            return Ok(json(&json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]})));
        }
        "/api/v1/namespaces/default/pods/web" => {
            return Ok(json(&json!({"kind": "Pod", "apiVersion": "v1",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
                "status": {"phase": "Running"}})));
        }
        "/api/v1/namespaces/default/pods/web/exec" => Options::from_query(&query).and_then(|options| {
            let (response, pending) = command::upgrade(&mut request, options)?;
            let query = query.clone();
            tokio::spawn(async move { shell(pending, &query).await });
            Ok(response)
        }),
        "/api/v1/namespaces/default/pods/web/portforward" => forward::upgrade(&mut request).map(|(response, pending)| {
            tokio::spawn(async move { echo(pending.forwards().await.unwrap()).await });
            response
        }),
        path => panic!("unexpected request for {path}"),
    };
    Ok(match answered {
        Ok(response) => response.map(|()| Full::default()),
        Err(rejection) => rejection.response().map(Full::from),
    })
}

async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(handle))
                    .with_upgrades();
                let _ = connection.await;
            });
        }
    });
    address
}

/// A home of its own, so that no kubeconfig and no cache of the user's is touched.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knarr-streaming-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn kubectl(&self, server: SocketAddr, websockets: bool, arguments: &[&str]) -> Option<Command> {
        let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join("kubectl").is_file());
        if !found {
            eprintln!("no kubectl is installed: nothing compared");
            return None;
        }
        let mut command = Command::new("kubectl");
        command
            .arg(format!("--server=http://{server}"))
            .args(arguments)
            .env("HOME", &self.0)
            .env("KUBECONFIG", self.0.join("none"))
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets.to_string())
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Some(command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_exec_on_both_wires() {
    let (home, server) = (Home::new("exec"), server().await);
    for websockets in [true, false] {
        for (command, want) in [
            ("cat", (Some(0), "HELLO\ndone\n", "careful\n")),
            ("fail", (Some(7), "HELLO\ndone\n", "careful\ncommand terminated with exit code 7\n")),
        ] {
            let Some(mut kubectl) = home.kubectl(server, websockets, &["exec", "-i", "web", "--", command]) else {
                return;
            };
            let mut child = kubectl.spawn().unwrap();
            child.stdin.take().unwrap().write_all(b"hello\n").await.unwrap();
            let output = child.wait_with_output().await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let got = (output.status.code(), text(&output.stdout), text(&output.stderr));
            assert_eq!((got.0, got.1.as_str(), got.2.as_str()), want, "websockets: {websockets}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_exec_ends_with_its_command_though_input_stays_open() {
    let (home, server) = (Home::new("quick"), server().await);
    for websockets in [true, false] {
        let Some(mut kubectl) = home.kubectl(server, websockets, &["exec", "-i", "web", "--", "quick"]) else { return };
        let mut child = kubectl.spawn().unwrap();
        let stdin = child.stdin.take();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait_with_output()).await;
        let output = ended.expect("kubectl ends by itself").unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"done\n"[..]), "{websockets}");
        drop(stdin);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_exec_carries_megabytes_whole() {
    let (home, server) = (Home::new("bulk"), server().await);
    let input: Vec<u8> = (0..4u32 << 20).map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26).collect();
    let want = [input.to_ascii_uppercase().as_slice(), b"done\n"].concat();
    for websockets in [true, false] {
        let Some(mut kubectl) = home.kubectl(server, websockets, &["exec", "-i", "web", "--", "cat"]) else { return };
        let mut child = kubectl.spawn().unwrap();
        let (mut stdin, bytes) = (child.stdin.take().unwrap(), input.clone());
        let feeding = tokio::spawn(async move { stdin.write_all(&bytes).await.unwrap() });
        let output = child.wait_with_output().await.unwrap();
        feeding.await.unwrap();
        assert!(output.stdout == want, "websockets: {websockets}, {} bytes", output.stdout.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_port_forward_on_both_wires() {
    let (home, server) = (Home::new("forward"), server().await);
    for websockets in [true, false] {
        let Some(mut kubectl) = home.kubectl(server, websockets, &["port-forward", "pod/web", ":80"]) else { return };
        let mut child = kubectl.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap();
        let address = line.strip_prefix("Forwarding from ").unwrap().split(' ').next().unwrap().to_owned();
        for word in ["one\n", "two\n"] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(word.as_bytes()).await.unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, format!("you said {word}"), "websockets: {websockets}");
        }
        child.kill().await.unwrap();
    }
}
