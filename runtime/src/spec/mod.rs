//! From CRI's and an image's words to a shim's: what a container is, decided in one place without touching anything.

pub mod capabilities;
mod files;
pub mod signal;

use std::path::Path;

pub use files::{Devices, devices, sandbox_files};

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::image::RunConfig;
use crate::seccomp::{Profile, default_profile};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Hidden unless the pod says otherwise.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/scsi",
    "/sys/firmware",
];
/// Read-only unless the pod says otherwise.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Everything a container's description follows from.
pub struct Inputs<'a> {
    /// The container's ID.
    pub id: &'a str,
    /// Its sandbox.
    pub sandbox: &'a cri::PodSandboxConfig,
    /// The node's hostname, for pods without one of their own.
    pub hostname: &'a str,
    /// The sandbox's directory.
    pub sandbox_dir: &'a Path,
    /// What the kubelet asked for.
    pub config: &'a cri::ContainerConfig,
    /// How the image wants to be run.
    pub image: &'a RunConfig,
    /// Where layers are.
    pub layers_dir: &'a Path,
    /// Names of its layers there, uppermost first.
    pub lower: Vec<String>,
    /// The container's directory.
    pub dir: &'a Path,
    /// Its cgroup.
    pub cgroup: &'a str,
    /// The node's cgroups.
    pub cgroups: &'a dyn Cgroups,
    /// Its device files.
    pub devices: &'a [shim::DeviceSpec],
    /// Seccomp for RuntimeDefault and Localhost; `None` when the kernel lacks it.
    pub seccomp: bool,
}

/// The container's log, or nothing.
pub fn log_path(sandbox: &cri::PodSandboxConfig, config: &cri::ContainerConfig) -> String {
    match (sandbox.log_directory.as_str(), config.log_path.as_str()) {
        ("", _) | (_, "") => String::new(),
        (dir, path) => format!("{}/{path}", dir.trim_end_matches('/')),
    }
}

/// The hostname that a pod sees: its own, or the node's.
pub fn has_host_network(sandbox: &cri::PodSandboxConfig) -> bool {
    sandbox_namespaces(sandbox).is_some_and(|options| options.network() == cri::NamespaceMode::Node)
}

