//! Which fields hold names, labels, images and the like: upstream's tables, which a kustomization can add to
//! (`configurations`).

use serde_json::Value;

use super::{
    fields::{FieldSpec, merge},
    order,
    resource::{Gvk, scalar},
};

/// The fields that refer to a kind by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referred {
    pub gvk: Gvk,
    pub by: Vec<FieldSpec>,
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub prefix: Vec<FieldSpec>,
    pub suffix: Vec<FieldSpec>,
    pub namespace: Vec<FieldSpec>,
    /// Labels and what selects by them.
    pub common_labels: Vec<FieldSpec>,
    /// Labels, those of templates too.
    pub template_labels: Vec<FieldSpec>,
    /// What `labels` set besides.
    pub labels: Vec<FieldSpec>,
    pub annotations: Vec<FieldSpec>,
    pub references: Vec<Referred>,
    pub variables: Vec<FieldSpec>,
    pub images: Vec<FieldSpec>,
    pub replicas: Vec<FieldSpec>,
}

/// Kinds with a pod template, and where its pod's spec is.
const POD_SPECS: &[(&str, &str)] = &[
    ("Pod", "spec"),
    ("PodTemplate", "template/spec"),
    ("CronJob", "spec/jobTemplate/spec/template/spec"),
    ("DaemonSet", "spec/template/spec"),
    ("Deployment", "spec/template/spec"),
    ("Job", "spec/template/spec"),
    ("ReplicaSet", "spec/template/spec"),
    ("ReplicationController", "spec/template/spec"),
    ("StatefulSet", "spec/template/spec"),
];

/// Whose configuration and secrets are renamed with them.
const OF_PODS: &[&str] = &["Pod", "PodTemplate", "Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job", "CronJob"];
/// Whose accounts, claims and priority classes are.
const OF_ACCOUNTS: &[&str] = &["Pod", "StatefulSet", "Deployment", "ReplicationController", "CronJob", "Job", "DaemonSet"];
/// Where variables are put into pods.
const OF_VARIABLES: &[&str] = &["CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet"];

/// A kind that is referred to (`Kind`, version, group), the kinds whose pods refer to it, in which fields of their specs, and
/// other fields that do (kind, group, path).
type Reference = (
    (&'static str, &'static str, &'static str),
    (&'static [&'static str], &'static [&'static str]),
    &'static [(&'static str, &'static str, &'static str)],
);

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const SCALED: &[(&str, &str, &str)] = &[("HorizontalPodAutoscaler", "", "spec/scaleTargetRef/name")];
const NO_PODS: (&[&str], &[&str]) = (&[], &[]);

