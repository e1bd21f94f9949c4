//! Helm, unmodified, with the chart that it writes for beginners.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use harness::{Cluster, succeeded};
use serde_json::Value;

/// Helm; `None` (said aloud) where it is not installed.
fn installed() -> Option<PathBuf> {
    let folder = env::var_os("KNARR_CLIENTS").map(|home| Path::new(&home).join("helm"));
    let found = folder.filter(|folder| folder.join("ready").exists()).map(|folder| folder.join("bin/helm"));
    if found.is_none() {
        eprintln!("skipped: Helm is not installed (tests/clients/install does it)");
    }
    found
}

/// Replaces the one place of a file that says `from`.
fn edit(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let (before, after) = text.split_once(from).with_context(|| format!("find {from:?} in {}", path.display()))?;
    Ok(fs::write(path, format!("{before}{to}{after}"))?)
}

#[test]
fn helm_installs_upgrades_tests_rolls_back_and_uninstalls() -> Result<()> {
    let Some(program) = installed() else { return Ok(()) };
    let cluster = Cluster::up(&[])?;
    cluster.load_example_image()?;
    let folder = tempfile::tempdir()?;
    let helm = |arguments: &[&str]| {
        let mut command = cluster.command(&program);
        for kind in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{kind}_HOME"), folder.path().join(kind));
        }
        command.env("KUBECONFIG", cluster.kubeconfig()).current_dir(folder.path());
        succeeded(command.args(arguments))
    };
    let shown = |arguments: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&helm(arguments)?)?) };
    let replicas = || {
        let format = "jsonpath={.spec.replicas} {.status.readyReplicas} {.status.updatedReplicas}";
        cluster.kubectl(&["get", "deployment", "web", "-o", format])
    };

    helm(&["create", "web"])?;
    // The chart's images are elsewhere; the pages that ours serves are as good.
    edit(&folder.path().join("web/values.yaml"), "repository: nginx", "repository: localhost/hello")?;
    let test = folder.path().join("web/templates/tests/test-connection.yaml");
    edit(&test, "image: busybox", "image: localhost/hello:1")?;
    edit(&test, "['wget']", "['busybox', 'wget', '-q', '-O', '-']")?;
    let set = ["--set", "image.tag=1,service.type=NodePort", "--wait", "--timeout", "60s"];
    edit(
        &folder.path().join("web/templates/deployment.yaml"),
        "containerPort: {{ .Values.service.port }}",
        "containerPort: 8080",
    )?;

    helm(&[&["install", "web", "./web"], &set[..]].concat())?;
    assert_eq!(replicas()?, "1 1 1");
    helm(&[&["upgrade", "web", "./web", "--set", "replicaCount=3"], &set[..]].concat())?;
    assert_eq!(replicas()?, "3 3 3");
    let tested = helm(&["test", "web", "--timeout", "60s", "--logs"])?;
    assert!(tested.contains("Phase:          Succeeded") && tested.contains("<h1>Hello from web-"), "{tested}");
    helm(&["rollback", "web", "1", "--wait", "--timeout", "60s"])?;
    assert_eq!(replicas()?, "1 1 1");
    // What cannot come up is taken back.
    let failed = helm(&["upgrade", "web", "./web", "--set", "image.tag=none", "--atomic", "--timeout", "10s"]);
    assert!(failed.is_err_and(|error| error.to_string().contains("has been rolled back due to atomic being set")));
    assert_eq!(replicas()?, "1 1 1");

    let history = shown(&["history", "web", "-o", "json"])?;
    let told: Vec<(u64, &str)> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|of| Some((of["revision"].as_u64()?, of["status"].as_str()?)))
        .collect();
    let states = [(1, "superseded"), (2, "superseded"), (3, "superseded"), (4, "failed"), (5, "deployed")];
    assert_eq!(told, states);
    helm(&["uninstall", "web", "--wait", "--timeout", "60s"])?;
    assert_eq!(shown(&["list", "-A", "-o", "json"])?, Value::Array(Vec::new()));
    let left =
        cluster.kubectl(&["get", "all,secrets,serviceaccounts", "-l", "app.kubernetes.io/instance=web", "-o", "name"])?;
    // Helm leaves what its hooks made.
    assert_eq!(left, "pod/web-test-connection\n");
    Ok(())
}
