//! A container's mounts: its volumes, the managed hosts file and the termination message file.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cri::v1;
use k8s_openapi::api::core::v1::{Pod, VolumeMount};

use super::{VolumeError, Volumes, subpath};
use crate::pod::{container_config, env::Environment, expand::expand, spec, spec::Member};

/// Why a container's mounts cannot be made; becomes `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The spec names something that is not there.
    #[error("{0}")]
    Spec(String),
    /// A step on the disk failed.
    #[error("failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\"")]
    SubPath {
        /// The mount.
        mount: String,
        /// The container.
        container: String,
        /// Why.
        source: VolumeError,
    },
    /// A step on the disk failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Makes what must be made and lists the mounts. `hosts` is the text of the managed hosts file.
pub fn build(
    volumes: &Volumes,
    pod: &Pod,
    member: &Member,
    env: &Environment,
    hosts: &str,
    instance: i32,
) -> Result<Vec<v1::Mount>, MountError> {
    let mut list = Vec::new();
    for (index, mount) in member.container.volume_mounts.iter().flatten().enumerate() {
        list.push(volume_mount(volumes, pod, member, env, index, mount)?);
    }
    let taken = |list: &[v1::Mount], path: &str| list.iter().any(|m| m.container_path == path);
    let dir = volumes.pod_dir(&spec::uid(pod));
    if !taken(&list, "/etc/hosts") {
        let file = dir.join("etc-hosts");
        if fs::read_to_string(&file).ok().as_deref() != Some(hosts) {
            fs::write(&file, hosts)
                .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o644)))
                .map_err(|e| VolumeError::io("writing", &file, e))?;
        }
        list.push(file_mount("/etc/hosts", &file));
    }
    let path = container_config::message_path(&member.container);
    if !taken(&list, &path) {
        let file = message_file(&dir, &member.container.name, instance)?;
        list.push(file_mount(&path, &file));
    }
    Ok(list)
}

fn file_mount(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount { container_path: container_path.to_owned(), host_path: host_path.display().to_string(), ..Default::default() }
}

fn message_file(dir: &Path, name: &str, instance: i32) -> Result<PathBuf, VolumeError> {
    let dir = dir.join("containers").join(name);
    fs::create_dir_all(&dir).map_err(|e| VolumeError::io("making", &dir, e))?;
    let file = dir.join(format!("{:08x}", spec::fnv1a(format!("{name}/{instance}").as_bytes())));
    let made = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(&file);
    made.and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o666)))
        .map_err(|e| VolumeError::io("creating", &file, e))?;
    Ok(file)
}

fn volume_mount(
    volumes: &Volumes,
    pod: &Pod,
    member: &Member,
    env: &Environment,
    index: usize,
    mount: &VolumeMount,
) -> Result<v1::Mount, MountError> {
    let container = &member.container.name;
    let volume =
        pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).find(|v| v.name == mount.name).ok_or_else(|| {
            MountError::Spec(format!("cannot find volume \"{}\" to mount into container \"{container}\"", mount.name))
        })?;
    let uid = spec::uid(pod);
    let root = volumes.path(&uid, volume);
    let host_path = match sub_path(env, mount)? {
        None => root,
        Some(sub) => {
            let target =
                volumes.pod_dir(&uid).join("volume-subpaths").join(&mount.name).join(container).join(index.to_string());
            subpath::bind(&root, &sub, &target).map_err(|source| MountError::SubPath {
                mount: mount.name.clone(),
                container: container.clone(),
                source,
            })?
        }
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    let path = &mount.mount_path;
    Ok(v1::Mount {
        container_path: if path.starts_with('/') { path.clone() } else { format!("/{path}") },
        host_path: host_path.display().to_string(),
        readonly: mount.read_only == Some(true)
            || volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some(),
        recursive_read_only: mount.recursive_read_only.as_deref() == Some("Enabled"),
        propagation: propagation.into(),
        ..Default::default()
    })
}

fn sub_path(env: &Environment, mount: &VolumeMount) -> Result<Option<String>, MountError> {
    if let Some(path) = mount.sub_path.clone().filter(|p| !p.is_empty()) {
        return Ok(Some(path));
    }
    let Some(expression) = mount.sub_path_expr.clone().filter(|p| !p.is_empty()) else { return Ok(None) };
    let mut missing = BTreeSet::new();
    let path = expand(&expression, |name| {
        let value = env.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value.map(str::to_owned)
    });
    if !missing.is_empty() {
        return Err(MountError::Spec(format!("missing value for {}", Vec::from_iter(missing).join(", "))));
    }
    if path.starts_with('/') {
        return Err(MountError::Spec(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if path.split('/').any(|p| p == "..") {
        return Err(MountError::Spec(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_sub_paths() {
        let vars = [("A", "a"), ("ROOT", "/x"), ("UP", "../x"), ("EMPTY", "")];
        let env = Environment {
            vars: vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Environment::default()
        };
        let cases = [
            ("$(A)/b", Ok("a/b")),
            ("$$(A)", Ok("$(A)")),
            ("$(Z)/$(EMPTY)/$(A)", Err("missing value for EMPTY, Z")),
            ("$(ROOT)", Err("error SubPath `/x` must not be an absolute path")),
            ("$(UP)", Err("unable to provision SubPath `../x`: must not contain '..'")),
        ];
        for (expression, expected) in cases {
            let mount = VolumeMount { sub_path_expr: Some(expression.to_owned()), ..VolumeMount::default() };
            let found = sub_path(&env, &mount).map(Option::unwrap_or_default).map_err(|error| error.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{expression}");
        }
    }
}
