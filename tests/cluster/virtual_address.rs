//! One address that leads to a living server, whichever of them is gone, for clients that know nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::{Signal, eventually, kubectls, succeeded};

use crate::{
    join::{ETCD, sharing},
    standalone::Machines,
};

const SECONDS_60: Duration = Duration::from_secs(60);
/// How long no server may answer at the address. A kubectl's try takes up to three of them.
const MOST: Duration = Duration::from_secs(12);
/// How long the peace is watched that a server's return must not disturb: longer than its first tries.
const WATCHED: Duration = Duration::from_secs(4);

/// The servers' machines, and a client on their link that is neither.
struct Link {
    machines: Machines,
    address: String,
}

impl Link {
    fn new() -> Result<Self> {
        let machines = Machines::two()?;
        let first = machines.cluster.address(1)?;
        let address = format!("{}.88", first.rsplit_once('.').context("read an address")?.0);
        Ok(Self { machines, address })
    }

    /// Runs a script where no server is.
    fn outside(&self, script: &str) -> Result<String> {
        self.machines.run(&format!("nsenter --net=/run/netns/{}-outside sh -ec '{script}'", self.machines.cluster.name))
    }

    /// The machines that have an address now: one at most.
    fn holders(&self, address: &str) -> Result<Vec<usize>> {
        let look = || {
            let has = |machine| {
                let show = format!("ip -o -4 address show to {address}/32");
                Ok::<_, anyhow::Error>((machine, !succeeded(&mut self.machines.on(machine, &show)?)?.is_empty()))
            };
            let both = [has(1)?, has(2)?];
            Ok::<_, anyhow::Error>(both.into_iter().filter(|(_, has)| *has).map(|(machine, _)| machine).collect::<Vec<_>>())
        };
        let holders = look()?;
        // It may have moved between the two looks.
        let holders = if holders.len() > 1 { look()? } else { holders };
        assert!(holders.len() < 2, "{address} is on both machines");
        Ok(holders)
    }

    /// Waits until the server at one of their own addresses is ready.
    fn await_ready(&self, server: &str) -> Result<()> {
        eventually("see a server ready", SECONDS_60, || {
            let ready = self.machines.run(&format!("curl -sk --max-time 5 https://{server}:6443/readyz"))?;
            Ok((ready == "ok").then_some(()))
        })
    }

    /// Waits until the API is served at the address, by the machine that is meant to; returns how long that took.
    fn await_served(&self, by: usize) -> Result<Duration> {
        let since = Instant::now();
        eventually("be served at the virtual address", SECONDS_60, || {
            let ready = self.outside(&format!("curl -sk --max-time 1 https://{}:6443/readyz", self.address));
            let holders = self.holders(&self.address)?;
            Ok((holders == [by] && ready? == "ok").then(|| since.elapsed()))
        })
    }

    /// Every kubectl with a copy of a server's kubeconfig, until it is answered; returns how long the slowest took.
    fn ask(&self, arguments: &str) -> Result<Duration> {
        let since = Instant::now();
        for kubectl in kubectls()? {
            let command = format!("{} --kubeconfig $T/copied --request-timeout 3s {arguments}", kubectl.display());
            eventually("be answered", SECONDS_60, || self.outside(&command).map(Some))?;
        }
        Ok(since.elapsed())
    }

