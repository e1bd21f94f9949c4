//! Machines that are lost, cut off and back: what must survive does, what must go goes, and nothing is left behind.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use harness::{Cluster, Signal, eventually, signal, succeeded};
use serde_json::Value;

use crate::life::with_example;

const SECONDS_30: Duration = Duration::from_secs(30);
const SECONDS_90: Duration = Duration::from_secs(90);

/// Eight replicas that leave a lost node soon, and a NodePort before them.
const SPREAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: spread}
spec:
  replicas: 8
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: spread}}}
      containers:
      - name: web
        image: localhost/hello:1
        imagePullPolicy: Never
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: spread}
spec: {type: NodePort, selector: {app: spread}, ports: [{port: 80, targetPort: http, nodePort: 30081}]}
"#;

fn answers(cluster: &Cluster, node: usize) -> Result<bool> {
    Ok(cluster.fetch("outside", &format!("http://{}:30080/", cluster.address(node)?)).is_ok())
}

fn answers_again(cluster: &Cluster, node: usize) -> Result<()> {
    eventually("be answered by the node again", SECONDS_30, || Ok(answers(cluster, node)?.then_some(())))
}

fn get(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.kubectl(&[&["get", "-o", "json"], arguments].concat())?)?)
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// The process of a node, which runs all of its components.
fn process(cluster: &Cluster, n: usize) -> Result<i64> {
    cluster.status()?["nodes"][n - 1]["pids"]["kubelet"].as_i64().context("find the node's process")
}

fn kill(pid: i64) -> Result<()> {
    signal(pid, Signal::SIGKILL)
}

#[test]
fn a_node_is_stopped_or_cut_off_and_comes_back() -> Result<()> {
    let cluster = with_example(&["--nodes", "2"])?;
    let second = format!("{}-2", cluster.name);
    let uids = || cluster.kubectl(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.uid} {end}"]);
    let before = uids()?;
    answers_again(&cluster, 2)?;

    cluster.knarr(&["node", "partition", &second])?;
    assert!(!answers(&cluster, 2)?);
    cluster.knarr(&["node", "start", &second])?;
    answers_again(&cluster, 2)?;

    cluster.knarr(&["node", "stop", &second])?;
    let status = cluster.status()?["nodes"][1]["pids"].clone();
    assert_eq!((status, answers(&cluster, 2)?), (serde_json::json!({}), false));
    cluster.knarr(&["node", "start", &second])?;
    answers_again(&cluster, 2)?;

    // It was away for less than the grace period: its pods are the same, in new containers, and no address is kept twice.
    assert_eq!(uids()?, before);
    let has = |n| possessions(&cluster, n).map(|has| (has.addresses, has.links));
    eventually("see every pod with one address", SECONDS_30, || {
        let wanted = wanted(&get(&cluster, &["pods"])?, &second);
        Ok((has(2)? == (wanted.addresses, wanted.links)).then_some(()))
    })?;
    let wanted = [format!("{}-1=0", cluster.name), format!("{second}=1")];
    eventually("see that one container was started again", SECONDS_30, || {
        let restarts = cluster.kubectl(&[
            "get",
            "pods",
            "-o",
            "jsonpath={range .items[*]}{.spec.nodeName}={.status.containerStatuses[0].restartCount} {end}",
        ])?;
        let mut restarts: Vec<&str> = restarts.split_whitespace().collect();
        restarts.sort_unstable();
        if restarts == wanted { Ok(Some(())) } else { bail!("it is {restarts:?}") }
    })?;
    let unknown = cluster.knarr(&["node", "stop", &format!("{}-9", cluster.name)]).unwrap_err().to_string();
    assert!(unknown.contains("there is no node"), "{unknown}");
    Ok(())
}

/// What a node has of pods: sandboxes, addresses, the kubelet's folders, links.
#[derive(Debug, PartialEq, Eq)]
struct Possessions {
    sandboxes: usize,
    addresses: BTreeSet<String>,
    pods: BTreeSet<String>,
    links: usize,
}

fn possessions(cluster: &Cluster, n: usize) -> Result<Possessions> {
    let node = format!("{}-{n}", cluster.name);
    let folder = PathBuf::from("/var/lib/knarr").join(&cluster.name).join(&node);
    let names = |below: &str| -> Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(folder.join(below)).with_context(|| format!("read {below} of {node}"))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    let inside = format!("--net=/run/netns/{node}");
    let links = succeeded(Command::new("nsenter").args([&inside, "ip", "-o", "link", "show", "type", "veth"]))?;
    Ok(Possessions {
        sandboxes: names("runtime/sandboxes")?.len(),
        addresses: names("runtime/network/addresses")?,
        pods: names("kubelet/pods")?,
        links: links.lines().filter(|line| !line.contains(" eth0@")).count(),
    })
}

