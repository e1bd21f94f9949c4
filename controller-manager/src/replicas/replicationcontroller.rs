//! ReplicationControllers as [`Workload`]s.

use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Counts, Workload, replicaset::some};
use crate::Config;

impl Workload for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        self.spec.as_ref()?.selector.as_ref().map(Selector::from_set)
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
        let known = status.conditions.iter().flatten().any(|c| c.type_ == "ReplicaFailure");
        match failure {
            Some((reason, message)) if !known => {
                status.conditions.get_or_insert_default().push(ReplicationControllerCondition {
                    type_: "ReplicaFailure".to_owned(),
                    status: "True".to_owned(),
                    last_transition_time: Some(Time(now)),
                    reason: Some(reason.to_owned()),
                    message: Some(message.to_owned()),
                })
            }
            None if known => {
                status.conditions =
                    status.conditions.map(|c| c.into_iter().filter(|c| c.type_ != "ReplicaFailure").collect());
                status.conditions = status.conditions.filter(|c| !c.is_empty());
            }
            _ => {}
        }
        (self.status.as_ref() != Some(&status)).then(|| Self { status: Some(status), ..self.clone() })
    }

    fn workers(config: &Config) -> usize {
        config.concurrent_rc_syncs
    }
}
