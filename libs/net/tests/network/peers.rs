//! Nodes on one link, and nodes with a router between them.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use knarr_net::{
    Cidr, Error, Netlink, PodNetwork, Result, Route, Via, netns,
    peers::{Changes, Mode, Peer, PeerRoutes, Plan, plan},
    pods,
    testing::{Scene, call, run, serve, wire},
    vxlan,
};

/// A node with one pod, 10.42.N.2.
struct Node {
    path: PathBuf,
    pod: PathBuf,
    peer: Peer,
    routes: PeerRoutes,
    network: PodNetwork,
}

impl Node {
    async fn new(scene: &mut Scene, n: u8, address: Ipv4Addr, path: PathBuf) -> Self {
        let pod = scene.namespace(&format!("pod{n}"));
        let pods = Cidr::new(Ipv4Addr::new(10, 42, n, 0), 24);
        let mut config = pods::Config::new(pods, scene.folder().join(format!("state{n}")));
        (config.namespace, config.node_address) = (Some(path.clone()), Some(address));
        let network = PodNetwork::start(config).await.unwrap();
        let peer = Peer { name: format!("node{n}"), addresses: vec![address], pods: Some(pods) };
        let routes = PeerRoutes::new(Some(path.clone()), false).unwrap();
        Self { path, pod, peer, routes, network }
    }

    /// One round of what an agent does.
    async fn meet(&self, mode: Mode, others: &[&Node]) -> (Plan, usize) {
        let others: Vec<Peer> = others.iter().map(|node| node.peer.clone()).collect();
        let own = self.routes.own(self.peer.pods).await.unwrap();
        let plan = plan(mode, "10.42.0.0/16".parse().unwrap(), &self.peer, &others, &own);
        let changed = self.routes.apply(&plan).await.unwrap();
        (plan, changed)
    }

    async fn attach(&self) -> Ipv4Addr {
        let address = self.network.attach(&self.pod, "default/pod", &[]).await.unwrap().address;
        serve(&self.pod, 80);
        address
    }
}

fn mtu(pod: &Path) -> u32 {
    let line = run(pod, "ip link show eth0").unwrap();
    let mut words = line.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).unwrap().parse().unwrap()
}

/// Whether a UDP packet of `size` bytes with its headers arrives whole, without fragments.
fn arrives(from: &Path, to: &Path, address: Ipv4Addr, size: usize) -> Result<bool> {
    let receiver = netns::within(to, || {
        // Any port: a program that another test is about to start may still hold the last one's socket.
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(Error::system("bind"))?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).map_err(Error::system("set a timeout"))?;
        Ok(socket)
    })?;
    let port = receiver.local_addr().map_err(Error::system("find the port"))?.port();
    netns::within(from, move || {
        use std::os::fd::AsRawFd;
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(Error::system("bind"))?;
        let value = libc::IP_PMTUDISC_DO;
        // SAFETY: the option's value is one c_int.
        let set = unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_IP, libc::IP_MTU_DISCOVER, (&raw const value).cast(), length)
        };
        assert_eq!(set, 0);
        socket.send_to(&vec![7; size - 28], (address, port)).map(drop).map_err(Error::system("send"))
    })?;
    let mut buffer = [0; 9000];
    Ok(receiver.recv(&mut buffer).is_ok_and(|read| read == size - 28))
}

