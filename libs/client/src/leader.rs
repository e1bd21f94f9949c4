//! Leader election by Lease: of several like components one works, the others wait.
//!
//! The decision is plain: what the lease says and for how long it has not changed, as measured by our own clock (clocks of
//! other machines are not compared). The deadlines are upstream's: a lease of 15 s, renewed every 2 s; who could not renew for
//! 10 s stops working, before the others may take over.

use std::{future::Future, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Recorder, is_already_exists, is_conflict, is_not_found, metrics::Metrics};

/// With an address after it, the name of the Lease in `kube-system` by which API servers elect who of them has that address. Nobody
/// else may be certified for such an address.
pub const VIRTUAL_ADDRESS: &str = "knarr-virtual-address-";

/// Which lease, who we are, and the deadlines.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The lease's namespace, usually `kube-system`.
    pub namespace: String,
    /// The lease's name, e.g. `kube-controller-manager`.
    pub name: String,
    /// Who we are: unique among all candidates. Upstream: `HOSTNAME_UUID`.
    pub identity: String,
    /// How long others wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long the leader goes on trying to renew before it stops working.
    pub renew_deadline: Duration,
    /// The time between two tries.
    pub retry_period: Duration,
    /// Give the lease up at shutdown, so that the next leader need not wait.
    pub release_on_shutdown: bool,
}

impl Config {
    /// Upstream's deadlines for this lease in `kube-system`.
    pub fn new(name: &str, identity: String) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            release_on_shutdown: true,
        }
    }
}

/// What a candidate does about a lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Write this: we lead, or go on leading.
    Write(LeaseSpec),
    /// Somebody else leads.
    Wait,
}

/// Decides about the lease as it stands (`None`: there is none). `unchanged_for` says how long we have seen it like this.
pub fn decide(lease: Option<&LeaseSpec>, unchanged_for: Duration, config: &Config, now: Timestamp) -> Decision {
    let holder = lease.and_then(|l| l.holder_identity.as_deref()).unwrap_or_default();
    let promised =
        lease.and_then(|l| l.lease_duration_seconds).map_or(config.lease_duration, |s| Duration::from_secs(s.max(0) as u64));
    let ours = holder == config.identity;
    if !ours && !holder.is_empty() && unchanged_for < promised {
        return Decision::Wait;
    }
    let old = lease.cloned().unwrap_or_default();
    Decision::Write(LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(config.lease_duration.as_secs() as i32),
        acquire_time: if ours { old.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(old.lease_transitions.unwrap_or(0).saturating_add((!ours && lease.is_some()).into())),
        ..old
    })
}

/// What the leader leaves behind when it goes: a lease that anybody may take at once.
fn released(lease: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        ..lease.clone()
    }
}

/// The lease was lost: somebody else took it, or it could not be renewed in time.
#[derive(Debug, thiserror::Error)]
#[error("leader election lost")]
pub struct Lost;

/// A candidate for one lease.
pub struct LeaderElector {
    api: Api<Lease>,
    config: Config,
    recorder: Option<Recorder>,
    /// The lease as last seen, and since when it has been like that.
    seen: Option<(Lease, Instant)>,
    renewed: watch::Sender<Option<Instant>>,
}

