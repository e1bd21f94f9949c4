//! An address that moves between machines of a link.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use knarr_net::{
    Error, Netlink,
    testing::{Scene, call, run, serve, wire},
    virtual_address::{LATE, Unfit, VirtualAddress},
};

const OURS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const MOVES: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 9);

/// Two machines on a link.
struct Pair {
    _scene: Scene,
    here: PathBuf,
    there: PathBuf,
    links: (String, String),
}

impl Pair {
    async fn new() -> Self {
        let mut scene = Scene::new();
        let [here, there] = ["here", "there"].map(|name| scene.namespace(name));
        let links = wire(&here, OURS, &there, THEIRS).await;
        Self { _scene: scene, here, there, links }
    }

    async fn open(&self) -> Result<VirtualAddress, Error> {
        VirtualAddress::open(Some(self.here.clone()), MOVES, OURS, &[]).await
    }

    async fn is_here(&self) -> bool {
        let addresses = Netlink::in_namespace(&self.here).unwrap().addresses().await.unwrap();
        addresses.iter().any(|own| own.address == MOVES)
    }

    /// Adds the address where it should not be.
    async fn add(&self, place: &Path, link: &str, prefix: u8) {
        let netlink = Netlink::in_namespace(place).unwrap();
        let index = netlink.existing(link).await.unwrap().index;
        netlink.add_address(index, MOVES, prefix).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_takes_it_from_a_machine_that_does_nothing() {
    let pair = Pair::new().await;
    let ours = pair.open().await.unwrap();
    assert_eq!(ours.link(), pair.links.0);
    assert_eq!(ours.other_holder().await.unwrap(), None);
    serve(&pair.here, 80);
    for _ in 0..2 {
        ours.keep(2).await.unwrap();
        assert_eq!(call(&pair.there, MOVES, 80).unwrap(), THEIRS.to_string());
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    // Extended 1.5 s ago, and first taken 3 s ago: longer than it was taken for.
    assert!(pair.is_here().await);
    ours.keep(1).await.unwrap();
    let since = Instant::now();
    while pair.is_here().await {
        assert!(since.elapsed() < Duration::from_secs(10), "it is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let taken = since.elapsed();
    assert!(taken > Duration::from_millis(900) && taken < Duration::from_secs(1) + 2 * LATE, "{taken:?}");
    ours.withdraw().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_learn_at_once_where_it_is() {
    let pair = Pair::new().await;
    let ours = pair.open().await.unwrap();
    let link = &pair.links.1;
    run(&pair.there, &format!("ip neigh replace {MOVES} lladdr 02:00:00:00:00:01 dev {link} nud reachable")).unwrap();
    ours.keep(5).await.unwrap();
    ours.announce().await.unwrap();
    let since = Instant::now();
    while run(&pair.there, &format!("ip neigh show {MOVES}")).unwrap().contains("02:00:00:00:00:01") {
        assert!(since.elapsed() < Duration::from_secs(5), "nobody has heard of it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ours.withdraw().await.unwrap();
    assert!(!pair.is_here().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_address_is_noticed() {
    let pair = Pair::new().await;
    let ours = pair.open().await.unwrap();
    pair.add(&pair.there, &pair.links.1, 24).await;
    let there = Netlink::in_namespace(&pair.there).unwrap().existing(&pair.links.1).await.unwrap();
    assert_eq!(ours.other_holder().await.unwrap(), there.mac);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_left_is_taken_away() {
    let pair = Pair::new().await;
    pair.add(&pair.here, &pair.links.0, 32).await;
    assert!(pair.is_here().await);
    let ours = pair.open().await.unwrap();
    assert!(!pair.is_here().await);
    ours.keep(60).await.unwrap();
    pair.open().await.unwrap();
    assert!(!pair.is_here().await);
    // The machine's own is nobody's to take.
    pair.add(&pair.here, &pair.links.0, 24).await;
    let refused = pair.open().await.unwrap_err();
    assert!(matches!(refused, Error::Unfit(Unfit::Own(MOVES, _))), "{refused}");
    assert!(pair.is_here().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_without_a_carrier_gets_none() {
    let pair = Pair::new().await;
    let ours = pair.open().await.unwrap();
    run(&pair.there, &format!("ip link set {} down", pair.links.1)).unwrap();
    let refused = ours.keep(5).await.unwrap_err();
    assert!(matches!(refused, Error::NotConnected(_)), "{refused}");
    assert!(!pair.is_here().await);
}
