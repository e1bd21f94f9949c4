//! The input that brings the kernel from one state of our chains to the next, at once or not at all.

use std::{collections::BTreeSet, fmt::Write};

use net::Saved;

use super::rules::{Chain, Chains, FORWARD, INPUT, is_ours};

/// Where packets come to our chains: from which built-in chain, to which.
const JUMPS: [(&str, &str); 2] = [("FORWARD", FORWARD), ("INPUT", INPUT)];

fn jumps(saved: &Saved, from: &str, to: &str) -> bool {
    saved.has_rule(from, &format!("-j {to}"))
}

fn ours(saved: &Saved) -> impl Iterator<Item = &str> {
    saved.chains().map(|(chain, _)| chain).filter(|chain| is_ours(chain))
}

/// Whether the kernel has exactly these chains.
pub fn is_intact(chains: &Chains, saved: &Saved) -> bool {
    let ways = JUMPS.iter().all(|(from, to)| jumps(saved, from, to) != chains.is_empty());
    ways && ours(saved).count() == chains.len()
        && chains.iter().all(|(name, chain)| saved.chain(name).is_some_and(|rules| is_same(chain, rules)))
}

fn is_same(chain: &Chain, rules: &[String]) -> bool {
    let Some(first) = rules.len().checked_sub(chain.then.len()) else { return false };
    let (set, then) = rules.split_at(first);
    then == chain.then && set.len() == chain.set.len() && set.iter().all(|rule| chain.set.contains(rule))
}

/// Input that makes everything of ours as it should be, whatever is there; `None` if nothing is and nothing should be.
pub fn full(chains: &Chains, saved: &Saved) -> Option<String> {
    let stale: Vec<&str> = ours(saved).filter(|name| !chains.contains_key(*name)).collect();
    if chains.is_empty() && stale.is_empty() {
        return None;
    }
    let mut input = "*mangle\n".to_owned();
    for name in chains.keys().map(String::as_str).chain(stale.iter().copied()) {
        let _ = writeln!(input, ":{name} - [0:0]");
    }
    for (name, chain) in chains {
        write_rules(&mut input, name, chain);
    }
    for (from, to) in JUMPS {
        match (chains.is_empty(), jumps(saved, from, to)) {
            (false, false) => drop(writeln!(input, "-I {from} -j {to}")),
            (true, true) => drop(writeln!(input, "-D {from} -j {to}")),
            _ => {}
        }
    }
    for name in stale {
        let _ = writeln!(input, "-X {name}");
    }
    Some(input + "COMMIT\n")
}

/// Input that changes what differs; `None` if nothing does. Both states have chains.
pub fn change(old: &Chains, new: &Chains) -> Option<String> {
    if old == new {
        return None;
    }
    let mut input = "*mangle\n".to_owned();
    let gone: Vec<&String> = old.keys().filter(|name| !new.contains_key(*name)).collect();
    let rewritten = |name: &&String| old.get(*name).is_none_or(|chain| chain.then != new[*name].then);
    for name in new.keys().filter(rewritten).chain(gone.iter().copied()) {
        let _ = writeln!(input, ":{name} - [0:0]");
    }
    for (name, chain) in new {
        match old.get(name) {
            Some(before) if before.then == chain.then => {
                for rule in before.set.difference(&chain.set) {
                    let _ = writeln!(input, "-D {name} {rule}");
                }
                for rule in chain.set.difference(&before.set) {
                    let _ = writeln!(input, "-I {name} {rule}");
                }
            }
            _ => write_rules(&mut input, name, chain),
        }
    }
    for name in gone {
        let _ = writeln!(input, "-X {name}");
    }
    Some(input + "COMMIT\n")
}

fn write_rules(input: &mut String, name: &str, chain: &Chain) {
    let Chain { set, then } = chain;
    let set: &BTreeSet<String> = set;
    for rule in set.iter().chain(then) {
        let _ = writeln!(input, "-A {name} {rule}");
    }
}
