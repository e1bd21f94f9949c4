//! `runtime.v1.RuntimeService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cri::RuntimeService;
use futures::{Stream, StreamExt};
use streaming::command::Options;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{Service, convert};
use crate::error::Error;
use crate::metrics;
use crate::state::{Container, Sandbox, now_ns};
use crate::streams::Wanted;

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

/// An absent config, in the caller's words.
fn missing(what: &str) -> Status {
    Error::Invalid(format!("{what} is missing")).into()
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "knarr".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: Request<cri::RunPodSandboxRequest>) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| missing("sandbox config"))?;
        let core = self.0.clone();
        let made = async move { Box::pin(core.run_sandbox(config, &request.runtime_handler)).await };
        answer(cri::RunPodSandboxResponse { pod_sandbox_id: self.detached(made).await? })
    }

    async fn stop_pod_sandbox(&self, request: Request<cri::StopPodSandboxRequest>) -> Answer<cri::StopPodSandboxResponse> {
        let (core, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        self.detached(async move { core.stop_sandbox(&id).await }).await?;
        answer(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let (core, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        self.detached(async move { core.remove_sandbox(&id).await }).await?;
        answer(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.0.sandbox(&request.pod_sandbox_id)?;
        let containers = self.0.containers_of(&sandbox.id);
        let mut response = cri::PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&sandbox)),
            info: Default::default(),
            containers_statuses: containers.iter().map(|one| convert::container_status(one, &self.0.images)).collect(),
            timestamp: now_ns(),
        };
        if request.verbose {
            response.info.insert("info".to_owned(), serde_json::json!({ "pid": sandbox.record().pause }).to_string());
        }
        answer(response)
    }

    async fn list_pod_sandbox(&self, request: Request<cri::ListPodSandboxRequest>) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        // Most ask for one pod: nothing is said of the others, only to be dropped.
        let named = |sandbox: &&Arc<Sandbox>| {
            (filter.id.is_empty() || sandbox.id.starts_with(&filter.id))
                && convert::labels_match(&sandbox.config.labels, &filter.label_selector)
        };
        let in_state = |told: &cri::PodSandbox| filter.state.as_ref().is_none_or(|state| state.state == told.state);
        let all = self.0.sandboxes();
        let items = all.iter().filter(named).map(|one| convert::sandbox(one)).filter(in_state).collect();
        answer(cri::ListPodSandboxResponse { items })
    }

    async fn create_container(&self, request: Request<cri::CreateContainerRequest>) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| missing("container config"))?;
        let core = self.0.clone();
        let made = async move { Box::pin(core.create_container(&request.pod_sandbox_id, config)).await };
        answer(cri::CreateContainerResponse { container_id: self.detached(made).await? })
    }

    async fn start_container(&self, request: Request<cri::StartContainerRequest>) -> Answer<cri::StartContainerResponse> {
        let (core, id) = (self.0.clone(), request.into_inner().container_id);
        self.detached(async move { core.start_container(&id).await }).await?;
        answer(cri::StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<cri::StopContainerRequest>) -> Answer<cri::StopContainerResponse> {
        let (core, request) = (self.0.clone(), request.into_inner());
        self.detached(async move { core.stop_container(&request.container_id, seconds(request.timeout)).await }).await?;
        answer(cri::StopContainerResponse {})
    }

    async fn remove_container(&self, request: Request<cri::RemoveContainerRequest>) -> Answer<cri::RemoveContainerResponse> {
        let (core, id) = (self.0.clone(), request.into_inner().container_id);
        self.detached(async move { core.remove_container(&id).await }).await?;
        answer(cri::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<cri::ListContainersRequest>) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let named = |container: &&Arc<Container>| {
            (filter.id.is_empty() || container.id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty() || container.sandbox.id.starts_with(&filter.pod_sandbox_id))
                && convert::labels_match(&container.config.labels, &filter.label_selector)
        };
        let in_state = |told: &cri::Container| filter.state.as_ref().is_none_or(|state| state.state == told.state);
        let all = self.0.containers();
        let told = all.iter().filter(named).map(|one| convert::container(one, &self.0.images));
        answer(cri::ListContainersResponse { containers: told.filter(in_state).collect() })
    }

    async fn container_status(&self, request: Request<cri::ContainerStatusRequest>) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.0.container(&request.container_id)?;
        let status = Some(convert::container_status(&container, &self.0.images));
        let mut response = cri::ContainerStatusResponse { status, info: Default::default() };
        if request.verbose {
            let record = container.record();
            let info =
                serde_json::json!({ "sandboxID": container.sandbox.id, "pid": record.pid, "cgroup": container.cgroup });
            response.info.insert("info".to_owned(), info.to_string());
        }
        answer(response)
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.0.update_container(&request.container_id, &request.linux.unwrap_or_default()).await?;
        answer(cri::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.0.reopen_log(&request.into_inner().container_id).await?;
        answer(cri::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        if request.cmd.is_empty() {
            return Err(Error::Invalid("command is missing".to_owned()).into());
        }
        let output = Box::pin(self.0.exec_sync(&request.container_id, &request.cmd, seconds(request.timeout))).await?;
        answer(cri::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.code })
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let request = request.into_inner();
        let container = self.0.container(&request.container_id)?;
        if container.state() != cri::ContainerState::ContainerRunning {
            return Err(Error::State(format!("container {} is not running", container.id)).into());
        }
        let options = checked(request.stdin, request.stdout, request.stderr, request.tty)?;
        let wanted = Wanted::Exec { container: container.id.clone(), command: request.cmd, options };
        answer(cri::ExecResponse { url: self.0.streams.offer(wanted, "")? })
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let request = request.into_inner();
        let container = self.0.container(&request.container_id)?;
        if container.state() != cri::ContainerState::ContainerRunning {
            return Err(Error::State(format!("container {} is not running", container.id)).into());
        }
        let options = checked(request.stdin, request.stdout, request.stderr, request.tty)?;
        let wanted = Wanted::Attach { container: container.id.clone(), options };
        answer(cri::AttachResponse { url: self.0.streams.offer(wanted, "")? })
    }

    async fn port_forward(&self, request: Request<cri::PortForwardRequest>) -> Answer<cri::PortForwardResponse> {
        let request = request.into_inner();
        let sandbox = self.0.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.record().ready {
            return Err(Error::State(format!("sandbox {} is not running", sandbox.id)).into());
        }
        let ports: Vec<String> = request.port.iter().map(|port| format!("port={port}")).collect();
        let query = if ports.is_empty() { String::new() } else { format!("?{}", ports.join("&")) };
        let wanted = Wanted::PortForward { sandbox: sandbox.id.clone() };
        answer(cri::PortForwardResponse { url: self.0.streams.offer(wanted, &query)? })
    }

    async fn container_stats(&self, request: Request<cri::ContainerStatsRequest>) -> Answer<cri::ContainerStatsResponse> {
        let container = self.0.container(&request.into_inner().container_id)?;
        let stats = self.blocking(move |core| core.container_stats(&container)).await?;
        answer(cri::ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = self.blocking(move |core| Ok(core.filtered_stats(&filter))).await?;
        answer(cri::ListContainerStatsResponse { stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        let stats = self.blocking(move |core| core.sandbox_stats(&sandbox)).await?;
        answer(cri::PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = self
            .blocking(move |core| {
                let all = core.sandboxes();
                let wanted = all.iter().filter(|sandbox| {
                    (filter.id.is_empty() || sandbox.id.starts_with(&filter.id))
                        && convert::labels_match(&sandbox.config.labels, &filter.label_selector)
                });
                Ok(wanted.filter_map(|sandbox| core.sandbox_stats(sandbox).ok()).collect())
            })
            .await?;
        answer(cri::ListPodSandboxStatsResponse { stats })
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|config| config.network_config).unwrap_or_default();
        if !network.pod_cidr.is_empty() {
            self.0.network.set_pod_cidr(&network.pod_cidr).await?;
        }
        answer(cri::UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let condition = |kind: &str, problem: Option<String>, reason: &str| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: problem.is_none(),
            reason: if problem.is_some() { reason.to_owned() } else { String::new() },
            message: problem.unwrap_or_default(),
        };
        let mut info = std::collections::HashMap::new();
        if request.into_inner().verbose {
            let text = serde_json::json!({ "cgroup": self.0.cgroups.version(), "state": self.0.layout.root });
            info.insert("config".to_owned(), text.to_string());
        }
        answer(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", None, ""),
                    condition("NetworkReady", self.0.network.ready().await.err(), "NetworkPluginNotReady"),
                ],
            }),
            info,
            runtime_handlers: vec![cri::RuntimeHandler {
                name: String::new(),
                features: Some(cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
            }],
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
        })
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(Error::Unsupported("checkpoints are not supported by this runtime".to_owned()).into())
    }

    type GetContainerEventsStream = Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send>>;

    async fn get_container_events(&self, _: Request<cri::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        // A listener that fell behind is told so and starts over with a list.
        let events = BroadcastStream::new(self.0.subscribe());
        let events = events.map(|event| event.map_err(|_| Status::data_loss("events were lost; list again")));
        answer(Box::pin(events))
    }

    async fn runtime_config(&self, _: Request<cri::RuntimeConfigRequest>) -> Answer<cri::RuntimeConfigResponse> {
        let linux = Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs.into() });
        answer(cri::RuntimeConfigResponse { linux })
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        answer(cri::ListMetricDescriptorsResponse { descriptors: metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.blocking(|core| Ok(core.pod_metrics())).await?;
        answer(cri::ListPodSandboxMetricsResponse { pod_metrics })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        // The pod's cgroup is the kubelet's; nothing here depends on its limits.
        self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        answer(cri::UpdatePodSandboxResourcesResponse {})
    }
}

fn checked(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<Options, Status> {
    if tty && stderr {
        return Err(Error::Invalid("tty and stderr cannot both be true".to_owned()).into());
    }
    let options = Options { stdin, stdout, stderr, tty };
    match stdin || stdout || stderr {
        true => Ok(options),
        false => Err(Error::Invalid("one of stdin, stdout or stderr must be set".to_owned()).into()),
    }
}
