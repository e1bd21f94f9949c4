//! The balancer beside a server that has others beside it: a small process on a loopback port that `admin.kubeconfig` names.
//!
//! It is a process of its own because it has to be there when the server is not: it goes on when the server ends, however that
//! comes about, and the next run finds it by `balancer.pid.json` and lets it be, unless program or flags have changed. Which
//! servers live stands in `servers.json`: the server notes it while it runs, and so does the balancer, which sees it by way of any
//! server with the certificate of the machine's `kube-proxy`. A server with a store of its own has no balancer, since nobody could
//! take its place.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio_util::sync::CancellationToken;

use crate::{
    compose::control_plane,
    local::{
        process::{self, Identity},
        record::write_whole,
    },
};

const NAME: &str = "balancer";
/// How long an old one may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a balancer is started with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's folder; an absolute path.
    pub data: PathBuf,
    /// The port, on 127.0.0.1.
    pub port: u16,
    /// The server's own address, `https://HOST:PORT`.
    pub own: String,
}

/// Where a server notes which servers live.
pub fn notes(data: &Path) -> PathBuf {
    data.join("servers.json")
}

/// Ends the one that an earlier run of the server has left behind, if there is one.
pub fn end(data: &Path) {
    let Some(running) = Identity::load(data, NAME) else { return };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let _ = kill(Pid::from_raw(running.pid), signal);
        process::wait_gone(&[running.pid].into(), PATIENCE);
        if !running.is_alive() {
            return;
        }
    }
}

impl Plan {
    /// The address for kubeconfigs on this machine.
    pub fn address(&self) -> String {
        format!("https://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Sees to it that one runs: the one that does already, or a new one, which listens when this returns.
    pub fn ensure(&self) -> Result<Identity> {
        let program = std::env::current_exe().context("find our own program")?;
        // The least that may see which servers live.
        let kubeconfig = control_plane::kubeconfig(&self.data, &self.own, "system:kube-proxy")?;
        write_whole(&self.kubeconfig(), kubeconfig.as_bytes(), 0o600)?;
        if let Some(running) = Identity::load(&self.data, NAME)
            && self.is(running, &program)
        {
            return Ok(running);
        }
        end(&self.data);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).with_context(|| {
            format!("listen on 127.0.0.1:{} for admin.kubeconfig (--balancer-port takes another port, or 0)", self.port)
        })?;
        let log = self.data.join("balancer.log");
        let log = File::create(&log).with_context(|| format!("open {}", log.display()))?;
        // Tokio's, which collects it when it ends. What ends a terminal's programs does not reach it, nor the server's secrets.
        let child = tokio::process::Command::new(program)
            .args(self.arguments())
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(OwnedFd::from(listener))
            .stdout(log.try_clone().context("open the balancer's log")?)
            .stderr(log)
            .spawn()
            .context("start the balancer")?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let identity = pid.and_then(Identity::of).context("the balancer ended at once; see balancer.log")?;
        identity.save(&self.data, NAME)?;
        Ok(identity)
    }

    /// Runs one until `shutdown`, and leaves it running then.
    pub async fn keep(self, shutdown: CancellationToken) -> Result<()> {
        loop {
            let running = self.ensure()?;
            match shutdown.run_until_cancelled(running.ended()).await {
                Some(ended) => ended.context("wait for the balancer")?,
                None => return Ok(()),
            }
            tracing::warn!("the balancer ended; starting it again");
        }
    }

    fn arguments(&self) -> Vec<String> {
        let (listen, notes) = (format!("{}:{}", Ipv4Addr::LOCALHOST, self.port), notes(&self.data).display().to_string());
        let kubeconfig = self.kubeconfig().display().to_string();
        let words = [NAME, "--listen", &listen, "--listening", "--servers-file", &notes, "--kubeconfig", &kubeconfig];
        words.map(str::to_owned).into()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data.join("balancer.kubeconfig")
    }

    /// Whether that process is what we would start.
    fn is(&self, running: Identity, program: &Path) -> bool {
        let command = fs::read(format!("/proc/{}/cmdline", running.pid)).unwrap_or_default();
        let words = command.strip_suffix(&[0]).unwrap_or(&command).split(|byte| *byte == 0);
        let same = words.skip(1).eq(self.arguments().iter().map(String::as_bytes));
        same && fs::read_link(format!("/proc/{}/exe", running.pid)).is_ok_and(|found| found == program)
    }
}
