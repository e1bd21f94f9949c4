#![allow(clippy::needless_pass_by_value, reason = "json! makes values")]

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2024-01-01T01:00:00Z";

/// A Deployment with image `image`, surge and unavailability as given.
fn deployment(replicas: i32, image: &str, strategy: Value, status: Value) -> Arc<Deployment> {
    let deployment = json!({
        "metadata": {"namespace": "ns", "name": "web", "uid": "d", "generation": 2},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600, "template": template(image)},
        "status": status,
    });
    Arc::new(serde_json::from_value(deployment).expect("a Deployment"))
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// A set `name` of `size` replicas, `available` of them available, scaled when the Deployment had `desired` (+ `surge`).
fn set(name: &str, revision: i64, size: i32, available: i32, desired: (i32, i32)) -> Arc<ReplicaSet> {
    let set = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name, "generation": 1,
            "creationTimestamp": format!("2024-01-01T00:00:{revision:02}Z"),
            "annotations": {REVISION: revision.to_string(), DESIRED: desired.0.to_string(), MAXIMUM: desired.1.to_string()}},
        "spec": {"replicas": size, "selector": {}, "template": template(name)},
        "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available, "observedGeneration": 1},
    });
    Arc::new(serde_json::from_value(set).expect("a ReplicaSet"))
}

fn observed(deployment: Arc<Deployment>, sets: Vec<Arc<ReplicaSet>>) -> Observed {
    Observed { deployment, sets, pods: HashMap::new(), now: NOW.parse().expect("a time") }
}

/// The plan without its status: what happens to which set.
fn moves(plan: &Plan) -> Vec<String> {
    let name = |set: &ReplicaSet| set.metadata.name.clone().unwrap_or_default();
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Create(set) => Some(format!("create {}", size::of_set(set))),
            Action::Replace(set, _) => Some(format!("{} = {}", name(set), size::of_set(set))),
            Action::Delete(name) => Some(format!("delete {name}")),
            Action::Warn(reason, _) => Some((*reason).to_owned()),
            Action::Status(_) => None,
        })
        .collect()
}

fn decided(deployment: Arc<Deployment>, sets: Vec<Arc<ReplicaSet>>) -> Vec<String> {
    moves(&decide(&observed(deployment, sets)))
}

#[test]
fn the_first_set_is_created_whole() {
    let plan = decide(&observed(deployment(3, "v1", rolling(json!("25%"), json!("25%")), json!({})), vec![]));
    let [Action::Create(created), Action::Status(changed)] = &plan.actions[..] else { panic!("{:?}", plan.actions) };
    let hash = template::hash(&changed.spec.as_ref().expect("a spec").template, None);
    assert_eq!(
        serde_json::to_value(created).expect("encodes"),
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"namespace": "ns", "name": format!("web-{hash}"), "labels": {"app": "web", "pod-template-hash": hash},
                "annotations": {REVISION: "1", DESIRED: "3", MAXIMUM: "4"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d",
                    "controller": true, "blockOwnerDeletion": true}]},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web", "pod-template-hash": hash}},
                "template": {"metadata": {"labels": {"app": "web", "pod-template-hash": hash}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}}}})
    );
    assert_eq!(
        (serde_json::to_value(&changed.status).expect("encodes"), changed.metadata.annotations.clone(), plan.again),
        (
            json!({"observedGeneration": 2, "unavailableReplicas": 3, "conditions": [
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetCreated", "lastUpdateTime": NOW,
                    "lastTransitionTime": NOW, "message": format!("Created new replica set \"web-{hash}\"")},
                {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "lastUpdateTime": NOW,
                    "lastTransitionTime": NOW, "message": "Deployment does not have minimum availability."}]}),
            Some([(REVISION.to_owned(), "1".to_owned())].into()),
            Some(Duration::from_secs(601)),
        )
    );
}

#[test]
fn a_rolling_update_stays_between_its_fences() {
    let strategy = || rolling(json!(1), json!(1));
    let d = |replicas| deployment(replicas, "v2", strategy(), json!({}));
    let at = (4, 5);
    let steps = [
        // All old: the new set gets the surge, and one pod may be missing.
        decided(d(4), vec![set("v1", 1, 4, 4, at)]),
        // New pods are starting: one old pod may be missing.
        decided(d(4), vec![set("v1", 1, 4, 4, at), set("v2", 2, 1, 0, at)]),
        // The freed room goes to the new set.
        decided(d(4), vec![set("v1", 1, 3, 3, at), set("v2", 2, 1, 0, at)]),
        // Nothing may move until a new pod is available.
        decided(d(4), vec![set("v1", 1, 3, 3, at), set("v2", 2, 2, 0, at)]),
        decided(d(4), vec![set("v1", 1, 3, 3, at), set("v2", 2, 2, 2, at)]),
        // Broken old pods go first: they don't count for availability.
        decided(d(4), vec![set("v0", 0, 2, 0, at), set("v1", 1, 2, 2, at), set("v2", 2, 1, 1, at)]),
    ];
    assert_eq!(
        steps,
        [
            // The surge makes room for one old pod to go at once.
            vec!["create 1", "v1 = 3"],
            vec!["v1 = 3"],
            vec!["v2 = 2"],
            vec![],
            vec!["v1 = 1"],
            vec!["v0 = 0"],
        ]
    );
}

