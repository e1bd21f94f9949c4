//! A runtime that writes down what it is asked and runs nothing: containers end when a test says so.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use cri::v1::{self, ContainerState};
use futures::Stream;
use tokio::sync::{broadcast, watch};
use tonic::{Request, Response, Status};

use super::PATIENCE;

struct Container {
    status: v1::ContainerStatus,
    sandbox: String,
    config: v1::ContainerConfig,
    /// Does not end at SIGTERM.
    stubborn: bool,
}

#[derive(Default)]
struct Inner {
    calls: Vec<String>,
    sandboxes: Vec<v1::PodSandboxStatus>,
    containers: Vec<Container>,
    /// Exec answers by command; 0 otherwise.
    exits: HashMap<String, i32>,
    /// Images that are here.
    images: Vec<String>,
    /// Images that no pod of a story asks for, each a file of this folder.
    disk: Option<std::path::PathBuf>,
    stubborn: Vec<String>,
    /// Bytes of memory that containers use, by name.
    memory: HashMap<String, u64>,
    deaf: bool,
    /// Calls that panic once.
    panics: Vec<String>,
    /// Calls that fail once.
    failures: Vec<String>,
    made: usize,
}

/// The runtime.
pub struct Fake {
    inner: Mutex<Inner>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    changed: watch::Sender<usize>,
}

fn nanos() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

impl Fake {
    pub fn new() -> Self {
        let inner = Inner { images: vec!["busybox:1".into(), "busybox:2".into()], ..Inner::default() };
        Self { inner: Mutex::new(inner), events: broadcast::Sender::new(256), changed: watch::Sender::new(0) }
    }

    pub fn channel(self: &Arc<Self>) -> cri::Channel {
        let server = Server(self.clone());
        cri::Channel::local(cri::RuntimeServiceServer::new(server.clone()), cri::ImageServiceServer::new(server))
    }

