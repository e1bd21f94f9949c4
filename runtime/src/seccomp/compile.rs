//! Profiles into classic BPF.

use std::collections::BTreeMap;

use super::{Action, Condition, Operator, Profile, default_names, names};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Op {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// Numbers from here on are x32's, another way to call the same things.
const X32: u32 = 0x4000_0000;

fn op(code: u16, value: u32) -> Op {
    Op { code, yes: 0, no: 0, value }
}

fn jump(code: u16, value: u32, yes: u8, no: u8) -> Op {
    Op { code, yes, no, value }
}

fn verdict(action: Action, errno: Option<u16>) -> u32 {
    let errno = u32::from(errno.unwrap_or(libc::EPERM as u16));
    match action {
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Errno => 0x0005_0000 | errno,
        Action::Trace => 0x7ff0_0000 | errno,
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

/// What is done about one call: conditional verdicts in order, then the last one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Decision {
    cases: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

/// The whole program, as `struct sock_filter`s.
pub fn program(profile: &Profile) -> Vec<u8> {
    let default = verdict(profile.default_action, profile.default_errno_ret);
    let absent = verdict(Action::Errno, Some(libc::ENOSYS as u16));
    // Calls by another architecture's numbers cannot be told apart by ours.
    let mut ops = vec![op(LOAD, ARCHITECTURE), jump(EQUAL, NATIVE, 1, 0), op(RETURN, absent), op(LOAD, NUMBER)];
    ops.extend(search(&ranges(profile, default, absent)));
    ops.into_iter()
        .flat_map(|op| [op.code.to_le_bytes().as_slice(), &[op.yes, op.no], &op.value.to_le_bytes()].concat())
        .collect()
}

/// Decisions by the first call number they are about, each up to the next.
fn ranges(profile: &Profile, default: u32, absent: u32) -> Vec<(u32, Decision)> {
    let plain = |otherwise| Decision { cases: Vec::new(), otherwise };
    let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
    for rule in &profile.syscalls {
        let verdict = verdict(rule.action, rule.errno_ret.or(profile.default_errno_ret));
        for number in rule.names.iter().filter_map(|name| names::number(name)) {
            let decision = decisions.entry(number).or_insert_with(|| plain(default));
            match rule.args.is_empty() {
                true => decision.otherwise = verdict,
                false => decision.cases.push((rule.args.clone(), verdict)),
            }
        }
    }
    // Newer than what the profile, or at least what the default one, knows of.
    let newest = default_names().filter_map(names::number).chain(decisions.keys().copied()).max().unwrap_or(0);
    let fallback = if profile.default_action == Action::Errno { absent } else { default };
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    let mut push = |start: u32, decision: Decision| {
        if ranges.last().is_none_or(|(_, last)| *last != decision) {
            ranges.push((start, decision));
        }
    };
    let mut next = 0;
    for (number, decision) in decisions {
        if number > next {
            push(next, plain(default));
        }
        push(number, decision);
        next = number + 1;
    }
    if next <= newest {
        push(next, plain(default));
    }
    push(newest + 1, plain(fallback));
    push(X32, plain(absent));
    ranges
}

/// A binary search over ranges. Far jumps go through an unconditional one, whose reach is not limited to a byte.
fn search(ranges: &[(u32, Decision)]) -> Vec<Op> {
    let [.., _, _] = ranges else {
        return ranges.first().map(|(_, decision)| decide(decision)).unwrap_or_default();
    };
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (search(low), search(high));
    let mut ops = vec![jump(GREATER_OR_EQUAL, high[0].0, 0, 1), op(JUMP, below.len() as u32)];
    ops.extend(below);
    ops.extend(above);
    ops
}

fn decide(decision: &Decision) -> Vec<Op> {
    let mut ops = Vec::new();
    for (conditions, verdict) in &decision.cases {
        let blocks: Vec<Vec<Test>> = conditions.iter().map(test).collect();
        let length: usize = blocks.iter().map(Vec::len).sum();
        let mut at = 0;
        for block in blocks {
            let end = at + block.len();
            for test in block {
                at += 1;
                // Past the return, to the next case; or past this condition.
                let target = |to: To| match to {
                    To::Next => 0,
                    To::Holds => (end - at) as u8,
                    To::Fails => (length - at + 1) as u8,
                };
                ops.push(Op { yes: target(test.yes), no: target(test.no), ..test.op });
            }
        }
        ops.push(op(RETURN, *verdict));
    }
    ops.push(op(RETURN, decision.otherwise));
    ops
}

#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

struct Test {
    op: Op,
    yes: To,
    no: To,
}

/// One condition on 64 bits by comparisons of 32.
fn test(condition: &Condition) -> Vec<Test> {
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + condition.index * 8;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let plain = |code, value| Test { op: op(code, value), yes: Next, no: Next };
    let branch = |code, value, yes, no| Test { op: op(code, value), yes, no };
    let (high_value, low_value) = halves(condition.value);
    let (load_high, load_low) = (plain(LOAD, low + 4), plain(LOAD, low));
    let order = |code, yes: To, no: To| {
        vec![
            plain(LOAD, low + 4),
            branch(GREATER, high_value, yes, Next),
            branch(EQUAL, high_value, Next, no),
            plain(LOAD, low),
            branch(code, low_value, yes, no),
        ]
    };
    match condition.op {
        Operator::Equal => {
            vec![load_high, branch(EQUAL, high_value, Next, Fails), load_low, branch(EQUAL, low_value, Holds, Fails)]
        }
        Operator::NotEqual => {
            vec![load_high, branch(EQUAL, high_value, Next, Holds), load_low, branch(EQUAL, low_value, Fails, Holds)]
        }
        Operator::Greater => order(GREATER, Holds, Fails),
        Operator::GreaterOrEqual => order(GREATER_OR_EQUAL, Holds, Fails),
        Operator::Less => order(GREATER_OR_EQUAL, Fails, Holds),
        Operator::LessOrEqual => order(GREATER, Fails, Holds),
        Operator::MaskedEqual => {
            let (high_wanted, low_wanted) = halves(condition.value_two);
            vec![
                load_high,
                plain(AND, high_value),
                branch(EQUAL, high_wanted, Next, Fails),
                load_low,
                plain(AND, low_value),
                branch(EQUAL, low_wanted, Holds, Fails),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rule, default_profile};
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[u8], number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number, NATIVE, 0, 0].map(u32::to_le_bytes).concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let op = &program[at * 8..at * 8 + 8];
            let (code, value) = (u16::from_le_bytes([op[0], op[1]]), u32::from_le_bytes(op[4..].try_into().unwrap()));
            at += 1;
            let holds = match code {
                LOAD => {
                    a = u32::from_le_bytes(data[value as usize..value as usize + 4].try_into().unwrap());
                    continue;
                }
                AND => {
                    a &= value;
                    continue;
                }
                JUMP => {
                    at += value as usize;
                    continue;
                }
                RETURN => return value,
                EQUAL => a == value,
                GREATER => a > value,
                GREATER_OR_EQUAL => a >= value,
                other => panic!("unknown operation {other:#x}"),
            };
            at += usize::from(if holds { op[2] } else { op[3] });
        }
    }

    const ALLOWED: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    fn call(program: &[u8], name: &str, first: u64) -> u32 {
        run(program, names::number(name).unwrap(), [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_default_profile_without_and_with_capabilities() {
        let plain = default_profile(|_| false).compile().unwrap();
        let asked = [
            ("read", 0),
            ("mount", 0),
            ("clone", 0x11),
            ("clone", 0x1000_0000),
            ("clone3", 0),
            ("socket", 40),
            ("socket", 2),
        ];
        let answers: Vec<u32> = asked.iter().map(|(name, first)| call(&plain, name, *first)).collect();
        assert_eq!(answers, [ALLOWED, EPERM, ALLOWED, EPERM, ENOSYS, EPERM, ALLOWED]);
        assert_eq!(call(&plain, "personality", 0xffff_ffff), ALLOWED);
        assert_eq!(call(&plain, "personality", 0x1_0000_0000), EPERM);
        assert_eq!((run(&plain, 5_000, [0; 6]), run(&plain, X32 + 1, [0; 6])), (ENOSYS, ENOSYS));
        let admin = default_profile(|name| name == "SYS_ADMIN").compile().unwrap();
        assert_eq!(["mount", "clone3", "reboot"].map(|name| call(&admin, name, 0)), [ALLOWED, ALLOWED, EPERM]);
    }

    #[test]
    fn every_name_of_the_profile_is_known() {
        let unknown: Vec<_> = default_names().filter(|name| names::number(name).is_none()).collect();
        // Newer than the C library's table, or gone.
        let expected: Vec<&str> = Vec::new();
        assert_eq!(unknown, expected);
    }

    #[test]
    fn comparisons_are_of_64_bits() {
        use Operator::*;
        let holds = |op, value, value_two, argument| {
            let condition = Condition { index: 1, value, value_two, op };
            let rule = Rule { names: vec!["ioctl".into()], action: Action::Allow, errno_ret: None, args: vec![condition] };
            let profile = Profile { default_action: Action::Errno, default_errno_ret: None, syscalls: vec![rule] };
            run(&profile.compile().unwrap(), names::number("ioctl").unwrap(), [0, argument, 0, 0, 0, 0]) == ALLOWED
        };
        let values = [0, 1, 0xffff_ffff, 1 << 32, (1 << 32) + 1, u64::MAX];
        for a in values {
            for b in values {
                let got = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual].map(|op| holds(op, b, 0, a));
                assert_eq!(got, [a == b, a != b, a < b, a <= b, a > b, a >= b], "{a:#x} and {b:#x}");
                assert_eq!(holds(MaskedEqual, 0x1_0000_0001, b, a), a & 0x1_0000_0001 == b);
            }
        }
    }
}
