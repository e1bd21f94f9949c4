//! Requests, replies and events. Everything is decided by the runtime and written out here in the kernel's terms: the shim
//! knows no pods, images or policies.

use crate::wire::{Malformed, Wire, choices, messages};

/// Goes up when an older shim could not serve a newer runtime.
pub const VERSION: u32 = 1;
/// The socket's name in the sandbox's directory.
pub const SOCKET: &str = "shim.sock";
/// Longest frame either side accepts.
pub const MAX_FRAME: usize = 8 << 20;
/// Frame kinds.
pub const REQUEST: u8 = 0;
/// Answer to the request of the same id.
pub const REPLY: u8 = 1;
/// Unasked news.
pub const EVENT: u8 = 2;
/// On attached connections: bytes for standard input; an empty frame closes it.
pub const STDIN: u8 = 3;
/// Bytes from standard output.
pub const STDOUT: u8 = 4;
/// Bytes from standard error.
pub const STDERR: u8 = 5;
/// The attached container has ended.
pub const END: u8 = 6;
/// Bytes before a frame's body.
pub const HEADER: usize = 9;

choices! {
    /// What a runtime asks for.
    enum Request {
        /// First on every connection that wants events: the runtime's version.
        0 Hello(u32),
        /// Makes the namespaces and the pause process.
        1 StartSandbox(SandboxSpec),
        /// Makes and starts a container.
        2 StartContainer(Box<ContainerSpec>),
        /// Runs a process in a container; three descriptors come along for its standard streams.
        3 Exec(Box<ExecSpec>),
        /// Sends a signal.
        4 Kill(KillSpec),
        /// Sets a container's terminal size.
        5 Resize(ResizeSpec),
        /// Opens the log of the container with this id anew.
        6 ReopenLog(String),
        /// Turns the connection into a container's streams.
        7 Attach(AttachSpec),
        /// Kills everything, writes the records, answers and ends.
        8 Shutdown,
    }

    /// What a shim answers.
    enum Reply {
        /// The shim's version and what it has.
        0 Hello(HelloReply),
        /// The pause process.
        1 Sandbox(u32),
        /// The container has begun.
        2 Started(StartedReply),
        /// The process has begun.
        3 Exec(ExecReply),
        /// It is done.
        4 Done,
        /// The reason, for people.
        5 Failed(String),
    }

    /// What a shim tells by itself.
    enum Event {
        /// A container's first process has ended.
        0 ContainerExited(ExitRecord),
        /// An exec'd process has ended.
        1 ExecExited(ExecExit),
        /// The pause process is gone.
        2 SandboxExited,
    }

    /// Where a network or process namespace comes from.
    #[derive(Default)]
    enum NamespaceSource {
        /// The node's own.
        #[default]
        0 Host,
        /// A new one.
        1 New,
        /// The one at this path.
        2 Path(String),
    }

    /// Whose processes a container sees.
    #[derive(Default)]
    enum PidMode {
        /// Its own only.
        #[default]
        0 Private,
        /// All of the pod's.
        1 Pod,
        /// The node's.
        2 Host,
        /// Those of the container with this id.
        3 Target(String),
    }

    /// Where a mount's content comes from.
    #[derive(Default)]
    enum MountSource {
        /// A path of the node, with everything mounted below it.
        0 Bind(String),
        /// A new file system of this type.
        1 New(String),
        /// The pod's shared memory.
        #[default]
        2 PodShm,
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Box::new(T::take(input)?))
    }
}

