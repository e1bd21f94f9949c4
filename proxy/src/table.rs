//! The whole of our rules, and the input that brings the kernel from one state to the next.
//!
//! [`full`] writes every chain of ours anew and removes leftovers: at the start, and when somebody else has changed something.
//! [`change`] writes only what differs for the services that changed. Both are one `iptables-restore --noflush` input: each
//! table changes at once or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::rules::{Fragment, Shared, comment};

/// Services by `NAMESPACE/NAME`.
pub type Applied = BTreeMap<String, Fragment>;

/// Where a packet comes to our chains: (is nat, built-in chain, rule), as `iptables-save` prints the rule.
fn jumps() -> Vec<(bool, &'static str, String)> {
    let new = "-m conntrack --ctstate NEW ";
    let jump = |nat, from, state: &str, about: &str, to: &str| (nat, from, format!("{state}{} -j {to}", comment(about)));
    let visible = "kubernetes externally-visible service portals";
    let firewall = "kubernetes load balancer firewall";
    let portals = "kubernetes service portals";
    vec![
        jump(false, "INPUT", new, visible, "KUBE-EXTERNAL-SERVICES"),
        jump(false, "FORWARD", new, visible, "KUBE-EXTERNAL-SERVICES"),
        jump(false, "INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS"),
        jump(false, "FORWARD", new, portals, "KUBE-SERVICES"),
        jump(false, "OUTPUT", new, portals, "KUBE-SERVICES"),
        jump(false, "FORWARD", "", "kubernetes forwarding rules", "KUBE-FORWARD"),
        jump(false, "INPUT", new, firewall, "KUBE-PROXY-FIREWALL"),
        jump(false, "OUTPUT", new, firewall, "KUBE-PROXY-FIREWALL"),
        jump(false, "FORWARD", new, firewall, "KUBE-PROXY-FIREWALL"),
        jump(true, "OUTPUT", "", portals, "KUBE-SERVICES"),
        jump(true, "PREROUTING", "", portals, "KUBE-SERVICES"),
        jump(true, "POSTROUTING", "", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
    ]
}

/// Chains that do not depend on services: (is nat, chain, rules).
fn fixed() -> Vec<(bool, &'static str, Vec<String>)> {
    let masquerade = format!("{} -j MASQUERADE --random-fully", comment("kubernetes service traffic requiring SNAT"));
    let forwarding = comment("kubernetes forwarding rules");
    let tracked = comment("kubernetes forwarding conntrack rule");
    vec![
        (true, "KUBE-MARK-MASQ", vec!["-j MARK --set-xmark 0x4000/0x4000".to_owned()]),
        (
            true,
            "KUBE-POSTROUTING",
            vec![
                "-m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
                // So that a packet that comes by again is not masqueraded twice.
                "-j MARK --set-xmark 0x4000/0x0".to_owned(),
                masquerade,
            ],
        ),
        (
            false,
            "KUBE-FORWARD",
            vec![
                "-m conntrack --ctstate INVALID -j DROP".to_owned(),
                format!("{forwarding} -m mark --mark 0x4000/0x4000 -j ACCEPT"),
                format!("{tracked} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
            ],
        ),
    ]
}

/// The last rule of nat KUBE-SERVICES.
fn node_ports_rule() -> String {
    let about = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain");
    format!("! -d 127.0.0.0/8 {about} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
}

/// One table as `iptables-save` prints it: built-in chains and ours, each with its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved(BTreeMap<String, Vec<String>>);

impl Saved {
    /// Reads `iptables-save -t TABLE`.
    pub fn read(text: &str) -> Self {
        let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                chains.entry(chain.to_owned()).or_default();
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
            }
        }
        Self(chains)
    }

    fn has_rule(&self, chain: &str, rule: &str) -> bool {
        self.0.get(chain).is_some_and(|rules| rules.iter().any(|r| r == rule))
    }
}

/// Whether a chain belongs to one service.
fn is_service_chain(chain: &str) -> bool {
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-"].iter().any(|prefix| chain.starts_with(prefix))
}

/// Every chain of ours with its rules: (is nat, chain) to rules.
fn desired(applied: &Applied) -> BTreeMap<(bool, &str), Vec<&str>> {
    let mut chains: BTreeMap<(bool, &str), Vec<&str>> = BTreeMap::new();
    for shared in Shared::ALL {
        chains.entry((shared.is_nat(), shared.chain())).or_default();
    }
    for fragment in applied.values() {
        for (shared, rule) in &fragment.shared {
            chains.entry((shared.is_nat(), shared.chain())).or_default().push(rule);
        }
        for (chain, rules) in &fragment.chains {
            chains.insert((true, chain), rules.iter().map(String::as_str).collect());
        }
    }
    chains
}

/// Input that makes everything of ours as it should be, whatever is there.
pub fn full(applied: &Applied, nat: &Saved, filter: &Saved) -> String {
    let (fixed, last, jumps) = (fixed(), node_ports_rule(), jumps());
    let mut chains = desired(applied);
    for (is_nat, chain, rules) in &fixed {
        chains.insert((*is_nat, chain), rules.iter().map(String::as_str).collect());
    }
    chains.entry((true, Shared::Services.chain())).or_default().push(&last);
    let mut input = String::new();
    for (is_nat, table, saved) in [(false, "filter", filter), (true, "nat", nat)] {
        let ours = || chains.iter().filter(|((nat, _), _)| *nat == is_nat);
        let stale: Vec<&String> =
            saved.0.keys().filter(|c| is_service_chain(c) && !chains.contains_key(&(is_nat, c.as_str()))).collect();
        let _ = writeln!(input, "*{table}");
        for ((_, chain), _) in ours() {
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for chain in &stale {
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for ((_, chain), rules) in ours() {
            for rule in rules {
                let _ = writeln!(input, "-A {chain} {rule}");
            }
        }
        for chain in stale {
            let _ = writeln!(input, "-X {chain}");
        }
        for (_, from, rule) in jumps.iter().filter(|(nat, from, rule)| *nat == is_nat && !saved.has_rule(from, rule)) {
            let _ = writeln!(input, "-I {from} {rule}");
        }
        input += "COMMIT\n";
    }
    input
}

/// Input for the services that changed: what each was and what it is to be. `None` if nothing differs.
pub fn change(changes: &[(Option<&Fragment>, Option<&Fragment>)]) -> Option<String> {
    let none = Fragment::default();
    let (mut declared, mut nat, mut filter, mut removed) = (String::new(), String::new(), String::new(), String::new());
    for (old, new) in changes {
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        let rules = |f: &Fragment| f.shared.iter().cloned().collect::<BTreeSet<_>>();
        let (before, after) = (rules(old), rules(new));
        let steps = before.difference(&after).map(|r| ("-D", r)).chain(after.difference(&before).map(|r| ("-I", r)));
        for (verb, (shared, rule)) in steps {
            let out = if shared.is_nat() { &mut nat } else { &mut filter };
            // In front: the rule for node ports stays the last one.
            let _ = writeln!(out, "{verb} {} {rule}", shared.chain());
        }
        for (chain, rules) in new.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(*rules)) {
            let _ = writeln!(declared, ":{chain} - [0:0]");
            for rule in rules {
                let _ = writeln!(nat, "-A {chain} {rule}");
            }
        }
        for chain in old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)) {
            let _ = writeln!(declared, ":{chain} - [0:0]");
            let _ = writeln!(removed, "-X {chain}");
        }
    }
    let mut input = String::new();
    if !filter.is_empty() {
        input += &format!("*filter\n{filter}COMMIT\n");
    }
    if !(declared.is_empty() && nat.is_empty()) {
        input += &format!("*nat\n{declared}{nat}{removed}COMMIT\n");
    }
    (!input.is_empty()).then_some(input)
}

