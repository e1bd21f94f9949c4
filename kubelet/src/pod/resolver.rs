//! What a pod's resolv.conf says, by its dnsPolicy and dnsConfig and the node's own.

use cri::v1;
use k8s_openapi::api::core::v1::Pod;

use super::{sandbox_config::NodeNet, spec};

/// What resolvers bear: servers, search paths, characters of the search line and of a path.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_CHARACTERS: usize = 2048;
const LONGEST_SEARCH: usize = 253;

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver`.
    pub servers: Vec<String>,
    /// `search`.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf. The last of several `search` lines holds; `options` add up, the last of a name holds.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines().map(|l| l.split(['#', ';']).next().unwrap_or_default()) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                Some("search") => {
                    // The same with and without the last dot counts once.
                    let plain = words.filter(|w| w != ".").map(|w| w.strip_suffix('.').map(str::to_owned).unwrap_or(w));
                    resolver.searches = plain.collect();
                }
                Some("options") => words.for_each(|option| set_option(&mut resolver.options, option)),
                _ => {}
            }
        }
        resolver
    }
}

/// An option takes the place of another of its name.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    options.retain(|o| name(o) != name(&option));
    options.push(option);
}

/// The pod's resolver, and what `DNSConfigForming` events have to say of it.
pub fn dns(pod: &Pod, net: &NodeNet) -> (v1::DnsConfig, Vec<String>) {
    let own = spec::spec(pod);
    let policy = own.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    let host = &net.resolver;
    let mut dns = match policy {
        "None" => v1::DnsConfig::default(),
        _ if cluster && !net.cluster_dns.is_empty() => {
            let domain = &net.cluster_domain;
            let namespace = spec::namespace(pod);
            let mut searches = match domain.is_empty() {
                true => Vec::new(),
                false => vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()],
            };
            extend(&mut searches, &host.searches);
            v1::DnsConfig { servers: net.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => v1::DnsConfig { servers: host.servers.clone(), searches: host.searches.clone(), options: host.options.clone() },
    };
    if let Some(extra) = own.dns_config {
        extend(&mut dns.servers, &extra.nameservers.unwrap_or_default());
        extend(&mut dns.searches, &extra.searches.unwrap_or_default());
        for option in extra.options.unwrap_or_default() {
            let name = option.name.unwrap_or_default();
            let value = option.value.filter(|v| !v.is_empty());
            set_option(&mut dns.options, value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let notes = fit(&mut dns);
    (dns, notes)
}

/// Leaves out what resolvers do not bear; what is to be said of that.
fn fit(dns: &mut v1::DnsConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if dns.servers.len() > MOST_SERVERS {
        dns.servers.truncate(MOST_SERVERS);
        notes.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            dns.servers.join(" ")
        ));
    }
    let before = dns.searches.len();
    dns.searches.truncate(MOST_SEARCHES);
    // Some resolvers abort at longer ones.
    dns.searches.retain(|search| search.len() <= LONGEST_SEARCH);
    while dns.searches.join(" ").len() > MOST_SEARCH_CHARACTERS {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        notes.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        ));
    }
    notes
}

fn extend(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HOST: &str =
        "# x\nnameserver 192.0.2.53\nsearch other\nsearch example.test. .\noptions timeout:5\noptions rotate timeout:1\n";

    fn formed(spec: Value) -> (v1::DnsConfig, Vec<String>) {
        let net = NodeNet {
            cluster_dns: vec!["10.43.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolver: Resolver::parse(HOST),
        };
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        dns(&serde_json::from_value(pod).unwrap(), &net)
    }

    fn lines(spec: Value) -> String {
        let (d, notes) = formed(spec);
        assert_eq!(notes, Vec::<String>::new());
        format!("{} | {} | {}", d.servers.join(" "), d.searches.join(" "), d.options.join(" "))
    }

    #[test]
    fn policies() {
        let cluster = "10.43.0.10 | n.svc.cluster.local svc.cluster.local cluster.local example.test | ndots:5";
        let host = "192.0.2.53 | example.test | rotate timeout:1";
        assert_eq!(lines(json!({"containers": []})), cluster);
        assert_eq!(lines(json!({"containers": [], "hostNetwork": true})), host);
        assert_eq!(lines(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})), cluster);
        assert_eq!(lines(json!({"containers": [], "dnsPolicy": "Default"})), host);
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"],
            "searches": ["a.test"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        assert_eq!(lines(own), "192.0.2.1 | a.test | ndots:2 edns0");
    }

    #[test]
    fn a_pods_own_wishes_are_added_and_its_options_win() {
        let wishes = json!({"nameservers": ["192.0.2.1", "10.43.0.10"], "searches": ["a.test", "svc.cluster.local"],
            "options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]});
        assert_eq!(
            lines(json!({"containers": [], "dnsConfig": wishes})),
            "10.43.0.10 192.0.2.1 | n.svc.cluster.local svc.cluster.local cluster.local example.test a.test | ndots:1 edns0"
        );
        let wishes = json!({"options": [{"name": "timeout", "value": "3"}]});
        assert_eq!(
            lines(json!({"containers": [], "dnsPolicy": "Default", "dnsConfig": wishes})),
            "192.0.2.53 | example.test | rotate timeout:3"
        );
    }

    #[test]
    fn what_resolvers_do_not_bear_is_left_out_and_told() {
        let many: Vec<String> = (0..40).map(|n| format!("s{n}.test")).collect();
        let wishes = json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"], "searches": many});
        let (config, notes) = formed(json!({"containers": [], "dnsConfig": wishes}));
        assert_eq!((config.servers.len(), config.searches.len()), (3, 32));
        assert_eq!(
            notes[0],
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
             10.43.0.10 192.0.2.1 192.0.2.2"
        );
        assert!(notes[1].starts_with("Search Line limits were exceeded") && notes[1].ends_with(" s27.test"), "{}", notes[1]);
        let long: Vec<String> = (0..20).map(|n| format!("{n:0>200}")).chain(["x".repeat(254)]).collect();
        let (config, notes) = formed(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"searches": long}}));
        assert_eq!((config.searches.len(), notes.len()), (10, 1));
    }
}
