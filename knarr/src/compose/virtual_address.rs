//! An address that always leads to a living server: the servers that are given the same one elect who of them has it.
//!
//! ```text
//!   Lease knarr-virtual-address-ADDRESS ──renewed every second──▶ ADDRESS/32 on the link for 3 s more ──▶ announced by ARP
//! ```
//!
//! Each server elects through its own API server, so one that cannot write loses the address. So does one that no longer takes
//! connections (it is out of descriptors, say): the holder asks itself as its clients do, each second anew. The deadlines are short, and each leaves
//! room for the next:
//!
//! - every second the holder renews its lease, and with it the time for which its kernel keeps the address;
//! - after 3 s without a renewal it gives up, and the kernel takes the address away 3 to 4 s after the last one, if the holder was
//!   killed or stands still;
//! - after 5 s in which they saw no renewal the others try, ask the link whether anybody has the address, and take it.
//!
//! So a server that ends gives the address away at once, and one that is lost is followed within 8 s. A server that starts again is the
//! same candidate as before (its own address is its name), and goes on with what it had.
//!
//! Servers with different addresses elect apart from each other: each address leads to those that have been given it.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use client::leader::{self, LeaderElector};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::ListParams, client::Body};
use net::{
    Cidr,
    virtual_address::{LATE, VirtualAddress, lifetime},
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::join;
use crate::balance::Servers;

const LEASE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_secs(1);
/// How often a new place is announced, a second apart: such frames can get lost.
const ANNOUNCEMENTS: u32 = 5;
/// How often the holder asks itself whether it serves; it gives up after [`DEADLINE`] without an answer.
const PROBE: Duration = Duration::from_secs(1);
/// How often the holder asks the link whether somebody else has the address as well.
const LOOK: Duration = Duration::from_secs(10);

/// A server's part in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The virtual address.
    pub address: Ipv4Addr,
    /// The server's own address, on whose link the other one is.
    pub own: Ipv4Addr,
    /// The API server's port.
    pub port: u16,
    /// The file with the authority of the API server's certificate.
    pub authority: PathBuf,
    /// Ranges that the cluster gives addresses from.
    pub ranges: Vec<Cidr>,
}

impl Plan {
    /// Where the API is, for kubeconfigs and agents.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    /// Whether it can work on this machine; takes away what an earlier run has left behind.
    pub async fn open(&self) -> Result<VirtualAddress> {
        VirtualAddress::open(None, self.address, self.own, &self.ranges).await.map_err(|error| {
            let forbidden = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
            let error = anyhow::Error::new(error);
            match forbidden {
                true => {
                    error.context("a virtual address takes root's rights over the network, CAP_NET_ADMIN and CAP_NET_RAW")
                }
                false => error,
            }
        })
    }

    fn lease(&self) -> leader::Config {
        leader::Config {
            lease_duration: LEASE,
            renew_deadline: DEADLINE,
            retry_period: RETRY,
            ..leader::Config::new(&self.lease_name(), format!("{}:{}", self.own, self.port))
        }
    }

    fn lease_name(&self) -> String {
        format!("{}{}", leader::VIRTUAL_ADDRESS, self.address)
    }

    /// Takes part until `shutdown`. An error means that this machine cannot have the address for now, and has left it to others.
    pub async fn run(&self, client: Client, shutdown: CancellationToken) -> Result<()> {
        self.tell_of_others(&client).await;
        while !shutdown.is_cancelled() {
            self.serves().await?;
            let ours = self.open().await?;
            let elector = LeaderElector::new(client.clone(), self.lease(), None);
            let renewals = elector.renewals();
            let mut held = Ok(());
            let outcome = {
                let (held, ours) = (&mut held, &ours);
                let work = |stop| async move { *held = self.hold(ours, renewals, stop).await };
                elector.run(shutdown.clone(), work).await
            };
            held?;
            if outcome.is_err() {
                tracing::warn!(address = %self.address, "this server's lease of the virtual address could not be renewed in time");
            }
        }
        Ok(())
    }

    /// Asks the API server as clients do, by a connection of its own. Any answer is one: not everybody may be told how it is.
    async fn serves(&self) -> Result<()> {
        let ask = async {
            let authority = tokio::fs::read_to_string(&self.authority).await?;
            let own = Servers::new(vec![format!("{}:{}", self.own, self.port)]);
            let client = join::client(&own, Some(&authority), &json!({}))?;
            client.send(http::Request::get("/livez").body(Body::empty())?).await?;
            anyhow::Ok(())
        };
        let answered = tokio::time::timeout(DEADLINE, ask).await.unwrap_or_else(|_| bail!("no answer within {DEADLINE:?}"));
        answered.with_context(|| {
            format!("the API server cannot be asked at {}:{}, and leads nobody to itself", self.own, self.port)
        })
    }