    fn call(&self, text: String) {
        self.calls_for_panic(&text);
        self.inner.lock().unwrap().calls.push(text);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Panics, in the caller's task as a runtime in the same process does, if that was asked for.
    fn calls_for_panic(&self, text: &str) {
        let mut inner = self.inner.lock().unwrap();
        let Some(at) = inner.panics.iter().position(|call| call == text) else { return };
        inner.panics.remove(at);
        drop(inner);
        panic!("asked to panic at {text:?}");
    }

    /// Makes the next call of that name fail.
    pub fn fails_at(&self, call: &str) {
        self.inner.lock().unwrap().failures.push(call.to_owned());
    }

    fn may(&self, call: &str) -> Result<(), Status> {
        let mut inner = self.inner.lock().unwrap();
        let Some(at) = inner.failures.iter().position(|failing| failing == call) else { return Ok(()) };
        inner.failures.remove(at);
        inner.calls.push(format!("{call} failed"));
        Err(Status::internal("asked to fail"))
    }

    /// Makes the next call of that name panic; `list containers` is one, too.
    pub fn panics_at(&self, call: &str) {
        self.inner.lock().unwrap().panics.push(call.to_owned());
    }

    /// Everything that was asked for and changes something, in order.
    pub fn calls(&self) -> Vec<String> {
        self.inner.lock().unwrap().calls.clone()
    }

    /// Waits for a call.
    pub async fn called(&self, text: &str) {
        let mut changed = self.changed.subscribe();
        let seen = changed.wait_for(|_| self.calls().iter().any(|c| c == text));
        assert!(tokio::time::timeout(PATIENCE, seen).await.is_ok(), "no call {text:?}: {:#?}", self.calls());
    }

    /// Makes commands that contain `text` exit with `code`.
    pub fn exec_exits(&self, text: &str, code: i32) {
        self.inner.lock().unwrap().exits.insert(text.into(), code);
    }

    /// What containers of that name use from now on.
    pub fn uses(&self, name: &str, memory: u64) {
        self.inner.lock().unwrap().memory.insert(name.to_owned(), memory);
    }

    /// Makes containers of that name ignore SIGTERM.
    pub fn stubborn(&self, name: &str) {
        self.inner.lock().unwrap().stubborn.push(name.into());
    }

    /// Makes every file of a folder an image that no container uses. One called `pinned` is the runtime's own.
    pub fn keeps_images_in(&self, disk: &std::path::Path) {
        self.inner.lock().unwrap().disk = Some(disk.to_owned());
    }

    fn disk(&self) -> Option<std::path::PathBuf> {
        self.inner.lock().unwrap().disk.clone()
    }

    /// Makes the runtime answer no question about containers, or answer again.
    pub fn deaf(&self, deaf: bool) {
        self.inner.lock().unwrap().deaf = deaf;
    }

    /// Ends the running container of that name.
    pub fn exit(&self, name: &str, code: i32) {
        let id = {
            let inner = self.inner.lock().unwrap();
            let running = ContainerState::ContainerRunning;
            let found = inner
                .containers
                .iter()
                .find(|c| c.status.metadata.as_ref().unwrap().name == name && c.status.state() == running);
            found.expect("a running container").status.id.clone()
        };
        self.end(&id, code);
    }

    fn end(&self, id: &str, code: i32) {
        let mut inner = self.inner.lock().unwrap();
        let Some(c) =
            inner.containers.iter_mut().find(|c| c.status.id == id && c.status.state() == ContainerState::ContainerRunning)
        else {
            return;
        };
        c.status.set_state(ContainerState::ContainerExited);
        c.status.finished_at = nanos();
        c.status.exit_code = code;
        c.status.reason = if code == 0 { "Completed".into() } else { "Error".into() };
        let sandbox = c.sandbox.clone();
        let status = inner.sandboxes.iter().find(|s| s.id == sandbox).cloned();
        drop(inner);
        let event = v1::ContainerEventResponse { container_id: id.into(), pod_sandbox_status: status, ..Default::default() };
        let _ = self.events.send(event);
    }

    /// The sandbox of every pod is lost, as after a reboot.
    pub fn lose_sandboxes(&self) {
        let running: Vec<String> = {
            let mut inner = self.inner.lock().unwrap();
            inner.sandboxes.iter_mut().for_each(|s| s.set_state(v1::PodSandboxState::SandboxNotready));
            inner.containers.iter().map(|c| c.status.id.clone()).collect()
        };
        running.iter().for_each(|id| self.end(id, 137));
    }

    /// The newest container of that name as it was configured.
    pub fn config(&self, name: &str) -> v1::ContainerConfig {
        let inner = self.inner.lock().unwrap();
        let named = inner.containers.iter().rev().find(|c| c.status.metadata.as_ref().unwrap().name == name);
        named.expect("a container").config.clone()
    }

    /// How many containers and sandboxes there are.
    pub fn holds(&self) -> (usize, usize) {
        let inner = self.inner.lock().unwrap();
        (inner.containers.len(), inner.sandboxes.len())
    }
}

#[derive(Clone)]
struct Server(Arc<Fake>);

type Answer<T> = Result<Response<T>, Status>;

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

fn matches(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn name_of(fake: &Fake, id: &str) -> String {
    let inner = fake.inner.lock().unwrap();
    let found = inner.containers.iter().find(|c| c.status.id == id);
    found.map_or(String::new(), |c| c.status.metadata.as_ref().unwrap().name.clone())
}

#[tonic::async_trait]
impl cri::RuntimeService for Server {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        let (name, version) = ("fake".to_owned(), "1".to_owned());
        ok(v1::VersionResponse {
            version: version.clone(),
            runtime_name: name,
            runtime_version: version,
            runtime_api_version: "v1".into(),
        })
    }
    async fn run_pod_sandbox(&self, r: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        let config = r.into_inner().config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        self.0.call(format!("run sandbox {} {}", metadata.name, metadata.attempt));
        let mut inner = self.0.inner.lock().unwrap();
        inner.made += 1;
        let id = format!("sandbox{}", inner.made);
        let ip = format!("10.42.0.{}", inner.made + 1);
        inner.sandboxes.push(v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::PodSandboxState::SandboxReady.into(),
            created_at: nanos(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: vec![] }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        });
        ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }
    async fn stop_pod_sandbox(&self, r: Request<v1::StopPodSandboxRequest>) -> Answer<v1::StopPodSandboxResponse> {
        let id = r.into_inner().pod_sandbox_id;
        let inside: Vec<String> = {
            let mut inner = self.0.inner.lock().unwrap();
            let sandbox = inner.sandboxes.iter_mut().find(|s| s.id == id).ok_or(Status::not_found("sandbox"))?;
            sandbox.set_state(v1::PodSandboxState::SandboxNotready);
            inner.containers.iter().filter(|c| c.sandbox == id).map(|c| c.status.id.clone()).collect()
        };
        inside.iter().for_each(|c| self.0.end(c, 137));
        self.0.call("stop sandbox".into());
        ok(v1::StopPodSandboxResponse {})
    }
    async fn remove_pod_sandbox(&self, r: Request<v1::RemovePodSandboxRequest>) -> Answer<v1::RemovePodSandboxResponse> {
        let id = r.into_inner().pod_sandbox_id;
        self.0.inner.lock().unwrap().sandboxes.retain(|s| s.id != id);
        self.0.call("remove sandbox".into());
        ok(v1::RemovePodSandboxResponse {})
    }
    async fn pod_sandbox_status(&self, r: Request<v1::PodSandboxStatusRequest>) -> Answer<v1::PodSandboxStatusResponse> {
        let id = r.into_inner().pod_sandbox_id;
        let found = self.0.inner.lock().unwrap().sandboxes.iter().find(|s| s.id == id).cloned();
        let status = Some(found.ok_or(Status::not_found("sandbox"))?);
        ok(v1::PodSandboxStatusResponse { status, ..Default::default() })
    }
    async fn list_pod_sandbox(&self, r: Request<v1::ListPodSandboxRequest>) -> Answer<v1::ListPodSandboxResponse> {
        let wanted = r.into_inner().filter.unwrap_or_default().label_selector;
        let inner = self.0.inner.lock().unwrap();
        let items = inner.sandboxes.iter().filter(|s| matches(&s.labels, &wanted)).map(|s| v1::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            annotations: s.annotations.clone(),
            ..Default::default()
        });
        ok(v1::ListPodSandboxResponse { items: items.collect() })
    }
    async fn create_container(&self, r: Request<v1::CreateContainerRequest>) -> Answer<v1::CreateContainerResponse> {
        let request = r.into_inner();
        let config = request.config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        let mut inner = self.0.inner.lock().unwrap();
        inner.made += 1;
        let id = format!("container{}", inner.made);
        let stubborn = inner.stubborn.contains(&metadata.name);
        inner.containers.push(Container {
            status: v1::ContainerStatus {
                id: id.clone(),
                metadata: Some(metadata),
                state: ContainerState::ContainerCreated.into(),
                created_at: nanos(),
                image: config.image.clone(),
                image_ref: "sha256:1".into(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                mounts: config.mounts.clone(),
                ..Default::default()
            },
            sandbox: request.pod_sandbox_id,
            config,
            stubborn,
        });
        ok(v1::CreateContainerResponse { container_id: id })
    }
    async fn start_container(&self, r: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        let id = r.into_inner().container_id;
        {
            let mut inner = self.0.inner.lock().unwrap();
            let c = inner.containers.iter_mut().find(|c| c.status.id == id).ok_or(Status::not_found("container"))?;
            c.status.set_state(ContainerState::ContainerRunning);
            c.status.started_at = nanos();
        }
        let name = name_of(&self.0, &id);
        self.0.call(format!("start {name}"));
        ok(v1::StartContainerResponse {})
    }
    async fn stop_container(&self, r: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        let request = r.into_inner();
        let name = name_of(&self.0, &request.container_id);
        self.0.call(format!("stop {name}"));
        let stubborn =
            self.0.inner.lock().unwrap().containers.iter().any(|c| c.status.id == request.container_id && c.stubborn);
        if stubborn {
            tokio::time::sleep(Duration::from_secs(request.timeout.max(0) as u64)).await;
        }
        self.0.end(&request.container_id, if stubborn { 137 } else { 0 });
        ok(v1::StopContainerResponse {})
    }
    async fn remove_container(&self, r: Request<v1::RemoveContainerRequest>) -> Answer<v1::RemoveContainerResponse> {
        let id = r.into_inner().container_id;
        let name = name_of(&self.0, &id);
        self.0.may(&format!("remove {name}"))?;
        self.0.inner.lock().unwrap().containers.retain(|c| c.status.id != id);
        self.0.call(format!("remove {name}"));
        ok(v1::RemoveContainerResponse {})
    }
    async fn list_containers(&self, r: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        let wanted = r.into_inner().filter.unwrap_or_default().label_selector;
        self.0.calls_for_panic("list containers");
        if self.0.inner.lock().unwrap().deaf {
            self.0.call("asked in vain".into());
            return Err(Status::unavailable("not now"));
        }
        let inner = self.0.inner.lock().unwrap();
        let containers = inner.containers.iter().filter(|c| matches(&c.status.labels, &wanted)).map(|c| v1::Container {
            id: c.status.id.clone(),
            pod_sandbox_id: c.sandbox.clone(),
            metadata: c.status.metadata.clone(),
            state: c.status.state,
            labels: c.status.labels.clone(),
            annotations: c.status.annotations.clone(),
            ..Default::default()
        });
        ok(v1::ListContainersResponse { containers: containers.collect() })
    }
    async fn container_status(&self, r: Request<v1::ContainerStatusRequest>) -> Answer<v1::ContainerStatusResponse> {
        let id = r.into_inner().container_id;
        let found = self.0.inner.lock().unwrap().containers.iter().find(|c| c.status.id == id).map(|c| c.status.clone());
        ok(v1::ContainerStatusResponse { status: Some(found.ok_or(Status::not_found("container"))?), ..Default::default() })
    }
    async fn update_container_resources(
        &self,
        r: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = r.into_inner();
        let memory = request.linux.map_or(0, |l| l.memory_limit_in_bytes);
        let name = name_of(&self.0, &request.container_id);
        self.0.call(format!("update {name} memory {memory}"));
        ok(v1::UpdateContainerResourcesResponse {})
    }
    async fn reopen_container_log(
        &self,
        _: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        ok(v1::ReopenContainerLogResponse {})
    }
    async fn exec_sync(&self, r: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let command = r.into_inner().cmd.join(" ");
        self.0.call(format!("exec {command}"));
        let inner = self.0.inner.lock().unwrap();
        let exit_code = inner.exits.iter().find(|(text, _)| command.contains(*text)).map_or(0, |(_, code)| *code);
        ok(v1::ExecSyncResponse { exit_code, ..Default::default() })
    }
    async fn exec(&self, _: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        Err(Status::unimplemented("exec"))
    }
    async fn attach(&self, _: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        Err(Status::unimplemented("attach"))
    }
    async fn port_forward(&self, _: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        Err(Status::unimplemented("port forward"))
    }
    async fn container_stats(&self, _: Request<v1::ContainerStatsRequest>) -> Answer<v1::ContainerStatsResponse> {
        Err(Status::unimplemented("stats"))
    }
    async fn list_container_stats(
        &self,
        _: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let inner = self.0.inner.lock().unwrap();
        let number = |value| Some(v1::UInt64Value { value });
        let one = |c: &Container| {
            let name = c.config.metadata.as_ref()?.name.clone();
            let usage_bytes = number(*inner.memory.get(&name)?);
            let attributes = v1::ContainerAttributes { id: c.status.id.clone(), ..Default::default() };
            let memory = v1::MemoryUsage { usage_bytes, ..Default::default() };
            Some(v1::ContainerStats { attributes: Some(attributes), memory: Some(memory), ..Default::default() })
        };
        ok(v1::ListContainerStatsResponse { stats: inner.containers.iter().filter_map(one).collect() })
    }
    async fn pod_sandbox_stats(&self, _: Request<v1::PodSandboxStatsRequest>) -> Answer<v1::PodSandboxStatsResponse> {
        Err(Status::unimplemented("stats"))
    }
    async fn list_pod_sandbox_stats(
        &self,
        _: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        Err(Status::unimplemented("stats"))
    }
    async fn update_runtime_config(
        &self,
        r: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let cidr = r.into_inner().runtime_config.and_then(|c| c.network_config).map_or(String::new(), |n| n.pod_cidr);
        self.0.call(format!("pod range {cidr}"));
        ok(v1::UpdateRuntimeConfigResponse {})
    }
    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let network = self.0.calls().iter().any(|c| c.starts_with("pod range"));
        let condition = |kind: &str, status| v1::RuntimeCondition { r#type: kind.into(), status, ..Default::default() };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network)];
        ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() })
    }
    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        Err(Status::unimplemented("checkpoint"))
    }
    type GetContainerEventsStream = Pin<Box<dyn Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send>>;
    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let events = self.0.events.subscribe();
        let stream = futures::stream::unfold(events, |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((Ok(event), events))
        });
        ok(Box::pin(stream))
    }
    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
        Err(Status::unimplemented("config"))
    }
    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        ok(v1::ListMetricDescriptorsResponse::default())
    }
    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        ok(v1::ListPodSandboxMetricsResponse::default())
    }
    async fn update_pod_sandbox_resources(
        &self,
        _: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        Err(Status::unimplemented("resources"))
    }
}