/// A megabyte by TCP, so that offloads have something to do.
fn bulk(from: &Path, to: &Path, address: Ipv4Addr) -> usize {
    use std::io::{Read, Write};
    let listener = netns::within(to, || std::net::TcpListener::bind("0.0.0.0:7001").map_err(Error::system("bind"))).unwrap();
    let receiving = std::thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all.len()
    });
    netns::within(from, move || {
        let stream =
            std::net::TcpStream::connect((address, 7001)).and_then(|mut stream| stream.write_all(&vec![1; 1 << 20]));
        stream.map_err(Error::system("send"))
    })
    .unwrap();
    receiving.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_lead_to_each_others_pods() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|name| scene.namespace(name));
    let addresses = [Ipv4Addr::new(172, 30, 1, 1), Ipv4Addr::new(172, 30, 1, 2)];
    wire(&a, addresses[0], &b, addresses[1]).await;
    let a = Node::new(&mut scene, 1, addresses[0], a).await;
    let b = Node::new(&mut scene, 2, addresses[1], b).await;
    let (_, first) = a.meet(Mode::Auto, &[&b]).await;
    let (_, again) = a.meet(Mode::Auto, &[&b]).await;
    b.meet(Mode::Auto, &[&a]).await;
    let (to_a, to_b) = (a.attach().await, b.attach().await);

    let seen = (call(&a.pod, to_b, 80).unwrap(), call(&b.pod, to_a, 80).unwrap(), mtu(&a.pod));
    assert_eq!(seen, (to_a.to_string(), to_b.to_string(), 1500));
    assert_eq!((first > 0, again, a.routes.apply(&Plan::default()).await.unwrap() > 0), (true, 0, true));
    assert!(arrives(&b.pod, &a.pod, to_a, 1500).unwrap());

    // The other node is gone, and a route of somebody else's stays.
    let netlink = Netlink::in_namespace(&a.path).unwrap();
    let foreign = Route { destination: "10.99.0.0/16".parse().unwrap(), via: Via::Gateway(addresses[1]), metric: 0 };
    netlink.set_route(foreign).await.unwrap();
    a.meet(Mode::Auto, &[&b]).await;
    let with = netlink.route_destinations().await.unwrap();
    // Another process, which knows nothing of what was before.
    let a = Node { routes: PeerRoutes::new(Some(a.path.clone()), false).unwrap(), ..a };
    a.meet(Mode::Auto, &[]).await;
    let without = netlink.route_destinations().await.unwrap();
    let gone: Vec<&Cidr> = with.iter().filter(|range| !without.contains(range)).collect();
    assert_eq!(gone, [&b.peer.pods.unwrap()]);
    assert_eq!(call(&a.pod, to_b, 80).unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));
}

/// Two nodes on two links with a router between them, and a stranger on the first one's link.
struct Apart {
    scene: Scene,
    a: Node,
    b: Node,
    stranger: PathBuf,
}

