//! What a worker has under way: each operation ends in a [`Done`].

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod, Volume};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use process::blocking::Room;

use super::start::{Failure, Order};
use crate::{
    metrics::Metrics,
    pod::{
        record::PodRecord,
        resolver,
        spec::{self, Member},
    },
    runtime::RuntimeError,
    shared::Ctx,
    shutdown::Hold,
    volume::payload::{self, Material},
};

/// `(volume, message)` of each volume that is not there.
pub type MountFailures = Vec<(String, String)>;

/// Where logs are removed.
static LOGS: Room = Room::new(2);
/// Where volumes are removed, which may hold much, and pods' control groups.
static VOLUMES: Room = Room::new(8);

/// How an operation ended.
pub enum Done {
    /// Volumes are in place until then (a token wants renewal), or which are not and why.
    Volumes(Result<Option<Timestamp>, MountFailures>),
    /// A sandbox was made.
    Sandbox(Result<(), RuntimeError>),
    /// Sandboxes were stopped.
    SandboxesStopped(Result<(), RuntimeError>),
    /// A container was started.
    Started {
        /// Its name.
        name: String,
        /// Its id.
        result: Result<String, Failure>,
    },
    /// A postStart hook ended.
    PostStart {
        /// The container.
        name: String,
        /// Its id.
        id: String,
        /// What went wrong.
        result: Result<(), String>,
    },
    /// A container was given other resources.
    Resized {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
        /// What went wrong.
        error: Option<String>,
    },
    /// A preStop hook ended.
    PreStop {
        /// The container's id.
        id: String,
    },
    /// A stop was carried out.
    Stopped {
        /// The container's id.
        id: String,
        /// What went wrong.
        result: Result<(), RuntimeError>,
    },
    /// The status was written; the object as it is now.
    Status(Result<Box<Pod>, kube::Error>),
    /// Volumes and cgroup are gone.
    TornDown(Result<(), String>),
    /// The object was deleted.
    Deleted(Result<(), kube::Error>),
    /// Containers and sandboxes are gone from the runtime.
    Removed(Result<(), RuntimeError>),
    /// The containers of a pod that has ended are removed: all of them?
    Reclaimed(bool),
    /// Something small that needs no answer.
    Nothing,
}

/// Sets up all volumes of a pod, or brings them up to date.
pub async fn volumes(ctx: Ctx, pod: Pod, ips: Vec<String>) -> Done {
    let list: Vec<Volume> = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).cloned().collect();
    let sources = match ctx.material(&pod, ips).await {
        Ok(sources) => sources,
        Err(message) => {
            let first = list.first().map_or(String::new(), |v| v.name.clone());
            return Done::Volumes(Err(vec![(first, message)]));
        }
    };
    let (tokens, renew) = match ctx.tokens.of(&pod).await {
        Ok(tokens) => tokens,
        Err(message) => {
            let asks = |v: &&Volume| {
                let mut sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
                sources.any(|s| s.service_account_token.is_some())
            };
            let name = list.iter().find(asks).map_or(String::new(), |v| v.name.clone());
            return Done::Volumes(Err(vec![(name, message)]));
        }
    };
    let memory = ctx.facts.allocatable.get("memory").copied().unwrap_or(ctx.facts.memory);
    let work = move || {
        let mut failed = MountFailures::new();
        if let Err(error) = ctx.volumes.prepare(&spec::uid(&pod)) {
            failed.push((String::new(), error.to_string()));
        }
        let material = Material { sources: &sources, tokens: &tokens };
        for volume in &list {
            let made = payload::build(&pod, volume, &material)
                .map_err(Into::into)
                .and_then(|payload| ctx.volumes.set_up(&pod, volume, payload, memory));
            if let Err(error) = made {
                failed.push((volume.name.clone(), error.to_string()));
            }
        }
        if failed.is_empty() { Ok(renew) } else { Err(failed) }
    };
    let result = tokio::task::spawn_blocking(work).await;
    Done::Volumes(result.unwrap_or_else(|e| Err(vec![(String::new(), e.to_string())])))
}

