//! Containers of every sort: names, images, ports, mounts, probes, hooks, restart rules.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, HTTPGetAction, Lifecycle, LifecycleHandler,
        Probe, VolumeDevice, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Rules, environment, resources, security, text,
    volume_sources::{descending_path, no_backsteps},
};
use crate::{field::FieldErrors, field_path::Path, names, quoted};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ONE_HANDLER: &str = "may not specify more than 1 handler type";
const NOT_IN_INIT: &str = "may not be set for init containers without restartPolicy=Always";

/// All containers of the spec at `path`.
pub(super) fn check(rules: &Rules, path: &Path, errors: &mut FieldErrors) {
    regular(rules, &path.child("containers"), errors);
    init(rules, &path.child("initContainers"), errors);
    ephemeral(rules, &path.child("ephemeralContainers"), errors);
}

fn regular(rules: &Rules, path: &Path, errors: &mut FieldErrors) {
    if rules.spec.containers.is_empty() {
        return errors.required(path, "");
    }
    let mut seen = BTreeSet::new();
    for (i, container) in rules.spec.containers.iter().enumerate() {
        let path = path.index(i);
        common(rules, container, &path, errors);
        if !seen.insert(container.name.as_str()) {
            errors.duplicate(path.child("name"), &container.name);
        }
        hooks_and_probes(rules, container, &path, errors);
        restart_rules(container, &["Always", "Never", "OnFailure"], &path, errors);
    }
    host_ports(&rules.spec.containers, 0, path, errors);
}

fn init(rules: &Rules, path: &Path, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = rules.spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (i, container) in rules.spec.init_containers.iter().flatten().enumerate() {
        let item = path.index(i);
        common(rules, container, &item, errors);
        restart_rules(container, &["Always", "Never", "OnFailure"], &item, errors);
        if !container.name.is_empty() && !seen.insert(container.name.as_str()) {
            errors.duplicate(item.child("name"), &container.name);
        }
        host_ports(std::slice::from_ref(container), i, path, errors);
        if container.restart_policy.as_deref() == Some("Always") {
            hooks_and_probes(rules, container, &item, errors);
            continue;
        }
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                errors.forbidden(item.child(field), NOT_IN_INIT);
            }
        }
        if let Some(policies) = container.resize_policy.as_ref().filter(|policies| !policies.is_empty()) {
            errors.invalid(
                item.child("resizePolicy"),
                &quoted::RESIZE_POLICY.quote(policies),
                "must not be set for init containers",
            );
        }
    }
}

/// The container that an ephemeral one would be.
fn as_container(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}

fn ephemeral(rules: &Rules, path: &Path, errors: &mut FieldErrors) {
    let spec = rules.spec;
    let others: BTreeSet<&str> =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    let mut seen = others.clone();
    let message = "cannot be set for an Ephemeral Container";
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(i);
        let container = as_container(ephemeral);
        common(rules, &container, &path, errors);
        let image = text(container.image.as_ref());
        if image.trim() != image {
            errors.invalid(path.child("image"), &image, "must not have leading or trailing whitespace");
        }
        if !seen.insert(ephemeral.name.as_str()) {
            errors.duplicate(path.child("name"), &ephemeral.name);
        }
        let target = text(ephemeral.target_container_name.as_ref());
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(path.child("targetContainerName"), &target);
        }
        let resources = container.resources.as_ref().is_some_and(|resources| *resources != Default::default());
        for (field, set) in [
            // In the order in which Go's type has them.
            ("ports", container.ports.is_some()),
            ("resources", resources),
            ("resizePolicy", container.resize_policy.is_some()),
            ("restartPolicy", container.restart_policy.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                errors.forbidden(path.child(field), message);
            }
        }
        for (j, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let mounts = path.child("volumeMounts");
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if value.is_some() {
                    errors.forbidden(mounts.index(j).child(field), message);
                }
            }
        }
    }
}

