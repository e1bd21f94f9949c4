//! The hosts file that the kubelet manages for a pod.

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod::{sandbox_config, spec};

const LOOPBACK: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// The file's text. Pods on the node's network see the node's file (`host_file`), others their own addresses.
pub fn text(pod: &Pod, ips: &[String], domain: &str, host_file: &str) -> String {
    let mut out = String::new();
    if spec::host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        out.push_str(LOOPBACK);
        let name = sandbox_config::hostname(pod, domain);
        let short = name.split('.').next().unwrap_or(&name);
        for ip in ips {
            match sandbox_config::full_domain(pod, domain) {
                Some(domain) => out.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n")),
                None => out.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    let aliases: Vec<HostAlias> = spec::spec(pod).host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_aliases() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}}))
        .unwrap();
        let text = text(&pod, &["10.42.0.7".to_owned()], "cluster.local", "");
        let tail: Vec<_> = text.lines().skip(7).collect();
        let expected = ["10.42.0.7\th.s.n.svc.cluster.local\th", "", "# Entries added by HostAliases.", "192.0.2.9\ta\tb"];
        assert_eq!(tail, expected);
    }
}
