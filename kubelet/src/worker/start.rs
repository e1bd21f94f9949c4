//! Starting one container: image, environment, mounts, create, start. Each step has its own reason when it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cri::v1;
use k8s_openapi::api::core::v1::{Pod, Secret};

use crate::{
    metrics::Metrics,
    pod::{
        container_config::{self, ImageUser},
        env, image, sandbox_config,
        spec::{self, Member},
    },
    pulled,
    shared::Ctx,
    volume::{hosts, mounts},
};

/// What a start needs to know.
pub struct Order {
    /// The pod.
    pub pod: Pod,
    /// The container.
    pub member: Member,
    /// The sandbox it goes into.
    pub sandbox: String,
    /// The sandbox's attempt number.
    pub sandbox_attempt: u32,
    /// How often it was started before.
    pub restart_count: i32,
    /// The pod's addresses.
    pub ips: Vec<String>,
    /// The id of an ephemeral container's target.
    pub target_id: Option<String>,
    /// Set once the image is there: what follows is short and is not broken off.
    pub committed: Arc<AtomicBool>,
}

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The waiting reason.
    pub reason: &'static str,
    /// The waiting message.
    pub message: String,
}

fn failure<T>(reason: &'static str, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { reason, message: message.into() })
}

/// Starts the container; returns its id.
pub async fn start(ctx: &Ctx, order: &Order) -> Result<String, Failure> {
    Metrics::global().starting(order.member.role);
    let outcome = start_in_order(ctx, order).await;
    if let Err(problem) = &outcome {
        Metrics::global().failed_to_start(order.member.role, problem.reason);
    }
    outcome
}

async fn start_in_order(ctx: &Ctx, order: &Order) -> Result<String, Failure> {
    let (pod, name) = (&order.pod, &order.member.container.name);
    let sources = ctx.sources(pod, order.ips.clone()).await;
    let (image_ref, image_user) = ensure_image(ctx, order, sources.as_ref().ok()).await?;
    order.committed.store(true, Ordering::Relaxed);
    let outcome = Box::pin(create_and_start(ctx, order, sources, &image_ref, image_user)).await;
    if let Err(problem) = &outcome {
        ctx.container_event(pod, name, "Warning", "Failed", format!("Error: {}", problem.message));
    }
    outcome
}

async fn create_and_start(
    ctx: &Ctx,
    order: &Order,
    sources: Result<env::Sources, String>,
    image_ref: &str,
    image_user: ImageUser,
) -> Result<String, Failure> {
    let (pod, member) = (&order.pod, &order.member);
    let name = &member.container.name;
    let unconfigured = |message: String| Failure { reason: "CreateContainerConfigError", message };
    let mut sources = sources.map_err(unconfigured)?;
    sources.env_files = env_files(ctx, order).await.map_err(unconfigured)?;
    let environment = env::build(pod, &member.container, &sources).map_err(|e| unconfigured(e.0))?;
    for skipped in &environment.skipped {
        ctx.container_event(pod, name, "Warning", "InvalidEnvironmentVariableNames", skipped.clone());
    }
    let mounts = mounts(ctx, order, environment.clone()).await.map_err(unconfigured)?;
    let mut config = container_config::build(&container_config::Input {
        pod,
        member,
        restart_count: order.restart_count,
        image_ref,
        image_user,
        env: &environment,
        mounts,
        node_memory: ctx.facts.memory,
        target_id: order.target_id.clone(),
        cgroup_v2: ctx.cgroups.is_v2(),
        seccomp_default: ctx.config.seccomp_default,
    })
    .map_err(|e| unconfigured(e.0))?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        localhost_profile(ctx, security.seccomp.as_mut());
    }
    let sandbox = sandbox(ctx, pod, order.sandbox_attempt);
    let id = match Box::pin(ctx.runtime.create_container(&order.sandbox, config, sandbox)).await {
        Ok(id) => id,
        Err(error) => return failure("CreateContainerError", error.status.message()),
    };
    ctx.container_event(pod, name, "Normal", "Created", format!("Created container: {name}"));
    if let Err(error) = ctx.runtime.start_container(&id).await {
        return failure("RunContainerError", error.status.message());
    }
    ctx.container_event(pod, name, "Normal", "Started", format!("Started container {name}"));
    Ok(id)
}

