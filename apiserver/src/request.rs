//! What a path and a method ask for: upstream's `RequestInfo`, without a route a kind.

use http::Method;

/// A request taken apart; what authorization, admission and dispatch look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether this names an API resource (`/api/v1/pods`) or not (`/healthz`, `/apis`).
    pub is_resource: bool,
    /// The path, with its percent-escapes undone.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method in
    /// lower case.
    pub verb: &'static str,
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// Empty for cluster-scoped requests and for those across all namespaces.
    pub namespace: String,
    /// `pods`.
    pub resource: String,
    /// `status`; empty for the main resource.
    pub subresource: String,
    /// The object's name; empty for collections (but set by `fieldSelector=metadata.name=x`).
    pub name: String,
    /// Whether the path has a place for a namespace (`/namespaces/x/pods`), which may be empty.
    pub in_namespace: bool,
    /// Whether it has a place for a name, which may be empty.
    pub is_named: bool,
    /// Whether the path says to watch (`/api/v1/watch/pods`).
    pub forced_watch: bool,
    /// Of a list or watch of pods: the node that `fieldSelector=spec.nodeName=x` asks for.
    pub selected_node: String,
    /// What follows the subresource (`/proxy/metrics/cadvisor` gives `metrics/cadvisor`).
    pub rest: String,
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        Method::CONNECT => "connect",
        _ => "",
    }
}

/// The value of the first `key` in a query, percent-decoded.
pub fn query_value(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        (k == key).then(|| decode(v))
    })
}

/// Undoes percent-encoding and `+` of a query component.
pub fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    unescape(&text.replace('+', " "))
}

/// Undoes percent-encoding; what is no valid escape stays as it is.
pub fn unescape(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |b: u8| (b as char).to_digit(16);
        if bytes[at] == b'%'
            && at + 2 < bytes.len()
            && let (Some(high), Some(low)) = (hex(bytes[at + 1]), hex(bytes[at + 2]))
        {
            out.push((high * 16 + low) as u8);
            at += 3;
            continue;
        }
        out.push(bytes[at]);
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Escapes what a path may not have.
fn escape(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Whether each `%` begins an escape.
pub fn is_escaped(text: &str) -> bool {
    let hex = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    text.split('%').skip(1).all(hex)
}

/// Whether a path ends where upstream's older forms (`/api/v1/watch/pods`, `/api/v1/proxy/nodes/x`) say of what they are.
pub fn ends_early(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    matches!(parts.as_slice(), ["api", _, "watch" | "proxy"] | ["apis", _, _, "watch" | "proxy"])
}

/// What a field selector says that `field` must be: `metadata.name=x` names the object for authorization.
pub fn selected<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let rest = term.strip_prefix(field)?;
        let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
        (!value.is_empty()).then_some(value)
    })
}