const REFERENCES: &[Reference] = &[
    (("Deployment", "", ""), NO_PODS, SCALED),
    (("ReplicationController", "", ""), NO_PODS, SCALED),
    (("ReplicaSet", "", ""), NO_PODS, SCALED),
    (("StatefulSet", "", ""), NO_PODS, SCALED),
    (
        ("ConfigMap", "v1", ""),
        (
            OF_PODS,
            &[
                "volumes/configMap/name",
                "containers/env/valueFrom/configMapKeyRef/name",
                "initContainers/env/valueFrom/configMapKeyRef/name",
                "containers/envFrom/configMapRef/name",
                "initContainers/envFrom/configMapRef/name",
                "volumes/projected/sources/configMap/name",
            ],
        ),
        &[
            ("Node", "", "spec/configSource/configMap"),
            ("Role", "", "rules/resourceNames"),
            ("ClusterRole", "", "rules/resourceNames"),
            ("Ingress", "", r"metadata/annotations/nginx.ingress.kubernetes.io\/fastcgi-params-configmap"),
        ],
    ),
    (
        ("Secret", "v1", ""),
        (
            OF_PODS,
            &[
                "volumes/secret/secretName",
                "containers/env/valueFrom/secretKeyRef/name",
                "initContainers/env/valueFrom/secretKeyRef/name",
                "containers/envFrom/secretRef/name",
                "initContainers/envFrom/secretRef/name",
                "imagePullSecrets/name",
                "volumes/projected/sources/secret/name",
            ],
        ),
        &[
            ("Ingress", "", "spec/tls/secretName"),
            ("Ingress", "", r"metadata/annotations/ingress.kubernetes.io\/auth-secret"),
            ("Ingress", "", r"metadata/annotations/nginx.ingress.kubernetes.io\/auth-secret"),
            ("Ingress", "", r"metadata/annotations/nginx.ingress.kubernetes.io\/auth-tls-secret"),
            ("ServiceAccount", "", "imagePullSecrets/name"),
            ("StorageClass", "", "parameters/secretName"),
            ("StorageClass", "", "parameters/adminSecretName"),
            ("StorageClass", "", "parameters/userSecretName"),
            ("StorageClass", "", "parameters/secretRef"),
            ("Role", "", "rules/resourceNames"),
            ("ClusterRole", "", "rules/resourceNames"),
            ("Service", "serving.knative.dev", "spec/template/spec/containers/env/valueFrom/secretKeyRef/name"),
            ("PersistentVolume", "", "spec/azureFile/secretName"),
        ],
    ),
    (
        ("Service", "v1", ""),
        NO_PODS,
        &[
            ("StatefulSet", "apps", "spec/serviceName"),
            ("Ingress", "", "spec/rules/http/paths/backend/serviceName"),
            ("Ingress", "", "spec/backend/serviceName"),
            ("Ingress", "", "spec/rules/http/paths/backend/service/name"),
            ("Ingress", "", "spec/defaultBackend/service/name"),
            ("APIService", "apiregistration.k8s.io", "spec/service/name"),
            ("ValidatingWebhookConfiguration", ADMISSION, "webhooks/clientConfig/service"),
            ("MutatingWebhookConfiguration", ADMISSION, "webhooks/clientConfig/service"),
        ],
    ),
    (("Role", "", RBAC), NO_PODS, &[("RoleBinding", RBAC, "roleRef/name")]),
    (
        ("ClusterRole", "", RBAC),
        NO_PODS,
        &[("RoleBinding", RBAC, "roleRef/name"), ("ClusterRoleBinding", RBAC, "roleRef/name")],
    ),
    (
        ("ServiceAccount", "v1", ""),
        (OF_ACCOUNTS, &["serviceAccountName"]),
        &[("RoleBinding", RBAC, "subjects"), ("ClusterRoleBinding", RBAC, "subjects")],
    ),
    (("PersistentVolumeClaim", "v1", ""), (OF_ACCOUNTS, &["volumes/persistentVolumeClaim/claimName"]), &[]),
    (
        ("PersistentVolume", "v1", ""),
        NO_PODS,
        &[("PersistentVolumeClaim", "", "spec/volumeName"), ("ClusterRole", "", "rules/resourceNames")],
    ),
    (
        ("StorageClass", "v1", "storage.k8s.io"),
        NO_PODS,
        &[
            ("PersistentVolume", "", "spec/storageClassName"),
            ("PersistentVolumeClaim", "", "spec/storageClassName"),
            ("StatefulSet", "", "spec/volumeClaimTemplates/spec/storageClassName"),
        ],
    ),
    (("PriorityClass", "v1", "scheduling.k8s.io"), (OF_ACCOUNTS, &["priorityClassName"]), &[]),
    // Upstream's group is this one, which no kind has.
    (("IngressClass", "v1", "networking.k8s.io/v1"), NO_PODS, &[("Ingress", "", "spec/ingressClassName")]),
    (
        ("ValidatingAdmissionPolicy", "", ADMISSION),
        NO_PODS,
        &[("ValidatingAdmissionPolicyBinding", ADMISSION, "spec/policyName")],
    ),
];

/// Kinds with templates of labelled things (kind, group, version), and where their metadata are.
const TEMPLATES: &[(&str, &str, &str, &[&str])] = &[
    ("ReplicationController", "", "v1", &["spec/template"]),
    ("Deployment", "", "", &["spec/template"]),
    ("ReplicaSet", "", "", &["spec/template"]),
    ("DaemonSet", "", "", &["spec/template"]),
    ("StatefulSet", "apps", "", &["spec/template", "spec/volumeClaimTemplates[]"]),
    ("Job", "batch", "", &["spec/template"]),
    ("CronJob", "batch", "", &["spec/jobTemplate", "spec/jobTemplate/spec/template"]),
];

