//! Taking over what an earlier runtime process has left: from disk, and from the shims that still run.
//!
//! Disk says what there was, the shim says what runs, and the records that shims write say how the rest ended. Directories
//! that describe nothing (a crash in the middle of making them) are removed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, watch};

use crate::core::Core;
use crate::disk;
use crate::error::{Error, Result, Step, chain};
use crate::sandbox::read_exit;
use crate::shim_client::{self, Shim};
use crate::state::{
    Container, ContainerRecord, Exit, LiveSandbox, Sandbox, SandboxRecord, cgroup_parent, container_name, now_ns,
    sandbox_name,
};

/// Between two tries to connect to a shim that does not get round to it.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

impl Core {
    /// Finds sandboxes and containers again.
    pub(crate) async fn restore(self: &Arc<Self>) -> Result<()> {
        disk::make_dir(&self.layout.sandboxes())?;
        disk::make_dir(&self.layout.containers())?;
        let mut connections = Vec::new();
        let ids = disk::names(&self.layout.sandboxes());
        // All at once: a shim that stands still holds up no other.
        let loaded = futures::future::join_all(ids.iter().map(|id| self.load_sandbox(id))).await;
        for (id, loaded) in ids.into_iter().zip(loaded) {
            match loaded {
                Ok((sandbox, connection)) => {
                    self.reserve("sandbox", &sandbox.name, &id)?;
                    self.add_sandbox(sandbox.clone());
                    connections.push((sandbox, connection));
                }
                Err(error) => {
                    tracing::warn!(sandbox = id, error = chain(&error), "removing what is left of an unfinished sandbox");
                    disk::remove_dir(&self.layout.sandbox(&id))?;
                }
            }
        }
        for id in disk::names(&self.layout.containers()) {
            match self.load_container(&id) {
                Ok(container) => {
                    self.reserve("container", &container.name, &id)?;
                    self.add_container(Arc::new(container));
                }
                Err(error) => {
                    tracing::warn!(
                        container = id,
                        error = chain(&error),
                        "removing what is left of an unfinished container"
                    );
                    disk::remove_dir(&self.layout.container(&id))?;
                }
            }
        }
        for (sandbox, connection) in connections {
            self.take_over(sandbox, connection).await;
        }
        self.images.collect();
        let kept: HashSet<String> = self.sandboxes().iter().map(|sandbox| sandbox.id.clone()).collect();
        if let Err(error) = self.network.retain(&kept).await {
            tracing::warn!(error = chain(&error), "addresses of former pods are left");
        }
        Ok(())
    }

    async fn load_sandbox(&self, id: &str) -> Result<(Arc<Sandbox>, Option<Connection>)> {
        let dir = self.layout.sandbox(id);
        let config = std::fs::read(dir.join("config.pb"))
            .step("read sandbox's configuration")
            .and_then(|bytes| cri::PodSandboxConfig::decode(bytes.as_slice()).step("decode sandbox's configuration"));
        let record = disk::read_json::<SandboxRecord>(&dir.join("state.json"));
        let connection = self.find_shim(id, &dir).await;
        let (config, record) = match (config, record) {
            (Ok(config), Ok(record)) => (config, record),
            // A request that nobody got an answer to, mostly. What is there of it must not go on unknown.
            (config, record) => {
                if let Some(connection) = connection {
                    connection.shim.shut_down().await.step("end the unfinished sandbox' shim")?;
                }
                let _ = self.network.teardown(id).await;
                let config = config?;
                let group = self.cgroups.sandbox_group(&cgroup_parent(&config), id);
                let _ = self.remove_own_group(&group, id);
                return Err(record.err().unwrap_or_else(|| Error::State("the sandbox is unfinished".to_owned())));
            }
        };
        let sandbox = Sandbox {
            id: id.to_owned(),
            name: sandbox_name(&config.metadata.clone().unwrap_or_default()),
            config,
            dir,
            lifecycle: tokio::sync::Mutex::default(),
            live: Mutex::new(LiveSandbox { record, shim: None }),
        };
        Ok((Arc::new(sandbox), connection))
    }

