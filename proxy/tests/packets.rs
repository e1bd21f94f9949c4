//! Services with real packets: a node, two pods and somebody outside, each a namespace of the test's own. Needs root and
//! iptables; the informers' part is played by the test.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use knarr_proxy::{
    model::{self, NodeInfo},
    proxier::Proxier,
    rules::{Fragment, Setting, fragment},
};
use net::{Error, LinkEnd, Netlink, PodNetwork, Result, Route, Via, iptables::Iptables, netns, pods};
use serde_json::{Value, json};

const NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);

struct Scene {
    folder: tempfile::TempDir,
    pods: [Ipv4Addr; 2],
    proxier: Proxier,
    _network: PodNetwork,
}

impl Scene {
    /// A node with two pods that tell on port 8080 (TCP and UDP) who they are and who called.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["node", "a", "b", "outside"] {
            netns::create(&path(name)).unwrap();
        }
        let node = Netlink::in_namespace(&path("node")).unwrap();
        let there = netns::open(&path("outside")).unwrap();
        let far = LinkEnd { name: "eth0", namespace: Some(there.as_fd()), ..LinkEnd::default() };
        node.add_veth(LinkEnd { name: "eth0", ..LinkEnd::default() }, far).await.unwrap();
        node.add_address(node.existing("eth0").await.unwrap().index, NODE, 24).await.unwrap();
        let outside = Netlink::in_namespace(&path("outside")).unwrap();
        let eth0 = outside.existing("eth0").await.unwrap().index;
        outside.set_up(eth0).await.unwrap();
        outside.add_address(eth0, OUTSIDE, 24).await.unwrap();
        for range in ["10.43.0.0/16", "1.2.3.0/24"] {
            let route = Route { destination: range.parse().unwrap(), via: Via::Gateway(NODE), metric: 0 };
            outside.set_route(route).await.unwrap();
        }
        let mut config = pods::Config::new("10.42.3.0/24".parse().unwrap(), path("state"));
        (config.namespace, config.node_address) = (Some(path("node")), Some(NODE));
        let network = PodNetwork::start(config).await.unwrap();
        let a = network.attach(&path("a"), "a", &[]).await.unwrap().address;
        let b = network.attach(&path("b"), "b", &[]).await.unwrap().address;
        serve(&path("a"), "a");
        serve(&path("b"), "b");
        let proxier = Proxier::new(Some(path("node")));
        Self { proxier, folder, pods: [a, b], _network: network }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Applies one service with endpoints in these pods, of which `local` says whether they count as this node's.
    fn apply(&mut self, spec: &Value, endpoints: &[(usize, bool)]) {
        let fragment = self.fragment(spec, endpoints);
        self.proxier.apply(BTreeMap::from([("d/web".to_owned(), fragment)])).unwrap();
    }

    fn fragment(&self, spec: &Value, endpoints: &[(usize, bool)]) -> Option<Fragment> {
        let list = endpoints
            .iter()
            .map(|(pod, local)| json!({"addresses": [self.pods[*pod]], "nodeName": if *local { "here" } else { "there" }}));
        Self::fragment_of(spec, &list.collect())
    }

    fn fragment_of(spec: &Value, endpoints: &Value) -> Option<Fragment> {
        let mut whole = json!({"clusterIP": SERVICE, "ports": [{"port": 80, "nodePort": 30080}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let status = whole.as_object_mut().unwrap().remove("status").unwrap_or_default();
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": whole, "status": status});
        let service: Service = serde_json::from_value(service).unwrap();
        let protocol = &service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].protocol;
        let slice = json!({
            "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": protocol}],
            "endpoints": endpoints,
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        let node = NodeInfo { name: "here".into(), zone: None, address: Some(NODE) };
        let setting = Setting { cluster_cidr: "10.42.0.0/16".parse().ok(), masquerade_all: false, node };
        let ports = model::service_ports(&service).into_iter();
        let ports: Vec<_> = ports.map(|port| (port.clone(), model::endpoints(&port, [&slice], &setting.node))).collect();
        Some(fragment(&ports, None, &setting))
    }

    /// Who answers calls from `from`: the set of "POD saw CALLER".
    fn answers(&self, from: &str, address: Ipv4Addr, port: u16) -> BTreeSet<String> {
        (0..20).filter_map(|_| call(&self.path(from), address, port).ok()).collect()
    }

    fn rules(&self) -> Vec<String> {
        let iptables = Iptables::within(self.path("node"));
        let text = iptables.save("nat").unwrap() + &iptables.save("filter").unwrap();
        let ours = text.lines().filter(|line| line.contains("KUBE-")).map(|line| match line.strip_prefix(':') {
            Some(chain) => chain.split(' ').next().unwrap().to_owned(),
            None => line.to_owned(),
        });
        ours.collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for name in ["node", "a", "b", "outside"] {
            let _ = netns::delete(&self.folder.path().join(name));
        }
    }
}

fn serve(namespace: &Path, name: &'static str) {
    let (listening, ready) = std::sync::mpsc::channel();
    let (namespace, tcp_ready) = (namespace.to_owned(), listening.clone());
    let for_udp = namespace.clone();
    std::thread::spawn(move || {
        netns::within(&namespace, move || {
            let listener = TcpListener::bind(("0.0.0.0", 8080)).unwrap();
            tcp_ready.send(()).unwrap();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = write!(stream, "{name} saw {}", stream.peer_addr().unwrap().ip());
            }
            Ok(())
        })
    });
    std::thread::spawn(move || {
        netns::within(&for_udp, move || {
            let socket = UdpSocket::bind(("0.0.0.0", 8080)).unwrap();
            listening.send(()).unwrap();
            let mut buffer = [0; 64];
            while let Ok((_, caller)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), caller);
            }
            Ok(())
        })
    });
    ready.recv().unwrap();
    ready.recv().unwrap();
}