impl RequestInfo {
    /// Takes a request line apart.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let query = query.unwrap_or("");
        // Escapes are undone before anything else: `/%61pi` is `/api`, and `a%2Fb` is two names.
        let whole = unescape(path);
        let mut info = Self { path: whole.clone(), verb: plain_verb(method), ..Self::default() };
        let parts: Vec<&str> = whole.trim_matches('/').split('/').collect();
        let mut rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = verb_of(method);
        if let ["watch", after @ ..] = rest
            && !after.is_empty()
        {
            info.forced_watch = true;
            rest = after;
        }
        // `/namespaces/x/pods` is in x; `/namespaces/x` and its subresources are the namespace itself.
        if let ["namespaces", namespace, after @ ..] = rest {
            info.namespace = (*namespace).to_owned();
            if !after.is_empty() && !matches!(after, ["status" | "finalize", ..]) {
                rest = after;
                info.in_namespace = true;
            }
        }
        info.is_named = rest.len() > 1;
        info.resource = rest.first().copied().unwrap_or("").to_owned();
        info.name = rest.get(1).copied().unwrap_or("").to_owned();
        info.subresource = rest.get(2).copied().unwrap_or("").to_owned();
        if rest.len() > 3 {
            // Percent-escapes and a trailing slash matter to the thing behind a proxy: keep the text as it came, where its
            // parts can be told.
            let same = path.matches('/').count() == whole.matches('/').count();
            let path = &if same { path.to_owned() } else { escape(&whole) };
            let came: Vec<&str> = path.trim_matches('/').split('/').collect();
            let skip = path.len() - path.trim_start_matches('/').len()
                + came.iter().take(parts.len() - (rest.len() - 3)).map(|p| p.len() + 1).sum::<usize>();
            info.rest = path.get(skip..).unwrap_or("").to_owned();
        }
        if info.verb == "head" {
            info.verb = "get";
        }
        if info.name.is_empty() {
            info.verb = match info.verb {
                "get" => {
                    let watch = query_value(query, "watch")
                        .is_some_and(|v| !matches!(v.as_str(), "0" | "false" | "False" | "FALSE" | "f" | "F"));
                    if watch { "watch" } else { "list" }
                }
                "delete" => "deletecollection",
                verb => verb,
            };
            if matches!(info.verb, "list" | "watch" | "deletecollection") && query.contains("fieldSelector") {
                let selector = query_value(query, "fieldSelector").unwrap_or_default();
                info.name = selected(&selector, "metadata.name").unwrap_or("").to_owned();
                if info.resource == "pods" {
                    info.selected_node = selected(&selector, "spec.nodeName").unwrap_or("").to_owned();
                }
            }
        }
        if info.forced_watch {
            info.verb = "watch";
        }
        info
    }

    /// `pods`, `deployments.apps`: the resource as error messages name it.
    pub fn qualified_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        RequestInfo::parse(method, path, query)
    }

    fn line(method: &Method, uri: &str) -> String {
        let i = parse(method, uri);
        format!(
            "{} {}/{} ns={} {} {} sub={} rest={}",
            i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest
        )
    }

    #[test]
    fn paths_are_taken_apart_as_upstream_does() {
        let cases = [
            (Method::GET, "/api/v1/pods", "list /v1 ns= pods  sub= rest="),
            (Method::GET, "/api/v1/pods?watch=true", "watch /v1 ns= pods  sub= rest="),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/x", "watch /v1 ns=a pods x sub= rest="),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 ns=a namespaces a sub= rest="),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces a sub=finalize rest="),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection /v1 ns=a pods  sub= rest="),
            (Method::POST, "/api/v1/namespaces/a/pods/x/binding", "create /v1 ns=a pods x sub=binding rest="),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/x/status",
                "patch apps/v1 ns=a deployments x sub=status rest=",
            ),
            (Method::GET, "/api/v1/nodes/n/proxy/metrics/cadvisor", "get /v1 ns= nodes n sub=proxy rest=metrics/cadvisor"),
            (Method::GET, "/api/v1/namespaces/a/services/s:80/proxy/a/", "get /v1 ns=a services s:80 sub=proxy rest=a/"),
            (Method::GET, "/api/v1/secrets?fieldSelector=metadata.name%3Dx", "list /v1 ns= secrets x sub= rest="),
            (Method::GET, "/healthz", "get / ns=   sub= rest="),
            (Method::GET, "/apis/apps/v1", "get / ns=   sub= rest="),
            (Method::GET, "/%61pi/v1/%6Eodes/a%2Eb", "get /v1 ns= nodes a.b sub= rest="),
            (Method::GET, "/api/v1/namespaces/a%2Fpods/x", "get /v1 ns=a pods x sub= rest="),
            (Method::GET, "/api/v1/nodes/%6E/proxy/a%2Fb%20c", "get /v1 ns= nodes n sub=proxy rest=a/b%20c"),
            (Method::GET, "/api/v1/nodes/%6E/proxy/a/b%20c/", "get /v1 ns= nodes n sub=proxy rest=a/b%20c/"),
        ];
        for (method, uri, want) in cases {
            assert_eq!(line(&method, uri), want, "{uri}");
        }
    }
}
