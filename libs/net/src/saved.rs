//! What `iptables-save` prints of one table.

use std::collections::BTreeMap;

/// One table: chains, built-in ones and others, each with its rules in order. Rules are without `-A CHAIN`.
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

    /// A chain's rules; `None` if there is no such chain.
    pub fn chain(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// All chains, in the order of their names.
    pub fn chains(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, rules)| (name.as_str(), rules.as_slice()))
    }

    /// Whether a chain has a rule.
    pub fn has_rule(&self, chain: &str, rule: &str) -> bool {
        self.chain(chain).is_some_and(|rules| rules.iter().any(|own| own == rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_have_their_rules_in_order() {
        let saved = Saved::read(
            "# by a program\n*nat\n:OUTPUT ACCEPT [1:60]\n:OURS - [0:0]\n-A OURS -p tcp -j ACCEPT\n-A OURS -j DROP\nCOMMIT\n",
        );
        let rules = ["-p tcp -j ACCEPT".to_owned(), "-j DROP".to_owned()];
        let empty: &[String] = &[];
        assert_eq!(saved.chains().collect::<Vec<_>>(), [("OURS", &rules[..]), ("OUTPUT", empty)]);
        assert_eq!((saved.has_rule("OURS", "-j DROP"), saved.has_rule("OUTPUT", "-j DROP")), (true, false));
    }
}
