//! The whole of our rules, and the input that brings the kernel from one state to the next.
//!
//! [`full`] writes every chain of ours anew and removes leftovers: at the start, and when somebody else has changed something.
//! [`change`] writes only what differs for the services that changed. Both are one `iptables-restore --noflush` input of as
//! many blocks (`*nat` to `COMMIT`) as there are hundreds of chains, each of which is applied at once or not at all. iptables
//! on nf_tables looks a chain up among all that a block names, for every rule: 5,000 services in one block take it four times
//! as long as in fifty. Services' own chains are made before a block that writes anew what leads to them, and removed after it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::Ipv4Addr,
};

use net::Saved;

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
        jump(false, "INPUT", "! -i lo ", "kubernetes loopback addresses", FIREWALL),
        jump(false, "INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS"),
        jump(false, "FORWARD", new, portals, "KUBE-SERVICES"),
        jump(false, "OUTPUT", new, portals, "KUBE-SERVICES"),
        jump(false, "INPUT", new, firewall, "KUBE-PROXY-FIREWALL"),
        jump(false, "OUTPUT", new, firewall, "KUBE-PROXY-FIREWALL"),
        jump(false, "FORWARD", new, firewall, "KUBE-PROXY-FIREWALL"),
        // The last comes first. Nearly every packet of a pod ends here: a comment is one more thing to be asked for each.
        (false, "FORWARD", "-j KUBE-FORWARD".to_owned()),
        jump(true, "OUTPUT", "", portals, "KUBE-SERVICES"),
        jump(true, "PREROUTING", "", portals, "KUBE-SERVICES"),
        jump(true, "POSTROUTING", "", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
    ]
}

/// Where services' chains lead.
const MARK: &str = "KUBE-MARK-MASQ";

/// Where packets that come over a link are looked at for the machine's own addresses.
const FIREWALL: &str = "KUBE-FIREWALL";

/// Chains that do not depend on services: (is nat, chain, rules).
fn fixed() -> Vec<(bool, &'static str, Vec<String>)> {
    let masquerade = format!("{} -j MASQUERADE --random-fully", comment("kubernetes service traffic requiring SNAT"));
    let forwarding = comment("kubernetes forwarding rules");
    vec![
        (true, MARK, vec!["-j MARK --set-xmark 0x4000/0x4000".to_owned()]),
        (
            true,
            "KUBE-POSTROUTING",
            vec![
                format!("-m conntrack --ctstate DNAT -j {}", Shared::Hairpin.chain()),
                "-m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
                // So that a packet that comes by again is not masqueraded twice.
                "-j MARK --set-xmark 0x4000/0x0".to_owned(),
                masquerade,
            ],
        ),
        (
            false,
            FIREWALL,
            vec![
                // Only answers to what the machine has sent itself, from 127.0.0.1 to a node port.
                "-d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP".to_owned(),
                "-s 127.0.0.0/8 -j DROP".to_owned(),
            ],
        ),
        (
            false,
            "KUBE-FORWARD",
            vec![
                // Upstream's three rules, those first that nearly every packet is for.
                "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
                "-m conntrack --ctstate INVALID -j DROP".to_owned(),
                format!("{forwarding} -m mark --mark 0x4000/0x4000 -j ACCEPT"),
            ],
        ),
    ]
}