impl LeaderElector {
    /// A candidate. With a recorder, becoming leader and stopping are told as events of the lease.
    pub fn new(client: Client, config: Config, recorder: Option<Recorder>) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            config,
            recorder,
            seen: None,
            renewed: watch::Sender::default(),
        }
    }

    /// When the last write of the lease that succeeded was begun: nobody else takes the lease before `lease_duration` has passed since
    /// then. For work that may not go on for a moment longer even if this process stands still.
    pub fn renewals(&self) -> watch::Receiver<Option<Instant>> {
        self.renewed.subscribe()
    }

    /// Waits until we lead, then runs `work` until it ends, `shutdown` fires or the lease is lost. The token given to `work` fires in
    /// the latter two cases; the lease is released only after `work` has returned.
    pub async fn run<F, Fut>(mut self, shutdown: CancellationToken, work: F) -> Result<(), Lost>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        if shutdown.run_until_cancelled(self.acquire()).await.is_none() {
            return Ok(());
        }
        let gauge = Metrics::global().leading(&self.config.name);
        gauge.set(1);
        self.tell("became leader");
        let stop = shutdown.child_token();
        let lost = {
            let mut work = std::pin::pin!(work(stop.clone()));
            tokio::select! {
                () = &mut work => false,
                () = self.renew() => {
                    stop.cancel();
                    work.await;
                    true
                }
            }
        };
        gauge.set(0);
        self.tell("stopped leading");
        if lost {
            return Err(Lost);
        }
        if self.config.release_on_shutdown {
            self.release().await;
        }
        Ok(())
    }

    async fn acquire(&mut self) {
        while !self.attempt().await {
            // Spread, so that candidates do not try in step.
            tokio::time::sleep(self.config.retry_period.mul_f64(1.0 + rand::random::<f64>() * 0.2)).await;
        }
    }

    /// Returns once the lease is lost.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if Instant::now() < deadline && self.holds() => {}
                _ => return,
            }
        }
    }

    fn holds(&self) -> bool {
        let holder = self.seen.as_ref().and_then(|(l, _)| l.spec.as_ref()?.holder_identity.as_ref());
        holder == Some(&self.config.identity)
    }

    /// Tries once to take or renew the lease.
    async fn attempt(&mut self) -> bool {
        let begun = Instant::now();
        match self.try_once().await {
            Ok(leads) => {
                if leads {
                    self.renewed.send_replace(Some(begun));
                }
                leads
            }
            Err(error) if is_conflict(&error) || is_already_exists(&error) => {
                // Somebody was faster: look before the next try. A lease deleted under a leader is created anew then.
                false
            }
            Err(error) => {
                tracing::warn!(
                    lease = self.config.name,
                    error = &error as &dyn std::error::Error,
                    "could not write the lease"
                );
                false
            }
        }
    }

    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        // The leader knows the lease from its own last write: one request a renewal.
        if self.holds()
            && let Some((lease, _)) = self.seen.clone()
        {
            match self.write(lease).await {
                Err(error) if is_conflict(&error) || is_not_found(&error) => {}
                done => return done,
            }
        }
        self.look().await?;
        let (spec, age) = match &self.seen {
            Some((lease, since)) => (lease.spec.clone(), since.elapsed()),
            None => (None, Duration::ZERO),
        };
        match decide(spec.as_ref(), age, &self.config, Timestamp::now()) {
            Decision::Wait => Ok(false),
            Decision::Write(spec) => match self.seen.clone() {
                Some((mut lease, _)) => {
                    lease.spec = Some(spec);
                    self.put(lease).await
                }
                None => {
                    let metadata = ObjectMeta {
                        name: Some(self.config.name.clone()),
                        namespace: Some(self.config.namespace.clone()),
                        ..ObjectMeta::default()
                    };
                    let lease = self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await?;
                    self.seen = Some((lease, Instant::now()));
                    Ok(true)
                }
            },
        }
    }

    async fn write(&mut self, mut lease: Lease) -> Result<bool, kube::Error> {
        match decide(lease.spec.as_ref(), Duration::ZERO, &self.config, Timestamp::now()) {
            Decision::Wait => Ok(false),
            Decision::Write(spec) => {
                lease.spec = Some(spec);
                self.put(lease).await
            }
        }
    }

    async fn put(&mut self, lease: Lease) -> Result<bool, kube::Error> {
        let lease = self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.seen = Some((lease, Instant::now()));
        Ok(true)
    }

    /// Reads the lease; remembers since when it has been as it is.
    async fn look(&mut self) -> Result<(), kube::Error> {
        let lease = self.api.get_opt(&self.config.name).await?;
        let known = self.seen.take();
        self.seen = lease.map(|lease| match known {
            Some((old, since)) if old.spec == lease.spec => (lease, since),
            _ => (lease, Instant::now()),
        });
        Ok(())
    }

    async fn release(&mut self) {
        if !self.holds() {
            return;
        }
        let Some((mut lease, _)) = self.seen.take() else { return };
        lease.spec = lease.spec.as_ref().map(|spec| released(spec, Timestamp::now()));
        let params = PostParams::default();
        let put = self.api.replace(&self.config.name, &params, &lease);
        if !matches!(tokio::time::timeout(Duration::from_secs(2), put).await, Ok(Ok(_))) {
            tracing::info!(lease = self.config.name, "the lease could not be released; it will expire");
        }
    }

    fn tell(&self, what: &str) {
        tracing::info!(lease = self.config.name, identity = self.config.identity, "{what}");
        if let (Some(recorder), Some((lease, _))) = (&self.recorder, &self.seen) {
            recorder.normal(lease, "LeaderElection", format!("{} {what}", self.config.identity));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn held(by: &str, transitions: i32, acquired: i64, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_duration_seconds: Some(15),
            acquire_time: Some(MicroTime(at(acquired))),
            renew_time: Some(MicroTime(at(renewed))),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn decisions() {
        let config = Config::new("lease", "me".to_owned());
        let fresh = Duration::from_secs(14);
        let stale = Duration::from_secs(15);
        let ask = |lease: Option<&LeaseSpec>, age| decide(lease, age, &config, at(100));
        assert_eq!(
            [
                ask(None, Duration::ZERO),
                ask(Some(&held("me", 3, 10, 90)), Duration::ZERO),
                ask(Some(&held("you", 3, 10, 90)), fresh),
                ask(Some(&held("you", 3, 10, 90)), stale),
                ask(Some(&held("", 3, 10, 90)), Duration::ZERO),
            ],
            [
                Decision::Write(held("me", 0, 100, 100)),
                Decision::Write(held("me", 3, 10, 100)),
                Decision::Wait,
                Decision::Write(held("me", 4, 100, 100)),
                Decision::Write(held("me", 4, 100, 100)),
            ]
        );
    }
}
