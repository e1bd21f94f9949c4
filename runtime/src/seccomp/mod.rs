//! System-call filters: profiles, and their translation into the kernel's programs.
//!
//! A compiler of our own, since the only crate without a C library kills a process for a call of another architecture and
//! knows one action besides the default. This one takes profiles as the OCI specification writes them and makes a binary
//! search over call numbers, eight comparisons deep instead of hundreds in a row. As runc does, calls newer than any
//! that a profile knows fail with ENOSYS, so that programs fall back as on an older kernel.

mod compile;
mod default;
mod names;

pub use default::{default_names, default_profile};

use serde::Deserialize;

use crate::error::{Error, Result, Step};

/// A profile in the OCI runtime specification's form.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// For calls that no rule is about.
    pub default_action: Action,
    /// What they fail with.
    #[serde(default)]
    pub default_errno_ret: Option<u16>,
    /// Rules.
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The calls.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// What they fail with.
    #[serde(default)]
    pub errno_ret: Option<u16>,
    /// Conditions, all of which must hold.
    #[serde(default)]
    pub args: Vec<Condition>,
}

/// A condition on an argument.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which, from 0.
    pub index: u32,
    /// Compared with this; the mask for a masked comparison.
    pub value: u64,
    /// What a masked argument must equal.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Operator,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

impl Profile {
    /// Reads a profile.
    pub fn from_json(text: &[u8]) -> Result<Profile> {
        serde_json::from_slice(text).step("decode seccomp profile")
    }

    /// The kernel's program, as `struct sock_filter`s.
    pub fn compile(&self) -> Result<Vec<u8>> {
        if self.syscalls.iter().flat_map(|rule| &rule.args).any(|condition| condition.index > 5) {
            return Err(Error::Invalid("seccomp profile names an argument beyond the sixth".to_owned()));
        }
        Ok(compile::program(self))
    }
}
