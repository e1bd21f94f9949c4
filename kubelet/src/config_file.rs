//! `--config`: a KubeletConfiguration file as the flags that say the same. Flags are what is checked and what may override the
//! file, so a field means exactly what its flag does.
//!
//! A field that nobody knows is an error. One that upstream knows and this kubelet does not may be there only without effect
//! (zero, empty, `false`, `0s`), as tools write it that fill in every field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::ConfigError;

/// How a field's value becomes a flag's.
#[derive(Clone, Copy)]
enum Form {
    /// As it is: strings, numbers, truth values.
    Plain,
    /// Nothing but the flag's name, or nothing at all.
    Switch,
    /// Elements with commas between them.
    List,
    /// `key=value,...`
    Pairs,
    /// `key<value,...`
    Bounds,
    /// `key=value:effect,...`
    Taints,
    /// `priority=seconds,...`
    Priorities,
}

/// Fields and the flags they are.
const FIELDS: &[(&str, &str, Form)] = &[
    ("address", "address", Form::Plain),
    ("allowedUnsafeSysctls", "allowed-unsafe-sysctls", Form::List),
    ("authentication.x509.clientCAFile", "client-ca-file", Form::Plain),
    ("cgroupDriver", "cgroup-driver", Form::Plain),
    ("cgroupRoot", "cgroup-root", Form::Plain),
    ("clusterDNS", "cluster-dns", Form::List),
    ("clusterDomain", "cluster-domain", Form::Plain),
    ("crashLoopBackOff.maxContainerRestartPeriod", "crash-loop-back-off-max-container-restart-period", Form::Plain),
    ("containerLogMaxFiles", "container-log-max-files", Form::Plain),
    ("containerLogMaxSize", "container-log-max-size", Form::Plain),
    ("containerRuntimeEndpoint", "container-runtime-endpoint", Form::Plain),
    ("evictionHard", "eviction-hard", Form::Bounds),
    ("evictionMaxPodGracePeriod", "eviction-max-pod-grace-period", Form::Plain),
    ("evictionMinimumReclaim", "eviction-minimum-reclaim", Form::Pairs),
    ("evictionPressureTransitionPeriod", "eviction-pressure-transition-period", Form::Plain),
    ("evictionSoft", "eviction-soft", Form::Bounds),
    ("evictionSoftGracePeriod", "eviction-soft-grace-period", Form::Pairs),
    ("healthzBindAddress", "healthz-bind-address", Form::Plain),
    ("healthzPort", "healthz-port", Form::Plain),
    ("imageGCHighThresholdPercent", "image-gc-high-threshold", Form::Plain),
    ("imageGCLowThresholdPercent", "image-gc-low-threshold", Form::Plain),
    ("imageMaximumGCAge", "image-maximum-gc-age", Form::Plain),
    ("imageMinimumGCAge", "minimum-image-ttl-duration", Form::Plain),
    ("kubeReserved", "kube-reserved", Form::Pairs),
    ("maxParallelImagePulls", "max-parallel-image-pulls", Form::Plain),
    ("maxPods", "max-pods", Form::Plain),
    ("nodeLeaseDurationSeconds", "node-lease-duration-seconds", Form::Plain),
    ("nodeStatusReportFrequency", "node-status-report-frequency", Form::Plain),
    ("nodeStatusUpdateFrequency", "node-status-update-frequency", Form::Plain),
    ("podCIDR", "pod-cidr", Form::Plain),
    ("podPidsLimit", "pod-max-pids", Form::Plain),
    ("podLogsDir", "pod-logs-dir", Form::Plain),
    ("port", "port", Form::Plain),
    ("registerNode", "register-node", Form::Plain),
    ("registerWithTaints", "register-with-taints", Form::Taints),
    ("resolvConf", "resolv-conf", Form::Plain),
    ("seccompDefault", "seccomp-default", Form::Switch),
    ("serializeImagePulls", "serialize-image-pulls", Form::Plain),
    ("shutdownGracePeriod", "shutdown-grace-period", Form::Plain),
    ("shutdownGracePeriodByPodPriority", "shutdown-grace-period-by-pod-priority", Form::Priorities),
    ("shutdownGracePeriodCriticalPods", "shutdown-grace-period-critical-pods", Form::Plain),
    ("staticPodPath", "pod-manifest-path", Form::Plain),
    ("systemReserved", "system-reserved", Form::Pairs),
    ("tlsCertFile", "tls-cert-file", Form::Plain),
    ("tlsPrivateKeyFile", "tls-private-key-file", Form::Plain),
];