    /// Asks again and again; returns why it was in vain.
    async fn fails(&self) -> anyhow::Error {
        loop {
            if let Err(error) = self.serves().await {
                return error;
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// Has the address until `stop` fires.
    async fn hold(
        &self,
        ours: &VirtualAddress,
        renewals: watch::Receiver<Option<Instant>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let kept = self.keep(ours, renewals, stop).await;
        let withdrawn = ours.withdraw().await.context("take the virtual address away");
        tracing::info!(address = %self.address, "this server does not have the virtual address any more");
        kept.and(withdrawn)
    }

    async fn keep(
        &self,
        ours: &VirtualAddress,
        mut renewals: watch::Receiver<Option<Instant>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let (address, link) = (self.address, ours.link());
        if let Some(mac) = rival(ours).await? {
            bail!("the virtual address {address} is in use by {mac} on {link}: it is left alone until it is nobody's");
        }
        tracing::info!(%address, link, "this server has the virtual address");
        let (mut announcements, mut looked) = (ANNOUNCEMENTS, Instant::now());
        let mut fails = std::pin::pin!(self.fails());
        loop {
            let renewed = *renewals.borrow_and_update();
            if !extend(ours, renewed.context("find out since when the lease is held")?).await? {
                // The others may have it by now. If they have not, it is taken anew.
                ours.withdraw().await?;
                announcements = ANNOUNCEMENTS;
            } else if announcements > 0 {
                ours.announce().await?;
                announcements -= 1;
            } else if looked.elapsed() >= LOOK {
                if let Some(mac) = stop.run_until_cancelled(rival(ours)).await.transpose()?.flatten() {
                    tracing::warn!(
                        %address,
                        "{mac} on {link} uses the virtual address, too: whom clients reach is chance until one of them gives it up"
                    );
                    announcements = ANNOUNCEMENTS;
                }
                looked = Instant::now();
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                error = &mut fails => return Err(error),
                renewed = renewals.changed() => if renewed.is_err() { return Ok(()) },
            }
        }
    }

    /// Another address or port than the other servers' may be meant, or a mistake in one server's flags.
    async fn tell_of_others(&self, client: &Client) {
        let leases = Api::<Lease>::namespaced(client.clone(), "kube-system").list(&ListParams::default()).await;
        let (own, now) = (self.lease_name(), Timestamp::now());
        for (name, holder) in leases.iter().flat_map(|leases| held(&leases.items, now)) {
            if name != own {
                tracing::warn!(
                    address = %self.address,
                    lease = name,
                    "other servers have another virtual address: neither address will lead to the servers of the other"
                );
            } else if !holder.ends_with(&format!(":{}", self.port)) {
                tracing::warn!(
                    address = %self.address,
                    holder,
                    "the server that has the virtual address serves at another --secure-port than this one: clients know one port"
                );
            }
        }
    }
}

/// Who else on the link has the address.
async fn rival(ours: &VirtualAddress) -> Result<Option<String>> {
    let other = ours.other_holder().await.context("ask the link for the virtual address")?;
    Ok(other.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")))
}

/// Keeps the address for as long as a renewal that was begun at `renewed` allows. Whether that is any time at all: it is not for a process
/// that stood still, be it before or while the kernel was told.
async fn extend(ours: &VirtualAddress, renewed: Instant) -> Result<bool> {
    while let Some(seconds) = lifetime(LEASE, renewed.elapsed()) {
        ours.keep(seconds).await.context("keep the virtual address")?;
        if renewed.elapsed() + Duration::from_secs(seconds.into()) + LATE <= LEASE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The leases by which servers hold virtual addresses now: their names, and whose they are.
fn held(leases: &[Lease], now: Timestamp) -> impl Iterator<Item = (&str, &str)> {
    leases.iter().filter_map(move |lease| {
        let name = lease.metadata.name.as_deref().filter(|name| name.starts_with(leader::VIRTUAL_ADDRESS))?;
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
        // One that nobody has renewed for long is history.
        let age = now.duration_since(spec.renew_time.as_ref()?.0);
        (age.as_secs() < 60).then_some((name, holder))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deadline_leaves_room_for_the_next() {
        // Renewed in no time, kept for so long; the kernel is done before anybody else may begin.
        let kept = Duration::from_secs(lifetime(LEASE, Duration::from_millis(1)).unwrap().into());
        assert_eq!(kept, DEADLINE);
        assert!(kept + LATE < LEASE && RETRY + Duration::from_secs(1) < kept && DEADLINE < LEASE);
    }

    #[test]
    fn who_holds_an_address_is_told_from_who_did_once() {
        let lease = |name: &str, holder: &str, renewed: &str| -> Lease {
            let spec = json!({"holderIdentity": holder, "renewTime": renewed});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let (recent, old) = ("2026-01-01T00:00:00.000000Z", "2025-12-31T23:00:00.000000Z");
        let name = |n: u8| format!("{}192.0.2.{n}", leader::VIRTUAL_ADDRESS);
        let leases = [
            lease("kube-scheduler", "a", recent),
            lease(&name(1), "a", recent),
            lease(&name(2), "b", recent),
            lease(&name(3), "", recent),
            lease(&name(4), "c", old),
        ];
        let now = "2026-01-01T00:00:05Z".parse().unwrap();
        let (first, second) = (name(1), name(2));
        assert_eq!(held(&leases, now).collect::<Vec<_>>(), [(&*first, "a"), (&*second, "b")]);
    }
}
