//! ReplicaSets and ReplicationControllers as [`Workload`]s: the same fields in types of their own.

use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Counts, Workload};
use crate::Config;

const FAILURE: &str = "ReplicaFailure";

/// Upstream leaves zeros out.
pub(crate) fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

macro_rules! workload {
    ($kind:ident, $status:ident, $condition:ident, $controller:literal, $workers:ident, $selector:expr, $more:expr) => {
        impl Workload for $kind {
            const CONTROLLER: &'static str = $controller;

            fn replicas(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
            }

            fn min_ready_seconds(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
            }

            fn selector(&self) -> Option<Selector> {
                let read: fn(&$kind) -> Option<Selector> = $selector;
                read(self)
            }

            fn template(&self) -> Option<&PodTemplateSpec> {
                self.spec.as_ref()?.template.as_ref()
            }

            fn with_status(&self, counts: &Counts, failure: Option<(&str, &str)>, now: Timestamp) -> Option<Self> {
                let mut status = self.status.clone().unwrap_or_default();
                status.replicas = counts.replicas;
                status.fully_labeled_replicas = some(counts.fully_labeled);
                status.ready_replicas = some(counts.ready);
                status.available_replicas = some(counts.available);
                status.observed_generation = self.metadata.generation;
                let more: fn(&mut $status, &Counts) = $more;
                more(&mut status, counts);
                let mut conditions = status.conditions.unwrap_or_default();
                match failure {
                    Some((reason, message)) if !conditions.iter().any(|c| c.type_ == FAILURE) => {
                        conditions.push($condition {
                            type_: FAILURE.to_owned(),
                            status: "True".to_owned(),
                            last_transition_time: Some(Time(now)),
                            reason: Some(reason.to_owned()),
                            message: Some(message.to_owned()),
                        });
                    }
                    Some(_) => {}
                    None => conditions.retain(|c| c.type_ != FAILURE),
                }
                status.conditions = (!conditions.is_empty()).then_some(conditions);
                (self.status.as_ref() != Some(&status)).then(|| Self { status: Some(status), ..self.clone() })
            }

            fn workers(config: &Config) -> usize {
                config.$workers
            }
        }
    };
}

workload!(
    ReplicaSet,
    ReplicaSetStatus,
    ReplicaSetCondition,
    "replicaset-controller",
    concurrent_replicaset_syncs,
    |set| Selector::from_label_selector(set.spec.as_ref().map(|s| &s.selector)).ok(),
    |status, counts| status.terminating_replicas = Some(counts.terminating)
);
workload!(
    ReplicationController,
    ReplicationControllerStatus,
    ReplicationControllerCondition,
    "replication-controller",
    concurrent_rc_syncs,
    |rc| rc.spec.as_ref()?.selector.as_ref().map(Selector::from_set),
    |_, _| {}
);
