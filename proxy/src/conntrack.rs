//! Connection tracking: forgets UDP flows that lead to where they no longer should, and has the kernel remember TCP connections
//! for long enough.
//!
//! TCP needs no forgetting: its ends notice. But a connection that one side has closed is forgotten after a minute by default,
//! and what the other side still has to say would find its way no more.
//!
//! A flow outlives the rule that made it: packets of an old client would go on to a pod that is gone, or (where a service
//! had no endpoints) to nowhere. The `conntrack` program deletes by what was asked for and what it was translated to.

use std::{fs, io, path::PathBuf};

use net::iptables::Iptables;

use crate::{
    Config,
    rules::{Fragment, UdpPort},
};

/// The least that the kernel's settings are to be, by name.
pub type Limits = [(&'static str, u64); 3];

/// What the configuration asks for on a machine of so many processors.
pub fn limits(config: &Config, processors: u64) -> Limits {
    let tracked = match config.conntrack_max_per_core {
        0 => 0,
        each => each.saturating_mul(processors).max(config.conntrack_min),
    };
    [
        ("nf_conntrack_max", tracked),
        ("nf_conntrack_tcp_timeout_established", config.conntrack_tcp_timeout_established.as_secs()),
        ("nf_conntrack_tcp_timeout_close_wait", config.conntrack_tcp_timeout_close_wait.as_secs()),
    ]
}

/// Raises what is less, and lowers nothing. Blocking. How many connections are tracked is the machine's to say, not that of
/// a network namespace within it: there it stays as it is.
pub fn raise(namespace: Option<PathBuf>, limits: Limits) {
    let raise = move || {
        for (name, least) in limits {
            match raise_to(&format!("/proc/sys/net/netfilter/{name}"), least) {
                Ok(true) if name == "nf_conntrack_max" => {
                    let _ = raise_to("/sys/module/nf_conntrack/parameters/hashsize", least / 4);
                }
                Ok(_) => {}
                Err(error) => tracing::info!(name, least, %error, "cannot raise what connection tracking is allowed"),
            }
        }
        Ok(())
    };
    let outcome = match namespace {
        None => raise(),
        Some(path) => net::netns::within(&path, raise),
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot look at the limits of connection tracking");
    }
}

/// Whether it was less.
fn raise_to(path: &str, least: u64) -> io::Result<bool> {
    let now: u64 = fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)?;
    if now < least {
        fs::write(path, least.to_string())?;
    }
    Ok(now < least)
}

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

    #[test]
    fn limits_grow_with_the_machine() {
        let tracked = |each, least, processors| {
            let config = Config { conntrack_max_per_core: each, conntrack_min: least, ..Config::default() };
            limits(&config, processors)[0].1
        };
        assert_eq!([tracked(10, 30, 2), tracked(10, 30, 4), tracked(0, 30, 4)], [30, 40, 0]);
    }

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
