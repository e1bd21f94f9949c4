//! Questions about a pod's spec that several decisions ask.

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, Pod, PodSpec};

/// How a container takes part in its pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in the init order and keeps running.
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Added to a running pod.
    Ephemeral,
}

/// A container of a pod with its role.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The container; an ephemeral one in the shape of an ordinary one.
    pub container: Container,
    /// How it takes part.
    pub role: Role,
    /// For ephemeral containers: whose process namespace it joins.
    pub target: Option<String>,
}

/// The pod's spec (an empty one if a broken object has none).
pub fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// The UID, by which everything on the node is keyed. For a mirror pod it is the static pod's.
pub fn uid(pod: &Pod) -> String {
    static_hash(pod).map(str::to_owned).unwrap_or_else(|| pod.metadata.uid.clone().unwrap_or_default())
}

/// Where a pod that was read from a file carries its identity.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// When the node's agent first saw the pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// On a mirror pod: the hash of the static pod that it mirrors.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// `file` for static pods, `api` otherwise.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Its priority, as admission wrote it.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

fn static_hash(pod: &Pod) -> Option<&str> {
    annotation(pod, CONFIG_MIRROR)
}

/// Whether the object in the API only shows a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// Whether the pod was read from a file.
pub fn is_static(pod: &Pod) -> bool {
    !is_mirror(pod) && annotation(pod, CONFIG_SOURCE).is_some_and(|s| s != "api")
}

/// `namespace`.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name`.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream's messages and events name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Every container, in the order init, main, ephemeral.
pub fn members(pod: &Pod) -> Vec<Member> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let inits = spec.init_containers.iter().flatten().map(|c| Member {
        container: c.clone(),
        role: if is_sidecar(c) { Role::Sidecar } else { Role::Init },
        target: None,
    });
    let mains = spec.containers.iter().map(|c| Member { container: c.clone(), role: Role::Main, target: None });
    let ephemerals = spec.ephemeral_containers.iter().flatten().map(|e| Member {
        container: Container {
            args: e.args.clone(),
            command: e.command.clone(),
            env: e.env.clone(),
            env_from: e.env_from.clone(),
            image: e.image.clone(),
            image_pull_policy: e.image_pull_policy.clone(),
            name: e.name.clone(),
            security_context: e.security_context.clone(),
            stdin: e.stdin,
            stdin_once: e.stdin_once,
            termination_message_path: e.termination_message_path.clone(),
            termination_message_policy: e.termination_message_policy.clone(),
            tty: e.tty,
            volume_mounts: e.volume_mounts.clone(),
            working_dir: e.working_dir.clone(),
            ..Container::default()
        },
        role: Role::Ephemeral,
        target: e.target_container_name.clone().filter(|t| !t.is_empty()),
    });
    inits.chain(mains).chain(ephemerals).collect()
}

/// The member of that name.
pub fn member(pod: &Pod, name: &str) -> Option<Member> {
    members(pod).into_iter().find(|m| m.container.name == name)
}

/// The pod's restart policy.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether the container of that role starts again after it ended with `exit_code` (KEP-753 sidecars, KEP-5307 container
/// restart rules).
pub fn restarts(pod: &Pod, container: &Container, role: Role, exit_code: i32) -> bool {
    match role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        Role::Init | Role::Main => {}
    }
    let matched = container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.action == "Restart"
            && rule.exit_codes.as_ref().is_some_and(|codes| {
                let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
                if codes.operator == "NotIn" { !listed } else { listed }
            })
    });
    if matched {
        return true;
    }
    match container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) {
        "Never" => false,
        // An init container that succeeded is done whatever the policy.
        "OnFailure" => exit_code != 0,
        _ => role == Role::Main || exit_code != 0,
    }
}

/// Whether the phase is final.
pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the API asks for the pod's end.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true))
}

/// Whether a terminated state means success.
pub fn succeeded(state: &ContainerStateTerminated) -> bool {
    state.exit_code == 0
}

/// The container's hash as it goes into `io.kubernetes.container.hash`: FNV-1a over name and image, which are all that
/// a container cannot change without being replaced.
pub fn hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let json = serde_json::json!({ "name": container.name, "image": image }).to_string();
    format!("{:x}", fnv1a(json.as_bytes()))
}

/// FNV-1a, 32 bits.
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
