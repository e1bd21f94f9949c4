//! The runtime's things in CRI's words.

use std::collections::HashMap;

use crate::container::container_resources;
use crate::image::{ImageRecord, ImageStore, ImageUser};
use crate::spec::{self, signal};
use crate::state::{Container, Sandbox};

/// Whether every wanted label is there with its value.
pub fn labels_match(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A sandbox's state.
pub fn sandbox_state(sandbox: &Sandbox) -> cri::PodSandboxState {
    match sandbox.live.lock().record.ready {
        true => cri::PodSandboxState::SandboxReady,
        false => cri::PodSandboxState::SandboxNotready,
    }
}

/// A sandbox in a list.
pub fn sandbox(sandbox: &Sandbox) -> cri::PodSandbox {
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.record().created_ns,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: String::new(),
    }
}

/// A sandbox's status.
pub fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let record = sandbox.record();
    let mut addresses = record.addresses.iter().map(ToString::to_string);
    let options = spec::sandbox_namespaces(&sandbox.config).cloned().unwrap_or_default();
    cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox).into(),
        created_at: record.created_ns,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options: Some(options) }) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: String::new(),
    }
}

/// How a container's image is named: (name, reference). The reference has a digest where one is known.
fn image_names(container: &Container, id: &str, images: &ImageStore) -> (cri::ImageSpec, String) {
    let mut spec = container.config.image.clone().unwrap_or_default();
    let Some((tag, digest)) = images.names(id) else { return (spec, id.to_owned()) };
    if let Some(name) = tag.or_else(|| digest.clone()) {
        spec.image = name;
    }
    (spec, digest.unwrap_or_else(|| id.to_owned()))
}

/// A container in a list.
pub fn container(container: &Container, images: &ImageStore) -> cri::Container {
    let record = container.record();
    let (_, image_ref) = image_names(container, &record.image, images);
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.id.clone(),
        metadata: container.config.metadata.clone(),
        image: container.config.image.clone(),
        image_ref,
        // Of the same moment as the rest: it may end meanwhile.
        state: record.state().into(),
        created_at: record.created_ns,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        image_id: record.image,
    }
}

/// A container's status.
pub fn container_status(container: &Container, images: &ImageStore) -> cri::ContainerStatus {
    let record = container.record();
    let (image, image_ref) = image_names(container, &record.image, images);
    let exit = record.exit.clone();
    let stop = signal::stop_signal(&container.config, &record.run.stop_signal);
    cri::ContainerStatus {
        id: container.id.clone(),
        metadata: container.config.metadata.clone(),
        // Of the same moment as the rest: it may end meanwhile.
        state: record.state().into(),
        created_at: record.created_ns,
        started_at: record.started_ns,
        finished_at: exit.as_ref().map_or(0, |exit| exit.finished_ns),
        exit_code: exit.as_ref().map_or(0, |exit| exit.code),
        image: Some(image),
        image_ref,
        reason: exit.as_ref().map(|exit| exit.reason.clone()).unwrap_or_default(),
        message: exit.map(|exit| exit.message).unwrap_or_default(),
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        mounts: container.config.mounts.clone(),
        log_path: spec::log_path(&container.sandbox.config, &container.config),
        resources: Some(cri::ContainerResources { linux: Some(container_resources(container)) }),
        image_id: record.image,
        user: record.user.map(|(uid, gid, groups)| cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: uid.into(),
                gid: gid.into(),
                supplemental_groups: groups.into_iter().map(i64::from).collect(),
            }),
        }),
        stop_signal: signal::to_cri(stop).into(),
    }
}

/// An image.
pub fn image(record: &ImageRecord) -> cri::Image {
    let (uid, username) = match record.config.config.image_user() {
        ImageUser::Uid(value) => (Some(cri::Int64Value { value }), String::new()),
        ImageUser::Name(name) => (None, name),
    };
    cri::Image {
        id: record.id.clone(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        uid,
        username,
        spec: None,
        pinned: record.pinned,
    }
}
