//! Services: how soon a change is answered by the new endpoint, a thousand made and deleted, five thousand programmed from
//! nothing; and what idle nodes cost.
//!
//! Endpoints are real pods, into whose network namespaces this program puts a listener that says which pod it is: what
//! answers costs next to nothing. Whether a service answers is tried from inside a node, whose own connections pass the same
//! rules as its pods'.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use net::iptables::Iptables;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{
    cluster::Cluster,
    http::Target,
    measure::{Samples, Subject, report, rounded, with},
    objects,
};

/// Where the listeners are.
const PORT: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections that create.
const CREATORS: usize = 8;
const NAME: &str = "bench-services";

/// Pods that answer, by address: what each says.
type Pods = BTreeMap<Ipv4Addr, u8>;

/// Measures.
pub async fn run() -> Result<()> {
    let cluster = Cluster::named(NAME)?;
    cluster.knarr(&["up", "--name", NAME, "--nodes", "2"])?;
    cluster.knarr(&["node", "stop", &format!("{NAME}-2")])?;
    cluster.load_image_into(&format!("{NAME}-1"))?;
    let bench = Bench { target: cluster.target()?, cluster: &cluster, seen: BTreeSet::new(), pods: Pods::new() };
    bench.run().await
}

struct Bench<'a> {
    cluster: &'a Cluster,
    target: Target,
    /// Network namespaces that have a listener.
    seen: BTreeSet<u64>,
    pods: Pods,
}

