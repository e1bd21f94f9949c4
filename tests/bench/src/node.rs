//! A whole node: idle, pods one at a time and many at once, a Deployment up and down.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    cluster::Cluster,
    http::{Connection, Target},
    measure::{Samples, report, rounded, with},
    objects::{self, PODS},
};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not running yet.
    Pending,
    /// Its phase is Running.
    Running,
    /// Its Ready condition is True.
    Ready,
    /// Deleted.
    Gone,
}

fn state(event: &Value) -> State {
    let status = &event["object"]["status"];
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    if event["type"] == "DELETED" {
        State::Gone
    } else if status["conditions"].as_array().is_some_and(|all| all.iter().any(ready)) {
        State::Ready
    } else if status["phase"] == "Running" {
        State::Running
    } else {
        State::Pending
    }
}

/// The default namespace's pods as a watch tells of them.
pub struct Pods {
    target: Target,
    connection: Connection,
    news: mpsc::UnboundedReceiver<(String, State)>,
    known: HashMap<String, State>,
}

impl Pods {
    /// Starts to watch.
    pub async fn watch(target: &Target) -> Result<Self> {
        let mut watch = target.watch(&format!("{PODS}?watch=1")).await?;
        let (tell, news) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(event) = watch.event().await {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if tell.send((name, state(&event))).is_err() {
                    return;
                }
            }
        });
        Ok(Self { target: target.clone(), connection: target.connect().await?, news, known: HashMap::new() })
    }

    /// Creates a pod.
    pub async fn create(&mut self, name: &str) -> Result<()> {
        self.connection.json("POST", PODS, &objects::pod(name)).await.map(drop)
    }

    /// Waits until a pod has come at least so far.
    pub async fn until(&mut self, name: &str, at_least: State) -> Result<()> {
        self.wait(|known| known.get(name).is_some_and(|s| *s >= at_least)).await.with_context(|| format!("pod {name}"))
    }

    /// Waits until so many pods are in a state, and none of the others is wanted.
    pub async fn until_count(&mut self, count: usize, is: State) -> Result<()> {
        self.wait(|known| known.values().filter(|s| **s == is).count() == count).await
    }

    /// Waits until no pod is left.
    pub async fn until_empty(&mut self) -> Result<()> {
        self.wait(|known| known.values().all(|s| *s == State::Gone)).await?;
        self.known.clear();
        Ok(())
    }

    async fn wait(&mut self, satisfied: impl Fn(&HashMap<String, State>) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !satisfied(&self.known) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.news.recv()).await {
                Ok(Some((name, state))) => drop(self.known.insert(name, state)),
                Ok(None) => bail!("the watch ended"),
                Err(_) => bail!("it did not come to be within {} s: {:?}", PATIENCE.as_secs(), self.known),
            }
        }
        Ok(())
    }

    /// Deletes all pods and waits until they are gone.
    pub async fn clear(&mut self) -> Result<()> {
        // The server closes connections that were idle for long.
        self.connection = self.target.connect().await?;
        self.connection.json("DELETE", PODS, &Value::Null).await?;
        self.until_empty().await
    }
}

