//! One of the two that are compared: a kubectl, a server of its own, a home and a working directory.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use apiserver::testing::TestServer;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::mask::{mask, same};

/// What a command printed and how it ended, masked.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Outcome {
    /// Whether it is what the other one did.
    pub fn same(&self, other: &Self) -> bool {
        self.code == other.code && same(&self.stdout, &other.stdout) && same(&self.stderr, &other.stderr)
    }
}

/// A kubectl and its server.
pub struct Side {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Side {
    /// Starts a server for a kubectl.
    pub async fn start(kubectl: &Path) -> Self {
        let mut server = apiserver::testing::start().await;
        let url = server.url().await;
        let folder = tempfile::tempdir().expect("make a directory");
        for name in ["bin", "home/.kube", "tmp", "work"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("make a directory");
        }
        std::os::unix::fs::symlink(kubectl, folder.path().join("bin/kubectl")).expect("link to the kubectl");
        let side = Self { server, folder };
        std::fs::write(side.folder.path().join("home/.kube/config"), kubeconfig(&url)).expect("write the kubeconfig");
        side
    }

    /// Writes a file into the working directory.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.folder.path().join("work").join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("make the file's directory");
        }
        std::fs::write(path, content).expect("write the file");
    }

    /// Sends a request as an administrator.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(), String> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body.map_or_else(Vec::new, |body| body.to_string().into_bytes()));
        let request = request.map_err(|error| error.to_string())?;
        self.server.client().request_text(request).await.map(drop).map_err(|error| error.to_string())
    }

    /// Runs a shell command with this side's kubectl; `time` is what it may take if that is asked of it.
    pub async fn run(&self, command: &str, stdin: &str, time: &str) -> Outcome {
        let folder = self.folder.path();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.join("bin").display());
        let mut child = tokio::process::Command::new("/bin/sh")
            .args(["-c", command])
            .env_clear()
            .envs([
                ("PATH", path.as_str()),
                ("TZ", "UTC"),
                ("LC_ALL", "C.UTF-8"),
                ("KUBECTL_COMMAND_HEADERS", "false"),
                ("T", time),
            ])
            .env("HOME", folder.join("home"))
            .env("TMPDIR", folder.join("tmp"))
            .current_dir(folder.join("work"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run a shell");
        if let Some(mut pipe) = child.stdin.take() {
            // A command that does not read its input closes it.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        let most = std::time::Duration::from_secs(60);
        let output = match tokio::time::timeout(most, child.wait_with_output()).await {
            Ok(output) => output.expect("wait for a shell"),
            Err(_) => return Outcome { stdout: String::new(), stderr: "it did not end within a minute".into(), code: -1 },
        };
        let place = folder.to_string_lossy();
        let masked = |bytes: &[u8]| mask(&String::from_utf8_lossy(bytes), &place);
        Outcome { stdout: masked(&output.stdout), stderr: masked(&output.stderr), code: output.status.code().unwrap_or(-1) }
    }
}

fn kubeconfig(url: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: {{server: \"{url}\"}}\n\
         users:\n- name: admin\n  user: {{}}\ncontexts:\n- name: test\n  context: {{cluster: test, user: admin}}\n"
    )
}

/// A real kubectl whose output ours follows: the newest one from 1.32 on.
pub fn real() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("KUBECTL").map(PathBuf::from);
    let found = named.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join("kubectl")));
    found.filter_map(|path| Some((version(&path)?, path))).filter(|(v, _)| *v >= (1, 32)).max().map(|(_, path)| path)
}

fn version(kubectl: &Path) -> Option<(u32, u32)> {
    let output = std::process::Command::new(kubectl).args(["version", "--client", "-o", "json"]).output().ok()?;
    let told: Value = serde_json::from_slice(&output.stdout).ok()?;
    let client = &told["clientVersion"];
    // Ours is no yardstick.
    if client["gitVersion"].as_str()?.contains("knarr") {
        return None;
    }
    let digits = |field: &str| client[field].as_str()?.trim_end_matches('+').parse().ok();
    Some((digits("major")?, digits("minor")?))
}