/// A sandbox's choice of namespaces.
pub fn sandbox_namespaces(sandbox: &cri::PodSandboxConfig) -> Option<&cri::NamespaceOption> {
    sandbox.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

/// Refuses what this runtime does not do, rather than doing less than asked for.
pub fn check_namespaces(options: Option<&cri::NamespaceOption>) -> Result<()> {
    let Some(user) = options.and_then(|options| options.userns_options.as_ref()) else { return Ok(()) };
    match user.mode() == cri::NamespaceMode::Pod && !user.uids.is_empty() {
        true => Err(Error::Unsupported("user namespaces are not supported by this runtime".to_owned())),
        false => Ok(()),
    }
}

/// The same for what protects a container: nothing of that is dropped silently.
fn check_profiles(config: &cri::ContainerConfig, security: Option<&cri::LinuxContainerSecurityContext>) -> Result<()> {
    let refuse = |what: &str| Err(Error::Unsupported(format!("{what} not supported by this runtime")));
    if !config.cdi_devices.is_empty() {
        return refuse("CDI devices are");
    }
    let Some(security) = security else { return Ok(()) };
    let localhost = |profile: &cri::SecurityProfile| profile.profile_type() == cri::security_profile::ProfileType::Localhost;
    #[allow(deprecated, reason = "a caller may be old")]
    let (old_apparmor, old_seccomp) = (&security.apparmor_profile, &security.seccomp_profile_path);
    if security.apparmor.as_ref().is_some_and(localhost) || old_apparmor.starts_with("localhost/") {
        return refuse("AppArmor profiles of the node's own are");
    }
    match (&security.seccomp, old_seccomp.as_str()) {
        (None, path) if !matches!(path, "" | "unconfined") => refuse("the deprecated seccomp_profile_path is"),
        _ => Ok(()),
    }
}

/// What the shim is told to make the sandbox of.
pub fn sandbox(config: &cri::PodSandboxConfig, cgroup: shim::CgroupSpec) -> Result<shim::SandboxSpec> {
    let options = sandbox_namespaces(config);
    check_namespaces(options)?;
    let host_network = has_host_network(config);
    let host_ipc = options.is_some_and(|options| options.ipc() == cri::NamespaceMode::Node);
    let shared_pid = options.is_none_or(|options| options.pid() == cri::NamespaceMode::Pod);
    let mut sysctls = Vec::new();
    if !host_network {
        // Ports below 1024 and ping need no rights within a pod's own network.
        sysctls.push(("net/ipv4/ip_unprivileged_port_start".to_owned(), "0".to_owned()));
        sysctls.push(("net/ipv4/ping_group_range".to_owned(), "0 2147483647".to_owned()));
    }
    for (name, value) in config.linux.iter().flat_map(|linux| &linux.sysctls) {
        let path = sysctl_path(name, host_network, host_ipc)?;
        sysctls.retain(|(known, _)| *known != path);
        sysctls.push((path, value.clone()));
    }
    sysctls.sort();
    Ok(shim::SandboxSpec {
        hostname: if host_network { String::new() } else { config.hostname.clone() },
        network: if host_network { shim::NamespaceSource::Host } else { shim::NamespaceSource::New },
        host_ipc,
        shared_pid,
        sysctls,
        shm_bytes: 64 << 20,
        oom_score_adj: -998,
        cgroup,
    })
}

/// The path below /proc/sys of a setting that belongs to a namespace of the pod's own.
fn sysctl_path(name: &str, host_network: bool, host_ipc: bool) -> Result<String> {
    // As sysctl(8): whichever of '.' and '/' comes first separates.
    let swap = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let path: String = match swap {
        true => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        false => name.to_owned(),
    };
    let network = path.starts_with("net/") && !host_network;
    let shared_memory = ["kernel/shm", "kernel/msg", "fs/mqueue/"].iter().any(|prefix| path.starts_with(prefix));
    let ipc = (shared_memory || path == "kernel/sem") && !host_ipc;
    let clean = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match (network || ipc) && clean {
        true => Ok(path),
        false => Err(Error::Invalid(format!("sysctl {name:?} is not separate for this pod"))),
    }
}

/// What the shim is told to make the container of.
pub fn container(inputs: &Inputs<'_>) -> Result<shim::ContainerSpec> {
    let config = inputs.config;
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    check_namespaces(options)?;
    check_profiles(config, security)?;
    let privileged = security.is_some_and(|security| security.privileged);
    let readonly_root = security.is_some_and(|security| security.readonly_rootfs);
    let pid = match options.map_or(cri::NamespaceMode::Container, cri::NamespaceOption::pid) {
        cri::NamespaceMode::Container => shim::PidMode::Private,
        cri::NamespaceMode::Node => shim::PidMode::Host,
        cri::NamespaceMode::Target => {
            shim::PidMode::Target(options.map(|options| options.target_id.clone()).unwrap_or_default())
        }
        cri::NamespaceMode::Pod => match inputs.sandbox_shares_pid() {
            true => shim::PidMode::Pod,
            false => shim::PidMode::Private,
        },
    };
    let own = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (masked, mut readonly) = match security {
        _ if privileged => (Vec::new(), Vec::new()),
        Some(security) => (security.masked_paths.clone(), security.readonly_paths.clone()),
        None => (own(&MASKED), own(&READONLY)),
    };
    if !privileged && inputs.cgroups.version() == 1 {
        // The directory of hierarchies could not be read-only while they were mounted in it.
        readonly.push("/sys/fs/cgroup".to_owned());
    }
    let mounts = mounts(inputs, privileged, readonly_root)?;
    // A pod that brings a /dev of its own (the node's, mostly) gets nothing written into it.
    let own_dev = config.mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == "/dev");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(shim::ContainerSpec {
        id: inputs.id.to_owned(),
        layers: text(inputs.layers_dir),
        lower: inputs.lower.clone(),
        upper: text(&inputs.dir.join("upper")),
        work: text(&inputs.dir.join("work")),
        readonly_root,
        pid,
        private_cgroup: true,
        cgroup: inputs.cgroups.spec(inputs.cgroup),
        mounts,
        devices: if own_dev { Vec::new() } else { inputs.devices.to_vec() },
        masked,
        readonly,
        process: process(inputs, security)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        log: log_path(inputs.sandbox, config),
        record: text(&inputs.dir.join(crate::state::EXIT_FILE)),
    })
}

impl Inputs<'_> {
    fn sandbox_shares_pid(&self) -> bool {
        sandbox_namespaces(self.sandbox).is_none_or(|options| options.pid() == cri::NamespaceMode::Pod)
    }
}

