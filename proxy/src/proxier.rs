//! Brings the kernel's tables to what the services ask for.

use std::{collections::BTreeMap, path::PathBuf};

use net::{Saved, iptables::Iptables};

use crate::{
    conntrack,
    rules::Fragment,
    table::{self, Applied},
};

/// What is in the kernel as far as we know, and the way there. Its methods block.
pub struct Proxier {
    namespace: Option<PathBuf>,
    iptables: Iptables,
    /// Whether 127.0.0.1 has node ports.
    loopback: bool,
    applied: Applied,
    /// UDP flows that are to be cleared once the rules are written: arguments for `conntrack`.
    flows: Vec<Vec<String>>,
    /// Nothing is known of the kernel's state: write everything.
    stale: bool,
    /// Whether saved rules read as we write them. Should an iptables print them differently, we cannot compare.
    comparable: bool,
}

impl Proxier {
    /// For the tables of a namespace. Nothing is written yet.
    pub fn new(namespace: Option<PathBuf>) -> Self {
        let iptables = namespace.as_ref().map_or_else(Iptables::here, Iptables::within);
        let (applied, flows) = (Applied::new(), Vec::new());
        Self { namespace, iptables, loopback: false, applied, flows, stale: true, comparable: true }
    }

    /// Whether `iptables` speaks to nf_tables.
    pub fn is_nf_tables(&self) -> Result<bool, net::Error> {
        Ok(self.iptables.run("iptables", &["--version"], None)?.contains("nf_tables"))
    }

    /// Lets node ports answer on 127.0.0.1, too. Packets with such addresses that come over a link are kept out before the
    /// kernel is told to take some.
    pub fn open_loopback(&mut self) -> Result<(), net::Error> {
        let filter = Saved::read(&self.iptables.save("filter")?);
        self.iptables.restore(table::firewall(&filter))?;
        let open = || net::netns::set_sysctl("net.ipv4.conf.all.route_localnet", "1");
        match &self.namespace {
            None => open()?,
            Some(path) => net::netns::within(path, open)?,
        }
        (self.loopback, self.stale) = (true, true);
        Ok(())
    }

    /// Applies what changed: services by key, `None` for those that are gone. On failure everything is written anew the
    /// next time.
    pub fn apply(&mut self, changes: BTreeMap<String, Option<Fragment>>) -> Result<(), net::Error> {
        let before: Vec<(String, Option<Fragment>)> = changes
            .into_iter()
            .map(|(key, fragment)| {
                let old = match fragment {
                    Some(fragment) => self.applied.insert(key.clone(), fragment),
                    None => self.applied.remove(&key),
                };
                (key, old)
            })
            .collect();
        let pairs: Vec<_> = before.iter().map(|(key, old)| (old.as_ref(), self.applied.get(key))).collect();
        let input = table::change(&pairs, &self.applied, self.loopback);
        self.flows.extend(pairs.iter().flat_map(|(old, new)| conntrack::stale(*old, *new)));
        if self.stale {
            self.write_all()?;
        } else if let Some(input) = input
            && let Err(error) = self.iptables.restore(input)
        {
            // Somebody took away what we meant to change, most likely.
            tracing::info!(%error, "cannot apply a change; writing all rules anew");
            self.write_all()?;
        }
        conntrack::run(&self.iptables, &std::mem::take(&mut self.flows));
        Ok(())
    }

    /// Looks at the kernel's rules and writes them anew if somebody changed ours; whether it was so.
    pub fn repair(&mut self) -> Result<bool, net::Error> {
        if !self.stale {
            if !self.comparable {
                return Ok(false);
            }
            // What cannot be looked at may be anything, and whoever told of the change does not tell again.
            self.stale = true;
            if self.is_intact()? {
                self.stale = false;
                return Ok(false);
            }
        }
        tracing::info!("somebody changed the service rules; writing them anew");
        self.write_all()?;
        Ok(true)
    }

    fn is_intact(&self) -> Result<bool, net::Error> {
        let (nat, filter) = self.saved()?;
        Ok(table::is_intact(&self.applied, self.loopback, &nat, &filter))
    }

    fn write_all(&mut self) -> Result<(), net::Error> {
        self.stale = true;
        let (nat, filter) = self.saved()?;
        self.iptables.restore(table::full(&self.applied, self.loopback, &nat, &filter))?;
        self.stale = false;
        if self.comparable && !self.is_intact()? {
            tracing::warn!("this iptables prints rules in its own way; changes by others will go unnoticed");
            self.comparable = false;
        }
        Ok(())
    }

    fn saved(&self) -> Result<(Saved, Saved), net::Error> {
        Ok((Saved::read(&self.iptables.save("nat")?), Saved::read(&self.iptables.save("filter")?)))
    }

    /// Removes everything of ours from the tables.
    pub fn cleanup(&mut self) -> Result<(), net::Error> {
        let (nat, filter) = self.saved()?;
        self.applied.clear();
        self.stale = true;
        self.iptables.restore(table::cleanup(&nat, &filter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_looked_at_is_written_anew() {
        let mut proxier = Proxier { stale: false, ..Proxier::new(Some("/nowhere".into())) };
        assert!(proxier.repair().is_err() && proxier.stale);
    }
}
