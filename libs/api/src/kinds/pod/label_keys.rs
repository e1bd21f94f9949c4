//! `matchLabelKeys` and `mismatchLabelKeys` become requirements of the label selector when a pod is created, with the values
//! of the pod's own labels (KEP-3243, KEP-3633), so that schedulers need not know them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodAffinityTerm, PodSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

/// Merges the keys of affinity terms and spread constraints.
pub fn merge(spec: &mut PodSpec, labels: Option<&BTreeMap<String, String>>) {
    let Some(labels) = labels else { return };
    if let Some(affinity) = &mut spec.affinity {
        if let Some(near) = &mut affinity.pod_affinity {
            let required = near.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
            let preferred = near.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            required.chain(preferred.map(|term| &mut term.pod_affinity_term)).for_each(|term| merge_term(term, labels));
        }
        if let Some(far) = &mut affinity.pod_anti_affinity {
            let required = far.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
            let preferred = far.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            required.chain(preferred.map(|term| &mut term.pod_affinity_term)).for_each(|term| merge_term(term, labels));
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        add(constraint.label_selector.as_mut(), keys, "In", labels);
    }
}

fn merge_term(term: &mut PodAffinityTerm, labels: &BTreeMap<String, String>) {
    add(term.label_selector.as_mut(), term.match_label_keys.as_deref().unwrap_or_default(), "In", labels);
    add(term.label_selector.as_mut(), term.mismatch_label_keys.as_deref().unwrap_or_default(), "NotIn", labels);
}

fn add(selector: Option<&mut LabelSelector>, keys: &[String], operator: &str, labels: &BTreeMap<String, String>) {
    let Some(selector) = selector else { return };
    for (key, value) in keys.iter().filter_map(|key| labels.get_key_value(key)) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_take_the_pods_own_values() {
        let mut spec: PodSpec = serde_json::from_value(json!({"containers": [], "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["hash", "absent"],
        }]}))
        .unwrap();
        merge(&mut spec, Some(&[("hash".to_owned(), "abc".to_owned())].into()));
        let selector = serde_json::to_value(&spec.topology_spread_constraints.unwrap()[0].label_selector).unwrap();
        let added = json!([{"key": "hash", "operator": "In", "values": ["abc"]}]);
        assert_eq!(selector, json!({"matchLabels": {"app": "web"}, "matchExpressions": added}));
    }
}
