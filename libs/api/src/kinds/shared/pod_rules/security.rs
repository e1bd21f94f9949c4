//! Security contexts of pods and containers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Rules, volume_sources::descending_path, windows};
use crate::{
    field::{FieldErrors, go_quote},
    field_path::Path,
    names, quoted,
};

const UNMASKED_NEEDS_USERS: &str = "`hostUsers` must be false to use `Unmasked`";

fn id(value: Option<i64>, field: &str, path: &Path, errors: &mut FieldErrors) {
    if let Some(value) = value {
        errors.each(&path.child(field), &value, names::in_range(value, 0, i64::from(i32::MAX)));
    }
}

pub(super) fn pod(rules: &Rules, path: &Path, errors: &mut FieldErrors) {
    let Some(context) = &rules.spec.security_context else { return };
    id(context.fs_group, "fsGroup", path, errors);
    id(context.run_as_user, "runAsUser", path, errors);
    id(context.run_as_group, "runAsGroup", path, errors);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        let messages = names::in_range(*group, 0, i64::from(i32::MAX));
        errors.each(&path.child("supplementalGroups").index(i), group, messages);
    }
    if rules.spec.share_process_namespace == Some(true) && rules.spec.host_pid == Some(true) {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), &true, message);
    }
    sysctls(context.sysctls.as_deref().unwrap_or_default(), &path.child("sysctls"), errors);
    let policy = context.fs_group_change_policy.as_deref();
    errors.one_of(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    let groups = context.supplemental_groups_policy.as_deref();
    errors.one_of(&path.child("supplementalGroupsPolicy"), groups, &["Merge", "Strict"]);
    let labels = context.se_linux_change_policy.as_deref();
    errors.one_of(&path.child("seLinuxChangePolicy"), labels, &["MountOption", "Recursive"]);
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    windows::options(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn sysctls(sysctls: &[Sysctl], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i);
        let path = path.child("name");
        if sysctl.name.is_empty() {
            errors.required(path, "");
        } else if !is_sysctl_name(&sysctl.name) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let message = format!(r"must have at most 253 characters and match regex ^({segment}[\./])*{segment}$");
            errors.invalid(path, &sysctl.name, message);
        } else if seen.contains(&sysctl.name) {
            errors.duplicate(path, &sysctl.name);
        }
        seen.insert(&sysctl.name);
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|segment| {
            segment.starts_with(is_edge)
                && segment.ends_with(is_edge)
                && segment.chars().all(|c| is_edge(c) || matches!(c, '-' | '_'))
        })
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(path.child("type"), "type is required when seccompProfile is set"),
        kind => errors.one_of(&path.child("type"), Some(kind), &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    let path = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(path, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => descending_path(file, &path, errors),
        (_, Some(_)) => errors.invalid(path, profile, "can only be set when seccomp type is Localhost"),
        (_, None) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    let name_path = path.child("localhostProfile");
    match profile.type_.as_str() {
        "Localhost" => match profile.localhost_profile.as_deref().map(|name| (name, name.trim())) {
            None => errors.required(name_path, "must be set when AppArmor type is Localhost"),
            Some((name, trimmed)) if name != trimmed => {
                errors.invalid(name_path, &name, "must not be padded with whitespace")
            }
            Some((_, "")) => errors.required(name_path, "must be set when AppArmor type is Localhost"),
            Some((name, _)) if name.len() > 4095 => errors.too_long(name_path, 4095),
            Some(_) => {}
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = &profile.localhost_profile {
                errors.invalid(name_path, name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(path.child("type"), "type is required when appArmorProfile is set"),
        other => errors.not_supported(path.child("type"), &other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

pub(super) fn container(rules: &Rules, context: Option<&SecurityContext>, path: &Path, errors: &mut FieldErrors) {
    let Some(context) = context else { return };
    id(context.run_as_user, "runAsUser", path, errors);
    id(context.run_as_group, "runAsGroup", path, errors);
    let proc_mount = context.proc_mount.as_deref();
    errors.one_of(&path.child("procMount"), proc_mount, &["Default", "Unmasked"]);
    if proc_mount == Some("Unmasked") && rules.host_users() {
        errors.invalid(path.child("procMount"), &"Unmasked", UNMASKED_NEEDS_USERS);
    }
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            errors.invalid(
                path,
                &quoted::SECURITY_CONTEXT.quote(context),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let message = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, &quoted::SECURITY_CONTEXT.quote(context), message);
        }
    }
    windows::options(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
}

pub(super) fn host_users(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.host_users != Some(false) {
        return;
    }
    for (name, set) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
        if set == Some(true) {
            errors.forbidden(path.child(name), "when `hostUsers` is false");
        }
    }
}

pub(super) fn operating_system(spec: &PodSpec, name: &str, path: &Path, errors: &mut FieldErrors) {
    let os = path.child("os");
    match name {
        "" => return errors.required(os.child("name"), "cannot be empty"),
        "linux" | "windows" => {}
        other => return errors.not_supported(os, &other, &["linux", "windows"]),
    }
    if name == "linux" {
        windows::none_for_linux(spec, path, errors);
    } else {
        windows::nothing_of_linux(spec, path, errors);
    }
}

/// What the annotations of containers begin with.
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// AppArmor's annotations, which came before the field: `PREFIX/CONTAINER`.
pub(super) fn app_armor_annotations(metadata: &ObjectMeta, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let init = spec.init_containers.iter().flatten().map(|container| &container.name);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
    let names: BTreeSet<_> = init.chain(spec.containers.iter().map(|c| &c.name)).chain(ephemeral).collect();
    for (key, profile) in metadata.annotations.iter().flatten() {
        let Some(name) = key.strip_prefix(APP_ARMOR) else { continue };
        if !names.contains(&name.to_owned()) {
            errors.invalid(path.key(key), &name, "container not found");
        }
        if !matches!(profile.as_str(), "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            let message = format!("invalid AppArmor profile name: {}", go_quote(profile));
            errors.invalid(path.key(key), profile, message);
        }
    }
}

/// What a new pod says of a container in an annotation and in a field is the same.
pub fn app_armor_agrees(metadata: &ObjectMeta, spec: &PodSpec, errors: &mut FieldErrors) {
    let Some(annotations) = metadata.annotations.as_ref().filter(|_| spec.os.as_ref().is_none_or(|os| os.name != "windows"))
    else {
        return;
    };
    let of_the_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let lists = [("initContainers", spec.init_containers.as_ref()), ("containers", Some(&spec.containers))];
    let root = Path::root("spec");
    for (field, containers) in lists {
        let list = root.child(field);
        for (i, container) in containers.into_iter().flatten().enumerate() {
            let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
            let said = annotations.get(&format!("{APP_ARMOR}{}", container.name));
            let (Some(profile), Some(said)) = (own.or(of_the_pod), said) else { continue };
            let path = list.index(i);
            let path = path.child("securityContext");
            let path = path.child("appArmorProfile");
            let other_type = || (path.child("type"), "apparmor type in annotation and field must match");
            let told = match (profile.type_.as_str(), said.strip_prefix("localhost/")) {
                ("Unconfined", _) => (said != "unconfined").then(other_type),
                ("RuntimeDefault", _) => (said != "runtime/default").then(other_type),
                ("Localhost", None) => Some(other_type()),
                ("Localhost", Some(name)) => (profile.localhost_profile.as_deref() != Some(name))
                    .then(|| (path.child("localhostProfile"), "apparmor profile in annotation and field must match")),
                _ => None,
            };
            if let Some((path, why)) = told {
                errors.forbidden(path, why);
            }
        }
    }
}

/// The annotations of a pod that is there stay as they are.
pub(super) fn app_armor_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    let own = |metadata: &ObjectMeta| -> BTreeMap<String, String> {
        let all = metadata.annotations.iter().flatten().filter(|(key, _)| key.starts_with(APP_ARMOR));
        all.map(|(key, profile)| (key.clone(), profile.clone())).collect()
    };
    let (new, old) = (own(new), own(old));
    for (key, _) in old.iter().filter(|(key, profile)| new.get(*key) != Some(*profile)) {
        errors.forbidden(path.key(key), "may not remove or update AppArmor annotations");
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        errors.forbidden(path.key(key), "may not add AppArmor annotations");
    }
}

/// Seccomp's annotations are without effect, but what they say must make sense.
pub(super) fn seccomp_annotations(metadata: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    for (key, profile) in metadata.annotations.iter().flatten() {
        let ours = key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/");
        let path = path.child(key);
        match profile.strip_prefix("localhost/") {
            _ if !ours => {}
            Some(file) => descending_path(file, &path, errors),
            None if matches!(profile.as_str(), "runtime/default" | "docker/default" | "unconfined") => {}
            None => errors.invalid(path, profile, "must be a valid seccomp profile"),
        }
    }
}