/// Makes the pod's cgroup, log directory and sandbox. What `former` sandboxes still have, their addresses before all, is given
/// back first: a sandbox may have died without anybody's stopping it.
pub async fn sandbox(ctx: Ctx, pod: Pod, attempt: u32, former: Vec<String>) -> Done {
    for id in former {
        if let Err(error) = ctx.runtime.stop_sandbox(&id).await {
            return Done::Sandbox(Err(error));
        }
    }
    let prepared = {
        let (ctx, pod) = (ctx.clone(), pod.clone());
        let prepare = move || {
            ctx.cgroups.make_pod(&pod);
            std::fs::create_dir_all(ctx.log_dir(&pod))
        };
        tokio::task::spawn_blocking(prepare).await
    };
    if let Ok(Err(error)) = prepared {
        let status = tonic::Status::internal(format!("make the log directory: {error}"));
        return Done::Sandbox(Err(RuntimeError { call: "run_pod_sandbox", status }));
    }
    for note in resolver::dns(&pod, &ctx.facts.net).1 {
        ctx.event(&pod, "Warning", "DNSConfigForming", note);
    }
    let config = super::start::sandbox(&ctx, &pod, attempt);
    let handler = spec::spec(&pod).runtime_class_name.unwrap_or_default();
    Metrics::global().starting_sandbox();
    let started = ctx.runtime.run_sandbox(config, &handler).await.map(drop);
    if started.is_err() {
        Metrics::global().sandbox_failed();
    }
    Done::Sandbox(started)
}

/// Stops sandboxes, one after the other.
pub async fn stop_sandboxes(ctx: Ctx, ids: Vec<String>) -> Done {
    for id in ids {
        if let Err(error) = ctx.runtime.stop_sandbox(&id).await {
            return Done::SandboxesStopped(Err(error));
        }
    }
    Done::SandboxesStopped(Ok(()))
}

/// Starts a container.
pub async fn start(ctx: Ctx, order: Order) -> Done {
    let result = Box::pin(super::start::start(&ctx, &order)).await;
    Done::Started { name: order.member.container.name, result }
}

/// Runs a postStart hook.
pub async fn post_start(ctx: Ctx, member: Member, id: String, hook: LifecycleHandler, ip: String) -> Done {
    // Upstream sets no limit; a day is the same and cannot overflow anything.
    let limit = Duration::from_secs(24 * 3600);
    let result = super::hooks::run(&ctx.runtime, &hook, &member.container, &id, &ip, limit).await;
    Done::PostStart { name: member.container.name, id, result }
}

/// A preStop hook and what it runs in.
pub struct PreStop {
    /// The pod.
    pub pod: Pod,
    /// The container.
    pub member: Member,
    /// The container's id.
    pub id: String,
    /// The hook.
    pub hook: LifecycleHandler,
    /// The pod's address.
    pub ip: String,
    /// It may run until then.
    pub deadline: Timestamp,
}

/// Runs a preStop hook until its deadline at most.
pub async fn pre_stop(ctx: Ctx, order: PreStop) -> Done {
    let PreStop { pod, member, id, hook, ip, deadline } = order;
    let limit = Duration::try_from(deadline.duration_since(ctx.now())).unwrap_or_default();
    let run = super::hooks::run(&ctx.runtime, &hook, &member.container, &id, &ip, limit);
    if let Ok(Err(_)) = tokio::time::timeout(limit, run).await {
        ctx.container_event(&pod, &member.container.name, "Warning", "FailedPreStopHook", "PreStopHook failed");
    }
    Done::PreStop { id }
}

/// Stops a container.
pub async fn stop(ctx: Ctx, id: String, seconds: i64) -> Done {
    let result = ctx.runtime.stop_container(&id, seconds).await;
    Done::Stopped { id, result }
}

/// A container that is to have other resources.
pub struct Resize {
    /// The pod with them.
    pub pod: Pod,
    /// The container's name.
    pub name: String,
    /// And its ID.
    pub id: String,
    /// What it is to have.
    pub linux: cri::v1::LinuxContainerResources,
    /// How much memory it may use then, where that is less than now.
    pub shrinks_to: Option<i64>,
}

/// Gives a running container new limits, and its pod's cgroup first where that grows with them.
pub async fn resize(ctx: Ctx, order: Resize) -> Done {
    let Resize { pod, name, id, linux, shrinks_to } = order;
    if let Some(error) = over(&ctx, &name, &id, shrinks_to).await {
        return Done::Resized { name, id, error: Some(error) };
    }
    let cgroups = {
        let (ctx, pod) = (ctx.clone(), pod.clone());
        move || ctx.cgroups.make_pod(&pod)
    };
    let made = tokio::task::spawn_blocking(cgroups.clone()).await;
    let updated = ctx.runtime.update_resources(&id, linux).await;
    // Once more: a smaller limit only fits after the container has shrunk.
    let again = tokio::task::spawn_blocking(cgroups).await;
    let error = updated.err().map(|error| error.rpc());
    if error.is_none() && (made.is_err() || again.is_err()) {
        tracing::warn!(pod = spec::full_name(&pod), "the pod's cgroup was not resized");
    }
    Done::Resized { name, id, error }
}