/// The same, as the API has it. Every pod of these tests has an address of its own.
fn wanted(pods: &Value, node: &str) -> Possessions {
    let here: Vec<&Value> = items(pods).iter().filter(|pod| text(pod, "/spec/nodeName") == node).collect();
    let all = |path: &str| here.iter().map(|pod| text(pod, path).to_owned()).collect::<BTreeSet<_>>();
    Possessions { sandboxes: here.len(), addresses: all("/status/podIP"), pods: all("/metadata/uid"), links: here.len() }
}

/// A link cut, an agent killed and a machine killed, at the same time: they fail in the same way, and come back differently. Each is a
/// zone of its own: of nodes in one zone so many would not be given up at once.
#[test]
fn lost_nodes_are_drained_replaced_and_come_back_clean() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "4", "--node-monitor-grace-period", "6s"])?;
    cluster.load_example_image()?;
    let name = |n: usize| format!("{}-{n}", cluster.name);
    for n in 1..=4 {
        cluster.kubectl(&["label", "node", &name(n), &format!("topology.kubernetes.io/zone=zone-{n}")])?;
    }
    cluster.apply(SPREAD)?;
    cluster.kubectl(&["rollout", "status", "deployment/spread", "--timeout=120s"])?;
    let pods = || get(&cluster, &["pods"]);
    let before = pods()?;
    let holders: BTreeSet<&str> = items(&before).iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    assert_eq!(holders.len(), 4, "pods are spread over all nodes");

    cluster.knarr(&["node", "partition", &name(2)])?;
    kill(process(&cluster, 3)?)?;
    cluster.knarr(&["node", "stop", &name(4)])?;
    eventually("see the nodes lost", SECONDS_90, || {
        let nodes = get(&cluster, &["nodes"])?;
        let lost = items(&nodes).iter().filter(|node| {
            let taints = node.pointer("/spec/taints").and_then(Value::as_array).map_or(0, |all| {
                let unreachable = |t: &&Value| t["key"] == "node.kubernetes.io/unreachable";
                all.iter().filter(unreachable).count()
            });
            !is_ready(node) && taints == 2
        });
        let first = items(&nodes).iter().any(|node| text(node, "/metadata/name") == name(1) && is_ready(node));
        Ok((lost.count() == 3 && first).then_some(()))
    })?;
    // Dead endpoints are out of the service at once, before any pod is replaced elsewhere.
    eventually("see the dead endpoints drained", SECONDS_30, || {
        let slices = get(&cluster, &["endpointslices", "-l", "kubernetes.io/service-name=spread"])?;
        let endpoints = items(&slices).iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
        let dead = |e: &&Value| e["conditions"]["ready"] == true && text(e, "/nodeName") != name(1);
        Ok((endpoints.filter(dead).count() == 0).then_some(()))
    })?;
    // They are replaced on the node that is left, and it alone answers.
    eventually("see all replicas on the node that is left", SECONDS_90, || {
        let pods = pods()?;
        let living = items(&pods).iter().filter(|p| p.pointer("/metadata/deletionTimestamp").is_none() && is_ready(p));
        let here: Vec<&str> = living.map(|pod| text(pod, "/spec/nodeName")).collect();
        Ok((here == vec![name(1); 8]).then_some(()))
    })?;
    let address = cluster.address(1)?;
    let url = format!("http://{address}:30081/");
    eventually("have the rules follow", SECONDS_30, || {
        let all = (0..20).all(|_| cluster.fetch("outside", &url).is_ok());
        Ok(all.then_some(()))
    })?;

    // Back: all pods that were given up are gone, their addresses and links with them, and nothing is there twice.
    for n in 2..=4 {
        cluster.knarr(&["node", "start", &name(n)])?;
    }
    let after = eventually("see the nodes back and clean", SECONDS_90, || {
        let (nodes, pods) = (get(&cluster, &["nodes"])?, pods()?);
        let settled = items(&nodes).iter().all(is_ready) && items(&pods).len() == 8 && items(&pods).iter().all(is_ready);
        Ok(settled.then_some(pods))
    })?;
    for n in 1..=4 {
        let want = wanted(&after, &name(n));
        eventually(&format!("see {} hold {want:?}", name(n)), SECONDS_90, || {
            let have = possessions(&cluster, n)?;
            if have == want { Ok(Some(())) } else { bail!("it holds {have:?}") }
        })?;
    }
    Ok(())
}

