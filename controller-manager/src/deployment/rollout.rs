//! What to do next about a Deployment: a plain function of the Deployment, its ReplicaSets and the time.
//!
//! ```text
//!  being deleted ───────────────► status
//!  paused, or resized ──────────► scale in proportion ──► status
//!  RollingUpdate ──► new set up as far as the surge allows ──► old sets down as far as availability allows ──► status
//!  Recreate ───────► old sets to zero ──► their pods gone ──► new set up ──► status
//! ```
//!
//! The decision works on copies of the ReplicaSets; those that came out different are written. One decision may take several of
//! upstream's steps at once (a new revision's number and size are one write), but never in another order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::selector::Selector;
use client::owner;
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    revision::{self, DESIRED, MAXIMUM, REVISION},
    size,
    status::{self, PROGRESSING},
    template::{self, HASH_LABEL},
};

/// Everything the decision looks at.
pub struct Observed {
    /// The Deployment.
    pub deployment: Arc<Deployment>,
    /// The ReplicaSets it controls.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// Pods that have not ended, by their ReplicaSet's uid.
    pub pods: HashMap<String, usize>,
    /// Now, in whole seconds as conditions are written.
    pub now: Timestamp,
}

/// Everything the controller may do, in the order it is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the ReplicaSet of a new revision.
    Create(Box<ReplicaSet>),
    /// Write a ReplicaSet that was scaled or annotated, and say so.
    Replace(Box<ReplicaSet>, Option<String>),
    /// Delete a ReplicaSet beyond the history limit.
    Delete(String),
    /// Write the Deployment's status and its revision annotation.
    Status(Box<Deployment>),
    /// Say something that needs attention.
    Warn(&'static str, String),
}

/// What to do, and when to look again though nothing changes.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// In order; a failure ends the plan.
    pub actions: Vec<Action>,
    /// When the progress deadline passes.
    pub again: Option<Duration>,
}

/// A ReplicaSet being decided about.
struct Set {
    before: Option<Arc<ReplicaSet>>,
    now: ReplicaSet,
}

impl Set {
    fn size(&self) -> i32 {
        size::of_set(&self.now)
    }

    fn available(&self) -> i32 {
        self.now.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    /// Available pods that stay: those beyond a size that was just lowered are as good as gone, though the status counts them still.
    fn serving(&self) -> i32 {
        self.available().min(self.size())
    }

    fn created(&self) -> (Timestamp, &str) {
        let at = self.now.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |t| t.0);
        (at, self.now.metadata.name.as_deref().unwrap_or_default())
    }
}

struct Rollout<'a> {
    deployment: &'a Deployment,
    now: Timestamp,
    status: DeploymentStatus,
    revision: Option<String>,
    new: Option<Set>,
    /// Oldest first.
    old: Vec<Set>,
    deletions: Vec<String>,
}

/// Decides.
pub fn decide(observed: &Observed) -> Plan {
    let (deployment, spec) = (&*observed.deployment, observed.deployment.spec.clone().unwrap_or_default());
    if Selector::from_label_selector(Some(&spec.selector)).is_ok_and(|s| s.is_empty()) {
        return selects_everything(deployment);
    }
    let mut rollout = Rollout::new(observed);
    if deployment.metadata.deletion_timestamp.is_some() {
        rollout.adopt_new();
        return rollout.finish(false);
    }
    status::note_pause(deployment, &mut rollout.status, observed.now);
    rollout.adopt_new();
    if spec.paused.unwrap_or(false) || rollout.was_resized() {
        rollout.scale();
        if spec.paused.unwrap_or(false) {
            rollout.clean_up();
        }
        return rollout.finish(false);
    }
    if size::is_rolling(deployment) {
        rollout.roll()
    } else {
        rollout.recreate(&observed.pods)
    }
    rollout.finish(true)
}

fn selects_everything(deployment: &Deployment) -> Plan {
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    let mut actions = vec![Action::Warn("SelectingAll", message.to_owned())];
    let mut changed = deployment.clone();
    let status = changed.status.get_or_insert_default();
    if status.observed_generation < deployment.metadata.generation {
        status.observed_generation = deployment.metadata.generation;
        actions.push(Action::Status(Box::new(changed)));
    }
    Plan { actions, again: None }
}

