//! What `--server`, a proxy's URL and `--request-timeout` say, read as Go reads URLs: with its complaints.

use std::time::Duration;

use api::field::go_quote;

use crate::{
    client::Endpoint,
    failure::{Failure, plain},
};

/// What is used of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
struct Url {
    scheme: String,
    /// The name, and `:***` for a password that was given.
    user: Option<String>,
    /// With the port, as it was written.
    host: String,
    path: String,
}

/// The scheme and what follows it.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

/// The first escape that is none, or that no host may have.
fn wrong_escape(text: &str, host: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let at = (0..bytes.len()).filter(|at| bytes[*at] == b'%').find(|at| {
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
        digits.is_none_or(|digits| host && digits < "80" && digits != "25")
    })?;
    let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]);
    Some(format!("invalid URL escape {}", go_quote(&shown)))
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

fn host(text: &str) -> Result<String, String> {
    let port = match text.starts_with('[') {
        true => &text[text.rfind(']').ok_or("missing ']' in host")? + 1..],
        false => text.rfind(':').map_or("", |at| &text[at..]),
    };
    if !is_port(port) {
        return Err(format!("invalid port {} after host", go_quote(port)));
    }
    if let Some(wrong) = wrong_escape(text, true) {
        return Err(wrong);
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    match text.chars().find(|c| !fits(*c)) {
        Some(wrong) => Err(format!("invalid character {} in host name", go_quote(&wrong.to_string()))),
        None => Ok(text.to_owned()),
    }
}

/// Go's `url.Parse`.
fn parse_url(text: &str) -> Result<Url, String> {
    if text.chars().any(|c| c < ' ' || c == '\x7f') {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let text = text.split('#').next().unwrap_or_default();
    let (scheme, rest) = scheme(text)?;
    let rest = rest.split('?').next().unwrap_or_default();
    let mut url = Url { scheme: scheme.to_ascii_lowercase(), ..Url::default() };
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let mut path = rest;
    if let Some(after) = rest.strip_prefix("//").filter(|after| !scheme.is_empty() || !after.starts_with('/')) {
        let end = after.find('/').unwrap_or(after.len());
        path = &after[end..];
        let (user, name) = after[..end].rsplit_once('@').map_or((None, &after[..end]), |(user, host)| (Some(user), host));
        url.user = user.map(|user| user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:***")));
        url.host = host(name)?;
    }
    if let Some(wrong) = wrong_escape(path, false) {
        return Err(wrong);
    }
    path.clone_into(&mut url.path);
    Ok(url)
}

/// What is wrong with a URL.
pub fn check(url: &str) -> Result<(), String> {
    parse_url(url).map(drop)
}

/// Where `https://host:6443/prefix`, `host` or `host:8080` is.
pub fn parse(server: &str) -> Result<Endpoint, Failure> {
    let wrong = || plain(format!("host must be a URL or a host:port pair: {}", go_quote(server)));
    let url = match parse_url(server) {
        Ok(url) if !url.scheme.is_empty() && !url.host.is_empty() => url,
        _ => {
            let unreachable = |why| Failure::Verbatim(format!("Unable to connect to the server: {why}"), 1);
            let url = parse_url(&format!("http://{server}")).map_err(unreachable)?;
            if !url.path.is_empty() && url.path != "/" {
                return Err(wrong());
            }
            url
        }
    };
    let authority = url.host.strip_suffix(':').unwrap_or(&url.host).to_owned();
    let (name, port) = match authority.rfind(':').filter(|_| !authority.ends_with(']')) {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority.as_str(), None),
    };
    let host = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).to_owned();
    let (port, invalid) = match port.map(|port| port.parse().map_err(|_| port)) {
        None => (if url.scheme == "https" { 443 } else { 80 }, None),
        Some(Ok(port)) => (port, None),
        Some(Err(port)) => (0, Some(format!("dial tcp: address {port}: invalid port"))),
    };
    let unreachable = match url.scheme.as_str() {
        "http" | "https" if name.contains(':') && !name.starts_with('[') => {
            Some(format!("dial tcp: lookup {name}: no such host"))
        }
        "http" | "https" if authority.is_empty() => Some("http: no Host in request URL".to_owned()),
        "http" | "https" => invalid,
        scheme => Some(format!("unsupported protocol scheme {}", go_quote(scheme))),
    };
    let prefix = url.path.trim_end_matches('/').to_owned();
    Ok(Endpoint { scheme: url.scheme, user: url.user, authority, host, port, prefix, unreachable, ..Endpoint::default() })
}

/// The hosts and ports of those among `servers` that can stand in for the endpoint; what is no address is nobody's.
pub fn others(endpoint: &Endpoint, servers: &[&str]) -> Vec<(String, u16)> {
    let all = servers.iter().filter_map(|server| parse(server).ok());
    let fit = all.filter(|other| other.unreachable.is_none() && other.scheme == endpoint.scheme);
    let places = fit.map(|other| (other.host, other.port));
    places.filter(|place| *place != (endpoint.host.clone(), endpoint.port)).collect()
}

/// How long a request may take: nothing or `0`, `30` (seconds), or a Go duration; and the same as the server is told it.
pub fn timeout(text: &str) -> Result<(Duration, String), Failure> {
    let parsed = match text.parse::<u32>() {
        _ if text.is_empty() => Some(jiff::SignedDuration::ZERO),
        Ok(seconds) => Some(jiff::SignedDuration::from_secs(seconds.into())),
        Err(_) => api::duration::parse_go(text).ok(),
    };
    let wrong = "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a \
                 corresponding time unit (e.g. 1s | 2m | 3h)";
    let parsed = parsed.ok_or_else(|| plain(wrong))?;
    let told = if parsed.is_zero() { String::new() } else { api::duration::go_string(parsed) };
    // One that is over before it began is none at all.
    Ok((Duration::try_from(parsed).unwrap_or_default(), told))
}

/// A proxy's `host:port`.
pub fn proxy_url(text: &str) -> Result<String, String> {
    let url = parse_url(text).map_err(|_| format!("could not parse: {text}"))?;
    if !matches!(url.scheme.as_str(), "http" | "https" | "socks5") {
        return Err(format!("unsupported scheme {}, must be http, https, or socks5", go_quote(&url.scheme)));
    }
    if url.scheme != "http" {
        return Err(format!("proxies with the scheme {} are not supported by this kubectl, only http", url.scheme));
    }
    Ok(if url.host.contains(':') { url.host } else { format!("{}:80", url.host) })
}

/// The proxy to go through: the cluster's, or the environment's unless the host is exempt or on this machine.
pub fn proxy(configured: &str, endpoint: &Endpoint) -> Result<Option<String>, Failure> {
    let variable = |name: &str| {
        let value = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
        value.ok().filter(|v| !v.is_empty())
    };
    let url = match configured {
        "" => {
            let loopback =
                endpoint.host == "localhost" || endpoint.host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
            let exempt = variable("NO_PROXY").is_some_and(|list| is_exempt(&endpoint.host, &list));
            let name = if endpoint.scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            let url = variable(name).filter(|_| !loopback && !exempt);
            url.map(|url| if url.contains("://") { url } else { format!("http://{url}") })
        }
        url => Some(url.to_owned()),
    };
    url.map(|url| proxy_url(&url)).transpose().map_err(plain)
}

fn is_exempt(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
        if entry == "*" || entry == host {
            return true;
        }
        if let (Some((network, bits)), Ok(std::net::IpAddr::V4(host))) = (entry.split_once('/'), host.parse())
            && let (Ok(network), Ok(bits)) = (network.parse::<std::net::Ipv4Addr>(), bits.parse::<u32>())
        {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            return u32::from(network) & mask == u32::from(host) & mask;
        }
        let suffix = entry.trim_start_matches('.');
        host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_hosts() {
        let parsed = |server: &str| parse(server).map(|e| e.url()).map_err(|e| e.to_string());
        for (server, want) in [
            ("https://a:6443/x/", "https://a:6443/x"),
            ("https://[::1]:6443", "https://[::1]:6443"),
            ("a:8080", "http://a:8080"),
            ("https://a", "https://a"),
            ("http://u:p@a:9?x=y#z", "http://u:***@a:9"),
            ("ftp://a", "ftp://a"),
            (":", "http://"),
        ] {
            assert_eq!(parsed(server), Ok(want.to_owned()), "{server}");
        }
        let pair = |server: &str| format!("error: host must be a URL or a host:port pair: \"{server}\"");
        let unreachable = |why: &str| format!("Unable to connect to the server: {why}");
        for (server, want) in [
            ("http://", pair("http://")),
            ("http://a b", pair("http://a b")),
            ("http://[::1", pair("http://[::1")),
            ("a/b", pair("a/b")),
            ("127.0.0.1:x", unreachable("invalid port \":x\" after host")),
            ("http:127.0.0.1", unreachable("invalid port \":127.0.0.1\" after host")),
            ("http://%zz", unreachable("invalid URL escape \"%zz\"")),
            ("x y", unreachable("invalid character \" \" in host name")),
        ] {
            assert_eq!(parsed(server), Err(want), "{server}");
        }
    }

    #[test]
    fn timeouts_are_seconds_or_durations() {
        for (text, seconds, told) in [("", 0, ""), ("0", 0, ""), ("5", 5, "5s"), ("2m", 120, "2m0s"), ("-1s", 0, "-1s")] {
            assert_eq!(timeout(text).unwrap(), (Duration::from_secs(seconds), told.to_owned()));
        }
        assert!(timeout("x").is_err() && timeout("-1").is_err());
    }

    #[test]
    fn exemptions_are_names_domains_and_ranges() {
        assert!(is_exempt("a.b.c", ".b.c") && is_exempt("a.b.c", "b.c") && is_exempt("10.1.2.3", "x,10.0.0.0/8"));
        assert!(!is_exempt("ab.c", "b.c") && !is_exempt("11.1.2.3", "10.0.0.0/8"));
    }
}
