//! A cluster is saved while it works, loses objects, and is restored.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use harness::{Cluster, eventually, succeeded};
use serde_json::Value;

fn objects(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["get", "configmaps,secrets,namespaces,serviceaccounts,services", "-A", "-o", "yaml"])
}

fn revision(cluster: &Cluster) -> Result<u64> {
    let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/api/v1/configmaps?limit=1"])?)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("read the list's revision")?.parse()?)
}

#[test]
fn a_cluster_is_saved_while_it_runs_and_restored() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("snapshot");
    let path = file.to_string_lossy();
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"])?;
    cluster.kubectl(&["create", "secret", "generic", "secret", "--from-literal=a=1"])?;
    // Controllers may still be making what every namespace has.
    let before = eventually("save a quiet moment", Duration::from_secs(60), || {
        let before = objects(&cluster)?;
        cluster.knarr(&["snapshot", "save", &path, "--name", &cluster.name])?;
        Ok((objects(&cluster)? == before).then_some(before))
    })?;
    let saved: Value = serde_json::from_str(&cluster.knarr(&["snapshot", "status", &path, "-o", "json"])?)?;
    cluster.kubectl(&["delete", "configmap/kept", "secret/secret"])?;
    cluster.kubectl(&["create", "configmap", "made-since", "--from-literal=a=1"])?;

    let restore = ["snapshot", "restore", &path, "--name", &cluster.name];
    let running = cluster.knarr(&restore).unwrap_err().to_string();
    assert!(running.contains("is running; `knarr node stop"), "{running}");
    cluster.knarr(&["node", "stop", &format!("{}-1", cluster.name)])?;
    let occupied = cluster.knarr(&restore).unwrap_err().to_string();
    assert!(occupied.contains("--replace"), "{occupied}");
    cluster.knarr(&[&restore[..], &["--replace"]].concat())?;
    cluster.start(&[])?;
    assert_eq!(objects(&cluster)?, before);
    let (then, now) = (saved["revision"].as_u64().context("read the snapshot's revision")?, revision(&cluster)?);
    assert!(now > then + 1_000_000, "{then} then, {now} now");
    // A watcher that had seen what was before is told to list again.
    let watch = cluster.kubectl(&["get", "--raw", &format!("/api/v1/configmaps?watch=1&resourceVersion={then}")])?;
    assert!(watch.contains("\"code\":410"), "{watch}");
    stopped_servers_are_saved_too(&cluster, folder.path())
}

/// The same file, without a server; and what the damaged one says.
fn stopped_servers_are_saved_too(cluster: &Cluster, folder: &Path) -> Result<()> {
    cluster.knarr(&["node", "stop", &format!("{}-1", cluster.name)])?;
    let file = folder.join("offline");
    let data = Path::new("/var/lib/knarr").join(&cluster.name);
    cluster.knarr(&["snapshot", "save", &file.to_string_lossy(), "--data-dir", &data.to_string_lossy()])?;
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes)?;
    let mut status = cluster.command(harness::program("knarr")?);
    let refused = succeeded(status.args(["snapshot", "status"]).arg(&file).stderr(Stdio::piped())).unwrap_err().to_string();
    assert!(refused.contains("use another copy"), "{refused}");
    Ok(())
}

/// An etcd on the loopback device that ends with its test.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Etcd {
    fn start(folder: &Path) -> Result<(Self, String)> {
        let sockets = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        let [client, peer] = [sockets[0].local_addr()?, sockets[1].local_addr()?];
        drop(sockets);
        let [client_url, peer_url] = [client, peer].map(|address| format!("http://{address}"));
        let child = Command::new("etcd")
            .args(["--name", "it", "--initial-cluster", &format!("it={peer_url}"), "--data-dir"])
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let it = Self(child);
        eventually("reach etcd", Duration::from_secs(60), || Ok(TcpStream::connect(client).is_ok().then_some(())))?;
        Ok((it, client_url))
    }
}

#[test]
fn carried_to_etcd_and_back_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    let folder = tempfile::tempdir()?;
    cluster.kubectl(&["create", "secret", "generic", "secret", "--from-literal=a=1"])?;
    // All but their versions, which each store gives; controllers may still be making what every namespace has.
    let kept = || -> Result<String> {
        let all = objects(&cluster)?;
        Ok(all.lines().filter(|line| !line.contains("resourceVersion:")).collect::<Vec<_>>().join("\n"))
    };
    let made = ["get", "serviceaccounts,configmaps", "-A", "--no-headers", "-o", "name"];
    eventually("see what every namespace has", Duration::from_secs(60), || {
        let made = cluster.kubectl(&made)?;
        let count = |name: &str| made.lines().filter(|line| line.ends_with(name)).count();
        Ok((count("/default") == 4 && count("/kube-root-ca.crt") == 4).then_some(()))
    })?;
    let before = kept()?;
    cluster.knarr(&["node", "stop", &format!("{}-1", cluster.name)])?;
    let (_etcd, address) = Etcd::start(folder.path())?;
    let redb = format!("redb:/var/lib/knarr/{}/state.db", cluster.name);
    let etcd = format!("etcd:{address}");
    cluster.knarr(&["migrate", "--from", &redb, "--to", &etcd])?;
    for (from, to) in [(&redb, &etcd), (&etcd, &redb)] {
        let occupied = cluster.knarr(&["migrate", "--from", from, "--to", to]).unwrap_err().to_string();
        assert!(occupied.contains("--replace"), "{occupied}");
    }
    cluster.knarr(&["migrate", "--from", &etcd, "--to", &redb, "--replace"])?;
    cluster.start(&[])?;
    assert_eq!(kept()?, before);
    Ok(())
}
