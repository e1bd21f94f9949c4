//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl};

use super::{Rules, text, volume_sources::descending_path};
use crate::{field::FieldErrors, field_path::Path, names};

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
            errors.invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let message = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, message);
        }
    }
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
        let message = "windows options cannot be set for a linux pod";
        if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
            errors.forbidden(path.child("securityContext").child("windowsOptions"), message);
        }
        for (field, list) in [("initContainers", spec.init_containers.as_ref()), ("containers", Some(&spec.containers))] {
            for (i, container) in list.into_iter().flatten().enumerate() {
                if container.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
                    errors.forbidden(format!("{}[{i}].securityContext.windowsOptions", path.child(field)), message);
                }
            }
        }
        return;
    }
    // A windows pod can never run here; the fields most often left in by mistake are named as upstream names them.
    let message = "cannot be set for a windows pod";
    for (field, set) in [("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc), ("hostNetwork", spec.host_network)] {
        if set == Some(true) {
            errors.forbidden(path.child(field), message);
        }
    }
    if let Some(context) = &spec.security_context {
        let path = path.child("securityContext");
        let set = [
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("fsGroup", context.fs_group.is_some()),
            ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
            ("sysctls", context.sysctls.as_ref().is_some_and(|list| !list.is_empty())),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
            ("supplementalGroups", context.supplemental_groups.is_some()),
        ];
        for (field, _) in set.iter().filter(|(_, set)| *set) {
            errors.forbidden(path.child(field), message);
        }
    }
    if text(spec.runtime_class_name.as_ref()).is_empty() && spec.share_process_namespace == Some(true) {
        errors.forbidden(path.child("shareProcessNamespace"), message);
    }
}