/// What selects by labels: kind, group, version, path, and whether it is made.
const SELECTORS: &[(&str, &str, &str, &str, bool)] = &[
    ("Service", "", "v1", "spec/selector", true),
    ("ReplicationController", "", "v1", "spec/selector", true),
    ("Deployment", "", "", "spec/selector/matchLabels", true),
    ("ReplicaSet", "", "", "spec/selector/matchLabels", true),
    ("DaemonSet", "", "", "spec/selector/matchLabels", true),
    ("StatefulSet", "apps", "", "spec/selector/matchLabels", true),
    ("Job", "batch", "", "spec/selector/matchLabels", false),
    ("CronJob", "batch", "", "spec/jobTemplate/spec/selector/matchLabels", false),
    ("PodDisruptionBudget", "policy", "", "spec/selector/matchLabels", false),
    ("NetworkPolicy", "networking.k8s.io", "", "spec/podSelector/matchLabels", false),
    ("NetworkPolicy", "networking.k8s.io", "", "spec/ingress/from/podSelector/matchLabels", false),
    ("NetworkPolicy", "networking.k8s.io", "", "spec/egress/to/podSelector/matchLabels", false),
];

/// What selects pods in the pods of Deployments and StatefulSets.
const POD_SELECTORS: &[&str] = &[
    "affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector",
    "affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector",
    "affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector",
    "affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector",
    "topologySpreadConstraints/labelSelector",
];

/// Other fields that variables are put into: kind and path.
const VARIABLES: &[(&str, &str)] = &[
    ("CronJob", "spec/jobTemplate/spec/template/volumes/nfs/server"),
    ("Deployment", "spec/template/metadata/annotations"),
    ("Ingress", "spec/rules/host"),
    ("Ingress", "spec/tls/hosts"),
    ("Ingress", "spec/tls/secretName"),
    ("Service", "spec/ports/port"),
    ("Service", "spec/ports/targetPort"),
    ("StatefulSet", "spec/volumeClaimTemplates/spec/nfs/server"),
    ("PersistentVolume", "spec/nfs/server"),
    ("", "metadata/labels"),
    ("", "metadata/annotations"),
];

fn spec(kind: &str, group: &str, version: &str, path: impl Into<String>, create: bool) -> FieldSpec {
    let gvk = Gvk { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() };
    FieldSpec { gvk, path: path.into(), create }
}

/// The fields of some kinds' pods.
fn in_pods(kinds: &[&str], paths: &[&str]) -> Vec<FieldSpec> {
    let of = |kind: &&str| POD_SPECS.iter().find(|(there, _)| there == kind).copied();
    let specs = kinds.iter().filter_map(of).flat_map(|(kind, at)| {
        // Pods are upstream's of v1 only; so is everything of that kind.
        paths.iter().map(move |path| spec(kind, "", "", format!("{at}/{path}"), false))
    });
    specs.collect()
}

fn templates(what: &str) -> Vec<FieldSpec> {
    let mut specs = vec![spec("", "", "", format!("metadata/{what}"), true)];
    for (kind, group, version, places) in TEMPLATES {
        specs.extend(places.iter().map(|at| spec(kind, group, version, format!("{at}/metadata/{what}"), true)));
    }
    specs
}

fn annotations() -> Vec<FieldSpec> {
    let mut specs = templates("annotations");
    specs.retain(|spec| !spec.path.contains("[]"));
    // Unlike its labels', its annotations' group is not asked for.
    specs.iter_mut().filter(|spec| spec.gvk.kind == "StatefulSet").for_each(|spec| spec.gvk.group.clear());
    specs
}

fn selectors() -> Vec<FieldSpec> {
    let mut specs: Vec<FieldSpec> =
        SELECTORS.iter().map(|(kind, group, version, path, create)| spec(kind, group, version, *path, *create)).collect();
    for kind in ["Deployment", "StatefulSet"] {
        let path = |path| format!("spec/template/spec/{path}/matchLabels");
        specs.extend(POD_SELECTORS.iter().map(|at| spec(kind, "apps", "", path(at), false)));
    }
    specs
}

fn references() -> Vec<Referred> {
    let referred = |((kind, version, group), (kinds, paths), others): &Reference| {
        let mut by = in_pods(kinds, paths);
        by.extend(others.iter().map(|(kind, group, path)| spec(kind, group, "", *path, false)));
        Referred { gvk: spec(kind, group, version, "", false).gvk, by }
    };
    REFERENCES.iter().map(referred).collect()
}

fn variables() -> Vec<FieldSpec> {
    let containers = ["containers", "initContainers"]
        .map(|list| ["args", "command", "env/value", "volumeMounts/mountPath"].map(|field| format!("{list}/{field}")));
    let mut paths: Vec<&str> = containers.iter().flatten().map(String::as_str).collect();
    paths.push("volumes/nfs/server");
    let mut specs = in_pods(OF_VARIABLES, &paths);
    specs.retain(|spec| spec.path != "spec/jobTemplate/spec/template/spec/volumes/nfs/server");
    specs.extend(VARIABLES.iter().map(|(kind, path)| spec(kind, "", "", *path, false)));
    specs
}

