//! Where a pod may run: affinity, tolerations, spreading, gates; also label selectors wherever they stand.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{
        Affinity, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
        TopologySpreadConstraint, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::text;
use crate::{field::FieldErrors, field_path::Path, meta, names, quoted};

const NEEDS_VALUES: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const NO_VALUES: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
const NO_OPERATOR: &str = "not a valid selector operator";
const NOT_POSITIVE: &str = "must be greater than zero";

/// A label selector, strict about values.
pub fn label_selector(selector: Option<&LabelSelector>, path: &Path, errors: &mut FieldErrors) {
    let Some(selector) = selector else { return };
    meta::validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels").to_string(), errors);
    let expressions = path.child("matchExpressions");
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = expressions.index(i);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.required(path.child("values"), NEEDS_VALUES),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(path.child("values"), NO_VALUES),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(path.child("operator"), &other, NO_OPERATOR),
        }
        errors.each(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key));
        for (j, value) in values.iter().enumerate() {
            errors.each(&path.child("values").index(j), value, names::label_value(value));
        }
    }
}

pub(super) fn affinity(affinity: Option<&Affinity>, path: &Path, errors: &mut FieldErrors) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(near) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        required_terms(near.required_during_scheduling_ignored_during_execution.as_deref(), &path.child(REQUIRED), errors);
        weighted_terms(near.preferred_during_scheduling_ignored_during_execution.as_deref(), &path.child(PREFERRED), errors);
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        required_terms(far.required_during_scheduling_ignored_during_execution.as_deref(), &path.child(REQUIRED), errors);
        weighted_terms(far.preferred_during_scheduling_ignored_during_execution.as_deref(), &path.child(PREFERRED), errors);
    }
}

fn node_affinity(affinity: &NodeAffinity, path: &Path, errors: &mut FieldErrors) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        let terms = path.child("nodeSelectorTerms");
        if required.node_selector_terms.is_empty() {
            errors.required(terms, "must have at least one node selector term");
        }
        for (i, term) in required.node_selector_terms.iter().enumerate() {
            node_term(term, &terms.index(i), errors);
        }
    }
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
        let path = path.index(i);
        weight(term.weight, &path, errors);
        node_term(&term.preference, &path.child("preference"), errors);
    }
}

fn weight(weight: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(path.child("weight"), &weight, "must be in the range 1-100");
    }
}

fn node_term(term: &NodeSelectorTerm, path: &Path, errors: &mut FieldErrors) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        node_expression(requirement, &path.child("matchExpressions").index(i), errors);
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        node_field(requirement, &path.child("matchFields").index(i), errors);
    }
}

fn node_expression(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => errors.required(values_path, NEEDS_VALUES),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(values_path, NO_VALUES),
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(path.child("operator"), &other, NO_OPERATOR),
    }
    errors.each(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key));
}

fn node_field(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let message = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(path.child("values"), message);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(path.child("operator"), &other, NO_OPERATOR),
    }
    if requirement.key != "metadata.name" {
        return errors.invalid(path.child("key"), &requirement.key, "not a valid field selector key");
    }
    for (i, value) in values.iter().enumerate() {
        errors.each(&path.child("values").index(i), value, names::dns1123_subdomain(value));
    }
}

fn required_terms(terms: Option<&[PodAffinityTerm]>, path: &Path, errors: &mut FieldErrors) {
    for (i, term) in terms.unwrap_or_default().iter().enumerate() {
        pod_term(term, &path.index(i), errors);
    }
}

fn weighted_terms(terms: Option<&[WeightedPodAffinityTerm]>, path: &Path, errors: &mut FieldErrors) {
    for (i, term) in terms.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        weight(term.weight, &path, errors);
        pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
    label_selector(term.label_selector.as_ref(), &path.child("labelSelector"), errors);
    label_selector(term.namespace_selector.as_ref(), &path.child("namespaceSelector"), errors);
    for name in term.namespaces.iter().flatten() {
        errors.each(&path.child("namespace"), name, names::dns1123_label(name));
    }
    match_label_keys(term.match_label_keys.as_deref(), term.label_selector.as_ref(), "matchLabelKeys", path, errors);
    match_label_keys(term.mismatch_label_keys.as_deref(), term.label_selector.as_ref(), "mismatchLabelKeys", path, errors);
    let mismatch = term.mismatch_label_keys.as_deref().unwrap_or_default();
    for (i, key) in term.match_label_keys.iter().flatten().enumerate().filter(|(_, key)| mismatch.contains(key)) {
        let message = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(path.child("matchLabelKeys").index(i), key, message);
    }
    if term.topology_key.is_empty() {
        errors.required(path.child("topologyKey"), "can not be empty");
    }
    errors.each(&path.child("topologyKey"), &term.topology_key, names::qualified_name(&term.topology_key));
}

