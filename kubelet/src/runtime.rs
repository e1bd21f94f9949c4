//! The runtime through CRI, in the kubelet's own words. Thin: every method is one or two calls.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use cri::{ImageServiceClient, RuntimeServiceClient, v1};
use jiff::Timestamp;

use crate::{
    metrics::Metrics,
    pod::record::{PodRecord, Record, Sandbox, State, User, keys},
};

/// A call that failed: which, and the runtime's words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .status.message())]
pub struct RuntimeError {
    /// The CRI method.
    pub call: &'static str,
    /// The answer.
    pub status: tonic::Status,
}

impl RuntimeError {
    /// As upstream's messages quote it.
    pub fn rpc(&self) -> String {
        format!("rpc error: code = {} desc = {}", code_name(self.status.code()), self.status.message())
    }

    /// Whether the object is not there (any more).
    pub fn is_not_found(&self) -> bool {
        self.status.code() == tonic::Code::NotFound
    }

    /// Whether the runtime does not know the method.
    pub fn is_unimplemented(&self) -> bool {
        self.status.code() == tonic::Code::Unimplemented
    }
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Most calls end well within this; pulls and stops take what they need.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A century: a call cannot say that it may take for ever, as a pod may.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// A call's answer, if it comes in time. A server elsewhere is told how long it has; one in this process is held to it by nobody else.
async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let answer = tokio::time::timeout(timeout, call).await;
    answer
        .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("context deadline exceeded")))
        .map(tonic::Response::into_inner)
}

/// A connection to the runtime.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<cri::Channel>,
    images: ImageServiceClient<cri::Channel>,
}

/// One call with its timeout and its name in the error, counted.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr) => {
        call!($client, $method, $request, timeout CALL_TIMEOUT)
    };
    ($client:expr, $method:ident, $request:expr, timeout $timeout:expr) => {{
        let mut request = tonic::Request::new($request);
        request.set_timeout($timeout);
        let mut client = $client.clone();
        let since = Instant::now();
        let answer = within($timeout, Box::pin(client.$method(request))).await;
        Metrics::global().called(stringify!($method), since.elapsed(), answer.is_ok());
        answer.map_err(|status| RuntimeError { call: stringify!($method), status })
    }};
}