fn call(namespace: &Path, address: Ipv4Addr, port: u16) -> Result<String> {
    netns::within(namespace, move || {
        let mut answer = String::new();
        let stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_millis(1500));
        stream
            .and_then(|mut s| s.read_to_string(&mut answer))
            .map(|_| answer)
            .map_err(|source| Error::System { step: "call".into(), source })
    })
}

fn set(lines: &[String]) -> BTreeSet<String> {
    lines.iter().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_addresses_and_node_ports_spread_masquerade_and_hairpin() {
    let mut scene = Scene::new().await;
    scene.apply(&json!({}), &[(0, true), (1, true)]);
    let [a, b] = scene.pods;

    assert_eq!(scene.answers("outside", NODE, 30080), set(&["a saw 10.42.3.1".into(), "b saw 10.42.3.1".into()]));
    // A pod keeps its address on the way to another one; to itself it goes by the node's.
    assert_eq!(scene.answers("a", SERVICE, 80), set(&["a saw 10.42.3.1".into(), format!("b saw {a}")]));
    assert_eq!(scene.answers("b", NODE, 30080), set(&["a saw 10.42.3.1".into(), "b saw 10.42.3.1".into()]));
    assert_eq!(scene.answers("node", SERVICE, 80), set(&["a saw 10.42.3.1".into(), "b saw 10.42.3.1".into()]));
    assert_ne!(a, b);
}

/// Nobody said which node the endpoints are on, and services of every kind lead to them: a pod reaches itself by way of the
/// node all the same, as long as one service leads to it.
#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_themselves_through_every_service() {
    let mut scene = Scene::new().await;
    let [a, _] = scene.pods;
    let (unknown, own) = (set(&["a saw 10.42.3.1".into()]), [(0, true)]);
    let kinds = [
        json!({}),
        json!({"sessionAffinity": "ClientIP"}),
        json!({"externalTrafficPolicy": "Local", "type": "NodePort"}),
        json!({"internalTrafficPolicy": "Local"}),
    ];
    for spec in kinds {
        scene.apply(&spec, &own);
        assert_eq!((scene.answers("a", SERVICE, 80), scene.answers("a", NODE, 30080)), (unknown.clone(), unknown.clone()));
    }
    let slice = json!([{"addresses": [a]}]);
    let other = Scene::fragment_of(&json!({"clusterIP": "10.43.0.8", "ports": [{"port": 80}]}), &slice);
    scene.proxier.apply(BTreeMap::from([("d/other".to_owned(), other), ("d/web".to_owned(), None)])).unwrap();
    assert_eq!(scene.answers("a", Ipv4Addr::new(10, 43, 0, 8), 80), unknown);
    assert!(!scene.proxier.repair().unwrap());
}

/// Who reaches a cluster address from elsewhere is masqueraded; who comes by a node port with a Local policy is not, also where
/// both lead to the node's own endpoints.
#[tokio::test(flavor = "multi_thread")]
async fn both_policies_local_masquerade_callers_of_the_cluster_address_only() {
    let mut scene = Scene::new().await;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    scene.apply(&spec, &[(0, false), (1, true)]);
    let seen = (scene.answers("outside", NODE, 30080), scene.answers("outside", SERVICE, 80));
    assert_eq!(seen, (set(&[format!("b saw {OUTSIDE}")]), set(&["b saw 10.42.3.1".into()])));
}