impl<'a> Rollout<'a> {
    fn new(observed: &'a Observed) -> Self {
        let deployment = &*observed.deployment;
        let copy = |set: &Arc<ReplicaSet>| Set { before: Some(set.clone()), now: (**set).clone() };
        let mut sets: Vec<_> = observed.sets.iter().map(copy).collect();
        sets.sort_by(|a, b| a.created().cmp(&b.created()));
        let wanted = deployment.spec.as_ref().map(|s| &s.template);
        // Of several with the same template the oldest counts.
        let serves = |set: &Set| template::same(set.now.spec.as_ref().and_then(|s| s.template.as_ref()), wanted);
        let new = sets.iter().position(serves).map(|at| sets.remove(at));
        let status = deployment.status.clone().unwrap_or_default();
        let revision = revision::annotation(&deployment.metadata, REVISION).map(str::to_owned);
        Self { deployment, now: observed.now, status, revision, new, old: sets, deletions: Vec::new() }
    }

    fn all(&self) -> impl Iterator<Item = &Set> + Clone {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(Set::size).fold(0, i32::saturating_add)
    }

    /// Numbers the set that serves the template, if there is one.
    fn adopt_new(&mut self) {
        let number = revision::next(self.old.iter().map(|s| &s.now));
        let Some(set) = &mut self.new else { return };
        revision::inherit(&mut set.now, self.deployment, number);
        if let Some(spec) = set.now.spec.as_mut() {
            let wanted = self.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
            if spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0) {
                spec.min_ready_seconds = wanted;
            }
        }
        self.revision = revision::annotation(&set.now.metadata, REVISION).map(str::to_owned);
        if status::deadline(self.deployment).is_some() && status::condition(&self.status, PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", set.now.metadata.name.as_deref().unwrap_or_default());
            let found = status::new_condition(PROGRESSING, "True", "FoundNewReplicaSet", message, self.now);
            status::set_condition(&mut self.status, found);
        }
    }

    /// Makes the set for a template that no set serves yet.
    fn create_new(&mut self) {
        let Some(spec) = self.deployment.spec.as_ref().filter(|_| self.new.is_none()) else { return };
        let hash = template::hash(&spec.template, self.status.collision_count);
        let mut pods = spec.template.clone();
        let labels = pods.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
        let name = format!("{}-{hash}", self.deployment.metadata.name.as_deref().unwrap_or_default());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owner::controller_ref(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(self.room_for_new(0)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(pods),
            }),
            status: None,
        };
        let number = revision::next(self.old.iter().map(|s| &s.now));
        revision::inherit(&mut set, self.deployment, number);
        revision::note_size(&mut set, size::replicas(self.deployment), size::limit(self.deployment));
        self.revision = Some(number.to_string());
        if status::deadline(self.deployment).is_some() {
            let created = format!("Created new replica set {name:?}");
            let created = status::new_condition(PROGRESSING, "True", "NewReplicaSetCreated", created, self.now);
            status::set_condition(&mut self.status, created);
        }
        self.new = Some(Set { before: None, now: set });
    }

    /// How large the new set, now of size `current`, may become.
    fn room_for_new(&self, current: i32) -> i32 {
        let wanted = size::replicas(self.deployment);
        if !size::is_rolling(self.deployment) {
            return wanted;
        }
        let room = size::limit(self.deployment) - self.total();
        if room <= 0 { current } else { current + room.min(wanted - current) }
    }

    /// Whether somebody changed `spec.replicas` since the sets were last scaled.
    fn was_resized(&self) -> bool {
        let wanted = size::replicas(self.deployment);
        self.all().filter(|s| s.size() > 0).any(|s| revision::number(&s.now.metadata, DESIRED).is_some_and(|d| d != wanted))
    }

    fn resize(deployment: &Deployment, set: &mut Set, to: i32) {
        if let Some(spec) = set.now.spec.as_mut() {
            spec.replicas = Some(to);
        }
        revision::note_size(&mut set.now, size::replicas(deployment), size::limit(deployment));
    }

    /// Resizes without hastening or delaying a rollout: in proportion to the sets' sizes.
    fn scale(&mut self) {
        let (deployment, wanted) = (self.deployment, size::replicas(self.deployment));
        let active = self.all().filter(|s| s.size() > 0).count();
        if active <= 1 {
            let only = if active == 1 {
                self.old.iter_mut().chain(&mut self.new).find(|s| s.size() > 0)
            } else {
                self.new.as_mut().or(self.old.last_mut())
            };
            if let Some(set) = only {
                Self::resize(deployment, set, wanted);
            }
            return;
        }
        if self.new.as_ref().is_some_and(|new| is_saturated(deployment, new)) {
            self.old.iter_mut().filter(|s| s.size() > 0).for_each(|set| Self::resize(deployment, set, 0));
            return;
        }
        if size::is_rolling(deployment) {
            self.scale_in_proportion();
        }
    }

    fn scale_in_proportion(&mut self) {
        let (deployment, wanted, limit) = (self.deployment, size::replicas(self.deployment), size::limit(self.deployment));
        let to_add = if wanted > 0 { limit } else { 0 } - self.total();
        let mut sets: Vec<&mut Set> = self.old.iter_mut().chain(&mut self.new).filter(|s| s.size() > 0).collect();
        // Larger sets first; of equal ones the newer first when growing, the older first when shrinking.
        sets.sort_by(|a, b| {
            let age = a.created().cmp(&b.created());
            b.size().cmp(&a.size()).then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let shares: Vec<i32> = sets
            .iter()
            .map(|set| {
                let share = share(&set.now, deployment, self.status.replicas.unwrap_or(0), to_add, added);
                added += share;
                set.size().saturating_add(share)
            })
            .collect();
        for (at, (set, mut target)) in sets.into_iter().zip(shares).enumerate() {
            if at == 0 && to_add != 0 {
                target = target.saturating_add(to_add - added).max(0);
            }
            Self::resize(deployment, set, target);
        }
    }

    fn roll(&mut self) {
        self.create_new();
        let deployment = self.deployment;
        let Some(new) = &self.new else { return };
        let (current, wanted) = (new.size(), size::replicas(deployment));
        let target = if current > wanted { wanted } else { self.room_for_new(current) };
        if target != current {
            if let Some(new) = self.new.as_mut() {
                Self::resize(deployment, new, target);
            }
            return;
        }
        if !self.shrink_old()
            && status::is_complete(deployment, deployment.status.as_ref().unwrap_or(&DeploymentStatus::default()))
        {
            self.clean_up();
        }
    }

    /// Takes from the old sets what availability allows, pods that don't work first; says whether anything was taken.
    fn shrink_old(&mut self) -> bool {
        let deployment = self.deployment;
        if self.old.iter().all(|set| set.size() == 0) {
            return false;
        }
        let minimum = size::replicas(deployment) - size::max_unavailable(deployment);
        let starting = self.new.as_ref().map_or(0, |new| new.size() - new.available());
        let mut may_go = (self.total() - minimum).saturating_sub(starting);
        if may_go <= 0 {
            return false;
        }
        let mut taken = false;
        for set in self.old.iter_mut().filter(|s| s.size() > 0) {
            let broken = (set.size() - set.available()).clamp(0, may_go);
            if broken > 0 {
                let target = set.size() - broken;
                Self::resize(deployment, set, target);
                may_go -= broken;
                taken = true;
            }
        }
        let mut spare = self.all().map(Set::serving).fold(0, i32::saturating_add) - minimum;
        for set in self.old.iter_mut().filter(|s| s.size() > 0) {
            let down = set.size().min(spare);
            if down > 0 {
                let target = set.size() - down;
                Self::resize(deployment, set, target);
                spare -= down;
                taken = true;
            }
        }
        taken
    }

    fn recreate(&mut self, pods: &HashMap<String, usize>) {
        let deployment = self.deployment;
        let mut shrunk = false;
        for set in self.old.iter_mut().filter(|s| s.size() > 0) {
            Self::resize(deployment, set, 0);
            shrunk = true;
        }
        if shrunk || self.old_pods_run(pods) {
            return;
        }
        self.create_new();
        let wanted = size::replicas(deployment);
        if let Some(new) = self.new.as_mut().filter(|s| s.size() != wanted) {
            Self::resize(deployment, new, wanted);
        }
        if status::is_complete(deployment, deployment.status.as_ref().unwrap_or(&DeploymentStatus::default())) {
            self.clean_up();
        }
    }

    fn old_pods_run(&self, pods: &HashMap<String, usize>) -> bool {
        let new = self.new.as_ref().and_then(|s| s.now.metadata.uid.as_deref());
        self.old.iter().any(|s| s.now.status.as_ref().is_some_and(|s| s.replicas > 0))
            || pods.iter().any(|(uid, count)| *count > 0 && Some(uid.as_str()) != new)
    }

    /// Deletes the oldest revisions beyond the history limit, if they hold no pods.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).filter(|l| *l != i32::MAX);
        let Some(limit) = limit else { return };
        let mut alive: Vec<&Set> = self.old.iter().filter(|s| s.now.metadata.deletion_timestamp.is_none()).collect();
        alive.sort_by_key(|s| revision::revision(&s.now.metadata));
        let surplus = alive.len().saturating_sub(limit.max(0) as usize);
        for set in &alive[..surplus] {
            let status = set.now.status.clone().unwrap_or_default();
            let seen = status.observed_generation.unwrap_or(0) >= set.now.metadata.generation.unwrap_or(0);
            if set.size() == 0 && status.replicas == 0 && seen {
                self.deletions.extend(set.now.metadata.name.clone());
            }
        }
    }

    fn finish(self, judge: bool) -> Plan {
        let (deployment, now) = (self.deployment, self.now);
        let status = {
            let newest = self.new.as_ref().map(|s| &s.now);
            let sets = self.all().map(|s| &s.now);
            let mut status = status::of_sets(deployment, self.status.clone(), &sets, newest, now);
            if judge {
                status::judge_progress(deployment, &mut status, sets, newest, now);
            }
            status
        };
        let again = if judge { status::next_check(deployment, &status, now) } else { None };
        let mut changed = deployment.clone();
        if let Some(revision) = &self.revision {
            changed.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision.clone());
        }
        changed.status = Some(status);
        let mut actions = Vec::new();
        for set in self.new.into_iter().chain(self.old) {
            match set.before {
                None => actions.push(Action::Create(Box::new(set.now))),
                Some(before) if *before != set.now => {
                    let event = scaled(&before, &set.now);
                    actions.push(Action::Replace(Box::new(set.now), event));
                }
                Some(_) => {}
            }
        }
        actions.extend(self.deletions.into_iter().map(Action::Delete));
        if changed != *deployment {
            actions.push(Action::Status(Box::new(changed)));
        }
        Plan { actions, again }
    }
}

