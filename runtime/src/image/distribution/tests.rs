//! Against registries on the loopback that behave, and that do not.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;

use super::super::name::normalize;
use super::super::pull::client;
use super::*;

type Body = BoxBody<Bytes, Infallible>;

fn says(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into()).boxed()).unwrap()
}

fn says_ever_more(status: u16) -> Response<Body> {
    let chunk = || Ok(Frame::data(Bytes::from_static(&[b' '; 65_536])));
    Response::builder().status(status).body(BodyExt::boxed(StreamBody::new(futures::stream::repeat_with(chunk)))).unwrap()
}

/// A server that answers as told; returns its address and what it was asked: path with query, and who by.
async fn serve(
    answer: impl Fn(&str, &str) -> Response<Body> + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<[String; 2]>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
    let (answer, heard) = (Arc::new(answer), asked.clone());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (answer, heard) = (answer.clone(), heard.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let path = request.uri().to_string();
                let who = request.headers().get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap()).to_owned();
                let response = answer(&path, &who);
                heard.lock().push([path, who]);
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    });
    (address, asked)
}

fn of(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

fn described(content: &[u8]) -> Descriptor {
    Descriptor { digest: of(content), size: content.len() as u64, ..Descriptor::default() }
}

fn asking(host: &str, name: &str, who: Credentials) -> (Client, Reference) {
    let reference = normalize(&format!("{host}/{name}")).unwrap();
    (client(None, host, &reference, who).unwrap(), reference)
}

fn told<T>(result: Result<T>) -> String {
    crate::error::chain(&result.err().unwrap())
}

#[tokio::test]
async fn a_token_an_index_and_a_blob_elsewhere() {
    let (elsewhere, asked_elsewhere) = serve(|_, _| says(200, &[], "layer")).await;
    let here = Arc::new(Mutex::new(String::new()));
    let at = here.clone();
    let manifest = format!(r#"{{"config": {{"digest": "{}", "size": 2}}, "layers": []}}"#, of(b"{}"));
    let entry = |digest: &str, platform: &str| format!(r#"{{"digest": "{digest}", "platform": {{{platform}}}}}"#);
    let (here_digest, machine) = (of(manifest.as_bytes()), process::version::architecture());
    let index = [
        entry(&of(b"other"), r#""os": "linux", "architecture": "pdp11""#),
        entry(&of(b"newer"), &format!(r#""os": "linux", "architecture": "{machine}", "variant": "v3""#)),
        entry(&here_digest, &format!(r#""os": "linux", "architecture": "{machine}""#)),
    ];
    let index = format!(r#"{{"manifests": [{}]}}"#, index.join(","));
    let index_digest = of(index.as_bytes());
    let (host, asked) = serve(move |path, who| {
        let challenge = format!(r#"Bearer realm="http://{}/token?x=1",service="ours""#, at.lock());
        match (path, who) {
            (path, "Basic bWU6c2VjcmV0") if path.starts_with("/token") => says(200, &[], r#"{"access_token": "t0k"}"#),
            (_, "") => says(401, &[("www-authenticate", &challenge)], ""),
            ("/v2/a/b/manifests/1", _) => says(200, &[], index.clone()),
            (path, _) if path.ends_with(&here_digest) => says(200, &[], manifest.clone()),
            (path, _) if path.ends_with(&of(b"{}")) => says(200, &[], "{}"),
            _ => says(307, &[("location", &format!("http://{elsewhere}/bucket?signature=s"))], ""),
        }
    })
    .await;
    *here.lock() = host.clone();
    let (client, reference) = asking(&host, "a/b:1", Credentials::Basic("me".into(), "secret".into()));
    let found = client.manifest(&reference).await.unwrap();
    assert_eq!(found, Manifest { digest: index_digest, config: described(b"{}"), layers: vec![] });
    assert_eq!(client.config(&found.config).await.unwrap(), b"{}");
    let mut layer = Vec::new();
    client.blob(&described(b"layer"), &mut layer).await.unwrap();
    assert_eq!(layer, b"layer");
    let asked = asked.lock();
    assert_eq!(asked[0], ["/v2/a/b/manifests/1", ""], "nothing is shown before it is asked for");
    assert_eq!(asked[1][0], "/token?x=1&service=ours&scope=repository%3Aa%2Fb%3Apull");
    assert!(asked[2..].iter().all(|[_, who]| who == "Bearer t0k"));
    assert_eq!(*asked_elsewhere.lock(), [["/bucket?signature=s".to_owned(), String::new()]], "not shown to anybody else");
}

/// A bare machine has none, and its list may be empty: a registry on it is asked without any.
#[test]
fn a_machine_without_authorities_pulls_plainly() {
    let this = std::env::current_exe().unwrap();
    let test = concat!(module_path!(), "::a_token_an_index_and_a_blob_elsewhere");
    let (_, test) = test.split_once("::").unwrap();
    let mut again = std::process::Command::new(this);
    let ended = again.args(["--exact", test]).env("SSL_CERT_FILE", "/dev/null").env_remove("SSL_CERT_DIR").output().unwrap();
    let printed = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && printed.contains("1 passed"), "{printed}");
}

#[tokio::test]
async fn no_answer_is_taken_in_whole_whatever_its_size() {
    let (host, _) = serve(|path, _| says_ever_more(if path.contains("/broken/") { 500 } else { 200 })).await;
    let (client, reference) = asking(&host, "a:1", Credentials::Anonymous);
    assert_eq!(told(client.manifest(&reference).await), "the registry's manifest is larger than 4194304 bytes");
    let mut sink = tokio::io::sink();
    let blob = told(client.blob(&described(b"layer"), &mut sink).await);
    assert_eq!(blob, "blob is larger than the 5 bytes that its manifest says");
    let huge = Descriptor { size: 1 << 40, ..described(b"") };
    assert_eq!(told(client.config(&huge).await), "the image's configuration is larger than 8388608 bytes");
    let challenge = format!(r#"Bearer realm="http://{host}/token""#);
    let challenge = http_auth::parse_challenges(&challenge).unwrap().remove(0);
    assert_eq!(told(client.token(&challenge).await.map(drop)), "the registry's token is larger than 65536 bytes");
    let (client, reference) = asking(&host, "broken/a:1", Credentials::Anonymous);
    let error = told(client.manifest(&reference).await);
    assert_eq!(error, format!("GET http://{host}/v2/broken/a/manifests/1: 500 Internal Server Error"));
}

#[tokio::test]
async fn what_a_registry_sends_is_looked_at_before_it_is_used() {
    let (host, asked) = serve(|path, _| match path {
        "/v2/both/manifests/1" => says(200, &[], r#"{"manifests": [], "config": {"digest": ""}, "layers": []}"#),
        "/v2/nest/manifests/1" => {
            let machine = process::version::architecture();
            let entry = format!(r#"{{"digest": "../../x", "platform": {{"os": "linux", "architecture": "{machine}"}}}}"#);
            says(200, &[], format!(r#"{{"manifests": [{entry}]}}"#))
        }
        "/v2/none/manifests/1" => says(200, &[], r#"{"manifests": []}"#),
        path if path.starts_with("/token") => says(200, &[], r#"{"token": "a\nb: c"}"#),
        "/v2/gone/manifests/1" => {
            says(404, &[], r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#)
        }
        "/v2/asks/manifests/1" => says(401, &[("www-authenticate", "Basic realm=x")], ""),
        _ => says(200, &[], "something else"),
    })
    .await;
    let manifest = async |name: &str| {
        let (client, reference) = asking(&host, name, Credentials::Anonymous);
        told(client.manifest(&reference).await)
    };
    assert_eq!(manifest("both:1").await, "the manifest is neither an image's nor an index");
    assert_eq!(manifest("nest:1").await, r#"digest "../../x": invalid reference format"#);
    assert_eq!(manifest("none:1").await, format!("the image's index has none for {}", process::version::platform()));
    let wanted = of(b"what was asked for");
    let other = hex(&Sha256::digest(b"something else"));
    assert_eq!(manifest(&format!("a@{wanted}")).await, format!("what the registry sent has digest {other}, not {wanted}"));
    let gone = format!("GET http://{host}/v2/gone/manifests/1: 404 Not Found: MANIFEST_UNKNOWN: manifest unknown");
    assert_eq!(manifest("gone:1").await, gone);
    assert_eq!(manifest("asks:1").await, format!("GET http://{host}/v2/asks/manifests/1: 401 Unauthorized"));
    let (mut client, _) = asking(&host, "a:1", Credentials::Basic("me".into(), "secret".into()));
    let challenge = format!(r#"Bearer realm="http://{host}/token""#);
    let challenge = http_auth::parse_challenges(&challenge).unwrap().remove(0);
    assert_eq!(told(client.token(&challenge).await.map(drop)), "the registry's token is malformed");
    client.scheme = "https";
    asked.lock().clear();
    let refused = format!(r#"credentials are not sent to "http://{host}/token", which is not encrypted"#);
    assert_eq!((told(client.token(&challenge).await.map(drop)), asked.lock().len()), (refused, 0));
    let mut layer = Vec::new();
    let short = told(client.blob(&Descriptor { digest: "sha256:/../x".into(), ..described(b"") }, &mut layer).await);
    assert_eq!(short, r#"digest "sha256:/../x": invalid reference format"#);
}
