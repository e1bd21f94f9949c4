//! What eviction looks at, and the thresholds that flags set on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use api::quantity::{Format, Quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// Something that can run short, by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory that could be given to somebody.
    Memory,
    /// Bytes on the kubelet's file system.
    Nodefs,
    /// Inodes on it.
    NodefsInodes,
    /// Bytes on the runtime's file system.
    Imagefs,
    /// Inodes on it.
    ImagefsInodes,
    /// Process numbers.
    Pid,
}

/// A condition of the node that follows from a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// Memory.
    Memory,
    /// Disks.
    Disk,
    /// Process numbers.
    Pid,
}

impl Pressure {
    /// In the order in which the node's status has them.
    const ALL: [Pressure; 3] = [Self::Memory, Self::Disk, Self::Pid];

    /// Reasons of the node's events when those that there were `before` (nobody was told, at first) become those of `now`.
    pub fn changes(before: Option<&BTreeSet<Self>>, now: &BTreeSet<Self>) -> Vec<&'static str> {
        let changed = Self::ALL.into_iter().filter(|p| before.is_none_or(|before| before.contains(p) != now.contains(p)));
        let reason = |pressure: Self| match (pressure, now.contains(&pressure)) {
            (Self::Memory, true) => "NodeHasInsufficientMemory",
            (Self::Memory, false) => "NodeHasSufficientMemory",
            (Self::Disk, true) => "NodeHasDiskPressure",
            (Self::Disk, false) => "NodeHasNoDiskPressure",
            (Self::Pid, true) => "NodeHasInsufficientPID",
            (Self::Pid, false) => "NodeHasSufficientPID",
        };
        changed.map(reason).collect()
    }

    /// The condition's type.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    const ALL: [Signal; 6] = [Self::Memory, Self::Nodefs, Self::NodefsInodes, Self::Imagefs, Self::ImagefsInodes, Self::Pid];

    /// Its name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Nodefs => "nodefs.available",
            Self::NodefsInodes => "nodefs.inodesFree",
            Self::Imagefs => "imagefs.available",
            Self::ImagefsInodes => "imagefs.inodesFree",
            Self::Pid => "pid.available",
        }
    }

    /// What is reclaimed for it, by the name in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nodefs | Self::Imagefs => "ephemeral-storage",
            Self::NodefsInodes | Self::ImagefsInodes => "inodes",
            Self::Pid => "pids",
        }
    }

    /// The condition that it puts the node in.
    pub fn pressure(self) -> Pressure {
        match self {
            Self::Memory => Pressure::Memory,
            Self::Pid => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }

    /// An amount of it, printed.
    pub fn print(self, value: i64) -> String {
        let format = match self {
            Self::Memory | Self::Nodefs | Self::Imagefs => Format::BinarySi,
            _ => Format::DecimalSi,
        };
        Quantity::from_units(value, format).to_string()
    }

    fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|signal| signal.name() == name).ok_or_else(|| format!("unknown eviction signal {name:?}"))
    }
}

/// A bound: an amount, or a part of all there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// As it was written, and its value.
    Amount(String, i64),
    /// A part of the capacity, 0 to 1.
    Part(f64),
}

impl Bound {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| format!("{text:?} is not a percentage"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(format!("{text:?} is not between 0% and 100%"));
            }
            return Ok(Self::Part(percent / 100.0));
        }
        let canonical = api::quantity::canonical(text).map_err(|error| format!("{text:?}: {error}"))?;
        let value = Quantity::of(&ApiQuantity(canonical.clone())).value();
        if value < 0 { Err(format!("{text:?} is negative")) } else { Ok(Self::Amount(canonical, value)) }
    }

    /// What it comes to where there is so much in all.
    pub fn of(&self, capacity: i64) -> i64 {
        match self {
            Self::Amount(_, value) => *value,
            // Amounts of bytes are far below what a double holds exactly.
            Self::Part(part) => (capacity as f64 * part) as i64,
        }
    }

    /// Printed, as a message has it: a part of anything in the binary form.
    pub fn print(&self, capacity: i64) -> String {
        match self {
            Self::Amount(text, _) => text.clone(),
            Self::Part(_) => Quantity::from_units(self.of(capacity), Format::BinarySi).to_string(),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Amount(_, 0)) || matches!(self, Self::Part(part) if *part == 0.0)
    }
}

/// When pods have to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this is too little.
    pub bound: Bound,
    /// How long it must have been too little; none for hard thresholds.
    pub grace: Option<Duration>,
    /// How much more than the bound must be there again.
    pub reclaim: Option<Bound>,
}

/// How much there is of something, and how much of that is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// In all.
    pub capacity: i64,
    /// Free.
    pub available: i64,
}