/// Pods can be created once the namespace has its service account.
pub async fn wait_for_account(target: &Target) -> Result<()> {
    let mut connection = target.connect().await?;
    let deadline = Instant::now() + PATIENCE;
    while connection.send("GET", "/api/v1/namespaces/default/serviceaccounts/default", "", b"").await?.0 != 200 {
        if Instant::now() > deadline {
            bail!("the default service account does not come");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn quiet(cluster: &Cluster, metric: &str) {
    const SETTLE: Duration = Duration::from_secs(10);
    const SPAN: Duration = Duration::from_secs(30);
    tokio::time::sleep(SETTLE).await;
    let subject = cluster.subject();
    let (began, before) = (Instant::now(), subject.cpu());
    tokio::time::sleep(SPAN).await;
    let share = (subject.cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let memory = subject.memory();
    let over = json!({"settled_s": SETTLE.as_secs(), "span_s": SPAN.as_secs()});
    report("idle", &format!("{metric}: PSS"), memory.pss, "MiB", memory.told());
    report("idle", &format!("{metric}: CPU"), share, "% of a core", over);
}

/// Idle without pods, then with twenty.
pub async fn idle(cluster: &Cluster) -> Result<()> {
    let target = cluster.target()?;
    wait_for_account(&target).await?;
    quiet(cluster, "no pods").await;
    let mut pods = Pods::watch(&target).await?;
    for n in 0..20 {
        pods.create(&format!("idle-{n}")).await?;
    }
    pods.until_count(20, State::Ready).await?;
    quiet(cluster, "20 pods").await;
    pods.clear().await
}

/// Sixty pods one at a time, then thirty at once.
pub async fn pods(cluster: &Cluster) -> Result<()> {
    const SINGLE: usize = 60;
    const BURST: usize = 30;
    let target = cluster.target()?;
    wait_for_account(&target).await?;
    let mut pods = Pods::watch(&target).await?;
    // The first pod finds caches cold.
    pods.create("warm-up").await?;
    pods.until("warm-up", State::Ready).await?;
    let before = target.subject.cpu();
    let mut took = Vec::new();
    for n in 0..SINGLE {
        let name = format!("one-{n}");
        let began = Instant::now();
        pods.create(&name).await?;
        pods.until(&name, State::Running).await?;
        took.push(began.elapsed());
    }
    let cpu = (target.subject.cpu() - before).as_secs_f64() * 1e3 / SINGLE as f64;
    let samples = Samples::ms(took);
    report("pods", "created to Running, p50", samples.at(0.5), "ms", samples.told());
    report("pods", "created to Running, CPU a pod", cpu, "ms", json!({"pods": SINGLE}));
    let began = Instant::now();
    pods.clear().await?;
    let cleared = began.elapsed();

    let (before, began) = (target.subject.cpu(), Instant::now());
    for n in 0..BURST {
        pods.create(&format!("many-{n}")).await?;
    }
    let created = began.elapsed();
    pods.until_count(BURST, State::Ready).await?;
    let all = began.elapsed();
    let cpu = (target.subject.cpu() - before).as_secs_f64() * 1e3 / BURST as f64;
    let why = json!({
        "pods": BURST, "creating_s": rounded(created.as_secs_f64()),
        "61_deleted_s": rounded(cleared.as_secs_f64()),
    });
    report("pods", "30 at once, all Ready", all.as_secs_f64(), "s", why);
    report("pods", "30 at once, CPU a pod", cpu, "ms", json!({"pods": BURST}));
    pods.clear().await
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A Deployment to fifty replicas and back.
pub async fn deployment(cluster: &Cluster) -> Result<()> {
    const REPLICAS: usize = 50;
    let target = cluster.target()?;
    wait_for_account(&target).await?;
    let mut pods = Pods::watch(&target).await?;
    let labels = json!({"app": "bench"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": objects::pod_spec()},
        },
    });
    let mut connection = target.connect().await?;
    connection.json("POST", DEPLOYMENTS, &deployment).await?;
    let path = format!("{DEPLOYMENTS}/bench");
    for (metric, replicas) in [("0 to 50 Ready", REPLICAS), ("50 to 0 gone", 0)] {
        let (began, before) = (Instant::now(), target.subject.cpu());
        connection.json("PATCH", &path, &json!({"spec": {"replicas": replicas}})).await?;
        match replicas {
            0 => pods.until_empty().await?,
            _ => pods.until_count(replicas, State::Ready).await?,
        }
        let took = began.elapsed();
        let cpu = (target.subject.cpu() - before).as_secs_f64() * 1e3 / REPLICAS as f64;
        let why = with(json!({"pods": REPLICAS}), json!({"cpu_ms_a_pod": rounded(cpu)}));
        report("deploy", metric, took.as_secs_f64(), "s", why);
    }
    connection.json("DELETE", &path, &Value::Null).await.map(drop)
}