#[tokio::test(flavor = "multi_thread")]
async fn local_policy_keeps_the_callers_address_and_stays_on_the_node() {
    let mut scene = Scene::new().await;
    scene.apply(&json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), &[(0, false), (1, true)]);
    assert_eq!(scene.answers("outside", NODE, 30080), set(&[format!("b saw {OUTSIDE}")]));

    scene.apply(&json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), &[(0, false)]);
    let dropped = call(&scene.path("outside"), NODE, 30080).unwrap_err();
    assert!(matches!(dropped, Error::System { source, .. } if source.kind() == std::io::ErrorKind::TimedOut));
    // Pods and the node itself reach every endpoint all the same.
    assert_eq!(scene.answers("b", NODE, 30080).len(), 1);
}

/// On 127.0.0.1 node ports answer the node itself, and nobody else reaches what listens there.
#[tokio::test(flavor = "multi_thread")]
async fn node_ports_answer_on_the_nodes_loopback_which_stays_its_own() {
    let mut scene = Scene::new().await;
    let both = [(0, true), (1, true)];
    let localhost = Ipv4Addr::LOCALHOST;
    scene.apply(&json!({}), &both);
    let before = scene.answers("node", localhost, 30080);
    scene.proxier.open_loopback().unwrap();
    scene.apply(&json!({}), &both);
    let spread = scene.answers("node", localhost, 30080);
    scene.apply(&json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), &both);
    let local = scene.answers("node", localhost, 30080);
    assert_eq!((before.len(), &spread, &local), (0, &set(&["a saw 10.42.3.1".into(), "b saw 10.42.3.1".into()]), &spread));
    assert!(!scene.proxier.repair().unwrap());

    // A neighbour that sends such packets on purpose: the way to 127.0.0.2 is the node.
    serve(&scene.path("node"), "node");
    netns::within(&scene.path("outside"), || {
        netns::set_sysctl("net.ipv4.conf.all.route_localnet", "1")?;
        let run = |words: &str| std::process::Command::new("ip").args(words.split(' ')).status().unwrap().success();
        assert!(run("route del local 127.0.0.0/8 dev lo table local"));
        assert!(run(&format!("route add 127.0.0.2/32 via {NODE} dev eth0")));
        Ok(())
    })
    .unwrap();
    let direct = call(&scene.path("outside"), NODE, 8080).is_ok();
    assert_eq!((direct, call(&scene.path("outside"), Ipv4Addr::new(127, 0, 0, 2), 8080).is_ok()), (true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_endpoints_callers_are_refused_at_once() {
    let mut scene = Scene::new().await;
    scene.apply(&json!({}), &[]);
    let refused = |from: &str, address, port| match call(&scene.path(from), address, port) {
        Err(Error::System { source, .. }) => source.raw_os_error(),
        _ => None,
    };
    let seen = [refused("a", SERVICE, 80), refused("node", SERVICE, 80), refused("outside", NODE, 30080)];
    assert_eq!(seen, [Some(libc::ECONNREFUSED); 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_source_ranges_and_external_addresses() {
    let mut scene = Scene::new().await;
    let both = [(0, true), (1, true)];
    scene.apply(&json!({"sessionAffinity": "ClientIP"}), &both);
    assert_eq!(scene.answers("outside", NODE, 30080).len(), 1);

    let balanced = |ranges: &Value| {
        json!({
            "type": "LoadBalancer",
            "loadBalancerSourceRanges": ranges,
            "externalIPs": ["1.2.3.5"],
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
        })
    };
    scene.apply(&balanced(&json!(["172.31.0.0/16"])), &both);
    let addresses = [[1, 2, 3, 4], [1, 2, 3, 5]].map(Ipv4Addr::from);
    let reached = addresses.map(|address| scene.answers("outside", address, 80).len());
    scene.apply(&balanced(&json!(["9.9.9.0/24"])), &both);
    let refused = call(&scene.path("outside"), addresses[0], 80).is_err();
    assert_eq!((reached, refused, call(&scene.path("outside"), addresses[1], 80).is_ok()), ([2, 2], true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_policy_local_stays_on_the_node() {
    let mut scene = Scene::new().await;
    let spec = json!({"internalTrafficPolicy": "Local"});
    scene.apply(&spec, &[(0, false), (1, true)]);
    let [a, _] = scene.pods;
    let spread = scene.answers("a", SERVICE, 80);
    scene.apply(&spec, &[(0, false)]);
    // Dropped, not refused: there are endpoints, only not here.
    let elsewhere = call(&scene.path("a"), SERVICE, 80).unwrap_err();

    assert_eq!(spread, set(&[format!("b saw {a}")]));
    assert!(matches!(elsewhere, Error::System { source, .. } if source.kind() == std::io::ErrorKind::TimedOut));
    // The node port is no part of the policy.
    assert_eq!(scene.answers("outside", NODE, 30080), set(&["a saw 10.42.3.1".into()]));
}

/// SCTP is told from TCP and UDP of the same port, and its rules read as we write them.
#[tokio::test(flavor = "multi_thread")]
async fn sctp_has_rules_of_its_own() {
    let mut scene = Scene::new().await;
    let spec = json!({"ports": [{"port": 80, "protocol": "SCTP", "nodePort": 30080}],
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}}});
    scene.apply(&spec, &[(0, true)]);
    let rules = scene.rules();
    let [a, _] = scene.pods;
    let count = |part: &str| rules.iter().filter(|rule| rule.contains(part)).count();
    let translated = "-p sctp -m comment --comment \"d/web\" -m recent --set --name";
    assert_eq!(
        (count(translated), count(&format!("--to-destination {a}:8080")), count("--seconds 77")),
        (1, 1, 1),
        "{rules:#?}"
    );
    assert!(!scene.proxier.repair().unwrap());
    assert!(call(&scene.path("outside"), NODE, 30080).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_flows_follow_the_endpoints() {
    let mut scene = Scene::new().await;
    let udp = json!({"ports": [{"port": 80, "protocol": "UDP", "nodePort": 30080}]});
    scene.apply(&udp, &[(0, true)]);
    let client = netns::within(&scene.path("outside"), || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(Error::system("bind"))?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).map_err(Error::system("set a timeout"))?;
        Ok(socket)
    })
    .unwrap();
    let ask = || {
        let mut buffer = [0; 16];
        client.send_to(b"?", (NODE, 30080)).unwrap();
        let n = client.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let before = ask();
    scene.apply(&udp, &[(1, true)]);
    assert_eq!((before.as_str(), ask().as_str()), ("a", "b"));
    // Also where the rules could not be written at first.
    let (node, door) = (scene.path("node"), scene.path("door"));
    std::os::unix::fs::symlink(&node, &door).unwrap();
    scene.proxier = Proxier::new(Some(door.clone()));
    scene.apply(&udp, &[(1, true)]);
    assert_eq!(ask(), "b");
    std::fs::remove_file(&door).unwrap();
    let change = BTreeMap::from([("d/web".to_owned(), scene.fragment(&udp, &[(0, true)]))]);
    assert!(scene.proxier.apply(change).is_err());
    std::os::unix::fs::symlink(&node, &door).unwrap();
    scene.proxier.apply(BTreeMap::new()).unwrap();
    assert_eq!(ask(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_delete_comes_back_and_clean_up_leaves_nothing() {
    let mut scene = Scene::new().await;
    let without = scene.rules();
    scene.apply(&json!({}), &[(0, true)]);
    scene.apply(&json!({}), &[(0, true), (1, true)]);
    let mut good = scene.rules();
    good.sort();
    assert!(!scene.proxier.repair().unwrap(), "own changes are no foreign ones");

    let iptables = Iptables::within(scene.path("node"));
    for damage in [
        "*nat\n:KUBE-NODEPORTS - [0:0]\nCOMMIT\n",
        "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n",
        "*filter\n-A KUBE-FORWARD -j DROP\nCOMMIT\n",
        "*nat\n-F\nCOMMIT\n",
    ] {
        iptables.restore(damage.to_owned()).unwrap();
        assert!(scene.proxier.repair().unwrap(), "{damage}");
        let mut now = scene.rules();
        now.sort();
        assert_eq!(now, good, "{damage}");
    }
    // A change on top of damage that was not yet noticed.
    iptables.restore("*nat\n-F KUBE-SERVICES\nCOMMIT\n".to_owned()).unwrap();
    scene.proxier.apply(BTreeMap::from([("d/web".to_owned(), None)])).unwrap();
    assert!(!scene.proxier.repair().unwrap());
    scene.proxier.cleanup().unwrap();
    assert_eq!(scene.rules(), without);
}
