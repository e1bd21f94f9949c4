//! Machines on one wire, each with a link of its own on top of it.

use std::{net::Ipv4Addr, os::fd::AsFd, path::PathBuf, time::Duration};

use knarr_net::{
    LinkEnd, Netlink, netns,
    testing::{Scene, call, call_within, serve},
};

const PORT: u16 = 80;

struct Machine {
    path: PathBuf,
    netlink: Netlink,
    link: u32,
    address: Ipv4Addr,
}

impl Machine {
    /// `None` stands for where the wire is.
    async fn new(scene: &mut Scene, outside: &Netlink, wire: u32, at: Option<PathBuf>, n: u8) -> Self {
        let path = at.clone().unwrap_or_else(|| scene.namespace(&format!("machine{n}")));
        let (netlink, namespace) = (Netlink::in_namespace(&path).unwrap(), netns::open(&path).unwrap());
        let mac = Some([2, 0, 0, 0, 0, n]);
        // Of the same name in each place would do, too, but before Linux 6.13 not in the wire's.
        let name = format!("m{n}");
        let end = LinkEnd { name: &name, namespace: at.is_none().then(|| namespace.as_fd()), mac, mtu: None };
        outside.add_macvlan(wire, end).await.unwrap();
        let link = netlink.existing(&name).await.unwrap();
        assert_eq!((link.mac, link.mtu), (mac, 1400));
        netlink.set_up(link.index).await.unwrap();
        let address = Ipv4Addr::new(192, 0, 2, n);
        netlink.add_address(link.index, address, 24).await.unwrap();
        serve(&path, PORT);
        Self { path, netlink, link: link.index, address }
    }

    fn reaches(&self, other: &Self) -> bool {
        call_within(&self.path, other.address, PORT, Duration::from_millis(300)).is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_on_a_wire_reach_each_other_unless_cut_off() {
    let mut scene = Scene::new();
    let place = scene.namespace("outside");
    let outside = Netlink::in_namespace(&place).unwrap();
    let end = |name| LinkEnd { name, mtu: Some(1400), ..LinkEnd::default() };
    outside.add_veth(end("wire"), end("end")).await.unwrap();
    outside.set_up_without_arp(outside.existing("end").await.unwrap().index).await.unwrap();
    let wire = outside.existing("wire").await.unwrap().index;
    let mut machines = vec![Machine::new(&mut scene, &outside, wire, Some(place), 1).await];
    for n in [2, 3] {
        machines.push(Machine::new(&mut scene, &outside, wire, None, n).await);
    }
    let pairs = || [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    for (a, b) in pairs() {
        assert_eq!(call(&machines[a].path, machines[b].address, PORT).unwrap(), machines[a].address.to_string());
    }
    let cut = &machines[2];
    cut.netlink.set_connected(cut.link, false).await.unwrap();
    let reached = |wanted: fn((usize, usize)) -> bool| {
        // They know each other's hardware addresses from before.
        pairs().into_iter().filter(|pair| wanted(*pair)).map(|(a, b)| machines[a].reaches(&machines[b])).collect::<Vec<_>>()
    };
    assert_eq!(reached(|(a, b)| a == 2 || b == 2), [false; 4]);
    assert_eq!(reached(|(a, b)| a != 2 && b != 2), [true; 2]);
    // Its own programs still reach it.
    assert!(cut.reaches(cut));
    cut.netlink.set_connected(cut.link, true).await.unwrap();
    assert_eq!(reached(|_| true), [true; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offloads_are_switched_once() {
    let mut scene = Scene::new();
    let place = scene.namespace("place");
    let set = |link: &'static str, on| netns::within(&place, move || netns::set_gro(link, on));
    let before = set("lo", true).unwrap();
    assert_eq!([false, false, true].map(|on| set("lo", on).unwrap()), [true, false, true], "before: {before}");
    let error = set("nothing", true).unwrap_err();
    assert!(error.to_string().contains("offload of nothing"), "{error}");
}