#[test]
fn resizing_amid_a_rollout_is_in_proportion() {
    let d = |replicas| deployment(replicas, "v2", rolling(json!(3), json!(2)), json!({"replicas": 13}));
    let sets = || vec![set("v1", 1, 8, 8, (10, 13)), set("v2", 2, 5, 5, (10, 13))];
    // One set alone takes it all, and a saturated new set empties the old ones.
    let alone = decided(d(7), vec![set("v2", 2, 5, 5, (5, 8))]);
    let saturated = decided(d(5), vec![set("v1", 1, 1, 1, (4, 7)), set("v2", 2, 5, 5, (5, 8))]);
    assert_eq!(
        [decided(d(15), sets()), decided(d(5), sets()), alone, saturated],
        [vec!["v2 = 7", "v1 = 11"], vec!["v2 = 3", "v1 = 5"], vec!["v2 = 7"], vec!["v1 = 0"],]
    );
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let d = deployment(2, "v2", json!({"type": "Recreate"}), json!({}));
    let full = decided(d.clone(), vec![set("v1", 1, 2, 2, (2, 2))]);
    let mut ending = observed(d.clone(), vec![set("v1", 1, 0, 0, (2, 2))]);
    ending.pods.insert("v1".to_owned(), 1);
    let ending = moves(&decide(&ending));
    let gone = decided(d, vec![set("v1", 1, 0, 0, (2, 2))]);
    assert_eq!([full, ending, gone], [vec!["v1 = 0"], vec![], vec!["create 2"]]);
}

#[test]
fn a_finished_rollout_forgets_the_oldest_revisions_and_says_so() {
    let status = json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
        "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "lastUpdateTime": NOW,
            "lastTransitionTime": NOW, "message": "m"}]});
    let d = deployment(1, "v3", rolling(json!(1), json!(0)), status);
    let plan =
        decide(&observed(d, vec![set("v1", 1, 0, 0, (1, 2)), set("v2", 2, 0, 0, (1, 2)), set("v3", 3, 1, 1, (1, 2))]));
    let Some(Action::Status(changed)) = plan.actions.last() else { panic!("{plan:?}") };
    let progress = status::condition(changed.status.as_ref().expect("a status"), PROGRESSING).expect("a condition").clone();
    assert_eq!(
        (moves(&plan), progress.reason.as_deref(), progress.message.as_deref(), plan.again),
        (
            vec!["delete v1".to_owned()],
            Some("NewReplicaSetAvailable"),
            Some("ReplicaSet \"v3\" has successfully progressed."),
            None
        )
    );
}

#[test]
fn rolling_back_finds_the_old_set_under_a_new_number() {
    let d = deployment(1, "v1", rolling(json!(1), json!(0)), json!({}));
    let plan = decide(&observed(d, vec![set("v1", 1, 0, 0, (1, 2)), set("v2", 2, 1, 1, (1, 2))]));
    let Some(Action::Replace(set, event)) = plan.actions.first() else { panic!("{plan:?}") };
    let annotations = set.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(
        (annotations.get(REVISION), annotations.get(revision::HISTORY), size::of_set(set), event.as_deref()),
        (Some(&"3".to_owned()), Some(&"1".to_owned()), 1, Some("Scaled up replica set v1 from 0 to 1"))
    );
}

#[test]
fn a_rollout_that_stands_still_times_out() {
    let status = |since: &str| {
        json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1,
            "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "lastUpdateTime": since,
                "lastTransitionTime": since, "message": "m"}]})
    };
    let judged = |since| {
        let plan = decide(&observed(
            deployment(1, "v1", rolling(json!(1), json!(0)), status(since)),
            vec![set("v1", 1, 1, 0, (1, 2))],
        ));
        let Some(Action::Status(changed)) = plan.actions.last() else { panic!("{plan:?}") };
        let progress =
            status::condition(changed.status.as_ref().expect("a status"), PROGRESSING).expect("a condition").clone();
        (progress.status, progress.reason.unwrap_or_default(), plan.again.map(|d| d.as_secs()))
    };
    let text = |a: &str, b: &str, c| (a.to_owned(), b.to_owned(), c);
    assert_eq!(
        [judged("2024-01-01T00:58:00Z"), judged("2024-01-01T00:49:00Z")],
        [text("True", "ReplicaSetUpdated", Some(481)), text("False", "ProgressDeadlineExceeded", None)]
    );
}