/// Whether everything of ours is in the kernel as it should be. The order of rules in shared chains is free.
pub fn is_intact(applied: &Applied, nat: &Saved, filter: &Saved) -> bool {
    let saved = |is_nat: bool| if is_nat { nat } else { filter };
    let last = node_ports_rule();
    let mut chains = desired(applied);
    chains.entry((true, Shared::Services.chain())).or_default().push(&last);
    let sorted = |rules: &mut Vec<&str>| rules.sort_unstable();
    let services_intact = chains.into_iter().all(|((is_nat, chain), mut want)| {
        let Some(have) = saved(is_nat).0.get(chain) else { return false };
        let mut have: Vec<&str> = have.iter().map(String::as_str).collect();
        if !is_service_chain(chain) {
            sorted(&mut have);
            sorted(&mut want);
        }
        have == want
    });
    services_intact
        && jumps().iter().all(|(is_nat, from, rule)| saved(*is_nat).has_rule(from, rule))
        && fixed().iter().all(|(is_nat, chain, rules)| saved(*is_nat).0.get(*chain) == Some(rules))
}

/// Input that removes everything of ours.
pub fn cleanup(nat: &Saved, filter: &Saved) -> String {
    let mut input = String::new();
    let names: BTreeSet<(bool, &str)> = Shared::ALL
        .iter()
        .map(|s| (s.is_nat(), s.chain()))
        .chain(fixed().iter().map(|(is_nat, chain, _)| (*is_nat, *chain)))
        .collect();
    for (is_nat, table, saved) in [(false, "filter", filter), (true, "nat", nat)] {
        let gone: Vec<&String> =
            saved.0.keys().filter(|c| is_service_chain(c) || names.contains(&(is_nat, c.as_str()))).collect();
        let _ = writeln!(input, "*{table}");
        for chain in &gone {
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for (chain, rules) in &saved.0 {
            let to_ours = |rule: &&String| gone.iter().any(|gone| rule.ends_with(&format!("-j {gone}")));
            for rule in rules.iter().filter(to_ours).filter(|_| !gone.contains(&chain)) {
                let _ = writeln!(input, "-D {chain} {rule}");
            }
        }
        for chain in gone {
            let _ = writeln!(input, "-X {chain}");
        }
        input += "COMMIT\n";
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(rule: &str, chain: &str, rules: &[&str]) -> Fragment {
        let rules = rules.iter().map(|&r| r.to_owned()).collect();
        Fragment {
            shared: vec![(Shared::Services, rule.to_owned())],
            chains: [(chain.to_owned(), rules)].into(),
            udp: Vec::new(),
        }
    }

    #[test]
    fn only_differences_are_written() {
        let old = fragment("-d 10.43.0.1/32 -j KUBE-SVC-A", "KUBE-SVC-A", &["-j KUBE-SEP-1"]);
        let same = old.clone();
        let moved = fragment("-d 10.43.0.1/32 -j KUBE-SVC-A", "KUBE-SVC-A", &["-j KUBE-SEP-2"]);
        let written = [
            change(&[(Some(&old), Some(&same))]),
            change(&[(Some(&old), Some(&moved))]),
            change(&[(Some(&old), None)]),
            change(&[(None, Some(&old))]),
        ];
        let want = [
            None,
            Some("*nat\n:KUBE-SVC-A - [0:0]\n-A KUBE-SVC-A -j KUBE-SEP-2\nCOMMIT\n"),
            Some("*nat\n:KUBE-SVC-A - [0:0]\n-D KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SVC-A\n-X KUBE-SVC-A\nCOMMIT\n"),
            Some(
                "*nat\n:KUBE-SVC-A - [0:0]\n-I KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SVC-A\n-A KUBE-SVC-A -j \
                 KUBE-SEP-1\nCOMMIT\n",
            ),
        ];
        assert_eq!(written.each_ref().map(Option::as_deref), want);
    }

    #[test]
    fn a_full_write_removes_leftovers_and_adds_missing_jumps_only() {
        let (_, from, jump) = jumps().into_iter().find(|(nat, from, _)| *nat && *from == "OUTPUT").unwrap();
        let nat = Saved::read(&format!(":OUTPUT ACCEPT [0:0]\n:KUBE-SEP-OLD - [0:0]\n:DOCKER - [0:0]\n-A {from} {jump}\n"));
        let input = full(&Applied::new(), &nat, &Saved::default());
        let count = |text: &str| input.matches(text).count();
        assert_eq!((count("-X KUBE-SEP-OLD"), count("DOCKER"), count("-I OUTPUT"), count("-I PREROUTING")), (1, 0, 2, 1));
    }
}