/// Reads what the environment takes from files, off the async threads. Most take nothing.
async fn env_files(ctx: &Ctx, order: &Order) -> Result<env::EnvFiles, String> {
    let mut vars = order.member.container.env.iter().flatten().filter_map(|var| var.value_from.as_ref());
    if !vars.any(|from| from.file_key_ref.is_some()) {
        return Ok(env::EnvFiles::new());
    }
    let (ctx, pod, container) = (ctx.clone(), order.pod.clone(), order.member.container.clone());
    let read = tokio::task::spawn_blocking(move || crate::volume::env_files::read(&ctx.volumes, &pod, &container));
    read.await.map_err(|e| e.to_string())
}

/// Makes the container's mounts and log directory, off the async threads: it touches the disk.
async fn mounts(ctx: &Ctx, order: &Order, environment: env::Environment) -> Result<Vec<v1::Mount>, String> {
    let (ctx, pod, member) = (ctx.clone(), order.pod.clone(), order.member.clone());
    let (ips, count) = (order.ips.clone(), order.restart_count);
    let build = move || {
        let host_file = match spec::host_network(&pod) {
            true => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
            false => String::new(),
        };
        let logs = ctx.log_dir(&pod).join(&member.container.name);
        std::fs::create_dir_all(&logs).map_err(|e| format!("make the log directory {}: {e}", logs.display()))?;
        let hosts = hosts::text(&pod, &ips, &ctx.facts.net.cluster_domain, &host_file);
        mounts::build(&ctx.volumes, &pod, &member, &environment, &hosts, count).map_err(|e| e.to_string())
    };
    tokio::task::spawn_blocking(build).await.map_err(|e| e.to_string())?
}

/// The configuration of a pod's sandbox on this node.
pub fn sandbox(ctx: &Ctx, pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
    let log_dir = ctx.log_dir(pod).display().to_string();
    sandbox_config::build(pod, attempt, &ctx.facts.net, &ctx.cgroups.pod(pod), &log_dir)
}

/// Localhost profiles are named relative to the kubelet's own directory.
fn localhost_profile(ctx: &Ctx, profile: Option<&mut v1::SecurityProfile>) {
    if let Some(profile) = profile.filter(|p| !p.localhost_ref.is_empty()) {
        let path = ctx.config.root_dir.join("seccomp").join(&profile.localhost_ref);
        profile.localhost_ref = path.display().to_string();
    }
}

/// Makes sure the image is here; returns its reference and its user.
async fn ensure_image(ctx: &Ctx, order: &Order, sources: Option<&env::Sources>) -> Result<(String, ImageUser), Failure> {
    let (pod, c) = (&order.pod, &order.member.container);
    let given = c.image.clone().unwrap_or_default();
    let warn = |reason: &str, message: String| ctx.container_event(pod, &c.name, "Warning", reason, message);
    let image = match image::with_default_tag(&given) {
        Ok(image) => image,
        Err(error) => {
            warn("InspectFailed", error.to_string());
            warn("Failed", "Error: InvalidImageName".to_owned());
            return failure("InvalidImageName", error.to_string());
        }
    };
    let present = match ctx.runtime.image(&image).await {
        Ok(present) => present,
        Err(error) => {
            let message = format!("Failed to inspect image \"{image}\": {}", error.rpc());
            warn("Failed", message.clone());
            return failure("ImageInspectError", message);
        }
    };
    let wish = image::pull(c.image_pull_policy.as_deref(), &image, present.is_some());
    let named = spec::spec(pod).image_pull_secrets.unwrap_or_default();
    let secrets: Vec<Secret> = named.iter().filter_map(|r| sources?.secrets.get(&r.name).cloned()).collect();
    let keys = pulled::keys(&image, &secrets);
    let root = &ctx.config.root_dir;
    let ours = present.as_ref().is_none_or(|found| pulled::may_use(root, &image, &found.id, &keys));
    match wish {
        // Somebody else's credentials brought it here: the registry is asked whether it is for this pod too.
        image::Pull::Present if !ours && c.image_pull_policy.as_deref() != Some("Never") => {}
        image::Pull::Present if !ours => {
            let message = format!("Container image \"{image}\" is present but the pod has no credentials for it");
            warn("ErrImageNeverPull", message.clone());
            warn("Failed", "Error: ErrImageNeverPull".to_owned());
            return failure("ErrImageNeverPull", message);
        }
        image::Pull::Never => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            warn("ErrImageNeverPull", message.clone());
            warn("Failed", "Error: ErrImageNeverPull".to_owned());
            return failure("ErrImageNeverPull", message);
        }
        image::Pull::Present => {
            let message = format!("Container image \"{image}\" already present on machine");
            ctx.container_event(pod, &c.name, "Normal", "Pulled", message);
            return Ok(present.map(facts).unwrap_or_default());
        }
        image::Pull::Yes => {}
    }
    let with = pull(ctx, order, &image, (&secrets, keys)).await?;
    match ctx.runtime.image(&image).await {
        Ok(Some(found)) => {
            if let Err(error) = pulled::note(root, &image, &found.id, with.as_ref(), ctx.now()) {
                tracing::warn!(image, %error, "cannot record with what an image was pulled");
            }
            Ok(facts(found))
        }
        Ok(None) => failure("ImageInspectError", format!("image \"{image}\" is gone after it was pulled")),
        Err(error) => failure("ImageInspectError", error.rpc()),
    }
}