impl Apart {
    async fn new() -> Self {
        let mut scene = Scene::new();
        let [a, b, router, stranger] = ["a", "b", "router", "stranger"].map(|name| scene.namespace(name));
        let addresses = [Ipv4Addr::new(172, 30, 1, 1), Ipv4Addr::new(172, 30, 2, 1)];
        wire(&a, addresses[0], &router, Ipv4Addr::new(172, 30, 1, 254)).await;
        wire(&b, addresses[1], &router, Ipv4Addr::new(172, 30, 2, 254)).await;
        wire(&stranger, Ipv4Addr::new(172, 30, 3, 1), &router, Ipv4Addr::new(172, 30, 3, 254)).await;
        netns::within(&router, || netns::set_sysctl("net.ipv4.ip_forward", "1")).unwrap();
        for (path, n) in [(&a, 1), (&b, 2), (&stranger, 3)] {
            let all = Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                via: Via::Gateway(Ipv4Addr::new(172, 30, n, 254)),
                metric: 0,
            };
            Netlink::in_namespace(path).unwrap().set_route(all).await.unwrap();
        }
        let a = Node::new(&mut scene, 1, addresses[0], a).await;
        let a = Node { routes: PeerRoutes::new(Some(a.path.clone()), true).unwrap(), ..a };
        let b = Node::new(&mut scene, 2, addresses[1], b).await;
        Self { scene, a, b, stranger }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_between_nodes_is_crossed_by_vxlan() {
    let Apart { scene: _scene, a, b, .. } = Apart::new().await;
    a.meet(Mode::Auto, &[&b]).await;
    b.meet(Mode::Auto, &[&a]).await;
    let (_, again) = a.meet(Mode::Auto, &[&b]).await;
    let (to_a, to_b) = (a.attach().await, b.attach().await);

    let seen = (
        again,
        call(&a.pod, to_b, 80).unwrap(),
        // The node's own packets bear its address on the overlay.
        call(&b.path, to_a, 80).unwrap(),
        [mtu(&a.pod), mtu(&b.pod)],
        arrives(&a.pod, &b.pod, to_b, 1450).unwrap(),
        arrives(&a.pod, &b.pod, to_b, 1451).unwrap_err().raw_os_error(),
        bulk(&b.pod, &a.pod, to_a),
        call(&a.pod, Ipv4Addr::new(10, 42, 9, 9), 80).unwrap_err().raw_os_error(),
    );
    let unreachable = Some(libc::EHOSTUNREACH);
    assert_eq!(
        seen,
        (0, to_a.to_string(), "10.42.2.0".into(), [1450, 1450], true, Some(libc::EMSGSIZE), 1 << 20, unreachable)
    );
    // Packets that nothing cuts are not joined.
    let joins = |node: &Node| netns::within(&node.path, || netns::set_gro(vxlan::NAME, false)).unwrap();
    assert_eq!([joins(&a), joins(&b)], [false, true]);
    // Who sees all others as they see it is not asked where answers would go.
    let source = |node: &Node| {
        let read = || Ok(std::fs::read_to_string("/proc/sys/net/ipv4/conf/knarr.1/rp_filter").unwrap());
        netns::within(&node.path, read).unwrap()
    };
    assert_eq!([source(&a), source(&b)], ["0\n", "2\n"]);

    // Everything of the overlay comes back when somebody deletes it, and goes with the last node behind it.
    let changes = Changes::subscribe(Some(&a.path)).unwrap();
    run(&a.path, "ip link del knarr.1").unwrap();
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap();
    a.meet(Mode::Auto, &[&b]).await;
    assert_eq!(call(&a.pod, to_b, 80).unwrap(), to_a.to_string());
    a.meet(Mode::Auto, &[]).await;
    assert_eq!(Netlink::in_namespace(&a.path).unwrap().link(vxlan::NAME).await.unwrap(), None);
}

/// One VXLAN packet from `from` to the node at `to`: an ARP-less frame with a UDP packet to `pod`, port 7000.
fn inject(from: &Path, to: Ipv4Addr, pod: Ipv4Addr) {
    let mut frame = Vec::from([8, 0, 0, 0, 0, 0, 1, 0]);
    frame.extend(vxlan::mac("10.42.1.0/24".parse().unwrap()));
    frame.extend([2, 2, 2, 2, 2, 2, 8, 0]);
    let mut ip = Vec::from([0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend([10, 42, 2, 9]);
    ip.extend(pod.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend([0x10, 0, 0x1b, 0x58, 0, 9, 0, 0, b'!']);
    netns::within(from, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(Error::system("bind"))?;
        socket.send_to(&frame, (to, vxlan::PORT)).map(drop).map_err(Error::system("send"))
    })
    .unwrap();
}

/// What is on the overlay's port comes from nodes only: neither a stranger nor a node's pod gets a packet in.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_nodes_speaks_on_the_overlay() {
    let Apart { scene: _scene, a, b, stranger } = Apart::new().await;
    a.meet(Mode::Vxlan, &[&b]).await;
    b.meet(Mode::Vxlan, &[&a]).await;
    let to_a = a.attach().await;
    b.attach().await;
    let receiver = netns::within(&a.pod, || {
        let socket = UdpSocket::bind("0.0.0.0:7000").map_err(Error::system("bind"))?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).map_err(Error::system("set a timeout"))?;
        Ok(socket)
    })
    .unwrap();
    let node = a.peer.addresses[0];
    let got = |from: &Path| {
        inject(from, node, to_a);
        // What a node sends by the same way arrives after it.
        call(&b.path, to_a, 80).unwrap();
        receiver.set_nonblocking(true).unwrap();
        receiver.recv(&mut [0; 64]).is_ok()
    };
    assert_eq!([got(&stranger), got(&b.pod), got(&a.pod)], [false; 3]);
    // The packet is one that would have got in.
    receiver.set_nonblocking(false).unwrap();
    inject(&b.path, node, to_a);
    assert!(receiver.recv(&mut [0; 64]).is_ok());
    // Rules that somebody deletes come back, each kind by itself.
    for all in ["iptables -F KNARR-VXLAN-IN", "iptables -t raw -F"] {
        run(&a.path, all).unwrap();
        assert_eq!(a.meet(Mode::Vxlan, &[&b]).await.1, 1, "{all}");
    }
    assert_eq!(a.meet(Mode::Vxlan, &[&b]).await.1, 0);
    a.meet(Mode::HostGw, &[&b]).await;
    assert!(!run(&a.path, "iptables-save").unwrap().contains("8472"));
}