/// The last rule of nat KUBE-SERVICES; `loopback` says whether 127.0.0.1 has node ports, too.
fn node_ports_rule(loopback: bool) -> String {
    let about = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain");
    let to = if loopback { "" } else { "! -d 127.0.0.0/8 " };
    format!("{to}{about} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
}

/// Whether a chain belongs to one service.
fn is_service_chain(chain: &str) -> bool {
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-"].iter().any(|prefix| chain.starts_with(prefix))
}

/// The chains that services share, with their rules: (is nat, chain) to rules.
fn shared(applied: &Applied, loopback: bool) -> BTreeMap<(bool, &str), Vec<Cow<'_, str>>> {
    let mut chains: BTreeMap<(bool, &str), Vec<Cow<str>>> =
        Shared::ALL.iter().map(|shared| ((shared.is_nat(), shared.chain()), Vec::new())).collect();
    let mut add = |shared: Shared, rule| chains.entry((shared.is_nat(), shared.chain())).or_default().push(rule);
    for (shared, rule) in applied.values().flat_map(|fragment| &fragment.shared) {
        add(*shared, Cow::from(rule));
    }
    let hairpins: BTreeSet<Ipv4Addr> = applied.values().flat_map(|fragment| &fragment.hairpins).copied().collect();
    hairpins.into_iter().for_each(|address| add(Shared::Hairpin, hairpin(address).into()));
    add(Shared::Services, node_ports_rule(loopback).into());
    chains
}

/// A pod that reaches itself must be answered by way of the node.
fn hairpin(pod: Ipv4Addr) -> String {
    format!("-s {pod}/32 -d {pod}/32 -j {MARK}")
}

/// What becomes of the rules for pods that reach themselves: each address has one, as long as any service leads to it.
fn hairpins(changes: &[(&Fragment, &Fragment)], applied: &Applied) -> Vec<(&'static str, Ipv4Addr)> {
    let old: BTreeSet<&Ipv4Addr> = changes.iter().flat_map(|(old, _)| &old.hairpins).collect();
    let new: BTreeSet<&Ipv4Addr> = changes.iter().flat_map(|(_, new)| &new.hairpins).collect();
    let less = old.difference(&new).map(|&&address| (address, ("-D", 0)));
    let more = new.difference(&old).map(|&&address| (address, ("-I", 0)));
    let mut steps: BTreeMap<Ipv4Addr, (&str, i32)> = less.chain(more).collect();
    if steps.is_empty() {
        return Vec::new();
    }
    // Services that did not change are all those applied, less those that did.
    let all = applied.values().flat_map(|fragment| &fragment.hairpins).map(|address| (address, 1));
    let changed = changes.iter().flat_map(|(_, new)| &new.hairpins).map(|address| (address, -1));
    for (address, one) in all.chain(changed) {
        if let Some((_, others)) = steps.get_mut(address) {
            *others += one;
        }
    }
    steps.into_iter().filter(|(_, (_, others))| *others <= 0).map(|(address, (verb, _))| (verb, address)).collect()
}

/// So many rules less, and a chain that services share is written anew: iptables looks for a rule to be deleted among all of its
/// chain, one after the other.
const MANY: usize = 32;

/// A block of an input.
#[derive(Default)]
struct Block {
    declared: String,
    rules: String,
    removed: String,
    chains: usize,
}

impl Block {
    /// Whether another service's chains are better written to the next one.
    fn is_full(&self) -> bool {
        self.chains >= 300
    }

    /// Empties a chain, or makes it.
    fn declare(&mut self, chain: &str) {
        let _ = writeln!(self.declared, ":{chain} - [0:0]");
        self.chains += 1;
    }

    /// Makes a chain as it is to be.
    fn write(&mut self, chain: &str, rules: &[impl AsRef<str>]) {
        self.declare(chain);
        for rule in rules {
            let _ = writeln!(self.rules, "-A {chain} {}", rule.as_ref());
        }
    }

    fn remove(&mut self, chain: &str) {
        self.declare(chain);
        let _ = writeln!(self.removed, "-X {chain}");
    }

    /// Moves what there is to the input.
    fn finish(&mut self, table: &str, input: &mut String) {
        let Self { declared, rules, removed, .. } = std::mem::take(self);
        if !(declared.is_empty() && rules.is_empty()) {
            input.extend(["*", table, "\n", &declared, &rules, &removed, "COMMIT\n"]);
        }
    }
}

