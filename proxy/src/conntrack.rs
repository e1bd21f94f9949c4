//! Forgets UDP flows that lead to where they no longer should. TCP needs none of it: its ends notice.
//!
//! A flow outlives the rule that made it: packets of an old client would go on to a pod that is gone, or (where a service
//! had no endpoints) to nowhere. The `conntrack` program deletes by what was asked for and what it was translated to.

use net::iptables::Iptables;

use crate::rules::{Fragment, UdpPort};

/// Arguments for `conntrack`, one deletion each.
pub fn stale(old: Option<&Fragment>, new: Option<&Fragment>) -> Vec<Vec<String>> {
    let none = Fragment::default();
    let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let same = |a: &UdpPort, b: &UdpPort| a.addresses.first() == b.addresses.first() && a.node_port == b.node_port;
    let mut deletions = Vec::new();
    for before in &old.udp {
        let after = new.udp.iter().find(|after| same(before, after));
        let kept = |ip| after.is_some_and(|after| after.targets.contains(ip));
        for target in before.targets.iter().filter(|ip| !kept(ip)) {
            for address in &before.addresses {
                deletions.push(delete(&["--orig-dst", &address.to_string(), "--dst-nat", &target.to_string()]));
            }
            if let Some(port) = before.node_port {
                deletions.push(delete(&["--dport", &port.to_string(), "--dst-nat", &target.to_string()]));
            }
        }
    }
    for after in new.udp.iter().filter(|after| !after.targets.is_empty()) {
        let before = old.udp.iter().find(|before| same(before, after));
        if before.is_some_and(|before| !before.targets.is_empty()) {
            continue;
        }
        // From no endpoint to some: what was tracked meanwhile was translated to nothing.
        deletions.extend(after.addresses.iter().map(|address| delete(&["--orig-dst", &address.to_string()])));
        deletions.extend(after.node_port.map(|port| delete(&["--dport", &port.to_string()])));
    }
    deletions
}

fn delete(what: &[&str]) -> Vec<String> {
    ["-D", "-p", "udp"].iter().chain(what).map(|&word| word.to_owned()).collect()
}

/// Runs the deletions. Blocking. Deleting nothing is fine.
pub fn run(iptables: &Iptables, deletions: &[Vec<String>]) {
    for arguments in deletions {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match iptables.run("conntrack", &arguments, None) {
            Ok(_) => {}
            Err(net::Error::Iptables { message, .. }) if message.contains("0 flow entries") => {}
            Err(error) => tracing::warn!(?arguments, error = %error, "cannot clear UDP flows"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(targets: &[u8]) -> Fragment {
        let targets = targets.iter().map(|n| [10, 42, 0, *n].into()).collect();
        let port = UdpPort { addresses: vec![[10, 43, 0, 7].into()], node_port: Some(30053), targets };
        Fragment { udp: vec![port], ..Fragment::default() }
    }

    #[test]
    fn gone_targets_and_first_targets_are_cleared() {
        let lines = |old: Option<Fragment>, new: Option<Fragment>| {
            stale(old.as_ref(), new.as_ref()).into_iter().map(|words| words[3..].join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(Some(fragment(&[1, 2])), Some(fragment(&[2, 3]))),
            ["--orig-dst 10.43.0.7 --dst-nat 10.42.0.1", "--dport 30053 --dst-nat 10.42.0.1"]
        );
        assert_eq!(lines(Some(fragment(&[])), Some(fragment(&[1]))), ["--orig-dst 10.43.0.7", "--dport 30053"]);
        assert_eq!(lines(Some(fragment(&[1])), None).len(), 2);
        assert_eq!(lines(None, Some(fragment(&[]))).len(), 0);
    }
}
