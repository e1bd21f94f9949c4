//! What a kubelet asks of systemd-logind.

use std::{collections::VecDeque, io, os::fd::OwnedFd, path::Path, time::Duration};

use super::bus::{Argument, Bus, BusError, Call, Message};

const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// Where logind is told to wait longer: upstream's file.
const OVERRIDE: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";

/// A connection to logind.
pub struct Logind {
    bus: Bus,
    /// Signals that came while an answer was awaited.
    early: VecDeque<Message>,
}

impl Logind {
    /// Connects to the bus behind that socket.
    pub async fn connect(socket: &Path) -> Result<Self, BusError> {
        let mut logind = Self { bus: Bus::connect(socket).await?, early: VecDeque::new() };
        let hello = Call { member: "Hello", ..Call::to_bus() };
        logind.ask(&hello, &[]).await?;
        Ok(logind)
    }

    /// Sees to it that logind waits for so long.
    pub async fn allow(&mut self, wanted: Duration) -> Result<(), BusError> {
        if self.longest_delay().await? >= wanted {
            return Ok(());
        }
        override_delay(wanted).map_err(|error| BusError::Io("tell logind to wait longer", error))?;
        let reload = Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "KillUnit",
        };
        let hangup = [Argument::Text("systemd-logind.service"), Argument::Text("all"), Argument::Number(libc::SIGHUP)];
        self.ask(&reload, &hangup).await?;
        // It reads its files when it gets to it.
        for _ in 0..20 {
            if self.longest_delay().await? >= wanted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let message = format!("logind does not wait for {} s (InhibitDelayMaxSec)", wanted.as_secs());
        Err(BusError::Refused(message))
    }

    async fn longest_delay(&mut self) -> Result<Duration, BusError> {
        let get = Call { interface: "org.freedesktop.DBus.Properties", member: "Get", ..MANAGED };
        let answer = self.ask(&get, &[Argument::Text(MANAGER), Argument::Text("InhibitDelayMaxUSec")]).await?;
        // A variant: the signature `t`, then the number.
        answer.number_in_variant().map(Duration::from_micros).ok_or(BusError::Malformed)
    }

    /// From now on [`Logind::next`] hears of shutdowns.
    pub async fn subscribe(&mut self) -> Result<(), BusError> {
        let rule = format!("type='signal',interface='{MANAGER}',member='PrepareForShutdown',path='{OBJECT}'");
        self.ask(&Call { member: "AddMatch", ..Call::to_bus() }, &[Argument::Text(&rule)]).await.map(drop)
    }

    /// Takes a lock that delays a shutdown until it is closed.
    pub async fn inhibit(&mut self) -> Result<OwnedFd, BusError> {
        let why = "Kubelet needs time to handle node shutdown";
        let arguments = ["shutdown", "kubelet", why, "delay"].map(Argument::Text);
        let mut answer = self.ask(&Call { member: "Inhibit", ..MANAGED }, &arguments).await?;
        answer.descriptors.pop().ok_or(BusError::Malformed)
    }

    /// Waits for news: a shutdown comes (true), or was called off.
    pub async fn next(&mut self) -> Result<bool, BusError> {
        loop {
            let message = match self.early.pop_front() {
                Some(message) => message,
                None => self.bus.receive().await?,
            };
            if message.is_signal("PrepareForShutdown") {
                return message.truth().ok_or(BusError::Malformed);
            }
        }
    }

    async fn ask(&mut self, call: &Call<'_>, arguments: &[Argument<'_>]) -> Result<Message, BusError> {
        let serial = self.bus.send(call, arguments).await?;
        loop {
            let message = self.bus.receive().await?;
            if message.answers(serial) {
                return message.ok();
            }
            self.early.push_back(message);
        }
    }
}

const MANAGED: Call<'static> = Call { destination: SERVICE, path: OBJECT, interface: MANAGER, member: "" };

fn override_delay(wanted: Duration) -> io::Result<()> {
    let path = Path::new(OVERRIDE);
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    let text =
        format!("# Written by the kubelet for its graceful shutdown.\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
    std::fs::write(path, text)
}
