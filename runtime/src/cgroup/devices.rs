//! Which devices a group's processes may use: lines for v1, a small program for v2.
//!
//! The program is assembled here because it has one shape; a compiler or loader library would be bigger than it by far.

use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Permission bits, as the kernel numbers them.
pub const MKNOD: u32 = 1;
/// See [`MKNOD`].
pub const READ: u32 = 2;
/// See [`MKNOD`].
pub const WRITE: u32 = 4;

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// 'b' or 'c'.
    pub kind: char,
    /// `None` is every one.
    pub major: Option<u32>,
    /// `None` is every one.
    pub minor: Option<u32>,
    /// Any of [`MKNOD`], [`READ`], [`WRITE`].
    pub access: u32,
}

/// What every container may do: make any device file, and use the harmless ones and terminals.
pub fn default_rules() -> Vec<DeviceRule> {
    let all = MKNOD | READ | WRITE;
    let rule = |kind, major, minor, access| DeviceRule { kind, major, minor, access };
    let mut rules = vec![rule('c', None, None, MKNOD), rule('b', None, None, MKNOD)];
    // null, zero, full, random, urandom, tty, ptmx
    let harmless = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    rules.extend(harmless.map(|(major, minor)| rule('c', Some(major), Some(minor), all)));
    rules.push(rule('c', Some(136), None, all));
    rules
}

/// The line for `devices.allow`.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let letters = [(READ, "r"), (WRITE, "w"), (MKNOD, "m")];
        let access: String = letters.iter().filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| *letter).collect();
        write!(f, "{} {}:{} {access}", self.kind, number(self.major), number(self.minor))
    }
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Returns 1 for what a rule allows. Register 2 holds the type, 3 the access, 4 and 5 the numbers.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let op = |code, to: u8, from: u8, offset, value| Instruction { code, registers: from << 4 | to, offset, value };
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND, 2, 0, 0, 0xffff),
    ];
    for rule in rules {
        let kind = if rule.kind == 'b' { 1 } else { 2 };
        let mut block = vec![op(JUMP_UNEQUAL, 2, 0, 0, kind)];
        if rule.access != MKNOD | READ | WRITE {
            block.push(op(MOVE_REGISTER, 1, 3, 0, 0));
            block.push(op(AND, 1, 0, 0, rule.access as i32));
            block.push(op(JUMP_UNEQUAL_REGISTER, 1, 3, 0, 0));
        }
        let numbers = [(4, rule.major), (5, rule.minor)];
        block.extend(
            numbers.iter().filter_map(|(register, number)| Some(op(JUMP_UNEQUAL, *register, 0, 0, (*number)? as i32))),
        );
        block.extend([op(MOVE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
        // Each condition that fails goes on with the next rule.
        let length = block.len();
        for (index, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER) {
                instruction.offset = (length - index - 1) as i16;
            }
        }
        program.extend(block);
    }
    program.extend([op(MOVE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

/// Attaches the rules' program to a v2 group.
pub fn attach(group: &Path, rules: &[DeviceRule]) -> std::io::Result<()> {
    const LOAD: i32 = 5;
    const ATTACH: i32 = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    #[derive(Default)]
    struct LoadArguments {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct AttachArguments {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let code = program(rules);
    let load = LoadArguments {
        kind: CGROUP_DEVICE_PROGRAM,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadArguments::default()
    };
    // SAFETY: the structures and what they point to outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LOAD, &load, size_of::<LoadArguments>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just made.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let group = std::fs::File::open(group)?;
    let arguments = AttachArguments {
        target: group.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above.
    match unsafe { libc::syscall(libc::SYS_bpf, ATTACH, &arguments, size_of::<AttachArguments>()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program returns, by running it.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let (mut registers, mut at) = ([0u64; 11], 0usize);
        loop {
            let Instruction { code, registers: both, offset, value } = program[at];
            let (to, from) = ((both & 15) as usize, (both >> 4) as usize);
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    registers[to] = u64::from(context[offset as usize / 4]);
                    false
                }
                MOVE => {
                    registers[to] = value as u64;
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND => {
                    registers[to] &= value as u64;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= value;
                    false
                }
                JUMP_UNEQUAL => registers[to] != value as u64,
                JUMP_UNEQUAL_REGISTER => registers[to] != registers[from],
                _ => return registers[0],
            };
            at += if jump { offset as usize } else { 0 };
        }
    }

    #[test]
    fn the_program_decides_as_the_rules_do() {
        let program = program(&default_rules());
        let ask = |kind: u32, access: u32, major, minor| run(&program, [access << 16 | kind, major, minor]) == 1;
        let (block, char) = (1, 2);
        assert!(ask(char, READ | WRITE, 1, 3), "/dev/null");
        assert!(ask(char, READ | WRITE, 136, 7), "a terminal");
        assert!(ask(block, MKNOD, 8, 0), "mknod of a disk");
        assert!(!ask(block, READ, 8, 0), "reading a disk");
        assert!(!ask(char, READ, 1, 1), "reading memory");
        assert!(!ask(char, MKNOD | READ, 1, 1), "mknod does not bring reading along");
    }

    #[test]
    fn lines() {
        let lines: Vec<_> = default_rules().iter().map(ToString::to_string).collect();
        assert_eq!((lines[0].as_str(), lines[2].as_str(), lines[9].as_str()), ("c *:* m", "c 1:3 rwm", "c 136:* rwm"));
    }
}
