//! Official clients in other languages, where `tests/clients/install` has installed them.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use knarr_apiserver::testing;
use tokio::process::Command;

/// The installed clients' folder; `None` (said aloud) without one.
fn installed(client: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("KNARR_CLIENTS").map(|home| Path::new(&home).join(client));
    let found = folder.filter(|folder| folder.join("ready").exists());
    if found.is_none() {
        eprintln!("skipped: the {client} client is not installed (tests/clients/install does it)");
    }
    found
}

async fn tell(server: &testing::TestServer, command: &mut Command) -> Output {
    let config = std::env::temp_dir().join(format!("knarr-clients-{}", uuid::Uuid::new_v4()));
    std::fs::write(&config, server.kubeconfig()).unwrap();
    let child = command.arg(&config).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), child).await;
    std::fs::remove_file(&config).unwrap();
    output.expect("the story ends").unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_runs_a_deployment() {
    let Some(home) = installed("python") else { return };
    let server = testing::start_secure().await;
    let output = tell(&server, Command::new(home.join("bin/python")).arg(format!("{STORIES}/story.py"))).await;
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_javascript_client_runs_a_deployment() {
    let Some(home) = installed("node") else { return };
    let server = testing::start_secure().await;
    // Modules are looked for beside the script.
    let script = home.join("story.mjs");
    std::fs::copy(format!("{STORIES}/story.mjs"), &script).unwrap();
    let output = tell(&server, Command::new("node").arg(&script)).await;
    assert!(output.status.success(), "{}", said(&output));
}