impl Runtime {
    /// Speaks over `channel`.
    pub fn new(channel: cri::Channel) -> Self {
        let limit = cri::MAX_MESSAGE_BYTES;
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(limit),
            images: ImageServiceClient::new(channel).max_decoding_message_size(limit),
        }
    }

    /// Name and version.
    pub async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        call!(self.runtime, version, v1::VersionRequest::default())
    }

    /// Whether runtime and network are ready.
    pub async fn status(&self) -> Result<v1::StatusResponse, RuntimeError> {
        call!(self.runtime, status, v1::StatusRequest { verbose: false })
    }

    /// Hands over the node's pod range.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError> {
        let network_config = Some(v1::NetworkConfig { pod_cidr: cidr.to_owned() });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        call!(self.runtime, update_runtime_config, v1::UpdateRuntimeConfigRequest { runtime_config }).map(drop)
    }

    /// The stream of container events.
    pub async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>, RuntimeError> {
        let mut client = self.runtime.clone();
        let events = client.get_container_events(v1::GetEventsRequest {}).await;
        events.map(tonic::Response::into_inner).map_err(|status| RuntimeError { call: "get_container_events", status })
    }

    /// All sandboxes, or those of a pod.
    pub async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let label_selector = uid.map(|u| (keys::POD_UID.to_owned(), u.to_owned())).into_iter().collect();
        let filter = Some(v1::PodSandboxFilter { label_selector, ..Default::default() });
        call!(self.runtime, list_pod_sandbox, v1::ListPodSandboxRequest { filter }).map(|r| r.items)
    }

    /// All containers, or those of a pod.
    pub async fn containers(&self, uid: Option<&str>) -> Result<Vec<v1::Container>, RuntimeError> {
        let label_selector = uid.map(|u| (keys::POD_UID.to_owned(), u.to_owned())).into_iter().collect();
        let filter = Some(v1::ContainerFilter { label_selector, ..Default::default() });
        call!(self.runtime, list_containers, v1::ListContainersRequest { filter }).map(|r| r.containers)
    }

    /// Everything the runtime holds of a pod. What was known of containers that ended is not asked for again.
    pub async fn pod(&self, uid: &str, known: &PodRecord) -> Result<PodRecord, RuntimeError> {
        let (sandboxes, containers) = tokio::try_join!(self.sandboxes(Some(uid)), self.containers(Some(uid)))?;
        let mut record = PodRecord::default();
        for sandbox in sandboxes {
            let ready = sandbox.state() == v1::PodSandboxState::SandboxReady;
            let known = known.sandboxes.iter().find(|s| s.id == sandbox.id && s.ready == ready);
            match known {
                Some(known) => record.sandboxes.push(known.clone()),
                None => match self.sandbox_status(&sandbox.id).await {
                    Ok(status) => record.sandboxes.push(sandbox_record(&status)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                },
            }
        }
        for container in containers {
            let known = known.containers.iter().find(|c| c.id == container.id && c.is_exited());
            match known.filter(|_| container.state() == v1::ContainerState::ContainerExited) {
                Some(known) => record.containers.push(known.clone()),
                None => match self.container_status(&container.id).await {
                    Ok(status) => {
                        let mut one = container_record(&status);
                        one.sandbox_id = container.pod_sandbox_id;
                        read_message(&mut one);
                        record.containers.push(one);
                    }
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                },
            }
        }
        record.sort();
        Ok(record)
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let response = call!(self.runtime, pod_sandbox_status, request)?;
        response.status.ok_or_else(|| missing("pod_sandbox_status"))
    }

    /// One container's status.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response = call!(self.runtime, container_status, request)?;
        response.status.ok_or_else(|| missing("container_status"))
    }

    /// Makes and starts a sandbox; returns its id.
    pub async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, RuntimeError> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        call!(self.runtime, run_pod_sandbox, request, timeout Duration::from_secs(240)).map(|r| r.pod_sandbox_id)
    }

    /// Stops a sandbox and everything in it. Fine if it is already gone.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        forgive(call!(self.runtime, stop_pod_sandbox, request).map(drop))
    }

    /// Removes a sandbox and its containers. Fine if it is already gone.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        forgive(call!(self.runtime, remove_pod_sandbox, request).map(drop))
    }

    /// Makes a container; returns its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        call!(self.runtime, create_container, request).map(|r| r.container_id)
    }

    /// Starts a container.
    pub async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        call!(self.runtime, start_container, v1::StartContainerRequest { container_id: id.to_owned() }).map(drop)
    }

    /// SIGTERM, then SIGKILL after `seconds`. Fine if it is already gone.
    pub async fn stop_container(&self, id: &str, seconds: i64) -> Result<(), RuntimeError> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        let timeout = CALL_TIMEOUT + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST);
        forgive(call!(self.runtime, stop_container, request, timeout timeout).map(drop))
    }

    /// Removes a container. Fine if it is already gone.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        forgive(call!(self.runtime, remove_container, request).map(drop))
    }

    /// Has the runtime open the log anew after it was moved.
    pub async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime, reopen_container_log, request).map(drop)
    }

    /// Changes a running container's limits.
    pub async fn update_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<(), RuntimeError> {
        let request =
            v1::UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(linux), ..Default::default() };
        call!(self.runtime, update_container_resources, request).map(drop)
    }

    /// Runs a command in a container and collects what it prints.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, RuntimeError> {
        // Whole seconds are all that can be said; a command is not cut short.
        let seconds = i64::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
        call!(self.runtime, exec_sync, request, timeout timeout + Duration::from_secs(5))
    }

    /// Prepares a streaming exec; returns where to connect.
    pub async fn exec(&self, request: v1::ExecRequest) -> Result<String, RuntimeError> {
        call!(self.runtime, exec, request).map(|r| r.url)
    }

    /// Prepares a streaming attach; returns where to connect.
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<String, RuntimeError> {
        call!(self.runtime, attach, request).map(|r| r.url)
    }

    /// Prepares a port forward; returns where to connect.
    pub async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, RuntimeError> {
        call!(self.runtime, port_forward, request).map(|r| r.url)
    }

    /// Statistics of all containers.
    pub async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, RuntimeError> {
        call!(self.runtime, list_container_stats, v1::ListContainerStatsRequest::default()).map(|r| r.stats)
    }

    /// Statistics of all sandboxes.
    pub async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>, RuntimeError> {
        call!(self.runtime, list_pod_sandbox_stats, v1::ListPodSandboxStatsRequest::default()).map(|r| r.stats)
    }

    /// What the runtime measures of pods and containers: first what each metric says, then the figures of all that are up.
    pub async fn metrics(&self) -> Result<(Vec<v1::MetricDescriptor>, Vec<v1::PodSandboxMetrics>), RuntimeError> {
        let said = call!(self.runtime, list_metric_descriptors, v1::ListMetricDescriptorsRequest {})?;
        let figures = call!(self.runtime, list_pod_sandbox_metrics, v1::ListPodSandboxMetricsRequest {})?;
        Ok((said.descriptors, figures.pod_metrics))
    }

    /// All images.
    pub async fn images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        call!(self.images, list_images, v1::ListImagesRequest::default()).map(|r| r.images)
    }

    /// Removes an image; one that is gone is fine.
    pub async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        let image = Some(v1::ImageSpec { image: id.to_owned(), ..v1::ImageSpec::default() });
        call!(self.images, remove_image, v1::RemoveImageRequest { image }).map(drop)
    }

    /// Where the file system with the images is mounted, as the runtime sees it.
    pub async fn image_mount_point(&self) -> Result<Option<String>, RuntimeError> {
        let answer = call!(self.images, image_fs_info, v1::ImageFsInfoRequest {})?;
        let first = answer.image_filesystems.into_iter().next();
        Ok(first.and_then(|usage| usage.fs_id).map(|id| id.mountpoint).filter(|path| !path.is_empty()))
    }

    /// An image, if it is here.
    pub async fn image(&self, name: &str) -> Result<Option<v1::Image>, RuntimeError> {
        let image = Some(v1::ImageSpec { image: name.to_owned(), ..Default::default() });
        call!(self.images, image_status, v1::ImageStatusRequest { image, verbose: false }).map(|r| r.image)
    }

    /// Pulls an image; returns its reference. Takes as long as it takes.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let image =
            Some(v1::ImageSpec { image: name.to_owned(), user_specified_image: name.to_owned(), ..Default::default() });
        let request = v1::PullImageRequest { image, auth, sandbox_config: Some(sandbox_config) };
        call!(self.images, pull_image, request, timeout Duration::from_secs(3600)).map(|r| r.image_ref)
    }
}