messages! {
    /// Where a process is accounted.
    struct CgroupSpec {
        /// Files (`tasks` of v1 hierarchies) to which a new process writes "0" before anything else: moving oneself is the
        /// one way that takes no global lock.
        join: Vec<String>,
        /// The directory of a v2 hierarchy into which it is cloned; empty for none.
        unified: String,
        /// The file that lists the group's processes.
        procs: String,
        /// The file with an `oom_kill` line; empty for none.
        oom: String,
    }

    /// A pod's namespaces.
    struct SandboxSpec {
        /// Given to the UTS namespace; empty stays with the node's namespace and name.
        hostname: String,
        /// Where its network comes from.
        network: NamespaceSource,
        /// The node's IPC namespace and /dev/shm instead of the pod's own.
        host_ipc: bool,
        /// One process namespace for all containers.
        shared_pid: bool,
        /// Paths below /proc/sys and their values.
        sysctls: Vec<(String, String)>,
        /// Size of the shared memory.
        shm_bytes: u64,
        /// The pause process' standing with the OOM killer.
        oom_score_adj: i32,
        /// The pause process' cgroup.
        cgroup: CgroupSpec,
    }

    /// A container.
    struct ContainerSpec {
        /// Its ID.
        id: String,
        /// Directory to which `lower` is relative; short names keep many layers below the kernel's limit.
        layers: String,
        /// Image layers, uppermost first.
        lower: Vec<String>,
        /// Writable layer.
        upper: String,
        /// overlayfs's work directory.
        work: String,
        /// Nothing in the root may be written.
        readonly_root: bool,
        /// Whose processes it sees.
        pid: PidMode,
        /// A cgroup namespace of its own.
        private_cgroup: bool,
        /// Its cgroup.
        cgroup: CgroupSpec,
        /// Mounts below the root, in order.
        mounts: Vec<MountSpec>,
        /// Device files; with none, /dev is left as it is.
        devices: Vec<DeviceSpec>,
        /// Paths to hide.
        masked: Vec<String>,
        /// Paths not to be written.
        readonly: Vec<String>,
        /// The first process.
        process: ProcessSpec,
        /// Keeps standard input open for attached clients.
        stdin: bool,
        /// Closes it when the first client that fed it leaves.
        stdin_once: bool,
        /// The CRI-format log; empty for none.
        log: String,
        /// Where the [`ExitRecord`] is kept.
        record: String,
    }

    /// One mount, in the order of the list.
    struct MountSpec {
        /// What is mounted.
        source: MountSource,
        /// Where, in the container.
        target: String,
        /// Parameters of a new file system; an empty value is a flag.
        options: Vec<(String, String)>,
        /// MOUNT_ATTR_* of the new mount.
        attributes: u64,
        /// Applies the attributes to mounts below, too.
        recursive: bool,
        /// MS_PRIVATE, MS_SLAVE or MS_SHARED; 0 is private.
        propagation: u64,
    }

    /// A device file.
    struct DeviceSpec {
        /// Where, in the container.
        path: String,
        /// Type and permissions as in `st_mode`.
        mode: u32,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    }

    /// A process and its rights.
    struct ProcessSpec {
        /// The command and its arguments.
        args: Vec<String>,
        /// `NAME=value`, in bytes.
        env: Vec<Vec<u8>>,
        /// Made when missing; empty is `/`.
        cwd: String,
        /// Its streams are a terminal.
        tty: bool,
        /// A name or number; empty is root.
        user: String,
        /// A name or number; empty is the user's own.
        group: String,
        /// Further groups.
        groups: Vec<u32>,
        /// Adds the groups that /etc/group lists the user in.
        image_groups: bool,
        /// Bit sets by capability number.
        bounding: u64,
        /// See `bounding`.
        effective: u64,
        /// See `bounding`.
        permitted: u64,
        /// See `bounding`.
        inheritable: u64,
        /// See `bounding`.
        ambient: u64,
        /// exec gives no rights.
        no_new_privs: bool,
        /// A seccomp program as `struct sock_filter`s; empty for none.
        seccomp: Vec<u8>,
        /// Resource limits other than the shim's.
        rlimits: Vec<Rlimit>,
        /// Its standing with the OOM killer.
        oom_score_adj: i32,
    }

    /// A resource limit.
    struct Rlimit {
        /// RLIMIT_*.
        resource: u32,
        /// What applies.
        soft: u64,
        /// Up to where the process may raise it.
        hard: u64,
    }

    /// A process in a running container. Its descriptors: standard input, output, error (a terminal three times for `tty`).
    struct ExecSpec {
        /// Where it runs.
        container: String,
        /// What runs.
        process: ProcessSpec,
        /// The container's cgroup.
        cgroup: CgroupSpec,
    }

    /// A signal to a container's first process, to all of its processes, or to an exec'd one.
    struct KillSpec {
        /// Whose.
        container: String,
        /// 0 for the container.
        exec: u64,
        /// Signal number.
        signal: i32,
        /// Every process in its cgroup.
        all: bool,
    }

    /// A terminal's size.
    struct ResizeSpec {
        /// Whose.
        container: String,
        /// Height.
        rows: u16,
        /// Width.
        columns: u16,
    }

    /// Which streams an attached connection wants.
    struct AttachSpec {
        /// Whose.
        container: String,
        /// May write to it.
        stdin: bool,
        /// Wants its standard output (a terminal's output).
        stdout: bool,
        /// Wants its standard error.
        stderr: bool,
    }

    /// Who answers.
    struct HelloReply {
        /// The shim's [`VERSION`].
        version: u32,
        /// The shim.
        pid: u32,
        /// 0 when the pause process is gone.
        pause: u32,
        /// Running containers and their first processes.
        containers: Vec<(String, u32)>,
    }

    /// A container has begun: its first process, and as whom it runs.
    struct StartedReply {
        /// Its first process.
        pid: u32,
        /// Since the epoch.
        started_ns: i64,
        /// As this user.
        uid: u32,
        /// As this group.
        gid: u32,
        /// With these groups.
        groups: Vec<u32>,
    }

    /// An exec'd process has begun.
    struct ExecReply {
        /// Its number with this shim.
        exec: u64,
        /// Its process ID.
        pid: u32,
    }

    /// An exec'd process has ended.
    struct ExecExit {
        /// Which.
        exec: u64,
        /// The exit code, or 128 and the signal.
        code: i32,
    }

    /// A container has ended; kept on disk until the container is removed.
    struct ExitRecord {
        /// Which.
        container: String,
        /// The exit code, or 128 and the signal.
        code: i32,
        /// Since the epoch.
        finished_ns: i64,
        /// The kernel killed one of its processes for want of memory.
        oom: bool,
    }
}