/// `signal<bound,...`, as flags have it.
#[derive(Clone, Default, PartialEq)]
pub struct Bounds(pub BTreeMap<Signal, Bound>);

impl FromStr for Bounds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        bounds(text)
    }
}

impl fmt::Debug for Bounds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(&self.0).finish()
    }
}

fn entries<T>(text: &str, between: char, value: fn(&str) -> Result<T, String>) -> Result<BTreeMap<Signal, T>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut all = BTreeMap::new();
    for word in words {
        let (name, rest) = word.split_once(between).ok_or_else(|| format!("{word:?} is not SIGNAL{between}VALUE"))?;
        if all.insert(Signal::parse(name.trim())?, value(rest.trim())?).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(all)
}

/// Reads `--eviction-hard` and `--eviction-soft`.
pub fn bounds(text: &str) -> Result<Bounds, String> {
    entries(text, '<', Bound::parse).map(Bounds)
}

/// Reads `--eviction-minimum-reclaim`.
pub fn reclaims(text: &str) -> Result<Bounds, String> {
    entries(text, '=', Bound::parse).map(Bounds)
}

/// `signal=duration,...`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graces(pub BTreeMap<Signal, Duration>);

/// Reads `--eviction-soft-grace-period`.
pub fn graces(text: &str) -> Result<Graces, String> {
    entries(text, '=', |word| process::flags::duration(word).map_err(|error| error.to_string())).map(Graces)
}

/// All thresholds that flags set. A soft one without a grace period is an error, as upstream.
pub fn thresholds(hard: &Bounds, soft: &Bounds, graces: &Graces, reclaims: &Bounds) -> Result<Vec<Threshold>, String> {
    let make = |(signal, bound): (&Signal, &Bound), grace| Threshold {
        signal: *signal,
        bound: bound.clone(),
        grace,
        reclaim: reclaims.0.get(signal).cloned(),
    };
    let mut all: Vec<Threshold> =
        hard.0.iter().filter(|(_, bound)| !bound.is_nothing()).map(|entry| make(entry, None)).collect();
    for entry in &soft.0 {
        let Some(grace) = graces.0.get(entry.0) else {
            return Err(format!("grace period must be specified for the soft eviction threshold {}", entry.0.name()));
        };
        all.push(make(entry, Some(*grace)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let hard = bounds("memory.available<100Mi,nodefs.available<10%,pid.available<0").unwrap();
        let soft = bounds("memory.available<1Gi").unwrap();
        let wait = graces("memory.available=1m30s").unwrap();
        let more = reclaims("memory.available=0,nodefs.available=1Gi").unwrap();
        let all = thresholds(&hard, &soft, &wait, &more).unwrap();
        let amount = |text: &str, value| Bound::Amount(text.into(), value);
        let nothing = Some(amount("0", 0));
        let expected = [
            (Signal::Memory, amount("100Mi", 100 << 20), None, nothing.clone()),
            (Signal::Nodefs, Bound::Part(0.1), None, Some(amount("1Gi", 1 << 30))),
            (Signal::Memory, amount("1Gi", 1 << 30), Some(Duration::from_secs(90)), nothing),
        ];
        let expected: Vec<Threshold> = expected
            .into_iter()
            .map(|(signal, bound, grace, reclaim)| Threshold { signal, bound, grace, reclaim })
            .collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn parts_are_printed_in_the_binary_form() {
        let (half, amount) = (Bound::Part(0.5), Bound::Amount("30k".into(), 30_000));
        assert_eq!([half.print(60_000), half.print(4 << 20), amount.print(1)], ["30000", "2Mi", "30k"]);
    }

    #[test]
    fn nonsense() {
        for text in ["memory.available", "memory.free<1", "memory.available<101%", "memory.available<-1", "pid.available<x"]
        {
            assert!(bounds(text).is_err(), "{text}");
        }
        assert!(bounds("memory.available<1,memory.available<2").is_err());
        let soft = bounds("memory.available<1Gi").unwrap();
        assert!(thresholds(&Bounds::default(), &soft, &Graces::default(), &Bounds::default()).is_err());
    }

    #[test]
    fn what_the_nodes_events_say() {
        let (none, disk) = (BTreeSet::new(), BTreeSet::from([Pressure::Disk]));
        let steps = [(None, &none), (Some(&none), &none), (Some(&none), &disk), (Some(&disk), &none)];
        let said = steps.map(|(before, now)| Pressure::changes(before, now));
        let at_first = vec!["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"];
        assert_eq!(said, [at_first, vec![], vec!["NodeHasDiskPressure"], vec!["NodeHasNoDiskPressure"]]);
    }
}