fn facts(image: v1::Image) -> (String, ImageUser) {
    let user = ImageUser { uid: image.uid.map(|u| u.value), name: image.username };
    (image.id, user)
}

/// Pulls an image; returns the key that opened it, if one did.
async fn pull(
    ctx: &Ctx,
    order: &Order,
    image: &str,
    (secrets, keys): (&[Secret], Vec<(image::Credentials, pulled::Key)>),
) -> Result<Option<pulled::Key>, Failure> {
    let (pod, name) = (&order.pod, &order.member.container.name);
    ctx.container_event(pod, name, "Normal", "Pulling", format!("Pulling image \"{image}\""));
    let waiting = Instant::now();
    let Ok(_turn) = ctx.pulls.acquire().await else { return failure("ErrImagePull", "the kubelet is stopping") };
    let pulling = Instant::now();
    let named = spec::spec(pod).image_pull_secrets.unwrap_or_default();
    let missing: Vec<&str> = named
        .iter()
        .map(|r| r.name.as_str())
        .filter(|n| !secrets.iter().any(|s| s.metadata.name.as_deref() == Some(*n)))
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        ctx.event(pod, "Warning", "FailedToRetrieveImagePullSecret", message);
    }
    let auth = |c: image::Credentials| v1::AuthConfig {
        username: c.username,
        password: c.password,
        identity_token: c.identity_token,
        ..Default::default()
    };
    // With several credentials each is tried; without any, one anonymous try.
    let mut tries: Vec<_> = keys.into_iter().map(|(credentials, key)| (Some(auth(credentials)), Some(key))).collect();
    if tries.is_empty() {
        tries.push((None, None));
    }
    let mut last = String::new();
    for (auth, key) in tries {
        match ctx.runtime.pull(image, auth, sandbox(ctx, pod, order.sandbox_attempt)).await {
            Ok(reference) => {
                let size = ctx.runtime.image(&reference).await.ok().flatten().map_or(0, |i| i.size);
                let (took, all) = (seconds(pulling.elapsed()), seconds(waiting.elapsed()));
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took} ({all} including waiting). Image size: {size} bytes."
                );
                ctx.container_event(pod, name, "Normal", "Pulled", message);
                return Ok(key);
            }
            Err(error) => last = error.rpc(),
        }
    }
    ctx.container_event(pod, name, "Warning", "Failed", format!("Failed to pull image \"{image}\": {last}"));
    ctx.container_event(pod, name, "Warning", "Failed", "Error: ErrImagePull");
    failure("ErrImagePull", last)
}

/// A duration as Go prints it, rounded to milliseconds.
fn seconds(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms}ms"),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{}.{:03}", ms / 1000, ms % 1000).trim_end_matches('0').to_owned() + "s",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let shown: Vec<_> = [5, 1500, 2000, 12_345].map(|ms| seconds(Duration::from_millis(ms))).into();
        assert_eq!(shown, ["5ms", "1.5s", "2s", "12.345s"]);
    }
}
