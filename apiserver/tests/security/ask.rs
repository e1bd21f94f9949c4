//! Short ways to ask as somebody.

use knarr_apiserver::testing::TestServer;
use kube::Client;
use serde_json::Value;

/// What became of a request: the code, and the object or the message of the refusal.
pub type Answer = (u16, Value);

/// Asks with a JSON body (`Null`: none).
pub async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind).body(bytes).unwrap();
    match client.request::<Value>(request).await {
        Ok(object) => (200, object),
        Err(kube::Error::Api(status)) => (status.code, Value::from(status.message.clone())),
        Err(other) => panic!("{method} {path}: {other}"),
    }
}

/// Asks and insists on success.
pub async fn done(client: &Client, method: &str, path: &str, body: &Value) -> Value {
    match ask(client, method, path, body).await {
        (200, object) => object,
        refused => panic!("{method} {path}: {refused:?}"),
    }
}

/// The code and the message of a refusal; 0 and nothing if it went well.
pub async fn refusal(client: &Client, method: &str, path: &str, body: &Value) -> (u16, String) {
    match ask(client, method, path, body).await {
        (200, _) => (0, String::new()),
        (code, message) => (code, message.as_str().unwrap_or_default().to_owned()),
    }
}

/// A client over HTTPS that shows a bearer token, or nothing.
pub fn with_token(server: &TestServer, token: Option<&str>) -> Client {
    let address = server.server.address().expect("the server listens");
    let mut config = kube::Config::new(format!("https://{address}").parse().unwrap());
    let authority = server.server.security().expect("the server has security").pki.authority_pem();
    config.root_cert = Some(api::pem::blocks(authority.as_bytes()).into_iter().map(|block| block.data).collect());
    config.auth_info.token = token.map(|token| token.to_owned().into());
    Client::try_from(config).unwrap()
}