    async fn find_shim(&self, id: &str, dir: &Path) -> Option<Connection> {
        let connecting = async {
            loop {
                match shim_client::connect(dir).await {
                    // As many wait as may.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::time::sleep(PAUSE).await,
                    connected => return connected.ok(),
                }
            }
        };
        let Ok(connection) = tokio::time::timeout(self.shim_patience(), connecting).await else {
            tracing::error!(sandbox = id, "a shim takes no connections; its pod is given up");
            match tokio::time::timeout(self.shim_patience(), shim_client::kill_in(dir)).await {
                Ok(Ok(Some(()))) => {}
                other => tracing::error!(sandbox = id, ?other, "a shim that takes no connections goes on"),
            }
            return None;
        };
        let connection = connection?;
        let (sender, news) = mpsc::unbounded_channel();
        let shim = Shim::new(id, connection, self.shim_patience(), sender);
        let error = match tokio::time::timeout(self.shim_patience(), shim.hello()).await {
            Ok(Ok(hello)) => return Some(Connection { shim, hello, news }),
            Ok(Err(error)) => error,
            Err(_) => Error::Timeout("no answer".to_owned()),
        };
        tracing::error!(sandbox = id, error = chain(&error), "a shim cannot be talked to; its pod is given up");
        // Otherwise it would go on with nobody to end it.
        if let Err(error) = shim.kill_itself().await {
            tracing::error!(sandbox = id, error = chain(&error), "a shim that cannot be talked to goes on");
        }
        None
    }

    fn load_container(&self, id: &str) -> Result<Container> {
        let dir = self.layout.container(id);
        let bytes = std::fs::read(dir.join("config.pb")).step("read container's configuration")?;
        let config = cri::ContainerConfig::decode(bytes.as_slice()).step("decode container's configuration")?;
        let mut record: ContainerRecord = disk::read_json(&dir.join("state.json"))?;
        let sandbox = self.sandbox(&record.sandbox)?;
        if record.exit.is_none() {
            record.exit = read_exit(&dir);
        }
        if let Some(image) = self.images.find(&record.image) {
            self.images.hold(id, &image)?;
        }
        let pod = sandbox.config.metadata.clone().unwrap_or_default();
        Ok(Container {
            id: id.to_owned(),
            name: container_name(&config.metadata.clone().unwrap_or_default(), &pod),
            cgroup: format!("{}/{id}", sandbox.cgroup_parent()),
            sandbox,
            config,
            dir,
            lifecycle: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(record.exit.is_some()),
            live: Mutex::new(record),
        })
    }

    /// Compares a sandbox with what its shim says.
    async fn take_over(self: &Arc<Self>, sandbox: Arc<Sandbox>, connection: Option<Connection>) {
        let Some(Connection { shim, hello, news }) = connection else {
            self.lost(&sandbox).await;
            return;
        };
        sandbox.live.lock().shim = Some(shim);
        let record = sandbox.record();
        if record.ready && hello.pause == 0 {
            let _ = sandbox.change(|record| record.ready = false);
        }
        for container in self.containers_of(&sandbox.id) {
            let running = hello.containers.iter().find(|(id, _)| *id == container.id);
            let known = container.record();
            match running {
                // Its start was under way when the former process ended.
                Some((_, pid)) if known.started_ns == 0 => {
                    let _ = container.change(|record| (record.started_ns, record.pid) = (now_ns(), *pid));
                }
                Some(_) => {}
                None if known.started_ns != 0 && known.exit.is_none() => {
                    // The shim has written the record by now if it ever saw the end.
                    let exit = read_exit(&container.dir).unwrap_or_else(|| Exit::unknown(now_ns()));
                    self.container_ended(&container, exit).await;
                }
                None => {}
            }
        }
        if hello.pause != 0 && record.connected {
            let namespace = format!("/proc/{}/ns/net", hello.pause);
            if let Err(error) = self.network.adopt(Path::new(&namespace), &sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, error = chain(&error), "a pod's network cannot be taken over");
            }
        }
        self.follow(sandbox, news);
    }

    async fn lost(&self, sandbox: &Sandbox) {
        if sandbox.record().ready {
            let _ = sandbox.change(|record| record.ready = false);
        }
        self.abandon_containers(sandbox, Exit::unknown).await;
    }
}

struct Connection {
    shim: Arc<Shim>,
    hello: shim::HelloReply,
    news: mpsc::UnboundedReceiver<shim_client::News>,
}