/// Input that keeps packets with the machine's own addresses out, before anything else is there.
pub fn firewall(filter: &Saved) -> String {
    let mut block = Block::default();
    for (_, chain, rules) in fixed().iter().filter(|(_, chain, _)| *chain == FIREWALL) {
        block.write(chain, rules);
    }
    for (_, from, rule) in jumps().iter().filter(|(_, from, rule)| rule.ends_with(FIREWALL) && !filter.has_rule(from, rule))
    {
        let _ = writeln!(block.rules, "-I {from} {rule}");
    }
    let mut input = String::new();
    block.finish("filter", &mut input);
    input
}

/// Input that makes everything of ours as it should be, whatever is there.
pub fn full(applied: &Applied, loopback: bool, nat: &Saved, filter: &Saved) -> String {
    let (mut input, mut block) = (String::new(), Block::default());
    let (jumps, fixed) = (jumps(), fixed());
    let (first, others): (Vec<_>, Vec<_>) = fixed.iter().partition(|(_, chain, _)| *chain == MARK);
    first.into_iter().for_each(|(_, chain, rules)| block.write(chain, rules));
    for fragment in applied.values() {
        if block.is_full() {
            block.finish("nat", &mut input);
        }
        fragment.chains.iter().for_each(|(chain, rules)| block.write(chain, rules));
    }
    block.finish("nat", &mut input);
    let mut chains = shared(applied, loopback);
    for (is_nat, chain, rules) in others {
        chains.insert((*is_nat, chain), rules.iter().map(Cow::from).collect());
    }
    let own: BTreeSet<&str> = applied.values().flat_map(|fragment| fragment.chains.keys().map(String::as_str)).collect();
    for (is_nat, table, saved) in [(false, "filter", filter), (true, "nat", nat)] {
        let ours = || chains.iter().filter(|((nat, _), _)| *nat == is_nat);
        let all = || saved.chains().map(|(chain, _)| chain);
        let stale = || all().filter(|c| is_service_chain(c) && !(is_nat && own.contains(c)));
        let _ = writeln!(input, "*{table}");
        for chain in ours().map(|((_, chain), _)| *chain).chain(stale()) {
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for ((_, chain), rules) in ours() {
            for rule in rules {
                let _ = writeln!(input, "-A {chain} {rule}");
            }
        }
        for chain in stale() {
            let _ = writeln!(input, "-X {chain}");
        }
        for (_, from, rule) in jumps.iter().filter(|(nat, from, rule)| *nat == is_nat && !saved.has_rule(from, rule)) {
            let _ = writeln!(input, "-I {from} {rule}");
        }
        input += "COMMIT\n";
    }
    input
}

/// Input for the services that changed: what each was and what it is to be; `applied` are all as they are to be. `None` if
/// nothing differs.
pub fn change(changes: &[(Option<&Fragment>, Option<&Fragment>)], applied: &Applied, loopback: bool) -> Option<String> {
    let none = Fragment::default();
    let changes: Vec<_> = changes.iter().map(|(old, new)| (old.unwrap_or(&none), new.unwrap_or(&none))).collect();
    let hairpins = hairpins(&changes, applied);
    let mut fewer: BTreeMap<Shared, usize> = BTreeMap::new();
    for (shared, _) in changes.iter().flat_map(|(old, new)| old.rules_without(new)) {
        *fewer.entry(*shared).or_default() += 1;
    }
    fewer.insert(Shared::Hairpin, hairpins.iter().filter(|(verb, _)| *verb == "-D").count());
    let anew: BTreeSet<Shared> = fewer.into_iter().filter(|(_, rules)| *rules >= MANY).map(|(shared, _)| shared).collect();

    let (mut input, mut filter, mut nat) = (String::new(), Block::default(), Block::default());
    let mut unused = Vec::new();
    for (verb, address) in hairpins.into_iter().filter(|_| !anew.contains(&Shared::Hairpin)) {
        let _ = writeln!(nat.rules, "{verb} {} {}", Shared::Hairpin.chain(), hairpin(address));
    }
    for (old, new) in changes {
        if nat.is_full() {
            nat.finish("nat", &mut input);
        }
        let (less, more) = (old.rules_without(new), new.rules_without(old));
        let steps = less.map(|rule| ("-D", rule)).chain(more.map(|rule| ("-I", rule)));
        for (verb, (shared, rule)) in steps.filter(|(_, (shared, _))| !anew.contains(shared)) {
            // In front: the rule for node ports stays the last one.
            let block = if shared.is_nat() { &mut nat } else { &mut filter };
            let _ = writeln!(block.rules, "{verb} {} {rule}", shared.chain());
        }
        for (chain, rules) in new.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(*rules)) {
            nat.write(chain, rules);
        }
        for chain in old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)) {
            // What leads there from a chain that is written anew goes first.
            if anew.iter().any(|shared| shared.is_nat()) { unused.push(chain) } else { nat.remove(chain) }
        }
    }
    nat.finish("nat", &mut input);
    let all = if anew.is_empty() { BTreeMap::new() } else { shared(applied, loopback) };
    for shared in anew {
        let block = if shared.is_nat() { &mut nat } else { &mut filter };
        block.write(shared.chain(), all.get(&(shared.is_nat(), shared.chain())).map_or(&[], Vec::as_slice));
    }
    nat.finish("nat", &mut input);
    for chain in unused {
        if nat.is_full() {
            nat.finish("nat", &mut input);
        }
        nat.remove(chain);
    }
    nat.finish("nat", &mut input);
    let mut first = String::new();
    filter.finish("filter", &mut first);
    Some(first + &input).filter(|input| !input.is_empty())
}