/// A frame, ready to send.
pub fn frame(kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    ((body.len() + HEADER - 4) as u32).put(&mut out);
    out.push(kind);
    id.put(&mut out);
    out.extend_from_slice(body);
    out
}

/// A frame: kind, id, body, and the bytes that it took.
pub type Frame<'a> = (u8, u32, &'a [u8], usize);

/// The first frame in `buffer`; `None` while it is incomplete.
pub fn parse(buffer: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let Some((head, _)) = buffer.split_at_checked(4) else { return Ok(None) };
    let length = u32::from_bytes(head)? as usize;
    if !(HEADER - 4..=MAX_FRAME).contains(&length) {
        return Err(Malformed);
    }
    let Some(frame) = buffer.get(4..4 + length) else { return Ok(None) };
    let (kind, rest) = frame.split_first().ok_or(Malformed)?;
    let (id, body) = rest.split_at(4);
    Ok(Some((*kind, u32::from_bytes(id)?, body, 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        let spec = ContainerSpec {
            id: "a".into(),
            pid: PidMode::Target("b".into()),
            mounts: vec![MountSpec { source: MountSource::Bind("/x".into()), target: "/y".into(), ..Default::default() }],
            process: ProcessSpec { args: vec!["sh".into()], env: vec![b"A=\xff".to_vec()], ..Default::default() },
            ..Default::default()
        };
        let request = Request::StartContainer(Box::new(spec));
        let bytes = frame(REQUEST, 7, &request.to_bytes());
        let (kind, id, body, used) = parse(&bytes).unwrap().unwrap();
        assert_eq!((kind, id, Request::from_bytes(body), used), (REQUEST, 7, Ok(request), bytes.len()));
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_panics() {
        let bytes = Request::Exec(Box::new(ExecSpec { container: "a".into(), ..Default::default() })).to_bytes();
        for end in 0..bytes.len() {
            assert_eq!(Request::from_bytes(&bytes[..end]), Err(Malformed));
            for bit in 0..8 {
                let mut hostile = bytes.clone();
                hostile[end] ^= 1 << bit;
                let _ = Request::from_bytes(&hostile);
            }
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(parse(&[0xff, 0xff, 0xff, 0xff, 0]), Err(Malformed));
        assert_eq!(parse(&[4, 0, 0, 0]), Err(Malformed));
        assert_eq!(parse(&[9, 0, 0]), Ok(None));
    }
}