/// Why a container cannot have less memory now: cgroup v1 refuses a limit that is in use already, v2 kills for it.
async fn over(ctx: &Ctx, name: &str, id: &str, shrinks_to: Option<i64>) -> Option<String> {
    let limit = shrinks_to?;
    let stats = ctx.runtime.container_stats().await.ok()?;
    let stats = stats.into_iter().find(|stats| stats.attributes.as_ref().is_some_and(|a| a.id == id))?;
    let memory = stats.memory?;
    let used = i64::try_from(memory.usage_bytes.or(memory.working_set_bytes)?.value).unwrap_or(i64::MAX);
    let text = format!("attempting to set container {name:?} memory limit ({limit}) below current usage ({used})");
    (used >= limit).then_some(text)
}

fn api(ctx: &Ctx, pod: &Pod) -> Api<Pod> {
    Api::namespaced(ctx.client.clone(), spec::namespace(pod))
}

/// Writes a status patch.
pub async fn status(ctx: Ctx, pod: Pod, patch: serde_json::Value, pause: Duration) -> Done {
    tokio::time::sleep(pause).await;
    let params = PatchParams::default();
    let written = api(&ctx, &pod).patch_status(spec::name(&pod), &params, &Patch::Strategic(patch)).await;
    Done::Status(written.map(Box::new))
}

/// Removes volumes, cgroup and tokens.
pub async fn tear_down(ctx: Ctx, uid: String, pause: Duration) -> Done {
    tokio::time::sleep(pause).await;
    let work = move || {
        ctx.tokens.forget(&uid);
        ctx.references.unregister(&uid);
        ctx.cgroups.remove_pod(&uid);
        ctx.volumes.tear_down(&uid).map_err(|e| e.to_string())
    };
    Done::TornDown(VOLUMES.run(work).await)
}

/// Deletes the object for good.
pub async fn delete(ctx: Ctx, pod: Pod, pause: Duration) -> Done {
    tokio::time::sleep(pause).await;
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    Done::Deleted(api(&ctx, &pod).delete(spec::name(&pod), &params).await.map(drop))
}

/// Removes containers, sandboxes and logs.
pub async fn remove(ctx: Ctx, record: PodRecord, log_dir: PathBuf, pause: Duration) -> Done {
    tokio::time::sleep(pause).await;
    for container in &record.containers {
        if let Err(error) = ctx.runtime.remove_container(&container.id).await {
            return Done::Removed(Err(error));
        }
    }
    for sandbox in &record.sandboxes {
        if let Err(error) = ctx.runtime.remove_sandbox(&sandbox.id).await {
            return Done::Removed(Err(error));
        }
    }
    let logs = move || {
        match std::fs::remove_dir_all(&log_dir) {
            // Housekeeping finds them again.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %log_dir.display(), %error, "logs not removed yet");
            }
            _ => {}
        }
    };
    LOGS.run(logs).await;
    Done::Removed(Ok(()))
}

/// Removes dead instances of containers that have been replaced; the last dead one stays for `kubectl logs --previous`. Former
/// sandboxes without containers go, too.
pub async fn prune(ctx: Ctx, record: PodRecord, started: String) -> Done {
    let (mut removed, mut logs) = (HashSet::new(), Vec::new());
    let mut dead: HashMap<&str, usize> = HashMap::new();
    for container in record.containers.iter().filter(|c| !c.may_live() && c.id != started) {
        let seen = dead.entry(&container.name).or_default();
        *seen += usize::from(container.is_exited());
        let kept = *seen == 1 && container.is_exited();
        if !kept && ctx.runtime.remove_container(&container.id).await.is_ok() {
            removed.insert(&container.id);
            logs.extend((!container.log_path.is_empty()).then(|| PathBuf::from(&container.log_path)));
        }
    }
    if !logs.is_empty() {
        LOGS.run(move || logs.iter().for_each(|log| crate::logs::rotate::remove(log))).await;
    }
    let left: HashSet<_> = record.containers.iter().filter(|c| !removed.contains(&c.id)).map(|c| &c.sandbox_id).collect();
    for sandbox in record.sandboxes.iter().skip(1).filter(|s| !s.ready && !left.contains(&s.id)) {
        if let Err(error) = ctx.runtime.remove_sandbox(&sandbox.id).await {
            tracing::warn!(sandbox = sandbox.id, %error, "a former sandbox is not removed");
        }
    }
    Done::Nothing
}

/// Removes the containers of a pod that has ended, for their space: their logs stay. `hold` is dropped then.
pub async fn reclaim(ctx: Ctx, record: PodRecord, hold: Hold) -> Done {
    let mut all = true;
    for container in record.containers.iter().filter(|c| !c.may_live()) {
        if let Err(error) = ctx.runtime.remove_container(&container.id).await {
            tracing::warn!(container = container.id, %error, "a dead container is not removed");
            all = false;
        }
    }
    drop(hold);
    Done::Reclaimed(all)
}
