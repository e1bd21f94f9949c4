//! RuntimeDefault: equal in effect to the profile that containerd gives to a container with the same capabilities.

use super::{Action, Condition, Operator, Profile, Rule};

/// Calls that every container may make.
const ALWAYS: &str = "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown \
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
    fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate \
    futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents \
    getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
    getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup \
    io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown \
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect \
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock \
    munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe \
    pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease \
    process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
    recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo \
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select \
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid \
    setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid \
    setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat \
    statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask \
    uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev";

/// Calls that come with a capability.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    ("SYS_TIME", "clock_settime settimeofday"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// CLONE_NEW* of every namespace.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Personalities: Linux, SHORT_INODE-less and UNAME26 variants, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

/// The profile for a container with these capabilities (names without `CAP_`).
pub fn default_profile(has: impl Fn(&str) -> bool) -> Profile {
    let rule = |names: &str, args: Vec<Condition>| Rule {
        names: names.split_whitespace().map(str::to_owned).collect(),
        action: Action::Allow,
        errno_ret: None,
        args,
    };
    let when = |index, op, value, value_two| vec![Condition { index, value, value_two, op }];
    let mut syscalls = vec![rule(ALWAYS, Vec::new())];
    syscalls.extend(PERSONALITIES.map(|value| rule("personality", when(0, Operator::Equal, value, 0))));
    syscalls.push(rule("socket", when(0, Operator::NotEqual, AF_VSOCK, 0)));
    syscalls
        .extend(BY_CAPABILITY.iter().filter(|(capability, _)| has(capability)).map(|(_, names)| rule(names, Vec::new())));
    if !has("SYS_ADMIN") {
        syscalls.push(rule("clone", when(0, Operator::MaskedEqual, NAMESPACE_FLAGS, 0)));
        // Its flags lie in memory, where a filter cannot look; callers fall back to clone.
        let errno_ret = Some(libc::ENOSYS as u16);
        syscalls.push(Rule { action: Action::Errno, errno_ret, ..rule("clone3", Vec::new()) });
    }
    Profile { default_action: Action::Errno, default_errno_ret: Some(libc::EPERM as u16), syscalls }
}

/// Every name that the profile knows, for some capabilities.
pub fn default_names() -> impl Iterator<Item = &'static str> {
    let others = BY_CAPABILITY.iter().flat_map(|(_, names)| names.split_whitespace());
    ALWAYS.split_whitespace().chain(others).chain(["personality", "socket"])
}