impl Bench<'_> {
    async fn run(mut self) -> Result<()> {
        self.namespace("bench-0").await?;
        self.thousand("bench-0", true).await?;
        self.changes().await?;
        self.delete("bench-0").await?;
        let mut all = Vec::new();
        for n in 1..=5 {
            let namespace = format!("bench-{n}");
            self.namespace(&namespace).await?;
            all.extend(self.thousand(&namespace, false).await?);
        }
        from_nothing(self.cluster, all).await
    }

    /// A namespace with two pods that answer.
    async fn namespace(&mut self, name: &str) -> Result<()> {
        let mut connection = self.target.connect().await?;
        connection.json("POST", "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
        let path = format!("/api/v1/namespaces/{name}");
        until("the namespace's service account", async || {
            let mut connection = self.target.connect().await?;
            Ok(connection.send("GET", &format!("{path}/serviceaccounts/default"), "", b"").await?.0 == 200)
        })
        .await?;
        for n in 0..2 {
            let mut pod = objects::pod(&format!("answers-{n}"));
            pod["spec"]["nodeName"] = json!(format!("{NAME}-1"));
            connection.json("POST", &format!("{path}/pods"), &pod).await?;
        }
        until("the namespace's pods", async || {
            let mut connection = self.target.connect().await?;
            let pods = connection.json("GET", &format!("{path}/pods"), &Value::Null).await?;
            let ready = |pod: &Value| pod["status"]["phase"] == "Running";
            Ok(pods["items"].as_array().is_some_and(|all| all.iter().all(ready)))
        })
        .await?;
        self.listen()
    }

    /// Puts a listener into every pod that has none.
    fn listen(&mut self) -> Result<()> {
        for (inode, path) in self.cluster.pod_namespaces(1)? {
            if !self.seen.insert(inode) {
                continue;
            }
            let says = self.pods.len() as u8;
            let (address, listener) = net::netns::within(&path, || {
                let bound = || {
                    let probe = UdpSocket::bind("0.0.0.0:0")?;
                    probe.connect("10.43.0.1:9")?;
                    Ok::<_, std::io::Error>((probe.local_addr()?, TcpListener::bind(("0.0.0.0", PORT))?))
                };
                Ok(bound())
            })??;
            let SocketAddr::V4(address) = address else { bail!("{address} is no IPv4 address") };
            self.pods.insert(*address.ip(), says);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = (&stream).write_all(&[says]);
                }
            });
        }
        Ok(())
    }

    /// A thousand services that select the namespace's pods; tells how long after the last create all of them answer.
    async fn thousand(&self, namespace: &str, told: bool) -> Result<Vec<SocketAddr>> {
        const COUNT: usize = 1000;
        let (before, began) = (self.target.subject.cpu(), Instant::now());
        let creators = (0..CREATORS).map(|creator| {
            let (target, path) = (self.target.clone(), format!("/api/v1/namespaces/{namespace}/services"));
            tokio::spawn(async move {
                let mut connection = target.connect().await?;
                let mut addresses = Vec::new();
                for n in (creator..COUNT).step_by(CREATORS) {
                    let service = service(&format!("s-{n}"), &json!({"app": "bench"}));
                    let made = connection.json("POST", &path, &service).await?;
                    addresses.push(cluster_ip(&made)?);
                }
                Ok::<_, anyhow::Error>(addresses)
            })
        });
        let mut addresses = Vec::new();
        for creator in creators.collect::<Vec<_>>() {
            addresses.extend(creator.await??);
        }
        let created = Instant::now();
        let waiting = addresses.clone();
        let answered = spawn_blocking(move || all_answer(1, waiting)).await??;
        if told {
            let cpu = (self.target.subject.cpu() - before).as_secs_f64() * 1e3 / COUNT as f64;
            let why = json!({
                "services": COUNT, "endpoints_each": 2, "creating_s": rounded((created - began).as_secs_f64()),
                "cpu_ms_each": rounded(cpu),
                "explained": "from the last create's answer until a connection to each was accepted by a pod",
            });
            report("services", "1,000 created, all answer", (answered - created).as_secs_f64(), "s", why);
        }
        Ok(addresses)
    }

    /// A service's one endpoint changes back and forth between two pods.
    async fn changes(&self) -> Result<()> {
        let mut connection = self.target.connect().await?;
        let path = "/api/v1/namespaces/bench-0/services";
        let address = cluster_ip(&connection.json("POST", path, &service("changing", &Value::Null)).await?)?;
        let slices = "/apis/discovery.k8s.io/v1/namespaces/bench-0/endpointslices";
        let turns: Vec<(&Ipv4Addr, u8)> = self.pods.iter().map(|(ip, says)| (ip, *says)).collect();
        let slice = json!({
            "metadata": {"name": "changing", "labels": {"kubernetes.io/service-name": "changing"}},
            "addressType": "IPv4", "endpoints": endpoint(turns[0].0),
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        });
        connection.json("POST", slices, &slice).await?;
        spawn_blocking(move || all_answer(1, vec![address])).await??;
        let (took, cpu) = self.moved(&turns, address, &self.target.subject).await?;
        let samples = Samples::ms(took);
        let why = json!({
            "services": 1001,
            "explained": "from sending the change until the service's address is answered by the new endpoint",
        });
        report("services", "endpoint changed, p50", samples.at(0.5), "ms", with(why, samples.told()));
        let why = json!({"explained": "of the whole cluster of one node: API server, proxy, iptables-restore"});
        report("services", "endpoint changed, CPU", cpu.as_secs_f64() * 1e3, "ms", why);
        // What a node has to do that only follows: most of it is its proxy's.
        let second = format!("{NAME}-2");
        self.cluster.knarr(&["node", "start", &second])?;
        spawn_blocking(move || all_answer(2, vec![address])).await??;
        let follower = Subject::Cluster(format!("{NAME}/{second}"));
        let (_, cpu) = self.moved(&turns, address, &follower).await?;
        let why = json!({"explained": "of a node that runs no pods: proxy, iptables-restore, DNS, informers, kubelet"});
        report("services", "endpoint changed, CPU of a second node", cpu.as_secs_f64() * 1e3, "ms", why);
        self.cluster.knarr(&["node", "stop", &second])?;
        self.names(&turns).await
    }

    /// Moves the endpoint fifty times: how long each took until the first node's rules had it, and the subject's processor time
    /// for one.
    async fn moved(
        &self,
        turns: &[(&Ipv4Addr, u8)],
        address: SocketAddr,
        subject: &Subject,
    ) -> Result<(Vec<Duration>, Duration)> {
        const CHANGES: u32 = 50;
        let mut connection = self.target.connect().await?;
        let path = "/apis/discovery.k8s.io/v1/namespaces/bench-0/endpointslices/changing";
        let (mut took, mut cpu) = (Vec::new(), Duration::ZERO);
        for (ip, says) in turns.iter().cycle().skip(1).take(CHANGES as usize) {
            // Whatever the last change has left to do is not this one's.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (body, says) = (json!({"endpoints": endpoint(ip)}), *says);
            let probing = spawn_blocking(move || answered_by(address, says));
            let (before, sent) = (subject.cpu(), Instant::now());
            connection.json("PATCH", path, &body).await?;
            took.push(probing.await?? - sent);
            tokio::time::sleep(Duration::from_millis(20)).await;
            cpu += subject.cpu() - before;
        }
        Ok((took, cpu / CHANGES))
    }

    /// The same with a headless service's name.
    async fn names(&self, turns: &[(&Ipv4Addr, u8)]) -> Result<()> {
        const CHANGES: usize = 50;
        let mut connection = self.target.connect().await?;
        let mut headless = service("named", &Value::Null);
        headless["spec"]["clusterIP"] = json!("None");
        connection.json("POST", "/api/v1/namespaces/bench-0/services", &headless).await?;
        let slices = "/apis/discovery.k8s.io/v1/namespaces/bench-0/endpointslices";
        let slice = |ip: &Ipv4Addr| {
            json!({
                "metadata": {"name": "named", "labels": {"kubernetes.io/service-name": "named"}}, "addressType": "IPv4",
                "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
                "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
            })
        };
        connection.json("POST", slices, &slice(turns[0].0)).await?;
        let mut took = Vec::new();
        for n in 1..=CHANGES {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let ip = *turns[n % turns.len()].0;
            let asking = spawn_blocking(move || named(ip));
            let sent = Instant::now();
            connection.json("PATCH", &format!("{slices}/named"), &json!({"endpoints": slice(&ip)["endpoints"]})).await?;
            took.push(asking.await?? - sent);
        }
        let samples = Samples::ms(took);
        let why = json!({
            "services": 1002, "explained": "from sending the change until the node's DNS answers with the new endpoint",
        });
        report("services", "endpoint changed, name answered, p50", samples.at(0.5), "ms", with(why, samples.told()));
        Ok(())
    }

    /// Deletes a namespace with all its services.
    async fn delete(&self, namespace: &str) -> Result<()> {
        let mut connection = self.target.connect().await?;
        let path = format!("/api/v1/namespaces/{namespace}");
        let (before, began) = (self.target.subject.cpu(), Instant::now());
        connection.json("DELETE", &path, &Value::Null).await?;
        while connection.send("GET", &path, "", b"").await?.0 != 404 {
            if began.elapsed() > PATIENCE {
                bail!("the namespace does not go");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let gone = began.elapsed();
        let within = namespace.to_owned();
        let silent = spawn_blocking(move || no_rules_of(&within)).await??;
        let cpu = self.target.subject.cpu() - before;
        let why = json!({
            "services": 1000, "rules_gone_s": rounded((silent - began).as_secs_f64()), "cpu_s": rounded(cpu.as_secs_f64()),
        });
        report("services", "namespace with 1,000 deleted", gone.as_secs_f64(), "s", why);
        Ok(())
    }
}

/// A node that starts with nothing programs all services.
async fn from_nothing(cluster: &Cluster, services: Vec<SocketAddr>) -> Result<()> {
    let second = format!("{NAME}-2");
    let count = services.len();
    let subject = Subject::Cluster(format!("{NAME}/{second}"));
    let began = Instant::now();
    let mut start = cluster.command(&["node", "start", &second])?.stderr(Stdio::null()).spawn()?;
    let answered = spawn_blocking(move || all_answer(2, services)).await??;
    let cpu = subject.cpu();
    start.wait()?;
    let why = json!({
        "services": count, "cpu_s": rounded(cpu.as_secs_f64()),
        "explained": "from `knarr node start` of a second node until every service answers there",
    });
    report("services", "5,000 programmed from nothing", (answered - began).as_secs_f64(), "s", why);
    Ok(())
}

/// What a second and a third node cost, idle.
pub async fn idle_nodes() -> Result<()> {
    const SETTLE: Duration = Duration::from_secs(10);
    const SPAN: Duration = Duration::from_secs(20);
    let cluster = Cluster::named("bench-idle")?;
    let mut figures = Vec::new();
    for nodes in ["1", "3"] {
        cluster.knarr(&["up", "--name", &cluster.name, "--nodes", nodes])?;
        tokio::time::sleep(SETTLE).await;
        let subject = cluster.subject();
        let (began, before) = (Instant::now(), subject.cpu());
        tokio::time::sleep(SPAN).await;
        let share = (subject.cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
        figures.push((share, subject.memory()));
    }
    let [(cpu_1, memory_1), (cpu_3, memory_3)] = &figures[..] else { bail!("two clusters were measured") };
    let explained = "what a cluster of three nodes has more than one of one node, halved";
    let why = json!({
        "one_node_mib": rounded(memory_1.pss), "three_nodes_mib": rounded(memory_3.pss), "explained": explained,
    });
    report("nodes", "idle node more: PSS", (memory_3.pss - memory_1.pss) / 2.0, "MiB", with(why, memory_3.told()));
    let why = json!({"one_node": rounded(*cpu_1), "three_nodes": rounded(*cpu_3), "explained": explained});
    report("nodes", "idle node more: CPU", (cpu_3 - cpu_1) / 2.0, "% of a core", why);
    Ok(())
}

/// As the endpoint controller would write it.
fn endpoint(ip: &Ipv4Addr) -> Value {
    json!([{"addresses": [ip.to_string()], "nodeName": format!("{NAME}-1"), "conditions": {"ready": true}}])
}

fn service(name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
    })
}