impl Tables {
    /// Upstream's.
    pub fn upstream() -> Self {
        let name = vec![spec("", "", "", "metadata/name", false)];
        let mut common_labels = selectors();
        common_labels.extend(templates("labels"));
        let lists = ["spec/containers[]", "spec/initContainers[]", "spec/template/spec/containers[]"];
        let lists = lists.into_iter().chain(["spec/template/spec/initContainers[]"]);
        let scaled = ["Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"];
        Self {
            prefix: name.clone(),
            suffix: name,
            namespace: vec![
                spec("Namespace", "", "", "metadata/name", true),
                spec("APIService", "apiregistration.k8s.io", "", "spec/service/namespace", true),
                spec(
                    "CustomResourceDefinition",
                    "apiextensions.k8s.io",
                    "",
                    "spec/conversion/webhook/clientConfig/service/namespace",
                    false,
                ),
            ],
            common_labels,
            template_labels: templates("labels"),
            labels: Vec::new(),
            annotations: annotations(),
            references: references(),
            variables: variables(),
            images: lists.map(|list| spec("", "", "", format!("{list}/image"), true)).collect(),
            replicas: scaled.iter().map(|kind| spec(kind, "", "", "spec/replicas", true)).collect(),
        }
    }

    fn lists(&mut self) -> [(&'static str, &'static str, &mut Vec<FieldSpec>); 10] {
        [
            ("namePrefix", "NamePrefix", &mut self.prefix),
            ("nameSuffix", "NameSuffix", &mut self.suffix),
            ("namespace", "NameSpace", &mut self.namespace),
            ("commonAnnotations", "CommonAnnotations", &mut self.annotations),
            ("commonLabels", "CommonLabels", &mut self.common_labels),
            ("labels", "Labels", &mut self.labels),
            ("templateLabels", "TemplateLabels", &mut self.template_labels),
            ("varReference", "VarReference", &mut self.variables),
            ("images", "Images", &mut self.images),
            ("replicas", "Replicas", &mut self.replicas),
        ]
    }

    /// Adds other tables.
    ///
    /// # Errors
    /// They contradict these.
    pub fn merge(&mut self, mut other: Self) -> Result<(), String> {
        for ((_, told, list), (_, _, more)) in self.lists().into_iter().zip(other.lists()) {
            merge(list, more).map_err(|why| format!("failed to merge {told} fieldSpec: {why}"))?;
            list.sort_by_cached_key(|spec| order::key(&spec.gvk));
        }
        for referred in other.references {
            match self.references.iter_mut().find(|there| there.gvk == referred.gvk) {
                Some(there) => merge(&mut there.by, &referred.by)
                    .map_err(|why| format!("failed to merge NameReference fieldSpec: {why}"))?,
                None => self.references.push(referred),
            }
        }
        self.references.sort_by_cached_key(|referred| order::key(&referred.gvk));
        Ok(())
    }

    /// What a file of `configurations` adds.
    ///
    /// # Errors
    /// A part of it has another form.
    pub fn read(value: &Value) -> Result<Self, String> {
        let mut tables = Self::default();
        for (name, _, list) in tables.lists() {
            *list = specs(&value[name]).map_err(|why| format!("{name}: {why}"))?;
        }
        for entry in list(&value["nameReference"])? {
            let by = specs(&entry["fieldSpecs"]).map_err(|why| format!("nameReference: {why}"))?;
            tables.references.push(Referred { gvk: gvk(entry), by });
        }
        Ok(tables)
    }
}

fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        _ => Err("a list is expected".to_owned()),
    }
}

fn gvk(value: &Value) -> Gvk {
    Gvk { group: scalar(&value["group"]), version: scalar(&value["version"]), kind: scalar(&value["kind"]) }
}

/// Fields as files write them.
///
/// # Errors
/// They are no list.
pub fn specs(value: &Value) -> Result<Vec<FieldSpec>, String> {
    let spec = |value: &Value| FieldSpec {
        gvk: gvk(value),
        path: scalar(&value["path"]),
        create: value["create"].as_bool().unwrap_or_default(),
    };
    Ok(list(value)?.iter().map(spec).collect())
}