fn process(inputs: &Inputs<'_>, security: Option<&cri::LinuxContainerSecurityContext>) -> Result<shim::ProcessSpec> {
    let (config, image) = (inputs.config, inputs.image);
    let privileged = security.is_some_and(|security| security.privileged);
    let sets = capabilities::decide(privileged, security.and_then(|security| security.capabilities.as_ref()))?;
    let (user, group) = user(security, &image.user)?;
    let positive = |ids: &[i64]| ids.iter().map(|id| u32::try_from(*id)).collect::<Result<Vec<_>, _>>();
    let groups = security.map(|security| positive(&security.supplemental_groups)).transpose();
    let strict =
        security.is_some_and(|security| security.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict);
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    Ok(shim::ProcessSpec {
        args: command(config, image)?,
        env: environment(inputs),
        cwd: [&config.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty()).cloned().unwrap_or_default(),
        tty: config.tty,
        user,
        group,
        groups: groups.map_err(|_| Error::Invalid("supplemental group is out of range".to_owned()))?.unwrap_or_default(),
        image_groups: !strict,
        bounding: sets.all,
        effective: sets.all,
        permitted: sets.all,
        inheritable: sets.ambient,
        ambient: sets.ambient,
        no_new_privs: security.is_some_and(|security| security.no_new_privs),
        seccomp: seccomp(inputs, security, privileged, sets.all)?,
        rlimits: Vec::new(),
        oom_score_adj: resources.map_or(0, |resources| resources.oom_score_adj.clamp(-1000, 1000) as i32),
    })
}

/// The pod's command replaces the image's entrypoint and arguments; the pod's arguments alone replace the image's arguments.
fn command(config: &cri::ContainerConfig, image: &RunConfig) -> Result<Vec<String>> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.is_empty() { Err(Error::Invalid("no command specified".to_owned())) } else { Ok(all) }
}

fn environment(inputs: &Inputs<'_>) -> Vec<Vec<u8>> {
    let mut env: Vec<Vec<u8>> = vec![DEFAULT_PATH.into()];
    let own = &inputs.sandbox.hostname;
    let hostname = if has_host_network(inputs.sandbox) || own.is_empty() { inputs.hostname } else { own };
    env.push(format!("HOSTNAME={hostname}").into());
    if inputs.config.tty {
        env.push(b"TERM=xterm".to_vec());
    }
    let asked = inputs.config.envs.iter().map(|env| [env.key.as_bytes(), b"=", &env.value].concat());
    extend(&mut env, inputs.image.env.iter().map(|entry| entry.clone().into_bytes()).chain(asked));
    env
}

