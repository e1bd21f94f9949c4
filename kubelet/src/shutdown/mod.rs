//! Graceful shutdown of the machine (KEP-2000, KEP-2712): pods end in order before systemd ends everything.
//!
//! ```text
//!   systemd-logind ──"preparing for shutdown"──▶ node not ready, no new pods ──▶ pods by priority, lowest first ──▶ lock released
//!          ▲                                                                                                          │
//!          └──────────────────── the kubelet's delay lock, taken at start and again when a shutdown is called off ◀───┘
//! ```
//!
//! Which pods have how long is a plain function of the flags. The manager tells the pods' workers; each holds on to a [`Hold`]
//! until nothing of its pod lives, so a round is over when all have let go, or its time is.

mod bus;
mod logind;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{eviction::SYSTEM_PRIORITY, node::object::node_reference, shared::Ctx};
use bus::BusError;
use logind::Logind;

/// What the status of an ended pod says.
pub const REASON: &str = "Terminated";
/// What the status of an ended pod says.
pub const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// How long after a failure logind is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// And in the end, where there is none.
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// How long pods from a priority on have to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The lowest priority it is for.
    pub priority: i32,
    /// Seconds.
    pub seconds: u64,
}

/// Kept by the worker of a pod that has not ended yet.
pub type Hold = mpsc::Sender<()>;

/// Pods of these priorities have to end now.
#[derive(Clone, Debug)]
pub struct Round {
    /// From this priority on; the first round takes all below, too.
    from: i32,
    /// Up to this one, which is not among them; none is all.
    below: Option<i32>,
    /// How long they have, in seconds.
    pub seconds: i64,
    /// For those who end them.
    pub hold: Hold,
}

impl Round {
    /// Whether pods of that priority are meant.
    pub fn covers(&self, priority: i32) -> bool {
        priority >= self.from && self.below.is_none_or(|below| priority < below)
    }
}

/// The periods that `--shutdown-grace-period` and `--shutdown-grace-period-critical-pods` mean.
pub fn periods(whole: Duration, critical: Duration) -> Vec<Period> {
    if whole.is_zero() {
        return Vec::new();
    }
    let others = Period { priority: 0, seconds: whole.saturating_sub(critical).as_secs() };
    vec![others, Period { priority: SYSTEM_PRIORITY, seconds: critical.as_secs() }]
}

/// `priority=seconds`.
pub fn period(text: &str) -> Result<Period, String> {
    let parsed = text.split_once('=').and_then(|(priority, seconds)| {
        Some(Period { priority: priority.trim().parse().ok()?, seconds: seconds.trim().parse().ok()? })
    });
    parsed.ok_or_else(|| format!("{text:?} is not priority=seconds"))
}

/// The rounds of a shutdown: whom each is for (from, below) and its time, in order.
fn rounds(periods: &[Period]) -> Vec<(i32, Option<i32>, Duration)> {
    let mut sorted = periods.to_vec();
    sorted.sort_by_key(|period| period.priority);
    let end = |place: usize| sorted.get(place + 1).map(|next| next.priority);
    let begin = |place: usize, period: &Period| if place == 0 { i32::MIN } else { period.priority };
    sorted.iter().enumerate().map(|(n, p)| (begin(n, p), end(n), Duration::from_secs(p.seconds))).collect()
}

/// Waits for shutdowns of the machine until `shutdown`, that of the kubelet.
pub async fn run(ctx: Ctx, periods: Vec<Period>, tell: mpsc::UnboundedSender<Round>, shutdown: CancellationToken) {
    if periods.is_empty() {
        return;
    }
    let work = async {
        let mut pause = AGAIN;
        loop {
            let began = tokio::time::Instant::now();
            if let Err(error) = watch(&ctx, &periods, &tell).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the machine's shutdown cannot be watched");
            }
            pause = if began.elapsed() > AGAIN_AT_MOST { AGAIN } else { (pause * 2).min(AGAIN_AT_MOST) };
            tokio::time::sleep(pause).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Holds a delay lock and acts on what logind announces, as long as the bus lives.
async fn watch(ctx: &Ctx, periods: &[Period], tell: &mpsc::UnboundedSender<Round>) -> Result<(), BusError> {
    let mut logind = Logind::connect(&ctx.config.system_bus).await?;
    logind.allow(Duration::from_secs(periods.iter().map(|period| period.seconds).sum())).await?;
    logind.subscribe().await?;
    let mut lock = Some(logind.inhibit().await?);
    loop {
        let coming = logind.next().await?;
        let what = if coming { "event" } else { "cancellation" };
        let node = node_reference(&ctx.facts.name);
        ctx.recorder.normal(&node, "NodeShutdown", format!("Shutdown manager detected shutdown {what}"));
        ctx.shutting_down.send_replace(coming);
        if coming {
            end_pods(periods, tell).await;
            drop(lock.take());
        } else {
            lock = Some(logind.inhibit().await?);
        }
    }
}

/// One round after the other; none waits longer than its time.
async fn end_pods(periods: &[Period], tell: &mpsc::UnboundedSender<Round>) {
    for (from, below, time) in rounds(periods) {
        let (hold, mut held) = mpsc::channel(1);
        let round = Round { from, below, seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), hold };
        tracing::info!(from, below, seconds = round.seconds, "the machine shuts down: ending pods");
        // The receiver only goes with the kubelet.
        let _ = tell.send(round);
        if tokio::time::timeout(time, held.recv()).await.is_err() {
            tracing::warn!(from, below, "not all pods have ended in their time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_flags_are_two_rounds() {
        let all = periods(Duration::from_secs(30), Duration::from_secs(10));
        let (twenty, ten) = (Duration::from_secs(20), Duration::from_secs(10));
        assert_eq!(rounds(&all), [(i32::MIN, Some(2_000_000_000), twenty), (2_000_000_000, None, ten)]);
        assert!(periods(Duration::ZERO, Duration::ZERO).is_empty());
    }

    #[test]
    fn every_priority_is_in_one_round() {
        let all: Vec<Period> = ["100=5", "-10=1", "0=2"].map(|text| period(text).unwrap()).into();
        let (hold, _held) = mpsc::channel(1);
        let rounds: Vec<Round> = rounds(&all)
            .into_iter()
            .map(|(from, below, time)| Round { from, below, seconds: time.as_secs() as i64, hold: hold.clone() })
            .collect();
        let seconds = |priority| rounds.iter().filter(|r| r.covers(priority)).map(|r| r.seconds).collect::<Vec<_>>();
        let found = [i32::MIN, -11, -10, -1, 0, 99, 100, i32::MAX].map(seconds);
        assert_eq!(found, [[1], [1], [1], [1], [2], [2], [5], [5]]);
        assert!(period("x=1").is_err() && period("1").is_err());
    }
}
