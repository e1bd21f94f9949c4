//! A container as CRI describes it.

use std::collections::BTreeMap;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use super::{
    env::Environment,
    expand::expand,
    record::keys,
    resources::{self, Amounts},
    sandbox_config,
    spec::{self, Member, Role},
};

/// What the image says about its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// A numeric user.
    pub uid: Option<i64>,
    /// A named user.
    pub name: String,
}

/// Everything a container's configuration is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub member: &'a Member,
    /// How often it was started before.
    pub restart_count: i32,
    /// The image as the runtime knows it.
    pub image_ref: &'a str,
    /// The image's user.
    pub image_user: ImageUser,
    /// Its environment.
    pub env: &'a Environment,
    /// Its mounts.
    pub mounts: Vec<v1::Mount>,
    /// The node's memory, for out-of-memory scores.
    pub node_memory: i64,
    /// The id of the container whose process namespace an ephemeral one joins.
    pub target_id: Option<String>,
    /// Controllers are in the unified hierarchy.
    pub cgroup_v2: bool,
    /// Who asks for no seccomp profile gets RuntimeDefault.
    pub seccomp_default: bool,
}

/// Why a container cannot be configured; becomes `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Paths of /proc that a container may not see.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths of /proc that a container may not write.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Builds the configuration.
pub fn build(i: &Input) -> Result<v1::ContainerConfig, ConfigError> {
    let c = &i.member.container;
    let lookup = |name: &str| i.env.get(name).map(str::to_owned);
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|s| expand(s, lookup)).collect();
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: c.name.clone(), attempt: u32::try_from(i.restart_count).unwrap_or(0) }),
        image: Some(v1::ImageSpec {
            image: i.image_ref.to_owned(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&c.command),
        args: expanded(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: i.env.vars.iter().map(|(k, v)| v1::KeyValue { key: k.clone(), value: v.clone().into_bytes() }).collect(),
        mounts: i.mounts.clone(),
        devices: Vec::new(),
        labels: [
            (keys::POD_NAME, spec::name(i.pod).to_owned()),
            (keys::POD_NAMESPACE, spec::namespace(i.pod).to_owned()),
            (keys::POD_UID, spec::uid(i.pod)),
            (keys::CONTAINER_NAME, c.name.clone()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect(),
        annotations: annotations(i.pod, c, i.restart_count).into_iter().collect(),
        log_path: log_path(&c.name, i.restart_count),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig { resources: Some(cgroup(i)), security_context: Some(security(i)?) }),
        cdi_devices: Vec::new(),
        stop_signal: stop_signal(c),
    })
}

/// Where a container logs, below the pod's log directory.
pub fn log_path(name: &str, restart_count: i32) -> String {
    format!("{name}/{restart_count}.log")
}

fn stop_signal(c: &Container) -> i32 {
    let name = c.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    let signal = name.and_then(|n| v1::Signal::from_str_name(&format!("SIGNAL_{n}")));
    signal.unwrap_or(v1::Signal::RuntimeDefault).into()
}

fn annotations(pod: &Pod, c: &Container, restart_count: i32) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([
        (keys::CONTAINER_HASH.to_owned(), spec::hash(c)),
        (keys::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (keys::MESSAGE_PATH.to_owned(), message_path(c)),
        (keys::MESSAGE_POLICY.to_owned(), c.termination_message_policy.clone().unwrap_or("File".to_owned())),
    ]);
    let own = spec::spec(pod);
    map.extend(own.termination_grace_period_seconds.map(|g| (keys::GRACE.to_owned(), g.to_string())));
    map.extend(pod.metadata.deletion_grace_period_seconds.map(|g| (keys::DELETION_GRACE.to_owned(), g.to_string())));
    if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        map.extend(serde_json::to_string(hook).ok().map(|j| (keys::PRE_STOP.to_owned(), j)));
    }
    if let Some(ports) = c.ports.as_ref().filter(|p| !p.is_empty()) {
        map.extend(serde_json::to_string(ports).ok().map(|j| (keys::PORTS.to_owned(), j)));
    }
    map
}

/// `terminationMessagePath` with its default.
pub fn message_path(c: &Container) -> String {
    c.termination_message_path.clone().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log".to_owned())
}

fn cgroup(i: &Input) -> v1::LinuxContainerResources {
    let c = &i.member.container;
    let (request, limit) = (resources::requests(c), resources::limits(c));
    let mut linux = limits(&request, &limit);
    linux.oom_score_adj = resources::oom_score_adj(i.pod, c, i.member.role, i.node_memory);
    if i.cgroup_v2 {
        linux.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    linux
}

/// Requests and limits as cgroup values.
pub fn limits(request: &Amounts, limit: &Amounts) -> v1::LinuxContainerResources {
    let get = |a: &Amounts, n: &str| a.get(n).copied().unwrap_or(0);
    let quota = resources::cpu_quota(get(limit, "cpu"));
    v1::LinuxContainerResources {
        cpu_period: resources::CPU_PERIOD_US,
        cpu_quota: quota,
        cpu_shares: resources::cpu_shares(get(request, "cpu")),
        memory_limit_in_bytes: get(limit, "memory"),
        ..Default::default()
    }
}

fn security(i: &Input) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let own = i.member.container.security_context.clone().unwrap_or_default();
    let pod = spec::spec(i.pod).security_context.unwrap_or_default();
    let run_as_user = own.run_as_user.or(pod.run_as_user);
    non_root(i, &own, &pod, run_as_user)?;
    let user = run_as_user.or(i.image_user.uid);
    let int = |v: Option<i64>| v.map(|value| v1::Int64Value { value });
    let privileged = own.privileged == Some(true);
    let mut namespaces = sandbox_config::namespaces(i.pod);
    if let (Role::Ephemeral, Some(id)) = (i.member.role, &i.target_id) {
        (namespaces.pid, namespaces.target_id) = (v1::NamespaceMode::Target.into(), id.clone());
    }
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let default = SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() };
    let asked = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let seccomp = sandbox_config::seccomp(asked.or(i.seccomp_default.then_some(&default)).filter(|_| !privileged));
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: Some(own.capabilities.map_or_else(v1::Capability::default, |c| v1::Capability {
            add_capabilities: c.add.unwrap_or_default(),
            drop_capabilities: c.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        })),
        privileged,
        namespace_options: Some(namespaces),
        run_as_user: int(user),
        run_as_group: int(own.run_as_group.or(pod.run_as_group)),
        run_as_username: if user.is_none() { i.image_user.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: sandbox_config::supplemental(i.pod),
        supplemental_groups_policy: sandbox_config::groups_policy(i.pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(seccomp),
        ..Default::default()
    })
}