    /// Sees to it that an address stays where it is.
    fn stays(&self, address: &str, holders: &[usize]) -> Result<()> {
        let end = Instant::now() + WATCHED;
        while Instant::now() < end {
            assert_eq!(self.holders(address)?, holders);
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// An agent that joins by the address.
fn agent_of(link: &Link, place: &str, node_ip: &str) -> String {
    format!(
        "exec knarr agent --server https://{}:6443 --token-file $T/first/node-token --data-dir {place} --node-ip {node_ip} \
         --shared-disk",
        link.address
    )
}

#[test]
fn a_virtual_address_leads_to_a_living_server() -> Result<()> {
    let link = Link::new()?;
    let machines = &link.machines;
    let _etcd = machines.start(1, "etcd", ETCD)?;
    eventually("reach etcd", SECONDS_60, || machines.run("curl -sf --max-time 5 http://$A:2379/health").map(Some))?;

    // Somebody has it: it is left alone until nobody has.
    let theirs = |verb: &str| {
        let device = "$(ip -o -4 address show scope global | head -n 1 | cut -d \" \" -f 2)";
        link.outside(&format!("ip address {verb} {}/32 dev {device}", link.address))
    };
    theirs("add")?;
    let elsewhere = "198.51.100.7";
    let first = sharing("first", "$A", &format!("--virtual-address {} --tls-san {elsewhere}", link.address));
    let token = "--token-file $T/first/server-token";
    let second = sharing("second", "$B", &format!("{token} --virtual-address {}", link.address));
    let mut on_first = machines.start(1, "first", &first)?;
    eventually("hear that it is in use", SECONDS_60, || Ok(on_first.said()?.contains("is in use by").then_some(())))?;
    assert_eq!(link.holders(&link.address)?, [0; 0]);
    theirs("delete")?;
    link.await_served(1)?;

    let copied = std::fs::read_to_string(machines.path("first/admin.kubeconfig"))?;
    assert!(copied.contains(&format!("server: https://{}:6443", link.address)), "{copied}");
    std::fs::write(machines.path("copied"), copied)?;
    // Those who know nothing of the cluster yet are told it as well.
    let told = format!("curl -sk https://{}:6443/api/v1/namespaces/kube-public/configmaps/cluster-info", link.address);
    let told = link.outside(&told)?;
    assert!(told.contains(&format!("server: https://{}:6443", link.address)), "{told}");
    let mut on_second = machines.start(2, "second", &second)?;
    let agent = machines.start(2, "agent", &agent_of(&link, "$T/agent --node-name n2", "$B"))?;
    let node = "get node n2 -o jsonpath={.status.conditions[-1:].status}";
    eventually("see the node ready", SECONDS_60, || {
        link.ask("get node n2")?;
        let ready = format!("{} --kubeconfig $T/copied {node}", kubectls()?[0].display());
        Ok((link.outside(&ready)? == "True").then_some(()))
    })
    .with_context(|| agent.said().unwrap_or_default())?;
    let beats = || {
        let kubectl = kubectls()?[0].display().to_string();
        link.outside(&format!(
            "{kubectl} --kubeconfig $T/copied get lease n2 -n kube-node-lease -o jsonpath={{.spec.renewTime}}"
        ))
    };
    link.await_ready("$B")?;
    link.stays(&link.address, &[1])?;
    // Somebody takes it in spite of that: whoever looks after the servers hears of it, and by whom.
    theirs("add")?;
    eventually("hear of the rival", SECONDS_60, || {
        Ok(on_first.said()?.contains("uses the virtual address, too").then_some(()))
    })?;
    theirs("delete")?;
    link.ask("get namespaces")?;
    assert_eq!(link.holders(&link.address)?, [1]);

    // A node that says that one of the servers' addresses is its own gets no certificate for it.
    for address in [&link.address, elsewhere] {
        let mut liar = machines.start(1, "liar", &agent_of(&link, "$T/liar --node-name n1", address))?;
        eventually("hear the node refused", SECONDS_60, || {
            let refused = format!("{address} is no node's address");
            Ok((on_first.said()?.contains(&refused) || on_second.said()?.contains(&refused)).then_some(()))
        })
        .with_context(|| liar.said().unwrap_or_default())?;
        liar.kill()?;
    }

    // Its holder takes no more connections, but for those that it has it could go on for ever.
    on_first.limit_descriptors(3)?;
    let took = link.await_served(2)?;
    println!("out of descriptors: the other server answered after {took:?}");
    assert!(took < MOST, "{took:?}");
    on_first.limit_descriptors(1024)?;
    link.await_ready("$A")?;
    link.stays(&link.address, &[2])?;
    on_second.signal(Signal::SIGTERM)?;
    link.await_served(1)?;
    on_second.ended(SECONDS_60)?;
    on_second = machines.start(2, "second-again", &second)?;
    link.await_ready("$B")?;

    // Its holder is killed: the other one takes it, and the same commands work.
    on_first.kill()?;
    let took = link.ask("get namespaces")?;
    println!("killed: every kubectl was answered after {took:?}");
    assert!(took < MOST, "{took:?}");
    assert_eq!(link.holders(&link.address)?, [2]);
    let before = beats()?;
    eventually("hear from the node", SECONDS_60, || Ok((beats()? != before).then_some(())))?;
    // It comes back, and takes nothing from anybody.
    on_first = machines.start(1, "first-again", &first)?;
    link.await_ready("$A")?;
    link.stays(&link.address, &[2])?;

    // The holder stands still: its kernel takes the address away before the other one has it.
    on_second.signal(Signal::SIGSTOP)?;
    let took = link.await_served(1)?;
    println!("stopped: the other server answered after {took:?}");
    assert!(took < MOST, "{took:?}");
    link.ask("get namespaces")?;
    on_second.signal(Signal::SIGCONT)?;
    link.stays(&link.address, &[1])?;

    // The holder ends as it should: it gives the address up, and nobody waits for anything to be over.
    on_first.signal(Signal::SIGTERM)?;
    let took = link.await_served(2)?;
    println!("ended: the other server answered after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(on_first.ended(SECONDS_60)?, Some(0));

    // The holder's machine is cut off: it cannot renew, so it gives the address up, and has no claim when it is back.
    on_first = machines.start(1, "first-once-more", &first)?;
    link.await_ready("$A")?;
    let set = |state: &str| {
        let device = "$(ip -o -4 address show to $B/32 | cut -d ' ' -f 2)";
        succeeded(&mut machines.on(2, &format!("ip link set {device} {state}"))?)
    };
    set("down")?;
    let took = link.await_served(1)?;
    println!("cut off: the other server answered after {took:?}");
    assert!(took < MOST, "{took:?}");
    set("up")?;
    link.stays(&link.address, &[1])?;
    on_first.signal(Signal::SIGTERM)?;
    link.await_served(2)?;
    on_first.ended(SECONDS_60)?;

    // A server with another port is told from those that clients will look for.
    on_first = machines.start(1, "first-port", &format!("{first} --secure-port 7443"))?;
    eventually("hear of the port", SECONDS_60, || Ok(on_first.said()?.contains("another --secure-port").then_some(())))?;
    on_first.signal(Signal::SIGTERM)?;
    on_first.ended(SECONDS_60)?;

    // A server with another address has that for itself.
    let other = link.address.replace(".88", ".89");
    on_first = machines.start(1, "first-other", &first.replace(&link.address, &other))?;
    eventually("see the other address", SECONDS_60, || Ok((link.holders(&other)? == [1]).then_some(())))?;
    assert!(on_first.said()?.contains("other servers have another virtual address"));
    on_second.kill()?;
    eventually("see the first address gone", MOST, || Ok(link.holders(&link.address)?.is_empty().then_some(())))?;
    link.stays(&link.address, &[])?;
    assert_eq!(link.holders(&other)?, [1]);
    Ok(())
}

#[test]
fn a_virtual_address_that_cannot_work_is_refused() -> Result<()> {
    let link = Link::new()?;
    let refused = |name: &str, before: &str, flags: &str| -> Result<String> {
        let script =
            format!("exec {before} knarr server --data-dir $T/{name} --advertise-address $A --disable-agent {flags}");
        let part = link.machines.start(1, name, &script)?;
        let code = part.ended(SECONDS_60).with_context(|| part.said().unwrap_or_default())?;
        let said = part.said()?;
        if code == Some(0) {
            bail!("the server was content:\n{said}");
        }
        Ok(said)
    };
    let said = [
        refused("own", "", "--virtual-address $A")?,
        refused("far", "", "--virtual-address 203.0.113.1")?,
        refused("pods", "", "--virtual-address 10.42.0.9")?,
        refused("loopback", "", "--virtual-address 127.0.0.2")?,
        refused("bound", "", &format!("--virtual-address {} --bind-address $A", link.address))?,
        refused("both", "", &format!("--virtual-address {} --balancer-port 6445", link.address))?,
        refused("bare", "setpriv --bounding-set -net_admin,-net_raw", &format!("--virtual-address {}", link.address))?,
    ];
    let wanted = [
        "is this machine's own address",
        "is in no subnet of",
        "is in 10.42.0.0/16",
        "is not an address that a machine on a link can have",
        "the API server listens on",
        "cannot be used with",
        "CAP_NET_ADMIN and CAP_NET_RAW",
    ];
    for (said, wanted) in said.iter().zip(wanted) {
        assert!(said.contains(wanted), "{wanted}:\n{said}");
    }
    Ok(())
}