/// Fields that say what is so anyway: the value they may have besides none.
const FIXED: &[(&str, &str)] = &[
    ("apiVersion", "\"kubelet.config.k8s.io/v1beta1\""),
    ("kind", "\"KubeletConfiguration\""),
    ("authentication.anonymous.enabled", "false"),
    ("authentication.webhook.enabled", "true"),
    ("authentication.webhook.cacheTTL", "\"2m0s\""),
    ("authorization.mode", "\"Webhook\""),
    ("authorization.webhook.cacheAuthorizedTTL", "\"5m0s\""),
    ("authorization.webhook.cacheUnauthorizedTTL", "\"30s\""),
    ("cgroupsPerQOS", "true"),
    ("cpuManagerPolicy", "\"none\""),
    ("enableControllerAttachDetach", "true"),
    ("enableServer", "true"),
    ("enforceNodeAllocatable", "[\"pods\"]"),
    ("failSwapOn", "false"),
    ("hairpinMode", "\"promiscuous-bridge\""),
    ("localStorageCapacityIsolation", "true"),
    ("logging.format", "\"text\""),
    ("makeIPTablesUtilChains", "true"),
    ("memoryManagerPolicy", "\"None\""),
    ("memorySwap.swapBehavior", "\"NoSwap\""),
    ("topologyManagerPolicy", "\"none\""),
];

/// Upstream's other fields.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "configMapAndSecretChangeDetectionStrategy", "contentType", "containerLogMaxWorkers",
    "containerLogMonitorInterval", "cpuCFSQuota", "cpuCFSQuotaPeriod", "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod", "enableContentionProfiling", "enableDebugFlagsHandler",
    "enableDebuggingHandlers", "enableProfilingHandler", "enableSystemLogHandler", "enableSystemLogQuery", "eventBurst",
    "eventRecordQPS", "featureGates", "fileCheckFrequency", "httpCheckFrequency", "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint", "iptablesDropBit", "iptablesMasqueradeBit", "kernelMemcgNotification", "kubeAPIBurst",
    "kubeAPIQPS", "kubeReservedCgroup", "kubeletCgroups", "logging", "maxOpenFiles",
    "memorySwap", "memoryThrottlingFactor", "mergeDefaultEvictionSettings", "nodeStatusMaxImages", "oomScoreAdj",
    "podsPerCore", "preloadedImagesVerificationAllowlist", "protectKernelDefaults", "providerID",
    "qosReserved", "readOnlyPort", "registryBurst", "registryPullQPS", "reservedMemory", "reservedSystemCPUs",
    "rotateCertificates", "runOnce", "runtimeRequestTimeout", "serverTLSBootstrap",
    "showHiddenMetricsForVersion", "singleProcessOOMKill", "staticPodURL", "staticPodURLHeader",
    "streamingConnectionIdleTimeout", "syncFrequency", "systemCgroups", "systemReservedCgroup", "tlsCipherSuites",
    "tlsMinVersion", "topologyManagerPolicyOptions", "topologyManagerScope", "tracing", "userNamespaces", "volumePluginDir",
    "volumeStatsAggPeriod",
];

/// The flags that say what the file at `path` says.
pub fn flags_of_file(path: &Path) -> Result<Vec<String>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File(path.to_owned(), error))?;
    let content = |message: String| ConfigError::Content(path.to_owned(), message);
    read(&text).map_err(content)
}

fn read(text: &str) -> Result<Vec<String>, String> {
    let mut documents = api::schema::yaml::documents(text)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(Value::Object(fields)), true) => flags(&fields),
        _ => Err("it is not one object".to_owned()),
    }
}

fn flags(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    for (field, wanted) in [("apiVersion", "kubelet.config.k8s.io/v1beta1"), ("kind", "KubeletConfiguration")] {
        if fields.get(field).and_then(Value::as_str) != Some(wanted) {
            return Err(format!("{field} must be {wanted}"));
        }
    }
    let mut flags = Vec::new();
    for (name, value) in fields {
        walk(name, value, &mut flags)?;
    }
    Ok(flags)
}

/// One field, or those within it.
fn walk(name: &str, value: &Value, flags: &mut Vec<String>) -> Result<(), String> {
    if let Some((_, flag, form)) = FIELDS.iter().find(|(field, _, _)| *field == name) {
        // A zero is what is not there: the default holds. Where none is a choice of its own, it is an empty list.
        let chosen = matches!(form, Form::Bounds) || value.is_boolean() || name == "healthzPort";
        if !is_zero(value) || (chosen && !value.is_null()) {
            match (form, value) {
                (Form::Switch, Value::Bool(true)) => flags.push(format!("--{flag}")),
                (Form::Switch, Value::Bool(false)) => {}
                (Form::Switch, _) => return Err(format!("{name}: {value} is not of the right type")),
                _ => flags.push(format!("--{flag}={}", print(name, value, *form)?)),
            }
        }
        return Ok(());
    }
    if let Some((_, only)) = FIXED.iter().find(|(field, _)| *field == name) {
        let said = value.to_string();
        let fits = said == *only || (is_zero(value) && !(value.is_boolean() && *only == "true"));
        return if fits { Ok(()) } else { Err(format!("{name} can only be {only} with this kubelet")) };
    }
    let inside = |(field, _): &(&str, &str)| field.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let has_parts = FIXED.iter().any(inside) || FIELDS.iter().any(|(field, flag, _)| inside(&(*field, *flag)));
    match value {
        Value::Object(fields) if has_parts => {
            fields.iter().try_for_each(|(field, value)| walk(&format!("{name}.{field}"), value, flags))
        }
        _ if OTHERS.contains(&name) || has_parts || name.contains('.') => match is_zero(value) {
            true => Ok(()),
            false => Err(format!("{name} is not supported by this kubelet")),
        },
        _ => Err(format!("unknown field {name:?}")),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0" || text == "0s",
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_zero),
    }
}

