//! Requests and limits: resource names, amounts, what must match.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceClaim, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Written,
};

use crate::{
    field::FieldErrors,
    field_path::{NEGATIVE, Path},
    names,
    quantity::Quantity,
    quoted,
};

type List = BTreeMap<String, Written>;

const HUGE: &str = "hugepages-";

const STANDARD: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];

const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE)
}

/// An amount of a resource: not negative, whole where things are counted.
pub fn amount(name: &str, value: &Written, path: &Path, errors: &mut FieldErrors) {
    let quantity = Quantity::of(value);
    if quantity.sign() < 0 {
        errors.invalid(path, &value.0, NEGATIVE);
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !quantity.is_whole() {
        errors.invalid(path, &value.0, "must be an integer");
    }
}

fn resource_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    let messages = names::qualified_name(name);
    let mut valid = messages.is_empty();
    errors.each(path, name, messages);
    let plain = !name.contains('/');
    if valid && plain && !STANDARD.contains(&name) && !name.starts_with(HUGE) {
        errors.invalid(path, &name, "must be a standard resource type or fully qualified");
        valid = false;
    }
    let of_container = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE);
    if plain && !of_container {
        errors.invalid(path, &name, "must be a standard resource for containers");
    } else if valid && !plain && !is_native(name) && !is_extended(name) {
        errors.invalid(path, &name, "doesn't follow extended resource name standard");
    }
}

fn huge_page_amount(name: &str, value: &Written, path: &Path, errors: &mut FieldErrors) {
    let Some(size) = name.strip_prefix(HUGE) else { return };
    let page = size.parse::<Quantity>().map(|size| size.value()).unwrap_or(0);
    let quantity = Quantity::of(value);
    if page <= 0 || quantity.sign() < 0 || quantity.value() % page != 0 {
        errors.invalid(path, &value.0, format!("{} is not positive integer multiple of {name}", value.0));
    }
}

/// A container's requests and limits at `path`.
pub(super) fn requirements(resources: &ResourceRequirements, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let (none, limits_path, requests_path) = (List::new(), path.child("limits"), path.child("requests"));
    let limits = resources.limits.as_ref().unwrap_or(&none);
    let requests = resources.requests.as_ref().unwrap_or(&none);
    for (name, limit) in limits {
        let path = limits_path.key(name);
        resource_name(name, &path, errors);
        amount(name, limit, &path, errors);
        huge_page_amount(name, limit, &path, errors);
    }
    for (name, request) in requests {
        let path = requests_path.key(name);
        resource_name(name, &path, errors);
        amount(name, request, &path, errors);
        match limits.get(name) {
            Some(limit) if !may_overcommit(name) && Quantity::of(request) != Quantity::of(limit) => {
                let message = format!("must be equal to {name} limit of {}", limit.0);
                errors.invalid(requests_path, &request.0, message);
            }
            Some(limit) if Quantity::of(request) > Quantity::of(limit) => {
                let message = format!("must be less than or equal to {name} limit of {}", limit.0);
                errors.invalid(requests_path, &request.0, message);
            }
            None if !may_overcommit(name) => {
                errors.required(limits_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
        huge_page_amount(name, request, &path, errors);
    }
    let has = |wanted: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| wanted(name));
    if has(|name| name.starts_with(HUGE)) && !has(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claims(resources.claims.as_deref().unwrap_or_default(), spec, &path.child("claims"), errors);
}

/// What running a pod costs beyond its containers.
pub(super) fn overhead(overhead: &List, path: &Path, errors: &mut FieldErrors) {
    let limits = ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
    requirements(&limits, &PodSpec::default(), path, errors);
}

fn claims(claims: &[ResourceClaim], spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let known: BTreeSet<&str> = spec.resource_claims.iter().flatten().map(|claim| claim.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.required(path, "");
            continue;
        }
        if !seen.insert((claim.name.as_str(), claim.request.as_deref())) {
            errors.duplicate(path, &claim.name);
        }
        if !known.contains(claim.name.as_str()) {
            let list = known.iter().copied().collect::<Vec<_>>().join(", ");
            let rest = if list.is_empty() { " which is empty".to_owned() } else { format!(": {list}") };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{rest}");
            errors.push(crate::field::ErrorKind::NotFound, path, &claim.name, detail);
        }
    }
}

/// The claims that a pod makes by name.
pub(super) fn pod_claims(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.required(path.child("name"), "");
        } else if !seen.insert(claim.name.as_str()) {
            errors.duplicate(path.child("name"), &claim.name);
        } else {
            errors.each(&path.child("name"), &claim.name, names::dns1123_label(&claim.name));
        }
        let (name, template) = (claim.resource_claim_name.as_ref(), claim.resource_claim_template_name.as_ref());
        match (name, template) {
            (Some(_), Some(_)) => {
                let message = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(path, &quoted::POD_RESOURCE_CLAIM.quote(claim), message);
            }
            (None, None) => {
                let message = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(path, &quoted::POD_RESOURCE_CLAIM.quote(claim), message);
            }
            _ => {}
        }
        for (field, name) in [("resourceClaimName", name), ("resourceClaimTemplateName", template)] {
            if let Some(name) = name {
                errors.each(&path.child(field), name, names::dns1123_subdomain(name));
            }
        }
    }
}

/// KEP-2837: resources of the pod as a whole.
pub(super) fn pod_level(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(resources) = &spec.resources else { return };
    let path = path.child("resources");
    if resources.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        errors.forbidden(path.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, _) in list.iter().flatten() {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with(HUGE) {
                errors.not_supported(path.child(field).key(name), name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    requirements(&ResourceRequirements { claims: None, ..resources.clone() }, spec, &path, errors);
    let sum = container_requests(spec);
    for (name, request) in resources.requests.iter().flatten() {
        if let Some(total) = sum.get(name).filter(|total| Quantity::of(request) < **total) {
            let message = format!("must be greater than or equal to aggregate container requests of {total}");
            errors.invalid(path.child("requests").key(name), &request.0, message);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (name, limit) in container.resources.iter().flat_map(|resources| resources.limits.iter().flatten()) {
            let of_pod = resources.limits.as_ref().and_then(|limits| limits.get(name));
            if let Some(of_pod) = of_pod.filter(|of_pod| Quantity::of(limit) > Quantity::of(of_pod)) {
                let path = format!("spec.containers[{i}].resources.limits[{name}]");
                errors.invalid(path, &limit.0, format!("must be less than or equal to pod limits of {}", of_pod.0));
            }
        }
    }
}

/// What the containers of a pod request together: the running ones at once, or the greediest moment of initialization.
pub(crate) fn container_requests(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    let requests = |container: &Container| container.resources.clone().and_then(|r| r.requests).unwrap_or_default();
    let add = |sum: &mut BTreeMap<String, Quantity>, container: &Container| {
        for (name, request) in requests(container) {
            *sum.entry(name).or_default() += &Quantity::of(&request);
        }
    };
    let mut total = BTreeMap::new();
    spec.containers.iter().for_each(|container| add(&mut total, container));
    let mut sidecars: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut peak: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = sidecars.clone();
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, container);
            add(&mut sidecars, container);
            moment.clone_from(&sidecars);
        } else {
            add(&mut moment, container);
        }
        for (name, amount) in moment {
            let most = peak.entry(name).or_default();
            if amount > *most {
                *most = amount;
            }
        }
    }
    for (name, amount) in peak {
        let sum = total.entry(name).or_default();
        if amount > *sum {
            *sum = amount;
        }
    }
    total
}