fn forgive(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn missing(call: &'static str) -> RuntimeError {
    RuntimeError { call, status: tonic::Status::internal("the runtime's answer is empty") }
}

fn nanos(at: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(at)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn sandbox_record(status: &v1::PodSandboxStatus) -> Sandbox {
    let network = status.network.as_ref();
    let first = network.map(|n| n.ip.clone()).filter(|ip| !ip.is_empty());
    let more = network.into_iter().flat_map(|n| n.additional_ips.iter().map(|i| i.ip.clone()));
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state() == v1::PodSandboxState::SandboxReady,
        created_at: nanos(status.created_at),
        ips: first.into_iter().chain(more).collect(),
    }
}

fn container_record(status: &v1::ContainerStatus) -> Record {
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running { started_at: nanos(status.started_at) },
        v1::ContainerState::ContainerExited => State::Exited {
            started_at: (status.started_at > 0).then(|| nanos(status.started_at)),
            finished_at: nanos(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let metadata = status.metadata.clone().unwrap_or_default();
    let spec = status.image.clone().unwrap_or_default();
    let image = if spec.user_specified_image.is_empty() { spec.image } else { spec.user_specified_image };
    let message_path = annotation(keys::MESSAGE_PATH);
    let message_file = status
        .mounts
        .iter()
        .find(|m| !message_path.is_empty() && m.container_path == message_path)
        .map(|m| m.host_path.clone());
    Record {
        id: status.id.clone(),
        name: status.labels.get(keys::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        sandbox_id: String::new(),
        restart_count: annotation(keys::RESTART_COUNT)
            .parse()
            .unwrap_or_else(|_| i32::try_from(metadata.attempt).unwrap_or(0)),
        hash: annotation(keys::CONTAINER_HASH),
        created_at: nanos(status.created_at),
        state,
        image,
        image_id: if status.image_ref.is_empty() { status.image_id.clone() } else { status.image_ref.clone() },
        log_path: status.log_path.clone(),
        user: status.user.as_ref().and_then(|u| u.linux.as_ref()).map(|u| User {
            uid: u.uid,
            gid: u.gid,
            groups: u.supplemental_groups.clone(),
        }),
        annotations: status.annotations.clone().into_iter().collect::<BTreeMap<_, _>>(),
        message_file,
    }
}

/// Longest termination message, in bytes.
const MESSAGE_BYTES: usize = 4096;
/// What `FallbackToLogsOnError` takes of the log.
const FALLBACK_BYTES: usize = 2048;
/// And how many lines of it.
const FALLBACK_LINES: usize = 80;

/// Fills in the termination message of a container that ended.
fn read_message(record: &mut Record) {
    let fallback = record.annotations.get(keys::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    let (file, log) = (record.message_file.clone(), record.log_path.clone());
    let State::Exited { exit_code, message, .. } = &mut record.state else { return };
    let written = file.map(|f| crate::fs::read_head(Path::new(&f), MESSAGE_BYTES)).unwrap_or_default();
    let text = match written.is_empty() && fallback && *exit_code != 0 {
        true => crate::logs::last_lines(Path::new(&log), FALLBACK_LINES, FALLBACK_BYTES),
        false => String::from_utf8_lossy(&written).into_owned(),
    };
    if !text.is_empty() {
        *message = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_may_take_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = cri::Channel::connect(dir.path().join("sock").to_str().unwrap()).unwrap();
        let failed = Runtime::new(nobody).stop_container("c", i64::MAX).await.unwrap_err();
        assert_eq!(failed.status.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn a_call_that_is_never_answered_ends() {
        let never = std::future::pending::<Result<tonic::Response<()>, _>>();
        let failed = within(Duration::from_millis(20), never).await.unwrap_err();
        assert_eq!((failed.code(), failed.message()), (tonic::Code::DeadlineExceeded, "context deadline exceeded"));
    }
}