#[test]
fn a_paused_deployment_makes_no_new_set() {
    let mut paused = (*deployment(2, "v2", rolling(json!(1), json!(0)), json!({}))).clone();
    paused.spec.get_or_insert_default().paused = Some(true);
    let plan = decide(&observed(Arc::new(paused), vec![set("v1", 1, 1, 1, (1, 2))]));
    let Some(Action::Status(changed)) = plan.actions.last() else { panic!("{plan:?}") };
    let progress = status::condition(changed.status.as_ref().expect("a status"), PROGRESSING).expect("a condition").clone();
    assert_eq!((moves(&plan), progress.reason.as_deref()), (vec!["v1 = 2".to_owned()], Some("DeploymentPaused")));
}

/// A ReplicaSet's pods, as its controller and kubelets treat them.
#[derive(Clone, Debug)]
struct Pods {
    image: String,
    revision: i64,
    size: i32,
    actual: i32,
    available: i32,
}

impl Pods {
    fn set(&self, limits: (i32, i32)) -> Arc<ReplicaSet> {
        let mut set = (*set(&self.image, self.revision, self.size, self.available, limits)).clone();
        set.status.get_or_insert_default().replicas = self.actual;
        Arc::new(set)
    }

    /// The ReplicaSet controller: creates, or deletes pods that are not available first.
    fn follow(&mut self) {
        if self.actual > self.size {
            let idle = self.actual - self.available;
            self.available -= (self.actual - self.size - idle).max(0);
        }
        self.actual = self.size;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Decide,
    Follow(usize),
    Ready(usize),
    Fail(usize),
    Image(u8),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        4 => Just(Step::Decide),
        4 => (0..4usize).prop_map(Step::Follow),
        6 => (0..4usize).prop_map(Step::Ready),
        1 => (0..4usize).prop_map(Step::Fail),
        1 => (0..4u8).prop_map(Step::Image),
    ]
}

/// Decides once and applies it; says whether anything moved.
fn advance(world: &mut Vec<Pods>, image: &str, replicas: i32, limits: (i32, i32)) -> bool {
    let d = deployment(replicas, image, rolling(json!(limits.0), json!(limits.1)), json!({}));
    let plan = decide(&observed(d, world.iter().map(|p| p.set((replicas, replicas + limits.0))).collect()));
    let mut moved = false;
    for action in plan.actions {
        match action {
            Action::Create(set) => {
                let revision = revision::revision(&set.metadata);
                world.push(Pods { image: image.to_owned(), revision, size: size::of_set(&set), actual: 0, available: 0 });
                moved = true;
            }
            Action::Replace(set, _) => {
                let pods = world.iter_mut().find(|p| Some(&p.image) == set.metadata.name.as_ref()).expect("a known set");
                moved |= pods.size != size::of_set(&set);
                (pods.size, pods.revision) = (size::of_set(&set), revision::revision(&set.metadata));
            }
            _ => {}
        }
    }
    moved
}

proptest::proptest! {
    /// Whatever happens in whatever order: never more pods than the surge allows, the controller itself never takes more from service than
    /// may be unavailable, and in the end only the newest template is served.
    #[test]
    fn rollouts_keep_between_their_fences(
        replicas in 1..8i32, surge in 0..4i32, unavailable in 0..4i32, steps in proptest::collection::vec(step(), 0..80)
    ) {
        let limits = (surge, if surge == 0 { unavailable.max(1) } else { unavailable });
        let minimum = replicas - limits.1.min(replicas);
        let mut image = "v0".to_owned();
        let mut world = vec![Pods { image: image.clone(), revision: 1, size: replicas, actual: replicas, available: replicas }];
        for step in steps {
            let serving = |world: &[Pods]| world.iter().map(|p| p.available.min(p.size)).sum::<i32>();
            let before = serving(&world);
            match step {
                Step::Decide => drop(advance(&mut world, &image, replicas, limits)),
                Step::Follow(n) => if let Some(pods) = world.get_mut(n) { pods.follow() },
                Step::Ready(n) => if let Some(pods) = world.get_mut(n) { pods.available = (pods.available + 1).min(pods.actual) },
                Step::Fail(n) => if let Some(pods) = world.get_mut(n) { pods.available = (pods.available - 1).max(0) },
                Step::Image(n) => image = format!("v{n}"),
            }
            let total: i32 = world.iter().map(|p| p.size).sum();
            proptest::prop_assert!(total <= replicas + limits.0, "{total} pods: {world:?}");
            if matches!(step, Step::Decide) {
                let after = serving(&world);
                proptest::prop_assert!(after >= minimum.min(before), "{before} -> {after} serving: {world:?}");
            }
        }
        for _ in 0..200 {
            let moved = advance(&mut world, &image, replicas, limits);
            let settled = world.iter().all(|p| p.actual == p.size && p.available == p.actual);
            if !moved && settled {
                break;
            }
            world.iter_mut().for_each(|p| {
                p.follow();
                p.available = p.actual;
            });
        }
        let end: Vec<_> = world.iter().map(|p| (p.image == image, p.size)).filter(|(newest, size)| *newest || *size > 0).collect();
        proptest::prop_assert_eq!(end, vec![(true, replicas)]);
    }
}
