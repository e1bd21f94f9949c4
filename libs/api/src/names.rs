//! Grammars of names: labels, subdomains, qualified names, label values, ports, environment variables.
//!
//! Every check returns what is wrong in upstream's words (`k8s.io/apimachinery/pkg/util/validation`); an empty list means valid.
//! The grammars are matched by hand: they run on every write, and a compiled regex for each would cost more memory than
//! everything else here.

use rand::Rng;

use crate::kind::NameRule;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const QUALIFIED_RE: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_RE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_1123_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_RE: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";

/// `must be no more than N characters`
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be no more than N bytes`: what upstream says of labels.
fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `MESSAGE (e.g. 'A',  or 'B', regex used for validation is 'RE')`, upstream's punctuation included.
pub fn regex_message(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

/// `must be between LOW and HIGH, inclusive`
pub fn range_message(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn is_lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Whether `value` is nonempty, made of `inner` bytes, and begins and ends with `edge` bytes.
fn shaped(value: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => edge(first) && edge(last) && bytes.iter().all(|&b| inner(b)),
        _ => false,
    }
}

fn is_label_1123(value: &str) -> bool {
    shaped(value, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label_1123)
}

fn is_qualified_part(value: &str) -> bool {
    shaped(value, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// An RFC 1123 label: `my-name`, at most 63 bytes.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label_1123(value) {
        errors.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_1123_RE,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// An RFC 1123 subdomain: `example.com`, at most 253 bytes.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !is_subdomain(value) {
        errors.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_RE,
            &["example.com"],
        ));
    }
    errors
}

/// An RFC 1035 label: like RFC 1123's but beginning with a letter.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label_1123(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        errors.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_RE,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// `*.` followed by an RFC 1123 subdomain.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_RE}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// A label key, annotation key (lowercased first) or finalizer: `[subdomain/]Name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let message = || {
        regex_message(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            QUALIFIED_RE,
            &["MyName", "my.name", "123-abc"],
        )
    };
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|e| {
                    let error = if e == too_long(SUBDOMAIN_MAX) { too_many_bytes(SUBDOMAIN_MAX) } else { e };
                    format!("prefix part {error}")
                }));
            }
            name
        }
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {} {tail}", message())];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_many_bytes(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", message()));
    }
    errors
}

/// A label's value: empty, or like a qualified name's last part.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_many_bytes(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        errors.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            LABEL_VALUE_RE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// An IANA service name: a container port's or probe's name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let bytes = value.as_bytes();
    if value.len() > 15 {
        errors.push(too_long(15));
    }
    if bytes.is_empty() || !bytes.iter().all(|&b| is_lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// 1-65535.
pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

/// `low..=high`.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![range_message(low, high)] }
}

/// An environment variable's name: printable ASCII without `=` (the rule since v1.34).
pub fn env_var_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![regex_message(
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
        "[ -<>-~]+",
        &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
    )]
}