/// Adds variables; each replaces an earlier one of the same name.
fn extend(env: &mut Vec<Vec<u8>>, more: impl Iterator<Item = Vec<u8>>) {
    for variable in more {
        match env.iter_mut().find(|known| name(known) == name(&variable)) {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
    }
}

/// What stands before the `=`; an image may have variables without one.
fn name(variable: &[u8]) -> Option<&[u8]> {
    variable.split(|byte| *byte == b'=').next()
}

/// User and group as the shim looks them up.
fn user(security: Option<&cri::LinuxContainerSecurityContext>, image: &str) -> Result<(String, String)> {
    let (image_user, image_group) = image.split_once(':').unwrap_or((image, ""));
    let Some(security) = security else { return Ok((image_user.to_owned(), image_group.to_owned())) };
    let group = security.run_as_group.as_ref().map(|group| group.value.to_string());
    let chosen = match &security.run_as_user {
        Some(user) => Some(user.value.to_string()),
        None => Some(security.run_as_username.clone()).filter(|name| !name.is_empty()),
    };
    match (chosen, group) {
        (Some(user), group) => Ok((user, group.unwrap_or_default())),
        (None, None) => Ok((image_user.to_owned(), image_group.to_owned())),
        (None, Some(_)) if image_user.is_empty() => Err(Error::Invalid("user group is specified without user".to_owned())),
        (None, Some(group)) => Ok((image_user.to_owned(), group)),
    }
}

fn seccomp(
    inputs: &Inputs<'_>,
    security: Option<&cri::LinuxContainerSecurityContext>,
    privileged: bool,
    capabilities: u64,
) -> Result<Vec<u8>> {
    use cri::security_profile::ProfileType;
    let Some(profile) = security.and_then(|security| security.seccomp.as_ref()) else { return Ok(Vec::new()) };
    if privileged || profile.profile_type() == ProfileType::Unconfined {
        return Ok(Vec::new());
    }
    if !inputs.seccomp {
        return Err(Error::Unsupported("the kernel has no seccomp filters, which the container asks for".to_owned()));
    }
    match profile.profile_type() {
        ProfileType::RuntimeDefault => compiled_default(capabilities),
        _ => {
            let path = profile.localhost_ref.trim_start_matches("localhost/");
            if !path.starts_with('/') {
                return Err(Error::Invalid(format!("seccomp profile {path:?} is not an absolute path")));
            }
            let text = std::fs::read(path).map_err(|error| Error::Invalid(format!("seccomp profile {path:?}: {error}")))?;
            Profile::from_json(&text)?.compile()
        }
    }
}

/// The default profile's program, kept: few sets of capabilities occur, and every exec and probe needs one.
fn compiled_default(set: u64) -> Result<Vec<u8>> {
    static KNOWN: parking_lot::Mutex<std::collections::BTreeMap<u64, Vec<u8>>> =
        parking_lot::Mutex::new(std::collections::BTreeMap::new());
    const KEPT: usize = 16;
    if let Some(program) = KNOWN.lock().get(&set) {
        return Ok(program.clone());
    }
    let program = default_profile(|name| capabilities::has(set, name)).compile()?;
    let mut known = KNOWN.lock();
    if known.len() < KEPT {
        known.insert(set, program.clone());
    }
    Ok(program)
}

/// The usual mounts, without those that the pod replaces, and the pod's.
fn mounts(inputs: &Inputs<'_>, privileged: bool, readonly_root: bool) -> Result<Vec<shim::MountSpec>> {
    use shim::{MountSource, MountSpec};
    let new = |kind: &str, target: &str, attributes: u64, options: &[(&str, &str)]| MountSpec {
        source: MountSource::New(kind.to_owned()),
        target: target.to_owned(),
        options: options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        attributes,
        ..MountSpec::default()
    };
    let all = NOSUID | NODEV | NOEXEC;
    let sys = if privileged { all } else { all | RDONLY };
    let mut mounts = vec![
        new("proc", "/proc", all, &[]),
        new("tmpfs", "/dev", NOSUID | libc::MOUNT_ATTR_STRICTATIME, &[("mode", "755"), ("size", "65536k")]),
        new(
            "devpts",
            "/dev/pts",
            NOSUID | NOEXEC,
            &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        ),
        new("mqueue", "/dev/mqueue", all, &[]),
        new("sysfs", "/sys", sys, &[]),
    ];
    for (dir, kind, options) in inputs.cgroups.mounts() {
        let target = format!("/sys/fs/cgroup/{dir}").trim_end_matches('/').to_owned();
        // The directory that holds v1's hierarchies still gets its subdirectories.
        let attributes = if kind == "tmpfs" { all } else { sys };
        mounts.push(MountSpec { source: MountSource::New(kind), target, options, attributes, ..MountSpec::default() });
    }
    let mut binds = vec![MountSpec { source: MountSource::PodShm, target: "/dev/shm".to_owned(), ..MountSpec::default() }];
    for name in ["hosts", "hostname", "resolv.conf"] {
        binds.push(MountSpec {
            source: MountSource::Bind(inputs.sandbox_dir.join(name).to_string_lossy().into_owned()),
            target: format!("/etc/{name}"),
            attributes: if readonly_root { RDONLY } else { 0 },
            ..MountSpec::default()
        });
    }
    let clean = |path: &str| path.trim_end_matches('/').to_owned();
    let replaced = |mount: &MountSpec| inputs.config.mounts.iter().any(|own| clean(&own.container_path) == mount.target);
    mounts.retain(|mount| !replaced(mount));
    binds.retain(|mount| !replaced(mount));
    for mount in &inputs.config.mounts {
        binds.push(bind(mount)?);
    }
    // What lies deeper comes later: a volume at /etc does not hide /etc/resolv.conf.
    binds.sort_by_key(|mount| clean(&mount.target).matches('/').count());
    mounts.extend(binds);
    Ok(mounts)
}

fn bind(mount: &cri::Mount) -> Result<shim::MountSpec> {
    if mount.image.is_some() || !mount.mount_options.is_empty() {
        return Err(Error::Unsupported("image volumes and mount options are not supported by this runtime".to_owned()));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::Unsupported("ID-mapped mounts are not supported by this runtime".to_owned()));
    }
    let private = mount.propagation() == cri::MountPropagation::PropagationPrivate;
    if mount.recursive_read_only && !(mount.readonly && private) {
        return Err(Error::Invalid("recursive read-only mount must be read-only and private".to_owned()));
    }
    if !mount.container_path.starts_with('/') || !mount.host_path.starts_with('/') {
        return Err(Error::Invalid(format!(
            "mount {:?} at {:?}: paths must be absolute",
            mount.host_path, mount.container_path
        )));
    }
    Ok(shim::MountSpec {
        source: shim::MountSource::Bind(mount.host_path.clone()),
        target: mount.container_path.clone(),
        options: Vec::new(),
        attributes: if mount.readonly { RDONLY } else { 0 },
        recursive: mount.recursive_read_only,
        propagation: match mount.propagation() {
            cri::MountPropagation::PropagationPrivate => libc::MS_PRIVATE,
            cri::MountPropagation::PropagationHostToContainer => libc::MS_SLAVE,
            cri::MountPropagation::PropagationBidirectional => libc::MS_SHARED,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn commands() {
        let image = RunConfig { entrypoint: strings(&["entry"]), cmd: strings(&["default"]), ..Default::default() };
        let decided = |own: &[&str], args: &[&str]| {
            let config = cri::ContainerConfig { command: strings(own), args: strings(args), ..Default::default() };
            command(&config, &image).unwrap().join(" ")
        };
        let all = [decided(&[], &[]), decided(&["c"], &[]), decided(&[], &["a"]), decided(&["c"], &["a"])];
        assert_eq!(all, ["entry default", "c", "entry a", "c a"]);
    }

    #[test]
    fn variables() {
        let mut env = vec![b"PATH=/bin".to_vec()];
        extend(&mut env, ["P", "A=1", "A=2=3"].map(|text| text.as_bytes().to_vec()).into_iter());
        assert_eq!(env, ["PATH=/bin", "P", "A=2=3"].map(|text| text.as_bytes().to_vec()));
    }

    #[test]
    fn users() {
        let security = |user: Option<i64>, name: &str, group: Option<i64>| cri::LinuxContainerSecurityContext {
            run_as_user: user.map(|value| cri::Int64Value { value }),
            run_as_username: name.into(),
            run_as_group: group.map(|value| cri::Int64Value { value }),
            ..Default::default()
        };
        let pair = |user: &str, group: &str| (user.to_owned(), group.to_owned());
        assert_eq!(user(None, "app:staff").unwrap(), pair("app", "staff"));
        assert_eq!(user(Some(&security(Some(7), "", Some(8))), "app:staff").unwrap(), pair("7", "8"));
        assert_eq!(user(Some(&security(Some(7), "", None)), "app:staff").unwrap(), pair("7", ""));
        assert_eq!(user(Some(&security(None, "me", None)), "").unwrap(), pair("me", ""));
        assert!(user(Some(&security(None, "", Some(8))), "").is_err());
    }

    #[test]
    fn protection_is_not_dropped_silently() {
        use cri::security_profile::ProfileType;
        let apparmor = |kind: ProfileType| cri::LinuxContainerSecurityContext {
            apparmor: Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: "own".into() }),
            ..Default::default()
        };
        let checked = |security: cri::LinuxContainerSecurityContext| {
            check_profiles(&cri::ContainerConfig::default(), Some(&security)).map_err(|error| error.to_string())
        };
        assert_eq!(checked(apparmor(ProfileType::RuntimeDefault)), Ok(()));
        let refused = "AppArmor profiles of the node's own are not supported by this runtime";
        assert_eq!(checked(apparmor(ProfileType::Localhost)), Err(refused.to_owned()));
        let devices = cri::ContainerConfig { cdi_devices: vec![cri::CdiDevice::default()], ..Default::default() };
        assert!(check_profiles(&devices, None).is_err());
    }

    #[test]
    fn sysctls() {
        assert_eq!(sysctl_path("net.core.somaxconn", false, false).unwrap(), "net/core/somaxconn");
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.100/forwarding", false, false).unwrap(),
            "net/ipv4/conf/eth0.100/forwarding"
        );
        for (name, host_network) in
            [("net.core.somaxconn", true), ("kernel.panic", false), ("net.x/../../../etc/passwd", false)]
        {
            assert!(sysctl_path(name, host_network, false).is_err(), "{name}");
        }
    }
}
