//! The pod network of one node.

use std::{collections::HashSet, net::Ipv4Addr, path::Path, time::Duration};

use knarr_net::{
    Cidr, HostPort, Netlink, PodNetwork, Protocol, Result, Route, USUAL_PACKETS, Via,
    iptables::Iptables,
    netns, pods,
    testing::{Scene, call, run, serve, wire},
};

fn config(scene: &Scene, node: &Path) -> pods::Config {
    let mut config = pods::Config::new("10.42.3.0/24".parse().unwrap(), scene.folder().join("state"));
    config.namespace = Some(node.to_owned());
    config.node_address = Some(Ipv4Addr::new(172, 30, 0, 2));
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_the_node_and_the_world_and_nothing_strays() {
    let mut scene = Scene::new();
    let [node, a, b, outside] = ["node", "a", "b", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let network = PodNetwork::start(config(&scene, &node)).await.unwrap();

    let port = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8088, container_port: 80 };
    let a_address = network.attach(&a, "default/a", &[]).await.unwrap().address;
    let b_address = network.attach(&b, "default/b", &[port]).await.unwrap().address;
    serve(&b, 80);
    serve(&outside, 81);

    let node_address = Ipv4Addr::new(172, 30, 0, 2);
    let unreachable = |outcome: Result<String>| outcome.unwrap_err().raw_os_error();
    let seen = (
        call(&a, b_address, 80).unwrap(),
        call(&node, b_address, 80).unwrap(),
        call(&a, Ipv4Addr::new(172, 30, 0, 1), 81).unwrap(),
        call(&outside, node_address, 8088).unwrap(),
        call(&node, node_address, 8088).is_ok(),
        call(&node, Ipv4Addr::LOCALHOST, 8088).unwrap(),
        call(&b, node_address, 8088).is_ok(),
        unreachable(call(&a, Ipv4Addr::new(10, 42, 9, 9), 80)),
        unreachable(call(&a, Ipv4Addr::new(10, 43, 9, 9), 80)),
        unreachable(call(&node, Ipv4Addr::new(10, 43, 9, 9), 80)),
    );

    let gateway = "10.42.3.1".to_owned();
    let no_route = Some(libc::EHOSTUNREACH);
    let expected = (
        a_address.to_string(),
        gateway,
        "172.30.0.2".to_owned(),
        "172.30.0.1".to_owned(),
        true,
        "10.42.3.1".to_owned(),
        true,
        no_route,
        no_route,
        no_route,
    );
    assert_eq!(seen, expected);
}

/// The kernel lists one thing at a time on a socket.
#[tokio::test(flavor = "multi_thread")]
async fn many_may_list_at_once() {
    let mut scene = Scene::new();
    let [node, outside] = ["node", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let netlink = Netlink::in_namespace(&node).unwrap();
    let list = || async {
        netlink.addresses().await.unwrap();
        netlink.links().await.unwrap();
        netlink.route_destinations().await.unwrap();
    };
    futures::future::join_all((0..64).map(|_| list())).await;
}

/// A pod sends as large packets as the node's own link takes, and a kernel that knows no such (before 6.3) leaves all as it is.
#[tokio::test(flavor = "multi_thread")]
async fn pods_send_packets_as_large_as_the_nodes_link_takes() {
    let mut scene = Scene::new();
    let [node, a, outside] = ["node", "a", "outside"].map(|name| scene.namespace(name));
    let (link, _) = wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let netlink = Netlink::in_namespace(&node).unwrap();
    netlink.set_packets(netlink.existing(&link).await.unwrap().index, 3 * USUAL_PACKETS).await.unwrap();
    let takes = netlink.existing(&link).await.unwrap().packets;
    let network = PodNetwork::start(config(&scene, &node)).await.unwrap();
    network.attach(&a, "default/a", &[]).await.unwrap();
    let eth0 = Netlink::in_namespace(&a).unwrap().existing("eth0").await.unwrap();
    assert!([USUAL_PACKETS, 3 * USUAL_PACKETS].contains(&takes), "{takes}");
    assert_eq!((eth0.packets, netlink.existing(&pods::host_interface("default/a")).await.unwrap().packets), (takes, takes));
}

/// The node's own loopback answers host ports there, and stays out of its pods' reach.
#[tokio::test(flavor = "multi_thread")]
async fn pods_do_not_reach_the_nodes_loopback() {
    let mut scene = Scene::new();
    let [node, a, outside] = ["node", "a", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let network = PodNetwork::start(config(&scene, &node)).await.unwrap();
    // One with a port of the node: its link takes packets with such addresses.
    let port = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8088, container_port: 80 };
    network.attach(&a, "default/a", &[port]).await.unwrap();
    serve(&node, 10248);
    // A pod that sends such packets on purpose: the way to 127.0.0.2 is the node.
    netns::within(&a, || {
        netns::set_sysctl("net.ipv4.conf.all.route_localnet", "1").map(|()| {
            let run = |words: &str| std::process::Command::new("ip").args(words.split(' ')).status().unwrap().success();
            assert!(run("route del local 127.0.0.0/8 dev lo table local"));
            assert!(run("route add 127.0.0.2/32 via 10.42.3.1 dev eth0"));
        })
    })
    .unwrap();

    let direct = call(&a, Ipv4Addr::new(172, 30, 0, 2), 10248).is_ok();
    assert_eq!((direct, call(&a, Ipv4Addr::new(127, 0, 0, 2), 10248).is_ok()), (true, false));
}

/// What listens on the node's IPv6 addresses is out of its pods' reach: no rules would keep them from it.
#[tokio::test(flavor = "multi_thread")]
async fn pods_do_not_reach_the_node_by_ipv6() {
    let mut scene = Scene::new();
    let [node, a, outside] = ["node", "a", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let network = PodNetwork::start(config(&scene, &node)).await.unwrap();
    network.attach(&a, "default/a", &[]).await.unwrap();
    let near = pods::host_interface("default/a");
    let addresses = |namespace: &Path, link: &str| run(namespace, &format!("ip -6 -o address show dev {link}")).unwrap();
    if !Path::new("/proc/net/if_inet6").exists() {
        return println!("skipped: this machine has no IPv6");
    }
    let connected = async {
        // Links take addresses when the wire between them is found connected.
        while addresses(&a, "eth0").is_empty() || !Netlink::in_namespace(&node).unwrap().existing(&near).await.unwrap().up {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), connected).await.unwrap();
    assert_eq!(addresses(&node, &near), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_own_packets_can_be_translated_to_a_pod() {
    let mut scene = Scene::new();
    let [node, a, outside] = ["node", "a", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let network = PodNetwork::start(config(&scene, &node)).await.unwrap();
    let address = network.attach(&a, "default/a", &[]).await.unwrap().address;
    serve(&a, 80);
    let dnat = format!("*nat\n-A OUTPUT -d 10.43.0.9/32 -p tcp --dport 80 -j DNAT --to-destination {address}:80\nCOMMIT\n");
    Iptables::within(&node).restore(dnat).unwrap();

    assert_eq!(call(&node, Ipv4Addr::new(10, 43, 0, 9), 80).unwrap(), "172.30.0.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_address_that_is_nowhere_is_told_and_nothing_is_made() {
    let mut scene = Scene::new();
    let node = scene.namespace("node");
    let error = PodNetwork::start(config(&scene, &node)).await.err().unwrap();
    assert!(error.to_string().starts_with("172.30.0.2 is not an address of this machine"), "{error}");
    let links = Netlink::in_namespace(&node).unwrap().links().await.unwrap();
    assert_eq!(links.into_iter().map(|link| link.name).collect::<Vec<_>>(), ["lo"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_and_detach_repeat_and_survive_a_restart() {
    let mut scene = Scene::new();
    let [node, a, again] = ["node", "a", "again"].map(|name| scene.namespace(name));
    let port = HostPort { protocol: Protocol::Udp, host_ip: None, host_port: 53, container_port: 53 };
    let config = pods::Config { node_address: None, ..config(&scene, &node) };
    let network = PodNetwork::start(config.clone()).await.unwrap();
    let first = network.attach(&a, "default/a", &[port]).await.unwrap();
    drop(network);

    let network = PodNetwork::start(config).await.unwrap();
    let tables = || {
        let iptables = Iptables::within(&node);
        iptables.save("nat").unwrap().lines().filter(|l| l.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>()
    };
    let with_port = tables();
    assert_eq!(network.attach(&again, "default/a", &[port]).await.unwrap(), first);
    network.detach("default/a").await.unwrap();
    network.detach("default/a").await.unwrap();
    network.attach(&a, "default/b", &[]).await.unwrap();
    network.retain(&HashSet::new()).await.unwrap();

    let links: Vec<String> =
        Netlink::in_namespace(&node).unwrap().links().await.unwrap().into_iter().map(|link| link.name).collect();
    let left = links.iter().any(|name| name.starts_with("veth"));
    let dnat = |rules: &[String]| rules.iter().filter(|rule| rule.contains("--dport 53")).count();
    let jumps = |rules: &[String]| rules.iter().filter(|rule| rule.starts_with("-A POSTROUTING")).count();
    let after = tables();
    assert_eq!((left, dnat(&with_port), dnat(&after), jumps(&after)), (false, 1, 0, 1), "{links:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_links_and_routes_are_idempotent() {
    let mut scene = Scene::new();
    let node = scene.namespace("node");
    netns::create(&node).unwrap();
    let netlink = Netlink::in_namespace(&node).unwrap();
    let range: Cidr = "10.9.0.0/16".parse().unwrap();
    for _ in 0..2 {
        let bridge = netlink.ensure_bridge("br9", Some(1400)).await.unwrap();
        netlink.add_address(bridge.index, range.gateway(), 24).await.unwrap();
        netlink.set_route(Route { destination: range, via: Via::Unreachable, metric: 7 }).await.unwrap();
    }
    let routes = netlink.route_destinations().await.unwrap();
    assert_eq!(routes.iter().filter(|destination| **destination == range).count(), 1, "{routes:?}");
    let bridge = netlink.existing("br9").await.unwrap();
    assert_eq!((bridge.up, bridge.mtu), (true, 1400));
    for _ in 0..2 {
        netlink.delete_route(Route { destination: range, via: Via::Unreachable, metric: 7 }).await.unwrap();
        netlink.delete_link("br9").await.unwrap();
    }
    assert_eq!(netlink.link("br9").await.unwrap(), None);
    netns::delete(&node).unwrap();
    assert!(!netns::exists(&node));
}
