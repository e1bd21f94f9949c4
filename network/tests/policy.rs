//! Policies with real packets: a node with two pods and somebody on another machine, namespaces of the test's own.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use knarr_network::policy::{
    Enforcer,
    model::{Pod, View},
    rules::rules,
};
use net::{
    Netlink, PodNetwork, Protocol, Route, Via,
    iptables::Iptables,
    pods,
    testing::{Scene, call_within, run, serve, wire},
};
use serde_json::{Value, json};

const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);

struct World {
    _scene: Scene,
    _network: PodNetwork,
    enforcer: Enforcer,
    node: PathBuf,
    pods: [(PathBuf, Ipv4Addr); 2],
    outside: PathBuf,
}

impl World {
    async fn new() -> Self {
        let mut scene = Scene::new();
        let [node, a, b, outside] = ["node", "a", "b", "outside"].map(|name| scene.namespace(name));
        wire(&node, NODE, &outside, OUTSIDE).await;
        let mut config = pods::Config::new("10.42.3.0/24".parse().unwrap(), scene.folder().join("state"));
        (config.namespace, config.node_address) = (Some(node.clone()), Some(NODE));
        let network = PodNetwork::start(config).await.unwrap();
        let route = Route { destination: "10.42.3.0/24".parse().unwrap(), via: Via::Gateway(NODE), metric: 0 };
        Netlink::in_namespace(&outside).unwrap().set_route(route).await.unwrap();
        let at_a = network.attach(&a, "a", &[]).await.unwrap().address;
        let at_b = network.attach(&b, "b", &[]).await.unwrap().address;
        for (namespace, port) in [(&a, 80), (&b, 80), (&b, 81), (&node, 82), (&outside, 80)] {
            serve(namespace, port);
        }
        let dnat = format!("-p tcp --dport 80 -j DNAT --to-destination {at_b}:80");
        let service = format!("*nat\n-A PREROUTING -d {SERVICE}/32 {dnat}\nCOMMIT\n");
        Iptables::within(&node).restore(service).unwrap();
        let enforcer = Enforcer::new(Some(node.clone()));
        Self { _scene: scene, _network: network, enforcer, node, pods: [(a, at_a), (b, at_b)], outside }
    }

    /// Applies policies of namespace x, where pods a and b live; `known` are those whose addresses are.
    fn apply(&mut self, specs: &[Value], known: &[&str]) {
        let pod = |(n, name): (usize, &&str)| Pod {
            namespace: "x".into(),
            name: (*name).into(),
            labels: [("pod".to_owned(), (*name).to_owned())].into(),
            address: self.pods[n].1,
            local: true,
            ports: vec![("web".into(), Protocol::Tcp, 80)],
        };
        let policy = |spec: &Value| {
            let policy = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec});
            Arc::new(serde_json::from_value::<NetworkPolicy>(policy).unwrap())
        };
        let view = View {
            policies: specs.iter().map(policy).collect(),
            pods: ["a", "b"].iter().enumerate().filter(|(_, name)| known.contains(name)).map(pod).collect(),
            namespaces: [("x".to_owned(), Default::default())].into(),
            own: "10.42.3.0/24".parse().ok(),
        };
        self.enforcer.apply(rules(&view)).unwrap();
    }

    /// Who gets through: a to b, a to b's other port, a to b by the service, a to its node, a to the world, the world to b, and
    /// the node to b.
    fn reach(&self) -> [bool; 7] {
        let [(a, _), (_, b)] = &self.pods;
        let tries = [
            (a, *b, 80),
            (a, *b, 81),
            (a, SERVICE, 80),
            (a, NODE, 82),
            (a, OUTSIDE, 80),
            (&self.outside, *b, 80),
            (&self.node, *b, 80),
        ];
        let patience = Duration::from_millis(1500);
        std::thread::scope(|scope| {
            let all = tries.map(|(from, to, port)| scope.spawn(move || call_within(from, to, port, patience).is_ok()));
            all.map(|one| one.join().unwrap())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_enforced_change_and_come_back() {
    let mut world = World::new().await;
    let everybody = ["a", "b"];
    let [o, x] = [true, false];
    world.apply(&[], &everybody);
    assert_eq!(world.reach(), [o; 7], "no policies");

    // Default deny: only the node gets through, and pods of other policies' namespaces are not concerned.
    let deny = json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"]});
    world.apply(std::slice::from_ref(&deny), &everybody);
    assert_eq!(world.reach(), [x, x, x, o, o, x, o], "nobody but the node to b");

    // Policies unite; the service's packets are judged by the pod's port, the world's by its own address.
    let from =
        |peer: Value, port: Value| json!({"podSelector": {}, "ingress": [{"from": [peer], "ports": [{"port": port}]}]});
    let a = from(json!({"podSelector": {"matchLabels": {"pod": "a"}}}), json!("web"));
    world.apply(&[deny.clone(), a.clone()], &everybody);
    assert_eq!(world.reach(), [o, x, o, o, o, x, o], "a to b's port web");
    let block = json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.42.0.0/16"]}});
    world.apply(&[deny.clone(), from(block, json!(80))], &everybody);
    assert_eq!(world.reach(), [x, x, x, o, o, o, o], "the world to b");

    // Egress: to b by whatever way, and to nothing else.
    let to = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": 80, "endPort": 80}]}]});
    world.apply(&[to], &everybody);
    assert_eq!(world.reach(), [o, x, o, x, x, o, o], "a to b only");

    // A pod that is not known yet is out of reach, and reaches nobody.
    world.apply(std::slice::from_ref(&deny), &["a"]);
    assert_eq!(world.reach(), [x, x, x, o, o, x, o], "b is not known");

    // Somebody else's hands.
    world.apply(&[deny, a], &everybody);
    run(&world.node, "iptables -t mangle -F KNARR-POLICY-I").unwrap();
    run(&world.node, "iptables -t mangle -D FORWARD -j KNARR-POLICY").unwrap();
    assert_eq!((world.enforcer.repair().unwrap(), world.enforcer.repair().unwrap()), (true, false));
    assert_eq!(world.reach(), [o, x, o, o, o, x, o], "back again");

    // Another process, and then no policy: nothing is left.
    world.enforcer = Enforcer::new(Some(world.node.clone()));
    world.apply(&[], &everybody);
    let left = Iptables::within(&world.node).save("mangle").unwrap();
    assert_eq!((left.contains("KNARR-"), world.reach()), (false, [o; 7]));
}