/// Asks again and again; how often it was answered, and how often not.
struct Asking {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Asking {
    fn start(cluster: &Cluster, url: String) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
        let (until, count) = (stop.clone(), counts.clone());
        let namespace = format!("--net=/run/netns/{}-outside", cluster.name);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let asked = Command::new("nsenter")
                    .args([&namespace, "timeout", "20", "busybox", "wget", "-q", "-O", "-", &url])
                    .output();
                let answered = asked.is_ok_and(|output| output.status.success());
                count[usize::from(!answered)].fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, counts, thread: Some(thread) }
    }

    fn answered(&self) -> usize {
        self.counts[0].load(Ordering::Relaxed)
    }

    /// Waits until it was answered so many times more.
    fn more(&self, answers: usize) -> Result<()> {
        let enough = self.answered() + answers;
        eventually("go on being answered", SECONDS_90, || Ok((self.answered() >= enough).then_some(())))
    }

    fn failures(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
        self.counts[1].load(Ordering::Relaxed)
    }
}

/// Containers with all that a restart would change.
fn containers(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let pods = get(cluster, &["pods", "-A"])?;
    let statuses = items(&pods).iter().flat_map(|pod| {
        let all = pod.pointer("/status/containerStatuses").and_then(Value::as_array).into_iter().flatten();
        all.map(move |c| {
            let started = text(c, "/state/running/startedAt");
            let (id, ip) = (text(c, "/containerID"), text(pod, "/status/podIP"));
            format!(
                "{} {} {id} {} {started} {ip}",
                text(pod, "/metadata/uid"),
                text(pod, "/spec/nodeName"),
                c["restartCount"]
            )
        })
    });
    Ok(statuses.collect())
}

/// A pod on the node that will be killed, with a volume in memory that has to be renewed.
const INITIATE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: initiate}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 1
  containers:
  - {name: reads, image: "localhost/hello:1", imagePullPolicy: Never, volumeMounts: [{name: secret, mountPath: /secret}]}
  volumes: [{name: secret, secret: {secretName: secret}}]
"#;