/// `validateContainerCommon`.
fn common(rules: &Rules, container: &Container, path: &Path, errors: &mut FieldErrors) {
    if container.name.is_empty() {
        errors.required(path.child("name"), "");
    } else {
        errors.each(&path.child("name"), &container.name, names::dns1123_label(&container.name));
    }
    errors.non_empty(&path.child("image"), text(container.image.as_ref()));
    let policy = container.termination_message_policy.as_deref();
    errors.required_one_of(&path.child("terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
    environment::variables(rules, container.env.as_deref().unwrap_or_default(), &path.child("env"), errors);
    environment::sources(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom"), errors);
    mounts(rules, container, &path.child("volumeMounts"), errors);
    devices(rules, container, &path.child("volumeDevices"), errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.required_one_of(&path.child("imagePullPolicy"), container.image_pull_policy.as_deref(), &policies);
    if let Some(requirements) = &container.resources {
        resources::requirements(requirements, rules.spec, &path.child("resources"), errors);
    }
    resize_policies(container.resize_policy.as_deref().unwrap_or_default(), &path.child("resizePolicy"), errors);
    security::container(rules, container.security_context.as_ref(), &path.child("securityContext"), errors);
}

fn ports(ports: &[ContainerPort], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        if let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) {
            let messages = names::port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(path.child("name"), name);
            }
            errors.each(&path.child("name"), name, messages);
        }
        let number = port.container_port;
        if number == 0 {
            errors.required(path.child("containerPort"), "");
        } else {
            errors.each(&path.child("containerPort"), &number, names::port_number(number.into()));
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            errors.each(&path.child("hostPort"), &number, names::port_number(number.into()));
        }
        errors.required_one_of(&path.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
    }
}

fn host_ports(containers: &[Container], first: usize, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(port.protocol.as_ref()), text(port.host_ip.as_ref()));
            if seen.contains(&key) {
                errors.duplicate(format!("{}.ports[{j}].hostPort", path.index(first + i)), &key);
            }
            seen.insert(key);
        }
    }
}