#[tonic::async_trait]
impl cri::ImageService for Server {
    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let files = self.0.disk().into_iter().flat_map(std::fs::read_dir).flatten().flatten();
        let image = |file: std::fs::DirEntry| v1::Image {
            id: file.file_name().into_string().unwrap(),
            size: file.metadata().map_or(0, |meta| meta.len()),
            pinned: file.file_name() == "pinned",
            ..Default::default()
        };
        ok(v1::ListImagesResponse { images: files.map(image).collect() })
    }
    async fn image_status(&self, r: Request<v1::ImageStatusRequest>) -> Answer<v1::ImageStatusResponse> {
        let name = r.into_inner().image.unwrap_or_default().image;
        let here = self.0.inner.lock().unwrap().images.contains(&name);
        let image =
            here.then(|| v1::Image { id: "sha256:1".into(), repo_tags: vec![name], size: 1000, ..Default::default() });
        ok(v1::ImageStatusResponse { image, ..Default::default() })
    }
    async fn pull_image(&self, r: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let name = r.into_inner().image.unwrap_or_default().image;
        self.0.call(format!("pull {name}"));
        Err(Status::not_found(format!("{name}: not found")))
    }
    async fn remove_image(&self, r: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        let name = r.into_inner().image.unwrap_or_default().image;
        if let Some(disk) = self.0.disk() {
            std::fs::remove_file(disk.join(&name)).unwrap();
        }
        self.0.call(format!("remove image {name}"));
        ok(v1::RemoveImageResponse {})
    }
    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        let place = |disk: std::path::PathBuf| v1::FilesystemUsage {
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: disk.display().to_string() }),
            ..Default::default()
        };
        let image_filesystems = self.0.disk().map(place).into_iter().collect();
        ok(v1::ImageFsInfoResponse { image_filesystems, ..Default::default() })
    }
}