/// The control plane's process is killed and comes back later: pods, services and open connections never notice, and volumes go on
/// being renewed.
#[test]
fn without_a_control_plane_everything_serves_and_nothing_restarts_when_it_is_back() -> Result<()> {
    let cluster = with_example(&["--nodes", "2"])?;
    cluster.kubectl(&["create", "secret", "generic", "secret", "--from-literal=word=old"])?;
    cluster.apply(&INITIATE.replace("NODE", &format!("{}-1", cluster.name)))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/initiate", "--timeout=30s"])?;
    let before = containers(&cluster)?;
    let second = cluster.address(2)?;
    answers_again(&cluster, 2)?;
    let asking = Asking::start(&cluster, format!("http://{second}:30080/"));
    // A connection that stays open all the time.
    let to: SocketAddr = format!("{second}:30080").parse()?;
    let outside = net::netns::named(&format!("{}-outside", cluster.name));
    let mut open = net::netns::within(&outside, move || Ok(TcpStream::connect(to)))??;
    open.write_all(b"GET / HTTP/1.0\r\n")?;

    kill(process(&cluster, 1)?)?;
    let down = Instant::now();
    asking.more(20)?;
    assert!(cluster.kubectl(&["get", "pods", "--request-timeout=2s"]).is_err(), "the API server is gone");
    let away = down.elapsed();
    cluster.start(&[])?;
    // Both nodes have told of themselves again since.
    let renewed = || -> Result<Vec<String>> {
        let leases = get(&cluster, &["leases", "-n", "kube-node-lease"])?;
        Ok(items(&leases).iter().map(|lease| text(lease, "/spec/renewTime").to_owned()).collect())
    };
    let then = renewed()?;
    eventually("hear of both nodes again", SECONDS_90, || {
        let now = renewed()?;
        Ok((now.len() == 2 && now.iter().zip(&then).all(|(now, then)| now > then)).then_some(()))
    })?;
    asking.more(20)?;
    open.write_all(b"\r\n")?;
    let mut page = String::new();
    open.read_to_string(&mut page)?;
    assert!(page.contains("Hello from hello-"), "{page}");
    assert_eq!((containers(&cluster)?, asking.failures()), (before, 0), "away for {away:?}");
    cluster.kubectl(&["patch", "secret", "secret", "-p", r#"{"stringData": {"word": "new"}}"#])?;
    eventually("see the secret renewed in the pod", SECONDS_30, || {
        let word = cluster.kubectl(&["exec", "initiate", "--", "cat", "/secret/word"])?;
        Ok((word.trim() == "new").then_some(()))
    })?;
    Ok(())
}

/// A writer's acknowledged writes: keys of its own, and the values to which it raised the common counter.
#[derive(Default)]
struct Written {
    own: Vec<String>,
    raised: Vec<u64>,
}

fn write(cluster: &Cluster, n: usize, stop: &AtomicBool, acknowledged: &AtomicUsize) -> Result<Written> {
    let mut written = Written::default();
    let kubectl = |arguments: &[&str], input: &str| -> Result<Option<String>> {
        let mut command = cluster.kubectl_command()?;
        let command = command.args(["--request-timeout=10s"]).args(arguments).stdin(Stdio::piped());
        let mut running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        running.stdin.take().context("write to kubectl")?.write_all(input.as_bytes())?;
        let output = running.wait_with_output()?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("own-{n}-{step}");
        if kubectl(&["create", "configmap", &name], "")?.is_some() {
            acknowledged.fetch_add(1, Ordering::Relaxed);
            written.own.push(name);
        }
        let Some(found) = kubectl(&["get", "configmap", "counter", "-o", "json"], "")? else { continue };
        let mut counter: Value = serde_json::from_str(&found)?;
        let next = text(&counter, "/data/n").parse::<u64>()? + 1;
        counter["data"]["n"] = next.to_string().into();
        if kubectl(&["replace", "-f", "-"], &counter.to_string())?.is_some() {
            acknowledged.fetch_add(1, Ordering::Relaxed);
            written.raised.push(next);
        }
    }
    Ok(written)
}

/// Lets three writers write while `story` goes on, which is handed what waits until all of them were acknowledged again; nothing
/// acknowledged is lost afterwards.
fn nothing_acknowledged_is_lost(cluster: &Cluster, story: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>) -> Result<()> {
    cluster.kubectl(&["create", "configmap", "counter", "--from-literal=n=0"])?;
    let stop = AtomicBool::new(false);
    let acknowledged: [AtomicUsize; 3] = Default::default();
    let written: Result<Vec<Written>> = std::thread::scope(|scope| {
        let stop = &stop;
        let start = |(n, count)| scope.spawn(move || write(cluster, n, stop, count));
        let writers: Vec<_> = acknowledged.iter().enumerate().map(start).collect();
        let told = story(&|| {
            let enough: Vec<usize> = acknowledged.iter().map(|n| n.load(Ordering::Relaxed) + 6).collect();
            eventually("see every writer go on", SECONDS_90, || {
                let all = acknowledged.iter().zip(&enough).all(|(now, enough)| now.load(Ordering::Relaxed) >= *enough);
                Ok(all.then_some(()))
            })
        });
        stop.store(true, Ordering::Relaxed);
        let written = writers.into_iter().map(|w| w.join().unwrap_or_else(|_| bail!("a writer panicked"))).collect();
        told.and(written)
    });
    let written = written?;
    let list = get(cluster, &["configmaps"])?;
    let there: BTreeSet<&str> = items(&list).iter().map(|map| text(map, "/metadata/name")).collect();
    let lost: Vec<&String> = written.iter().flat_map(|w| &w.own).filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    // Nobody raised the counter to where another already had it, and none of it is forgotten.
    let mut raised: Vec<u64> = written.iter().flat_map(|w| w.raised.iter().copied()).collect();
    raised.sort_unstable();
    assert!(raised.is_sorted_by(|a, b| a < b), "raised twice: {raised:?}");
    let counter = items(&list).iter().find(|map| text(map, "/metadata/name") == "counter").context("find the counter")?;
    let value: u64 = text(counter, "/data/n").parse()?;
    assert!(raised.last().is_some_and(|last| value >= *last), "{value}, acknowledged up to {:?}", raised.last());
    Ok(())
}

/// Of three servers, each with a member of etcd, one machine goes, another is cut off, then an API server goes: the cluster goes on.
#[test]
fn one_of_three_servers_may_go_and_nothing_acknowledged_is_lost() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "3", "--servers", "3", "--store", "etcd"])?;
    nothing_acknowledged_is_lost(&cluster, |go_on| {
        let (second, third) = (format!("{}-2", cluster.name), format!("{}-3", cluster.name));
        go_on()?;
        cluster.knarr(&["node", "stop", &second])?;
        go_on()?;
        cluster.knarr(&["node", "start", &second])?;
        go_on()?;
        cluster.knarr(&["node", "partition", &third])?;
        go_on()?;
        cluster.knarr(&["node", "start", &third])?;
        go_on()?;
        kill(process(&cluster, 1)?)?;
        go_on()?;
        cluster.start(&[])?;
        go_on()
    })
}

/// Of two servers that share an etcd either may go.
#[test]
fn one_of_two_servers_may_go_and_nothing_acknowledged_is_lost() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "2", "--servers", "2", "--store", "etcd"])?;
    nothing_acknowledged_is_lost(&cluster, |go_on| {
        for n in [1, 2] {
            go_on()?;
            kill(process(&cluster, n)?)?;
            go_on()?;
            cluster.start(&[])?;
        }
        go_on()
    })
}