fn mounts(rules: &Rules, container: &Container, path: &Path, errors: &mut FieldErrors) {
    let devices: BTreeMap<&str, &str> = container
        .volume_devices
        .iter()
        .flatten()
        .map(|device| (device.name.as_str(), device.device_path.as_str()))
        .collect();
    let mut points = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let item = path.index(i);
        errors.non_empty(&item.child("name"), &mount.name);
        if rules.volume(&mount.name).is_none() {
            errors.not_found(item.child("name"), &mount.name);
        }
        errors.non_empty(&item.child("mountPath"), &mount.mount_path);
        if !points.insert(mount.mount_path.as_str()) {
            errors.invalid(item.child("mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.contains_key(mount.name.as_str()) {
            errors.invalid(item.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| *device == mount.mount_path) {
            let message = "must not already exist as a path in volumeDevices";
            errors.invalid(item.child("mountPath"), &mount.mount_path, message);
        }
        // Upstream's paths of sub-paths lack the index.
        let sub_path = text(mount.sub_path.as_ref());
        descending_path(sub_path, &path.child("subPath"), errors);
        let expression = text(mount.sub_path_expr.as_ref());
        if !expression.is_empty() && !sub_path.is_empty() {
            errors.invalid(item.child("subPathExpr"), &expression, "subPathExpr and subPath are mutually exclusive");
        }
        descending_path(expression, &path.child("subPathExpr"), errors);
        propagation(mount, container, path, errors);
        recursive_read_only(mount, &item.child("recursiveReadOnly"), errors);
    }
}

fn propagation(mount: &VolumeMount, container: &Container, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("mountPropagation");
    let mode = mount.mount_propagation.as_deref();
    errors.one_of(&path, mode, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false);
    if mode == Some("Bidirectional") && !privileged {
        errors.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(mount: &VolumeMount, path: &Path, errors: &mut FieldErrors) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
                errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errors.not_supported(path, &other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(rules: &Rules, container: &Container, path: &Path, errors: &mut FieldErrors) {
    let mounts: BTreeMap<&str, &str> =
        container.volume_mounts.iter().flatten().map(|mount| (mount.name.as_str(), mount.mount_path.as_str())).collect();
    let (mut paths, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (i, VolumeDevice { device_path, name }) in container.volume_devices.iter().flatten().enumerate() {
        let path = path.index(i);
        let (name_path, device) = (path.child("name"), path.child("devicePath"));
        errors.non_empty(&name_path, name);
        if seen.contains(name) {
            errors.invalid(name_path, name, "must be unique");
        }
        match rules.volume(name) {
            None => errors.not_found(name_path, name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let message = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(name_path, name, message);
            }
            Some(_) => {}
        }
        errors.non_empty(&device, device_path);
        if paths.contains(device_path) {
            errors.invalid(device, device_path, "must be unique");
        }
        if no_backsteps(device_path) {
            paths.insert(device_path);
        } else {
            errors.invalid(device, device_path, "can not contain backsteps ('..')");
        }
        if mounts.contains_key(name.as_str()) {
            errors.invalid(name_path, name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| mount == device_path) {
            errors.invalid(device, device_path, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            seen.insert(name);
        }
    }
}

fn resize_policies(policies: &[ContainerResizePolicy], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.duplicate(path.index(i), &policy.resource_name);
        }
        errors.required_one_of(path, Some(&policy.resource_name), &["cpu", "memory"]);
        errors.required_one_of(path, Some(&policy.restart_policy), &["NotRequired", "RestartContainer"]);
    }
}

/// KEP-5307: a container's own restart policy, and rules by exit code.
fn restart_rules(container: &Container, policies: &[&str], path: &Path, errors: &mut FieldErrors) {
    errors.one_of(&path.child("restartPolicy"), container.restart_policy.as_deref(), policies);
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let rules_path = path.child("restartPolicyRules");
    if !rules.is_empty() && container.restart_policy.is_none() {
        errors.required(path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > 20 {
        errors.too_many(rules_path, rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = rules_path.index(i);
        errors.required_one_of(&path.child("action"), Some(&rule.action), &["Restart"]);
        let Some(codes) = &rule.exit_codes else {
            errors.required(path.child("exitCodes"), "must be specified");
            continue;
        };
        let path = path.child("exitCodes");
        errors.required_one_of(&path.child("operator"), Some(&codes.operator), &["In", "NotIn"]);
        let values = codes.values.as_deref().unwrap_or_default();
        if values.len() > 255 {
            errors.too_many(path.child("values"), values.len(), 255);
        }
    }
}

fn hooks_and_probes(rules: &Rules, container: &Container, path: &Path, errors: &mut FieldErrors) {
    if let Some(hooks) = &container.lifecycle {
        lifecycle(rules, hooks, &path.child("lifecycle"), errors);
    }
    if let Some(probe) = &container.liveness_probe {
        once_probe(probe, &path.child("livenessProbe"), errors);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        check_probe(probe, &path, errors);
        if let Some(seconds) = &probe.termination_grace_period_seconds {
            let path = path.child("terminationGracePeriodSeconds");
            errors.invalid(path, seconds, "must not be set for readinessProbes");
        }
    }
    if let Some(probe) = &container.startup_probe {
        once_probe(probe, &path.child("startupProbe"), errors);
    }
}

/// Liveness and startup probes succeed at once.
fn once_probe(probe: &Probe, path: &Path, errors: &mut FieldErrors) {
    check_probe(probe, path, errors);
    if probe.success_threshold != Some(1) {
        errors.invalid(path.child("successThreshold"), &probe.success_threshold.unwrap_or(0), "must be 1");
    }
}

fn check_probe(probe: &Probe, path: &Path, errors: &mut FieldErrors) {
    let mut handlers = Handlers { path, found: false, errors };
    if let Some(exec) = &probe.exec {
        handlers.exec(exec.command.as_deref());
    }
    if let Some(get) = &probe.http_get {
        handlers.http(get);
    }
    if let Some(socket) = &probe.tcp_socket {
        handlers.tcp(&socket.port);
    }
    if let Some(grpc) = &probe.grpc {
        handlers
            .handler("grpc", |path, errors| port_number_or_name(&IntOrString::Int(grpc.port), &path.child("port"), errors));
    }
    handlers.finish();
    errors.non_negative(&path.child("initialDelaySeconds"), probe.initial_delay_seconds);
    errors.non_negative(&path.child("timeoutSeconds"), probe.timeout_seconds);
    errors.non_negative(&path.child("periodSeconds"), probe.period_seconds);
    errors.non_negative(&path.child("successThreshold"), probe.success_threshold);
    errors.non_negative(&path.child("failureThreshold"), probe.failure_threshold);
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        errors.invalid(path.child("terminationGracePeriodSeconds"), &seconds, "must be greater than 0");
    }
}

fn lifecycle(rules: &Rules, hooks: &Lifecycle, path: &Path, errors: &mut FieldErrors) {
    for (field, hook) in [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)] {
        if let Some(hook) = hook {
            check_hook(rules, hook, &path.child(field), errors);
        }
    }
}

fn check_hook(rules: &Rules, hook: &LifecycleHandler, path: &Path, errors: &mut FieldErrors) {
    let mut handlers = Handlers { path, found: false, errors };
    if let Some(exec) = &hook.exec {
        handlers.exec(exec.command.as_deref());
    }
    if let Some(get) = &hook.http_get {
        handlers.http(get);
    }
    if let Some(socket) = &hook.tcp_socket {
        handlers.tcp(&socket.port);
    }
    if let Some(sleep) = &hook.sleep {
        let grace = rules.spec.termination_grace_period_seconds.unwrap_or(0);
        handlers.handler("sleep", |path, errors| {
            if !(0..=grace).contains(&sleep.seconds) {
                let message = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(path, &sleep.seconds, message);
            }
        });
    }
    handlers.finish();
}

/// Exactly one handler of a probe or hook.
struct Handlers<'a, 'e> {
    path: &'a Path<'a>,
    found: bool,
    errors: &'e mut FieldErrors,
}

impl Handlers<'_, '_> {
    fn handler(&mut self, field: &str, check: impl FnOnce(&Path, &mut FieldErrors)) {
        if self.found {
            self.errors.forbidden(self.path.child(field), ONE_HANDLER);
        } else {
            self.found = true;
            check(&self.path.child(field), self.errors);
        }
    }

    fn exec(&mut self, command: Option<&[String]>) {
        self.handler("exec", |path, errors| {
            if command.unwrap_or_default().is_empty() {
                errors.required(path.child("command"), "");
            }
        });
    }

    fn http(&mut self, get: &HTTPGetAction) {
        self.handler("httpGet", |path, errors| {
            errors.non_empty(&path.child("path"), text(get.path.as_ref()));
            port_number_or_name(&get.port, &path.child("port"), errors);
            errors.one_of(&path.child("scheme"), Some(text(get.scheme.as_ref())), &["HTTP", "HTTPS"]);
            for header in get.http_headers.iter().flatten() {
                errors.each(&path.child("httpHeaders"), &header.name, names::http_header_name(&header.name));
            }
        });
    }

    fn tcp(&mut self, port: &IntOrString) {
        self.handler("tcpSocket", |path, errors| port_number_or_name(port, &path.child("port"), errors));
    }

    fn finish(self) {
        if !self.found {
            self.errors.required(self.path, "must specify a handler type");
        }
    }
}

/// A port by number or by name.
pub(crate) fn port_number_or_name(port: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => errors.each(path, number, names::port_number((*number).into())),
        IntOrString::String(name) => errors.each(path, name, names::port_name(name)),
    }
}
