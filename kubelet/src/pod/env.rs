//! A container's environment: service variables, `envFrom`, `env` with `valueFrom` and `$(NAME)`.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, FileKeySelector, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};

use super::{
    env_file::{self, EnvFile},
    expand::expand,
    resources::{self, Amounts},
    spec,
};

/// Everything an environment may draw from. Objects that do not exist are absent.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps of the pod's namespace by name.
    pub config_maps: HashMap<String, ConfigMap>,
    /// Secrets of the pod's namespace by name.
    pub secrets: HashMap<String, Secret>,
    /// Services of the pod's namespace and `default/kubernetes`.
    pub services: Vec<Service>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// What the node can give: stands in for missing limits.
    pub allocatable: Amounts,
    /// Files in the pod's volumes that the container's environment refers to.
    pub env_files: EnvFiles,
}

/// Files by volume and path.
pub type EnvFiles = HashMap<(String, String), EnvFile>;

/// Why an environment cannot be made; becomes `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvError(pub String);

fn fail<T>(message: String) -> Result<T, EnvError> {
    Err(EnvError(message))
}

/// An environment, in order, and what events should say about skipped keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Name and value.
    pub vars: Vec<(String, String)>,
    /// Messages of `InvalidEnvironmentVariableNames` events.
    pub skipped: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.vars.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => self.vars.push((name.to_owned(), value)),
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Names of objects an environment and the pull secrets of a pod refer to: `(config maps, secrets)`.
pub fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for m in spec::members(pod) {
        for from in m.container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for from in m.container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
        }
    }
    secrets.extend(pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|r| r.name.clone()));
    (maps, secrets)
}

/// Builds the environment of a container.
pub fn build(pod: &Pod, container: &Container, sources: &Sources) -> Result<Environment, EnvError> {
    let services = service_vars(pod, &sources.services);
    let mut env = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match sources.config_maps.get(&r.name) {
                Some(map) => {
                    let data = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
                    add_all(&mut env, prefix, data, "configMap", &format!("{}/{}", spec::namespace(pod), r.name));
                }
                None if r.optional == Some(true) => {}
                None => return fail(format!("configmap \"{}\" not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match sources.secrets.get(&r.name) {
                Some(secret) => {
                    let text = |v: &k8s_openapi::ByteString| String::from_utf8_lossy(&v.0).into_owned();
                    let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
                    add_all(&mut env, prefix, data, "secret", &format!("{}/{}", spec::namespace(pod), r.name));
                }
                None if r.optional == Some(true) => {}
                None => return fail(format!("secret \"{}\" not found", r.name)),
            }
        }
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, var, &env, &services, sources)? {
            env.set(&var.name, value);
        }
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.vars.push((name, value));
        }
    }
    Ok(env)
}

fn add_all(env: &mut Environment, prefix: &str, data: BTreeMap<String, String>, what: &str, object: &str) {
    let mut invalid = Vec::new();
    for (key, value) in data {
        let name = format!("{prefix}{key}");
        match valid_name(&name) {
            true => env.set(&name, value),
            false => invalid.push(name),
        }
    }
    if !invalid.is_empty() {
        env.skipped.push(format!(
            "Keys [{}] from the EnvFrom {what} {object} were skipped since they are considered invalid environment \
             variable names.",
            invalid.join(", ")
        ));
    }
}