/// An environment variable's name by the older, strict rule (`envFrom` prefixes' targets, service variables).
pub fn strict_env_var_name(value: &str) -> Vec<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let mut errors = Vec::new();
    if value.is_empty() || value.as_bytes()[0].is_ascii_digit() || !value.bytes().all(inner) {
        errors.push(regex_message(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    errors.extend(no_dots_prefix(value));
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        errors.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(no_dots_prefix(value));
    errors
}

fn no_dots_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// An HTTP header's name, as probes send it.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// An IPv4 or IPv6 address, leading zeros in IPv4 parts allowed as upstream's sloppy parser does.
pub fn parse_ip(value: &str) -> Option<std::net::IpAddr> {
    if let Ok(ip) = value.parse() {
        return Some(ip);
    }
    let parts: Vec<u8> = value
        .split('.')
        .map(|p| if p.bytes().all(|b| b.is_ascii_digit()) { p.parse().ok() } else { None })
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(std::net::IpAddr::from)
}

/// See [`parse_ip`].
pub fn ip(value: &str) -> Vec<String> {
    match parse_ip(value) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// A name that is one path segment (RBAC objects).
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => path_segment_prefix(value),
    }
}

fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// `metadata.name` by a kind's rule. `prefix` says that it is a `generateName`, where a trailing dash is fine.
pub fn object_name(rule: NameRule, value: &str, prefix: bool) -> Vec<String> {
    match rule {
        NameRule::AnySegment if prefix => return path_segment_prefix(value),
        // As upstream's rules for roles: a generated name's base is as good as a name, or not.
        NameRule::PathSegment | NameRule::AnySegment => return path_segment(value),
        _ => {}
    }
    // Upstream replaces the dash and the character before it, so that "a--" fails but "a-" passes.
    let masked = match value.strip_suffix('-') {
        Some(head) if prefix && !head.is_empty() => {
            let mut head: String = head.to_owned();
            head.pop();
            head + "a"
        }
        _ => value.to_owned(),
    };
    match rule {
        NameRule::DnsSubdomain => dns1123_subdomain(&masked),
        NameRule::DnsLabel => dns1123_label(&masked),
        NameRule::DnsLabel1035 => dns1035_label(&masked),
        NameRule::PathSegment | NameRule::AnySegment => Vec::new(),
    }
}

/// The characters of generated suffixes: no vowels and nothing that looks like another.
pub const ALPHANUMS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `n` random characters of [`ALPHANUMS`].
pub fn random_suffix(rng: &mut impl Rng, n: usize) -> String {
    (0..n).map(|_| char::from(ALPHANUMS[rng.random_range(0..ALPHANUMS.len())])).collect()
}

/// `metadata.generateName` with five random characters, cut so that the name has at most 63.
pub fn generate_name(base: &str, rng: &mut impl Rng) -> String {
    const SUFFIX: usize = 5;
    let mut end = base.len().min(LABEL_MAX - SUFFIX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random_suffix(rng, SUFFIX))
}

/// A hash's decimal digits written with [`ALPHANUMS`] (pod-template-hash labels).
pub fn safe_encode(text: &str) -> String {
    text.chars().map(|c| char::from(ALPHANUMS[c as usize % ALPHANUMS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            dns1123_label("A.b"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_subdomain("-a"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
    }

    #[test]
    fn grammars() {
        let long = "a".repeat(64);
        for (ok, check, values) in [
            (true, dns1123_label as fn(&str) -> Vec<String>, vec!["a", "1", "a-b", "a--b"]),
            (false, dns1123_label, vec!["", "-", "a-", "A", "a_b", "ä", &long]),
            (true, dns1035_label, vec!["a", "a1"]),
            (false, dns1035_label, vec!["", "1a", "-a"]),
            (true, dns1123_subdomain, vec!["a.b", "1.2", "a"]),
            (false, dns1123_subdomain, vec!["", ".", "a.", ".a", "a..b"]),
            (true, qualified_name, vec!["a", "A_b", "a.b/c", "1"]),
            (false, qualified_name, vec!["", "/", "a/", "a/b/c", "a b", "A/b", "_a"]),
            (true, label_value, vec!["", "a", "A.b-c_d"]),
            (false, label_value, vec![" ", "-a", "a b"]),
            (true, port_name, vec!["http", "a-1"]),
            (false, port_name, vec!["", "1", "a--b", "-a", "A", "a234567890123456"]),
            (true, env_var_name, vec!["A B", "a.b", "1"]),
            (false, env_var_name, vec!["", "a=b", "ä"]),
            (true, config_map_key, vec!["a.b_c-D", ".a"]),
            (false, config_map_key, vec!["", ".", "..", "..a", "a/b"]),
            (true, ip, vec!["1.2.3.4", "01.2.3.4", "::1"]),
            (false, ip, vec!["", "1.2.3", "1.2.3.256", "1.2.3.+4"]),
        ] {
            for value in values {
                assert_eq!(check(value).is_empty(), ok, "{value:?}");
            }
        }
    }

    #[test]
    fn generated_names_stay_valid() {
        let mut rng = rand::rng();
        let name = generate_name(&"a".repeat(80), &mut rng);
        assert_eq!(name.len(), 63);
        assert!(dns1123_label(&name).is_empty());
        assert!(object_name(NameRule::DnsLabel, "web-", true).is_empty());
        assert!(!object_name(NameRule::DnsLabel, "web-", false).is_empty());
    }
}