/// `runAsNonRoot`.
fn non_root(
    i: &Input,
    own: &SecurityContext,
    pod: &PodSecurityContext,
    run_as_user: Option<i64>,
) -> Result<(), ConfigError> {
    if own.run_as_non_root.or(pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", spec::full_name(i.pod), i.member.container.name);
    let problem = match (run_as_user, i.image_user.uid, i.image_user.name.as_str()) {
        (Some(0), _, _) => format!("container's runAsUser breaks non-root policy {place}"),
        (Some(_), _, _) => return Ok(()),
        (None, _, name) if !name.is_empty() => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        ),
        (None, Some(uid), _) if uid != 0 => return Ok(()),
        (None, _, _) => format!("container has runAsNonRoot and image will run as root {place}"),
    };
    Err(ConfigError(problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn configured(container: Value, context: Value, user: ImageUser) -> Result<v1::ContainerConfig, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": context, "containers": [container]}}))
        .unwrap();
        let member = &spec::members(&pod)[0];
        let env = Environment { vars: vec![("A".into(), "1".into())], skipped: vec![] };
        build(&Input {
            pod: &pod,
            member,
            restart_count: 3,
            image_ref: "sha256:1",
            image_user: user,
            env: &env,
            mounts: vec![],
            node_memory: 1 << 30,
            target_id: None,
            cgroup_v2: false,
            seccomp_default: true,
        })
    }

    #[test]
    fn seccomp_profiles() {
        let profile = |own: Value, pod: Value| {
            let config = configured(json!({"name": "c", "securityContext": own}), pod, ImageUser::default()).unwrap();
            let profile = config.linux.unwrap().security_context.unwrap().seccomp.unwrap();
            (profile.profile_type().as_str_name(), profile.localhost_ref)
        };
        let of = |kind: &str| json!({"seccompProfile": {"type": kind, "localhostProfile": "p.json"}});
        let mut privileged = of("Localhost");
        privileged["privileged"] = true.into();
        let found = [
            profile(json!({}), json!({})),
            profile(of("Localhost"), of("Unconfined")),
            profile(json!({}), of("Unconfined")),
            profile(privileged, json!({})),
        ];
        let expected = [("RuntimeDefault", ""), ("Localhost", "p.json"), ("Unconfined", ""), ("Unconfined", "")];
        assert_eq!(found, expected.map(|(kind, name)| (kind, name.to_owned())));
    }

    #[test]
    fn commands_are_expanded_and_identity_is_written_down() {
        let config = configured(
            json!({"name": "c", "image": "i:1", "command": ["sh"], "args": ["-c", "echo $(A) $(B) $$(A)"]}),
            json!({}),
            ImageUser::default(),
        )
        .unwrap();
        assert_eq!(config.args, ["-c", "echo 1 $(B) $(A)"]);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(config.labels[keys::CONTAINER_NAME], "c");
        assert_eq!(config.annotations[keys::RESTART_COUNT], "3");
    }

    #[test]
    fn users() {
        let user = |own: Value, pod: Value, uid, name: &str| {
            let image = ImageUser { uid, name: name.into() };
            configured(json!({"name": "c", "securityContext": own}), pod, image).map(|c| {
                let s = c.linux.unwrap().security_context.unwrap();
                (s.run_as_user.map(|u| u.value), s.run_as_username)
            })
        };
        let text = |r: Result<_, ConfigError>| r.unwrap_err().0;
        assert_eq!(user(json!({"runAsUser": 5}), json!({"runAsUser": 6}), Some(7), "").unwrap(), (Some(5), String::new()));
        assert_eq!(user(json!({}), json!({"runAsUser": 6}), Some(7), "").unwrap(), (Some(6), String::new()));
        assert_eq!(user(json!({}), json!({}), None, "web").unwrap(), (None, "web".into()));
        assert_eq!(user(json!({"runAsNonRoot": true}), json!({}), Some(7), "").unwrap(), (Some(7), String::new()));
        let root = text(user(json!({"runAsNonRoot": true}), json!({}), None, ""));
        assert_eq!(root, "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)");
        assert!(text(user(json!({"runAsNonRoot": true}), json!({}), None, "web")).contains("non-numeric user (web)"));
        assert!(text(user(json!({"runAsNonRoot": true, "runAsUser": 0}), json!({}), None, "")).contains("breaks non-root"));
    }
}