/// Whether everything of ours is in the kernel as it should be. The order of rules in shared chains is free.
pub fn is_intact(applied: &Applied, loopback: bool, nat: &Saved, filter: &Saved) -> bool {
    let saved = |is_nat: bool| if is_nat { nat } else { filter };
    let shared_intact = shared(applied, loopback).into_iter().all(|((is_nat, chain), mut want)| {
        let Some(have) = saved(is_nat).chain(chain) else { return false };
        let mut have: Vec<Cow<str>> = have.iter().map(Cow::from).collect();
        have.sort_unstable();
        want.sort_unstable();
        have == want
    });
    let mut own = applied.values().flat_map(|fragment| &fragment.chains);
    shared_intact
        && own.all(|(chain, rules)| nat.chain(chain) == Some(rules.as_slice()))
        && jumps().iter().all(|(is_nat, from, rule)| saved(*is_nat).has_rule(from, rule))
        && fixed().iter().all(|(is_nat, chain, rules)| saved(*is_nat).chain(chain) == Some(rules.as_slice()))
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
        let all = saved.chains().map(|(chain, _)| chain);
        let gone: Vec<&str> = all.filter(|c| is_service_chain(c) || names.contains(&(is_nat, *c))).collect();
        let _ = writeln!(input, "*{table}");
        for chain in &gone {
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for (chain, rules) in saved.chains() {
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
            ..Fragment::default()
        }
    }

    #[test]
    fn only_differences_are_written() {
        let old = fragment("-d 10.43.0.1/32 -j KUBE-SVC-A", "KUBE-SVC-A", &["-j KUBE-SEP-1"]);
        let same = old.clone();
        let moved = fragment("-d 10.43.0.1/32 -j KUBE-SVC-A", "KUBE-SVC-A", &["-j KUBE-SEP-2"]);
        let written = [
            change(&[(Some(&old), Some(&same))], &Applied::new(), false),
            change(&[(Some(&old), Some(&moved))], &Applied::new(), false),
            change(&[(Some(&old), None)], &Applied::new(), false),
            change(&[(None, Some(&old))], &Applied::new(), false),
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
    fn pods_that_reach_themselves_have_one_rule_however_many_services_lead_to_them() {
        let leads = |to: &[u8]| Fragment {
            hairpins: to.iter().map(|n| Ipv4Addr::new(10, 42, 0, *n)).collect(),
            ..Fragment::default()
        };
        let applied = |all: &[&Fragment]| all.iter().enumerate().map(|(n, f)| (n.to_string(), (*f).clone())).collect();
        let (one, two, many, none) = (leads(&[1]), leads(&[2]), leads(&(0..40).collect::<Vec<_>>()), leads(&[]));
        let written = [
            // 1 is known by another service and stays, 2 is new.
            change(&[(Some(&one), Some(&two))], &applied(&[&one, &two]), false),
            change(&[(Some(&one), Some(&two))], &applied(&[&two]), false),
            // Two that change at once.
            change(&[(None, Some(&one)), (None, Some(&one))], &applied(&[&one, &one]), false),
            change(&[(Some(&one), None), (None, Some(&one))], &applied(&[&one]), false),
            change(&[(Some(&many), Some(&none))], &applied(&[&none, &two]), false),
        ];
        let rule = |verb: &str, n| format!("{verb} KUBE-HAIRPIN -s 10.42.0.{n}/32 -d 10.42.0.{n}/32 -j KUBE-MARK-MASQ\n");
        let input = |rules: String| Some(format!("*nat\n{rules}COMMIT\n"));
        let want = [
            input(rule("-I", 2)),
            input(rule("-D", 1) + &rule("-I", 2)),
            input(rule("-I", 1)),
            None,
            input(format!(":KUBE-HAIRPIN - [0:0]\n{}", rule("-A", 2))),
        ];
        assert_eq!(written, want);
    }

    #[test]
    fn a_full_write_removes_leftovers_and_adds_missing_jumps_only() {
        let (_, from, jump) = jumps().into_iter().find(|(nat, from, _)| *nat && *from == "OUTPUT").unwrap();
        let nat = Saved::read(&format!(":OUTPUT ACCEPT [0:0]\n:KUBE-SEP-OLD - [0:0]\n:DOCKER - [0:0]\n-A {from} {jump}\n"));
        let input = full(&Applied::new(), false, &nat, &Saved::default());
        let count = |text: &str| input.matches(text).count();
        assert_eq!((count("-X KUBE-SEP-OLD"), count("DOCKER"), count("-I OUTPUT"), count("-I PREROUTING")), (1, 0, 2, 1));
    }

    #[test]
    fn many_services_are_several_blocks_and_lead_nowhere_before_they_are_there() {
        let name = |n| (format!("KUBE-SVC-{n}"), format!("-d 10.43.0.{n}/32 -j KUBE-SVC-{n}"));
        let all: Applied = (0..200)
            .map(|n| {
                let (chain, rule) = name(n);
                let mut made = fragment(&rule, &chain, &["-j KUBE-SEP-1"]);
                made.chains.insert(format!("KUBE-SEP-{n}"), vec!["-j DNAT".to_owned()]);
                (format!("d/{n:03}"), made)
            })
            .collect();
        let whole = full(&all, false, &Saved::default(), &Saved::default());
        let changed = change(&all.values().map(|made| (None, Some(made))).collect::<Vec<_>>(), &all, false).unwrap();
        let gone: Vec<_> = all.values().skip(1).map(|gone| (Some(gone), None)).collect();
        let removed = change(&gone, &all.clone().into_iter().take(1).collect(), false).unwrap();
        // Per block of the nat table: chains declared, services led to.
        let blocks = |input: &str| -> Vec<(usize, usize)> {
            let blocks = input.split("*nat\n").skip(1);
            let counts = |b: &str| (b.matches("\n:KUBE-SVC").count(), b.matches("-d 10.43").count());
            blocks.map(|b| counts(&format!("\n{b}"))).collect()
        };
        assert_eq!((blocks(&changed), blocks(&whole)), (vec![(150, 150), (50, 50)], vec![(150, 0), (50, 0), (0, 200)]));
        // One is left in the chain that is written anew; the other chains go after that.
        assert_eq!(blocks(&removed), [(0, 1), (150, 0), (49, 0)]);
        assert_eq!((removed.matches("-D ").count(), removed.matches("-X ").count()), (0, 2 * 199));
    }
}