/// What users read about a resize.
fn scaled(before: &ReplicaSet, now: &ReplicaSet) -> Option<String> {
    let (from, to) = (size::of_set(before), size::of_set(now));
    let direction = if to > from { "up" } else { "down" };
    (from != to).then(|| {
        format!("Scaled {direction} replica set {} from {from} to {to}", now.metadata.name.as_deref().unwrap_or_default())
    })
}

fn is_saturated(deployment: &Deployment, set: &Set) -> bool {
    let wanted = size::replicas(deployment);
    set.size() == wanted && revision::number(&set.now.metadata, DESIRED) == Some(wanted) && set.available() == wanted
}

/// A set's part of a resize by `to_add`, of which `added` are given out already.
fn share(set: &ReplicaSet, deployment: &Deployment, replicas_before: i32, to_add: i32, added: i32) -> i32 {
    let current = size::of_set(set);
    if current == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = if size::replicas(deployment) == 0 {
        -current
    } else {
        let limit = size::limit(deployment);
        let before = revision::number(&set.metadata, MAXIMUM).filter(|m| *m != 0).unwrap_or(replicas_before);
        let target = if before == 0 { 0.0 } else { f64::from(current) * f64::from(limit) / f64::from(before) };
        target.round() as i32 - current
    };
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