/// Printable ASCII without `=` (KEP-4369).
fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn value_of(
    pod: &Pod,
    container: &Container,
    var: &EnvVar,
    env: &Environment,
    services: &BTreeMap<String, String>,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &var.value_from else {
        let lookup = |n: &str| env.get(n).map(str::to_owned).or_else(|| services.get(n).cloned());
        return Ok(Some(expand(var.value.as_deref().unwrap_or_default(), lookup)));
    };
    let namespace = spec::namespace(pod);
    if let Some(field) = &from.field_ref {
        return field_value(pod, field, sources).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(pod, Some(container), resource, &sources.allocatable).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = sources.config_maps.get(&r.name) else {
            return if optional { Ok(None) } else { fail(format!("configmap \"{}\" not found", r.name)) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => fail(format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name)),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = sources.secrets.get(&r.name) else {
            return if optional { Ok(None) } else { fail(format!("secret \"{}\" not found", r.name)) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => fail(format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name)),
        };
    }
    if let Some(r) = &from.file_key_ref {
        return file_value(r, sources);
    }
    Ok(None)
}

/// The value of a `fileKeyRef`; a value that is empty counts as none.
fn file_value(wanted: &FileKeySelector, sources: &Sources) -> Result<Option<String>, EnvError> {
    let Some(file) = sources.env_files.get(&(wanted.volume_name.clone(), wanted.path.clone())) else {
        return fail(format!("cannot find the volume \"{}\" referenced by FileKeyRef", wanted.volume_name));
    };
    let found = file.text.as_deref().and_then(|text| env_file::find(text, &wanted.key).ok());
    match found {
        None => fail("couldn't parse env file".to_owned()),
        Some(value) if !value.is_empty() => Ok(Some(value)),
        Some(_) if wanted.optional == Some(true) => Ok(None),
        Some(_) => fail(format!("environment variable key \"{}\" not found in file \"{}\"", wanted.key, file.path)),
    }
}

/// The value of a `fieldRef`.
pub fn field_value(pod: &Pod, field: &ObjectFieldSelector, sources: &Sources) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let own = pod.spec.as_ref();
    let path = field.field_path.as_str();
    if let Some((what, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match what {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return fail(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => own.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => own.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => sources.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => sources.host_ips.join(","),
        "status.podIP" => sources.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => sources.pod_ips.join(","),
        _ => return fail(format!("unsupported fieldPath: {path}")),
    })
}

/// `key="value"` lines in key order, values quoted as Go quotes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(k, v): (&String, &String)| format!("{k}={}", serde_json::Value::from(v.as_str()));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`.
pub fn resource_value(
    pod: &Pod,
    container: Option<&Container>,
    field: &ResourceFieldSelector,
    allocatable: &Amounts,
) -> Result<String, EnvError> {
    let named = field.container_name.as_deref().filter(|n| !n.is_empty());
    let member = named.and_then(|n| spec::member(pod, n)).map(|m| m.container);
    let Some(container) = member.as_ref().or(if named.is_none() { container } else { None }) else {
        return fail(format!("container {} not found", named.unwrap_or_default()));
    };
    let Some((kind, resource)) = field.resource.split_once('.') else {
        return fail(format!("unsupported container resource : {}", field.resource));
    };
    let amount = match kind {
        "limits" => resources::limits(container).get(resource).or_else(|| allocatable.get(resource)).copied(),
        "requests" => resources::requests(container).get(resource).copied(),
        _ => return fail(format!("unsupported container resource : {}", field.resource)),
    };
    let divisor = field.divisor.as_ref().map_or(0, |d| resources::amount(resource, d));
    // Amounts of cpu are thousandths; without a divisor the unit is a whole core.
    let divisor = if divisor > 0 {
        divisor
    } else if resource == "cpu" {
        1000
    } else {
        1
    };
    let amount = amount.unwrap_or(0);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

/// `NAME_SERVICE_HOST` and the link variables of every service with an address.
fn service_vars(pod: &Pod, services: &[Service]) -> BTreeMap<String, String> {
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut vars = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = namespace == "default" && name == "kubernetes";
        if !master && (!links || namespace != spec::namespace(pod)) {
            continue;
        }
        let Some(s) = &service.spec else { continue };
        let Some(ip) = s.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let upper = name.to_uppercase().replace(['-', '.'], "_");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let ports = s.ports.iter().flatten();
        vars.insert(format!("{upper}_SERVICE_HOST"), ip.to_owned());
        for (index, port) in ports.enumerate() {
            let number = port.port;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let (lower, loud) = (protocol.to_lowercase(), protocol.to_uppercase());
            let url = format!("{lower}://{host}:{number}");
            if index == 0 {
                vars.insert(format!("{upper}_SERVICE_PORT"), number.to_string());
                vars.insert(format!("{upper}_PORT"), url.clone());
            }
            if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                vars.insert(format!("{upper}_SERVICE_PORT_{name}"), number.to_string());
            }
            let prefix = format!("{upper}_PORT_{number}_{loud}");
            vars.insert(format!("{prefix}_PROTO"), lower);
            vars.insert(format!("{prefix}_PORT"), number.to_string());
            vars.insert(format!("{prefix}_ADDR"), ip.to_owned());
            vars.insert(prefix, url);
        }
    }
    vars
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(container: Value) -> Pod {
        of(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1\"", "b": "2"}},
            "spec": {"nodeName": "node", "containers": [container]}}))
    }

    fn sources() -> Sources {
        Sources {
            config_maps: [("cm".to_owned(), of(json!({"data": {"k": "v", "=bad": "x"}})))].into(),
            secrets: [("s".to_owned(), of(json!({"data": {"p": "cHc="}})))].into(),
            services: vec![
                of(json!({"metadata": {"name": "my-db", "namespace": "n"}, "spec": {"clusterIP": "10.43.0.9",
                    "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}})),
                of(json!({"metadata": {"name": "headless", "namespace": "n"}, "spec": {"clusterIP": "None"}})),
                of(json!({"metadata": {"name": "other", "namespace": "m"}, "spec": {"clusterIP": "10.43.0.8"}})),
            ],
            pod_ips: vec!["10.42.0.5".into()],
            host_ips: vec!["192.0.2.1".into()],
            allocatable: [("cpu".to_owned(), 2000), ("memory".to_owned(), 1 << 30)].into(),
            env_files: [("good", Some("K='v'\n")), ("bad", Some("K=v\n")), ("missing", None)]
                .map(|(path, text)| {
                    let file = EnvFile { path: format!("/volume/{path}"), text: text.map(str::to_owned) };
                    (("e".to_owned(), path.to_owned()), file)
                })
                .into(),
        }
    }

    fn built(container: Value) -> Result<Environment, EnvError> {
        let pod = pod(container);
        let c = spec::members(&pod)[0].container.clone();
        build(&pod, &c, &sources())
    }

    #[test]
    fn values_from_files() {
        let said = |volume: &str, path: &str, key: &str, optional: bool| {
            let from = json!({"fileKeyRef": {"volumeName": volume, "path": path, "key": key, "optional": optional}});
            let env = built(json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]}));
            env.map(|env| env.get("A").map(str::to_owned)).map_err(|error| error.0)
        };
        assert_eq!(said("e", "good", "K", false), Ok(Some("v".to_owned())));
        assert_eq!(said("e", "good", "L", true), Ok(None));
        let absent = "environment variable key \"L\" not found in file \"/volume/good\"";
        assert_eq!(said("e", "good", "L", false), Err(absent.to_owned()));
        for path in ["bad", "missing"] {
            assert_eq!(said("e", path, "K", true), Err("couldn't parse env file".to_owned()));
        }
        let unknown = "cannot find the volume \"f\" referenced by FileKeyRef";
        assert_eq!(said("f", "good", "K", true), Err(unknown.to_owned()));
    }

    #[test]
    fn values_from_everywhere_in_order() {
        let env = built(json!({"name": "c", "resources": {"requests": {"cpu": "150m"}},
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [
                {"name": "A", "value": "$(X_k)-$(MY_DB_SERVICE_HOST)-$(B)"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['b']"}}},
                {"name": "A", "value": "$(A)!"}]}))
        .unwrap();
        let own: Vec<_> = env.vars.iter().take(7).map(|(k, v)| format!("{k}={v}")).collect();
        let expected = ["X_k=v", "A=v-10.43.0.9-$(B)!", "B=pw", "C=10.42.0.5", "D=150", "E=2", "F=2"];
        assert_eq!(own, expected);
        // `X_=bad` holds an equals sign.
        assert_eq!(env.skipped.len(), 1);
        let services: Vec<_> = env.vars.iter().skip(7).map(|(k, v)| format!("{k}={v}")).collect();
        let expected = [
            "MY_DB_PORT=tcp://10.43.0.9:5432",
            "MY_DB_PORT_5432_TCP=tcp://10.43.0.9:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.43.0.9",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_SERVICE_HOST=10.43.0.9",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_SQL=5432",
        ];
        assert_eq!(services, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |from: Value| built(json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]})).unwrap_err().0;
        let errors = [
            error(json!({"configMapKeyRef": {"name": "x", "key": "k"}})),
            error(json!({"configMapKeyRef": {"name": "cm", "key": "x"}})),
            error(json!({"secretKeyRef": {"name": "x", "key": "k"}})),
            error(json!({"secretKeyRef": {"name": "s", "key": "x"}})),
        ];
        let expected = [
            "configmap \"x\" not found",
            "couldn't find key x in ConfigMap n/cm",
            "secret \"x\" not found",
            "couldn't find key x in Secret n/s",
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn labels_as_lines() {
        let field: ObjectFieldSelector = of(json!({"fieldPath": "metadata.labels"}));
        assert_eq!(field_value(&pod(json!({"name": "c"})), &field, &sources()).unwrap(), "a=\"1\\\"\"\nb=\"2\"");
    }
}
