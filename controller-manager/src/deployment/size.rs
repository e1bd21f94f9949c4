//! How many pods a Deployment's strategy allows.

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// `spec.replicas`.
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub fn of_set(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Whether the strategy is RollingUpdate (the default) rather than Recreate.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    strategy != Some("Recreate")
}

/// A number, or a percentage of `total`.
fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            i32::try_from(if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) })
                .unwrap_or(i32::MAX)
        }
    }
}

/// (maxSurge, maxUnavailable). Both may round to zero; then one pod may be unavailable, or nothing could ever move.
fn fences(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let none = RollingUpdateDeployment::default();
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref()).unwrap_or(&none);
    let total = replicas(deployment);
    let surge = scaled(strategy.max_surge.as_ref(), total, true);
    let unavailable = scaled(strategy.max_unavailable.as_ref(), total, false);
    (surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable })
}

/// How many pods there may be in all, of the old template and the new.
pub fn limit(deployment: &Deployment) -> i32 {
    replicas(deployment).saturating_add(fences(deployment).0)
}

/// How many of `spec.replicas` may be missing.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if replicas(deployment) == 0 { 0 } else { fences(deployment).1.min(replicas(deployment)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fences_round_apart_and_never_both_close() {
        let of = |replicas: i32, surge, unavailable| {
            let deployment: Deployment =
                serde_json::from_value(json!({"spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
                .expect("a Deployment");
            (limit(&deployment) - replicas, max_unavailable(&deployment))
        };
        assert_eq!(
            [
                of(10, json!("25%"), json!("25%")),
                of(2, json!("0%"), json!("1%")),
                of(3, json!(1), json!(0)),
                of(2, json!(0), json!(5)),
                of(0, json!("25%"), json!("25%")),
                of(i32::MAX, json!("25%"), json!("100%")),
            ],
            [(3, 2), (0, 1), (1, 0), (0, 2), (0, 0), (0, i32::MAX)]
        );
    }
}
