//! Windows: options of security contexts, host process containers, and what a pod for Windows may not have.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{PodSpec, SecurityContext, WindowsSecurityContextOptions};
use regex::Regex;

use crate::{field::FieldErrors, field_path::Path, names};

const NOT_HERE: &str = "cannot be set for a windows pod";
const MAX_SPEC: usize = 64 * 1024;
const MAX_DOMAIN: usize = 256;
const MAX_USER: usize = 104;

/// A container of any sort, as far as these rules look at it: the list it is in, its place there, its context.
type Contained<'a> = (&'static str, usize, Option<&'a SecurityContext>);

/// In upstream's order of visiting.
fn containers(spec: &PodSpec) -> Vec<Contained<'_>> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let regular = spec.containers.iter().enumerate();
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    init.map(|(i, c)| ("initContainers", i, c.security_context.as_ref()))
        .chain(regular.map(|(i, c)| ("containers", i, c.security_context.as_ref())))
        .chain(ephemeral.map(|(i, c)| ("ephemeralContainers", i, c.security_context.as_ref())))
        .collect()
}

/// `windowsOptions` at `path`.
pub(super) fn options(options: Option<&WindowsSecurityContextOptions>, path: &Path, errors: &mut FieldErrors) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        errors.each(&path.child("gmsaCredentialSpecName"), name, names::dns1123_subdomain(name));
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MAX_SPEC {
            errors.invalid(path, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = &options.run_as_user_name {
        for message in user_name(name) {
            errors.invalid(path.child("runAsUserName"), name, format!("runAsUserName{message}"));
        }
    }
}

/// What is wrong with `USER` or `DOMAIN\USER`.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec![" cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec![" cannot contain control characters".to_owned()];
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec![" cannot contain more than one backslash".to_owned()],
    };
    let mut out = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= MAX_DOMAIN) {
        out.push(format!("'s Domain length must be under {MAX_DOMAIN} characters"));
    }
    if domain.is_some_and(|domain| !is_domain(domain)) {
        out.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        out.push("'s User cannot be empty".to_owned());
    } else if user.len() > MAX_USER {
        out.push(format!("'s User length must not be longer than {MAX_USER} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        out.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        out.push(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    out
}

/// A NetBIOS name or a DNS name.
fn is_domain(domain: &str) -> bool {
    static DNS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
        Regex::new(&format!(r"^{label}(?:\.{label})*$")).ok()
    });
    let net_bios = (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
    net_bios || DNS.as_ref().is_some_and(|dns| dns.is_match(domain))
}

/// Host process containers: all or none, and with the host's network.
pub(super) fn host_process(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref()?.host_process);
    let containers = containers(spec);
    let mut count = 0;
    for (list, i, context) in &containers {
        let own = context.and_then(|context| context.windows_options.as_ref()?.host_process);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let path = format!("{}[{i}].securityContext.windowsOptions.hostProcess", path.child(list));
            let message = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(path, &own, message);
        }
        count += usize::from(own.or(of_pod) == Some(true));
    }
    if count == 0 {
        return;
    }
    if count != containers.len() {
        let message = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, &"", message);
    }
    if spec.host_network != Some(true) {
        let message = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(path.child("hostNetwork"), &false, message);
    }
}

/// A pod that says it is for Linux has no options for Windows.
pub(super) fn none_for_linux(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let message = "windows options cannot be set for a linux pod";
    if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
        errors.forbidden(path.child("securityContext").child("windowsOptions"), message);
    }
    for (list, i, context) in containers(spec) {
        if context.is_some_and(|context| context.windows_options.is_some()) {
            errors.forbidden(format!("{}[{i}].securityContext.windowsOptions", path.child(list)), message);
        }
    }
}

/// A pod that says it is for Windows has nothing that only Linux knows.
pub(super) fn nothing_of_linux(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let none = Default::default();
    let pod = spec.security_context.as_ref().unwrap_or(&none);
    let of_context = path.child("securityContext");
    let set = [
        (&of_context, "appArmorProfile", pod.app_armor_profile.is_some()),
        (&of_context, "seLinuxOptions", pod.se_linux_options.is_some()),
        (path, "hostUsers", spec.host_users.is_some()),
        (path, "hostPID", spec.host_pid == Some(true)),
        (path, "hostIPC", spec.host_ipc == Some(true)),
        (&of_context, "seccompProfile", pod.seccomp_profile.is_some()),
        (&of_context, "fsGroup", pod.fs_group.is_some()),
        (&of_context, "fsGroupChangePolicy", pod.fs_group_change_policy.is_some()),
        (&of_context, "sysctls", pod.sysctls.as_ref().is_some_and(|list| !list.is_empty())),
        (path, "shareProcessNamespace", spec.share_process_namespace.is_some()),
        (&of_context, "runAsUser", pod.run_as_user.is_some()),
        (&of_context, "runAsGroup", pod.run_as_group.is_some()),
        (&of_context, "supplementalGroups", pod.supplemental_groups.is_some()),
        (&of_context, "supplementalGroupsPolicy", pod.supplemental_groups_policy.is_some()),
        (&of_context, "seLinuxChangePolicy", pod.se_linux_change_policy.is_some()),
    ];
    for (path, field, _) in set.iter().filter(|(.., set)| *set) {
        errors.forbidden(path.child(field), NOT_HERE);
    }
    for (list, i, context) in containers(spec) {
        let Some(context) = context else { continue };
        let set = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
            ("privileged", context.privileged.is_some()),
            ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ];
        for (field, _) in set.iter().filter(|(_, set)| *set) {
            errors.forbidden(format!("{}[{i}].securityContext.{field}", path.child(list)), NOT_HERE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_have_their_form() {
        let long = "u".repeat(105);
        let names =
            ["Container", "NT AUTHORITY\\system", "a.b-c.example\\u", "a\\b\\c", "a\tb", "", ".x\\", "D\\. .", &long, "a@b"];
        let count: Vec<usize> = names.iter().map(|name| user_name(name).len()).collect();
        assert_eq!(count, [0, 0, 0, 1, 1, 1, 2, 1, 1, 1]);
    }
}
