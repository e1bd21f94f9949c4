//! Which pod has which address: one small file an address, so that nothing is forgotten by a crash.
//!
//! The file's name is the address and its first line the pod's key; further lines are the holder's notes (host ports). It
//! appears complete or not at all (written aside, then hard-linked into place, which also refuses a second owner). What a
//! crash may leave is a file written aside, which the next start removes. Addresses are handed out in turn rather than
//! lowest first, so that a pod's address is not at once somebody else's.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, ErrorKind},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Cidr, Error, Result};

const ASIDE: &str = "aside-";

/// One pod's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is.
    pub key: String,
    /// Lines that the holder keeps with it.
    pub notes: Vec<String>,
}

/// The addresses of one range. The first (the network's), the second (the gateway's) and the last are never handed out.
#[derive(Debug)]
pub struct Ipam {
    range: Cidr,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_key: HashMap<String, Ipv4Addr>,
    /// The offset to look at first.
    next: u32,
}

impl Ipam {
    /// Reads the leases in `folder`, which is made if missing. Leases outside `range` are dropped: the node has got another
    /// range, and no pod of the old one can still work.
    pub fn open(range: Cidr, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::system(format!("create {}", folder.display())))?;
        let mut state = State { next: 2, ..State::default() };
        for entry in fs::read_dir(folder).map_err(Error::system(format!("read {}", folder.display())))? {
            let path = entry.map_err(Error::system(format!("read {}", folder.display())))?.path();
            match read_lease(&path, range)? {
                Some(lease) if !state.by_key.contains_key(&lease.key) => {
                    state.next = state.next.max(offset(range, lease.address) + 1);
                    state.insert(lease);
                }
                _ => remove(&path)?,
            }
        }
        Ok(Self { range, folder: folder.to_owned(), state: Mutex::new(state) })
    }

    /// The address of `key`: the one it has, or a free one, with these notes.
    pub fn allocate(&self, key: &str, notes: &[String]) -> Result<Ipv4Addr> {
        let mut state = self.lock();
        let address = match state.by_key.get(key) {
            Some(&address) if state.leases[&address].notes == notes => return Ok(address),
            Some(&address) => address,
            None => self.free(&state).ok_or(Error::Exhausted(self.range))?,
        };
        let lease = Lease { address, key: key.to_owned(), notes: notes.to_vec() };
        self.write(&lease, state.by_key.contains_key(key))?;
        state.next = offset(self.range, address) + 1;
        state.insert(lease);
        Ok(address)
    }

    /// Gives the address of `key` back; returns the lease that ended, if there was one.
    pub fn release(&self, key: &str) -> Result<Option<Lease>> {
        let mut state = self.lock();
        let Some(&address) = state.by_key.get(key) else { return Ok(None) };
        remove(&self.folder.join(address.to_string()))?;
        state.by_key.remove(key);
        Ok(state.leases.remove(&address))
    }

    /// The lease of `key`.
    pub fn get(&self, key: &str) -> Option<Lease> {
        let state = self.lock();
        state.by_key.get(key).map(|address| state.leases[address].clone())
    }

    /// Every lease, in the order of addresses.
    pub fn leases(&self) -> Vec<Lease> {
        self.lock().leases.values().cloned().collect()
    }

    /// The range that addresses come from.
    pub fn range(&self) -> Cidr {
        self.range
    }

    fn free(&self, state: &State) -> Option<Ipv4Addr> {
        let end = offset(self.range, self.range.last());
        let start = state.next.clamp(2, end.max(2));
        (start..end)
            .chain(2..start)
            .filter_map(|n| self.range.nth(n))
            .find(|a| !state.leases.contains_key(a) && *a != self.range.last())
    }

    fn write(&self, lease: &Lease, replace: bool) -> Result<()> {
        let target = self.folder.join(lease.address.to_string());
        let aside = self.folder.join(format!("{ASIDE}{}", lease.address));
        let lines = [lease.key.as_str()].into_iter().chain(lease.notes.iter().map(String::as_str));
        let content: String = lines.flat_map(|line| [line, "\n"]).collect();
        let step = || Error::system(format!("write {}", target.display()));
        fs::write(&aside, content).map_err(step())?;
        if replace {
            return fs::rename(&aside, &target).map_err(step());
        }
        let linked = fs::hard_link(&aside, &target);
        remove(&aside)?;
        linked.map_err(step())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the guard is let go, so what a panicking holder left is usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, lease: Lease) {
        self.by_key.insert(lease.key.clone(), lease.address);
        self.leases.insert(lease.address, lease);
    }
}

