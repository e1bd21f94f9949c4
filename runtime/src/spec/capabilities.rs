//! Capability names and sets.

use crate::error::{Error, Result};

/// By number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containers have unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

fn bit(name: &str) -> Result<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = NAMES.iter().position(|known| *known == bare);
    number.map(|number| 1 << number).ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))
}

/// Whether the set has a capability.
pub fn has(set: u64, name: &str) -> bool {
    bit(name).is_ok_and(|bit| set & bit != 0)
}

/// A container's sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sets {
    /// Bounding, effective and permitted.
    pub all: u64,
    /// Ambient, and inheritable for its sake.
    pub ambient: u64,
}

/// The sets that CRI's lists ask for. "ALL" comes first, single names after it.
pub fn decide(privileged: bool, wanted: Option<&cri::Capability>) -> Result<Sets> {
    if privileged {
        return Ok(Sets { all: ALL, ambient: 0 });
    }
    let mut set = DEFAULT.iter().map(|name| bit(name)).sum::<Result<u64>>()?;
    let Some(wanted) = wanted else { return Ok(Sets { all: set, ambient: 0 }) };
    let every = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let bits = |names: &[String]| {
        let single = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
        single.map(|name| bit(name)).try_fold(0, |set, bit| Ok::<u64, Error>(set | bit?))
    };
    if every(&wanted.add_capabilities) {
        set = ALL;
    }
    if every(&wanted.drop_capabilities) {
        set = 0;
    }
    set |= bits(&wanted.add_capabilities)?;
    set &= !bits(&wanted.drop_capabilities)?;
    let ambient = bits(&wanted.add_ambient_capabilities)?;
    Ok(Sets { all: set | ambient, ambient })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(add: &[&str], drop: &[&str]) -> u64 {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let lists = cri::Capability { add_capabilities: own(add), drop_capabilities: own(drop), ..Default::default() };
        decide(false, Some(&lists)).unwrap().all
    }

    #[test]
    fn lists() {
        assert_eq!(decide(false, None).unwrap().all, 0xa804_25fb);
        assert_eq!(wanted(&["NET_ADMIN"], &["ALL"]), 1 << 12);
        assert_eq!(wanted(&["ALL"], &["cap_sys_admin"]), ALL & !(1 << 21));
        assert_eq!(decide(true, None).unwrap().all, ALL);
        let odd = cri::Capability { add_capabilities: vec!["FLY".into()], ..Default::default() };
        assert_eq!(decide(false, Some(&odd)).unwrap_err().to_string(), "unknown capability \"FLY\"");
    }
}