fn match_label_keys(
    keys: Option<&[String]>,
    selector: Option<&LabelSelector>,
    field: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let keys = keys.unwrap_or_default();
    let path = path.child(field);
    if !keys.is_empty() && selector.is_none() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    let selected = |key: &String| {
        let labels = selector.iter().flat_map(|selector| selector.match_labels.iter().flatten());
        let expressions = selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
        // Creation of a pod has added one requirement of one value for the key: any other is the user's.
        let mut of_key = expressions.filter(|expression| expression.key == *key);
        let merged = of_key.next_back().is_none_or(|last| {
            matches!(last.operator.as_str(), "In" | "NotIn") && last.values.as_ref().is_some_and(|values| values.len() == 1)
        });
        labels.into_iter().any(|(label, _)| label == key) || !merged || of_key.next().is_some()
    };
    for (i, key) in keys.iter().enumerate() {
        errors.each(&path.index(i), key, names::qualified_name(key));
        if selected(key) {
            errors.invalid(path.index(i), key, format!("exists in both {field} and labelSelector"));
        }
    }
}

pub(super) fn gates(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let messages = names::qualified_name(&gate.condition_type);
        errors.each(&path.child("readinessGates").index(i).child("conditionType"), &gate.condition_type, messages);
    }
    let mut seen = BTreeSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let gates = path.child("schedulingGates");
        errors.each(&gates.index(i), &gate.name, names::qualified_name(&gate.name));
        if !seen.insert(&gate.name) {
            errors.duplicate(gates.index(i), &gate.name);
        }
    }
}

pub(super) fn spread(constraints: Option<&[TopologySpreadConstraint]>, path: &Path, errors: &mut FieldErrors) {
    let constraints = constraints.unwrap_or_default();
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let action = constraint.when_unsatisfiable.as_str();
        if constraint.max_skew <= 0 {
            errors.invalid(path.child("maxSkew"), &constraint.max_skew, NOT_POSITIVE);
        }
        if constraint.topology_key.is_empty() {
            errors.required(path.child("topologyKey"), "can not be empty");
        }
        errors.one_of(&path.child("whenUnsatisfiable"), Some(action), &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[i + 1..].iter().any(same) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            errors.duplicate(path.child("{topologyKey, whenUnsatisfiable}"), &pair);
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                errors.invalid(path.child("minDomains"), &domains, NOT_POSITIVE);
            }
            if action != "DoNotSchedule" {
                let message = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(path.child("minDomains"), &domains, message);
            }
        }
        errors.one_of(&path.child("nodeAffinityPolicy"), constraint.node_affinity_policy.as_deref(), &["Honor", "Ignore"]);
        errors.one_of(&path.child("nodeTaintsPolicy"), constraint.node_taints_policy.as_deref(), &["Honor", "Ignore"]);
        let selector = constraint.label_selector.as_ref();
        match_label_keys(constraint.match_label_keys.as_deref(), selector, "matchLabelKeys", &path, errors);
        label_selector(selector, &path.child("labelSelector"), errors);
    }
}

pub(super) fn tolerations(tolerations: Option<&[Toleration]>, path: &Path, errors: &mut FieldErrors) {
    for (i, toleration) in tolerations.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        let key = text(toleration.key.as_ref());
        let operator = text(toleration.operator.as_ref());
        let effect = text(toleration.effect.as_ref());
        if !key.is_empty() {
            errors.each(&path.child("key"), key, names::qualified_name(key));
        } else if operator != "Exists" {
            let message = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(path.child("operator"), &operator, message);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.invalid(path.child("effect"), &effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        let value = text(toleration.value.as_ref());
        match operator {
            "Equal" | "" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(path.child("operator"), &value, messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(
                    path.child("operator"),
                    &quoted::TOLERATION.quote(toleration),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            _ => errors.not_supported(path.child("operator"), &operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(effect, &path.child("effect"), errors);
        }
    }
}

/// One of the effects of a taint.
pub fn taint_effect(effect: &str, path: &Path, errors: &mut FieldErrors) {
    errors.required_one_of(path, Some(effect), &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

/// Of pods and priority classes.
pub fn preemption_policy(policy: &str, path: &Path, errors: &mut FieldErrors) {
    errors.required_one_of(path, Some(policy), &["PreemptLowerPriority", "Never"]);
}