fn offset(range: Cidr, address: Ipv4Addr) -> u32 {
    u32::from(address) - u32::from(range.network())
}

/// `None` for what is no complete lease of this range.
fn read_lease(path: &Path, range: Cidr) -> Result<Option<Lease>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(address) = name.parse().ok().filter(|a| range.contains(*a)) else { return Ok(None) };
    let content = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::InvalidData => return Ok(None),
        other => other.map_err(Error::system(format!("read {}", path.display())))?,
    };
    let mut lines = content.lines().map(str::to_owned);
    let key = lines.next().filter(|key| !key.is_empty());
    Ok(key.map(|key| Lease { address, key, notes: lines.collect() }))
}

fn remove(path: &Path) -> Result<()> {
    ignore_missing(fs::remove_file(path)).map_err(Error::system(format!("remove {}", path.display())))
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u8),
        Release(u8),
        /// The process dies and starts again; what it was writing stays behind.
        Crash,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0..20u8).prop_map(Step::Allocate),
            3 => (0..20u8).prop_map(Step::Release),
            1 => Just(Step::Crash),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        /// Whatever happens: an address has one owner, an owner keeps its address over crashes, reserved addresses are
        /// never handed out, and the range is exhausted only when every address is taken.
        #[test]
        fn agrees_with_a_map(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let range: Cidr = "10.42.7.0/28".parse().unwrap();
            let mut ipam = Ipam::open(range, folder.path()).unwrap();
            let mut model: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Allocate(n) => {
                        let key = format!("pod-{n}");
                        match ipam.allocate(&key, &[]) {
                            Ok(address) => {
                                let known = model.insert(key, address);
                                prop_assert!(known.is_none_or(|known| known == address));
                                prop_assert!((2..15).contains(&offset(range, address)));
                            }
                            Err(Error::Exhausted(_)) => prop_assert_eq!(model.len(), 13),
                            Err(other) => return Err(TestCaseError::fail(other.to_string())),
                        }
                    }
                    Step::Release(n) => {
                        let key = format!("pod-{n}");
                        let ended = ipam.release(&key).unwrap().map(|lease| lease.address);
                        prop_assert_eq!(ended, model.remove(&key));
                    }
                    Step::Crash => {
                        fs::write(folder.path().join("aside-10.42.7.9"), "half").unwrap();
                        ipam = Ipam::open(range, folder.path()).unwrap();
                    }
                }
                let leases: BTreeMap<_, _> = ipam.leases().into_iter().map(|l| (l.key, l.address)).collect();
                prop_assert_eq!(&leases, &model);
            }
        }
    }

    #[test]
    fn notes_change_and_stay_and_foreign_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let range: Cidr = "10.42.7.0/24".parse().unwrap();
        let ipam = Ipam::open(range, folder.path()).unwrap();
        let address = ipam.allocate("a", &[]).unwrap();
        assert_eq!(ipam.allocate("a", &["tcp 80".into()]).unwrap(), address);
        fs::write(folder.path().join("10.99.0.1"), "b\n").unwrap();
        fs::write(folder.path().join("10.42.7.8"), "").unwrap();

        let reopened = Ipam::open(range, folder.path()).unwrap();

        assert_eq!(reopened.leases(), [Lease { address, key: "a".into(), notes: vec!["tcp 80".into()] }]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