fn print(name: &str, value: &Value, form: Form) -> Result<String, String> {
    let wrong = || format!("{name}: {value} is not of the right type");
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(wrong()),
    };
    let pairs = |between: char| {
        let fields = value.as_object().ok_or_else(wrong)?;
        let words = fields.iter().map(|(key, value)| Ok(format!("{key}{between}{}", scalar(value)?)));
        Ok(words.collect::<Result<Vec<_>, String>>()?.join(","))
    };
    match form {
        Form::Plain | Form::Switch => scalar(value),
        Form::List => {
            let list = value.as_array().ok_or_else(wrong)?;
            Ok(list.iter().map(scalar).collect::<Result<Vec<_>, _>>()?.join(","))
        }
        Form::Pairs => pairs('='),
        Form::Bounds => pairs('<'),
        Form::Priorities => {
            let number = |period: &Value, field: &str| period[field].as_i64().ok_or_else(wrong);
            let print = |period: &Value| {
                Ok(format!("{}={}", number(period, "priority")?, number(period, "shutdownGracePeriodSeconds")?))
            };
            let list = value.as_array().ok_or_else(wrong)?;
            Ok(list.iter().map(print).collect::<Result<Vec<_>, String>>()?.join(","))
        }
        Form::Taints => {
            let part = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
            let print = |taint: &Value| format!("{}={}:{}", part(taint, "key"), part(taint, "value"), part(taint, "effect"));
            Ok(value.as_array().ok_or_else(wrong)?.iter().map(print).collect::<Vec<_>>().join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    fn said(text: &str) -> Result<Vec<String>, String> {
        read(&format!("{HEAD}{text}"))
    }

    #[test]
    fn fields_are_flags() {
        let text = "authentication:\n  anonymous: {enabled: false}\n  webhook: {cacheTTL: 0s, enabled: true}\n  x509: {clientCAFile: /ca.crt}\n\
                    authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s}}\nclusterDNS: [10.43.0.10, 10.43.0.11]\n\
                    cpuManagerReconcilePeriod: 0s\nevictionHard: {memory.available: 1Gi, nodefs.available: 5%}\n\
                    healthzPort: 0\nlogging: {flushFrequency: 0, options: {json: {infoBufferSize: '0'}}, verbosity: 0}\nmaxPods: 50\n\
                    maxParallelImagePulls: 3\nmemorySwap: {}\npodPidsLimit: -1\nseccompDefault: true\ncrashLoopBackOff: {maxContainerRestartPeriod: 30s}\nregisterWithTaints: [{key: a, effect: NoSchedule}]\nserializeImagePulls: false\n\
                    shutdownGracePeriodByPodPriority: [{priority: -1, shutdownGracePeriodSeconds: 5}]\n\
                    systemReserved: {cpu: 100m}\n";
        let expected = [
            "--client-ca-file=/ca.crt",
            "--cluster-dns=10.43.0.10,10.43.0.11",
            "--crash-loop-back-off-max-container-restart-period=30s",
            "--eviction-hard=memory.available<1Gi,nodefs.available<5%",
            "--healthz-port=0",
            "--max-parallel-image-pulls=3",
            "--max-pods=50",
            "--pod-max-pids=-1",
            "--register-with-taints=a=:NoSchedule",
            "--seccomp-default",
            "--serialize-image-pulls=false",
            "--shutdown-grace-period-by-pod-priority=-1=5",
            "--system-reserved=cpu=100m",
        ];
        let mut found = said(text).unwrap();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let cases = [
            ("maxPodz: 5", "unknown field \"maxPodz\""),
            ("podsPerCore: 5", "podsPerCore is not supported by this kubelet"),
            ("seccompDefault: 1", "seccompDefault: 1 is not of the right type"),
            (
                "authentication: {anonymous: {enabled: true}}",
                "authentication.anonymous.enabled can only be false with this kubelet",
            ),
            ("clusterDNS: 1", "clusterDNS: 1 is not of the right type"),
            ("logging: {verbosity: 3}", "logging.verbosity is not supported by this kubelet"),
            ("cgroupsPerQOS: false", "cgroupsPerQOS can only be true with this kubelet"),
        ];
        for (text, expected) in cases {
            assert_eq!(said(text), Err(expected.to_owned()));
        }
    }

    #[test]
    fn every_field_is_a_flag() {
        use clap::CommandFactory;
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            _config: crate::Config,
        }
        let command = Alone::command();
        let flags: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
        let missing: Vec<_> = FIELDS.iter().filter(|(_, flag, _)| !flags.contains(flag)).collect();
        assert!(missing.is_empty(), "{:?}", missing.iter().map(|(_, flag, _)| flag).collect::<Vec<_>>());
    }
}
