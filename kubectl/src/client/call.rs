//! Requests before they are sent.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::Value;

/// The media type of patches and bodies in JSON.
pub const JSON: &str = "application/json";

/// What requests accept whose answers are printed as they come: anything, best JSON.
pub const ANY: &str = "application/json, */*";

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The verb.
    pub method: Method,
    /// Below the server's address, escaped: `/api/v1/namespaces/default/pods`.
    pub path: String,
    /// Pairs, not escaped.
    pub query: Vec<(String, String)>,
    /// Besides the endpoint's.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
    /// What the server is told of how long it has, where nothing was asked for.
    timeout: &'static str,
    /// Whether nobody is told of it.
    pub unlogged: bool,
}

impl Call {
    /// A request without a body that asks for JSON.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(JSON));
        Self { method, path: path.into(), query: Vec::new(), headers, body: Bytes::new(), timeout: "", unlogged: false }
    }

    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST of JSON.
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    /// A PUT of JSON.
    pub fn put(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::PUT, path).json(body)
    }

    /// A PATCH of the given media type (`application/merge-patch+json`).
    pub fn patch(path: impl Into<String>, media: &str, body: impl Into<Bytes>) -> Self {
        Self::new(Method::PATCH, path).body(media, body)
    }

    /// A DELETE.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// With one more parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// With one more parameter unless it is empty.
    #[must_use]
    pub fn query_if(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.query(name, value) }
    }

    /// With a header in place of its older value. Names and values that no header may have are left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Asks for other media types.
    #[must_use]
    pub fn accept(self, media: &str) -> Self {
        self.header(header::ACCEPT, media)
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, media: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header(header::CONTENT_TYPE, media)
    }

    /// With a body in JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body(JSON, body.to_string())
    }

    /// As upstream asks those that are no servers of a cluster: `-v` does not tell of it.
    #[must_use]
    pub fn unlogged(mut self) -> Self {
        self.unlogged = true;
        self
    }

    /// With the time that discovery has where nothing else was asked for.
    #[must_use]
    pub fn soon(mut self) -> Self {
        self.timeout = "32s";
        self
    }

    /// Path and query, with the time that the server is told it has (empty for none). Parameters are sorted, as Go has them.
    pub(super) fn target(&self, timeout: &str) -> String {
        let timeout = if timeout.is_empty() { self.timeout } else { timeout };
        let timeout = Some(("timeout", timeout)).filter(|(_, timeout)| !timeout.is_empty());
        let mut query: Vec<(&str, &str)> = self.query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        query.extend(timeout.filter(|_| !query.iter().any(|(name, _)| *name == "timeout")));
        if query.is_empty() {
            return self.path.clone();
        }
        query.sort_by_key(|(name, _)| *name);
        let plus = |text: &str| escape(text, " ").replace(' ', "+");
        let pairs: Vec<String> = query.iter().map(|(k, v)| format!("{}={}", plus(k), plus(v))).collect();
        let joint = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{joint}{}", self.path, pairs.join("&"))
    }
}

/// Text as part of a URL; what is in `also` stays as it is besides letters, digits and `-._~`.
pub fn escape(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_sorted_and_escaped() {
        let call = Call::get("/api/v1/pods").query("labelSelector", "a=b,c in (d)").query_if("limit", "").query("a", "b");
        assert_eq!(call.target(""), "/api/v1/pods?a=b&labelSelector=a%3Db%2Cc+in+%28d%29");
        assert_eq!(Call::get("/api").soon().target(""), "/api?timeout=32s");
        assert_eq!(Call::get("/api").soon().target("1s"), "/api?timeout=1s");
    }
}