fn cluster_ip(service: &Value) -> Result<SocketAddr> {
    let address: Ipv4Addr = service["spec"]["clusterIP"].as_str().context("find the service's address")?.parse()?;
    Ok((address, 80).into())
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is().await? {
        if Instant::now() > deadline {
            bail!("{what}: it did not come to be");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn on_node<T: Send + 'static>(n: usize, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    net::netns::within(&net::netns::named(&format!("{NAME}-{n}")), move || Ok(work()))?
}

/// When the last of the services answers, as seen from a node. Blocks.
fn all_answer(node: usize, mut left: Vec<SocketAddr>) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    // A node that is being started has no namespace yet.
    while !net::netns::exists(&net::netns::named(&format!("{NAME}-{node}"))) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    on_node(node, move || {
        loop {
            // An address without rules leads nowhere; what has them is accepted by the kernel at once.
            let answers = |to: &SocketAddr| TcpStream::connect_timeout(to, Duration::from_millis(10)).is_ok();
            // The first that does not yet says enough: all are tried only when there may be an end to it.
            let done = left.iter().take_while(|to| answers(to)).count();
            left.drain(..done);
            if left.is_empty() {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!("{} services, {} among them, do not answer", left.len(), left[0]);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}

/// When the node has no rule left for services of a namespace. Blocks.
fn no_rules_of(namespace: &str) -> Result<Instant> {
    let iptables = Iptables::within(net::netns::named(&format!("{NAME}-1")));
    let (about, deadline) = (format!("\"{namespace}/"), Instant::now() + PATIENCE);
    while Instant::now() < deadline {
        if !iptables.save("nat")?.contains(&about) {
            return Ok(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("rules of {namespace} stay")
}

/// When the headless service's name first stands for an address, as the first node's pods are told. Blocks.
fn named(address: Ipv4Addr) -> Result<Instant> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["named", "bench-0", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    on_node(1, move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("10.42.0.1:53")?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let deadline = Instant::now() + PATIENCE;
        let mut answer = [0; 512];
        while Instant::now() < deadline {
            socket.send(&query)?;
            // The address ends the only record that there can be.
            if let Ok(length) = socket.recv(&mut answer)
                && answer[..length].ends_with(&address.octets())
            {
                return Ok(Instant::now());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        bail!("the name does not stand for {address}")
    })
}

/// When a service is first answered by the pod that says so. Blocks.
fn answered_by(service: SocketAddr, says: u8) -> Result<Instant> {
    on_node(1, move || {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut said = [0xff];
            let heard = TcpStream::connect_timeout(&service, Duration::from_millis(300))
                .and_then(|mut stream| stream.read_exact(&mut said));
            if heard.is_ok() && said[0] == says {
                return Ok(Instant::now());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        bail!("the endpoint does not answer")
    })
}
