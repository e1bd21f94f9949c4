//! One plugin's program, run once: what it is told by its environment and its standard input, and what comes of it.

use std::{
    fmt,
    io::ErrorKind,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use crate::{
    Error, Result,
    config::{List, Plugin},
};

/// More than any result has.
const MOST_OUTPUT: u64 = 4 << 20;
/// How often a program is tried that somebody has just been writing.
const BUSY_TRIES: u32 = 10;

/// What a plugin is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Connect a pod.
    Add,
    /// Disconnect it.
    Del,
    /// See whether it is connected as it was left.
    Check,
    /// Forget pods that are not named.
    Gc,
    /// Say whether pods can be connected.
    Status,
}

impl Verb {
    fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

impl fmt::Display for Verb {
    /// As messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Del => "delete",
            Self::Check => "check",
            Self::Gc => "gc",
            Self::Status => "status",
        })
    }
}

/// The pod that a plugin is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The sandbox's ID.
    pub pod: String,
    /// The file of its network namespace; `None` if that is gone.
    pub namespace: Option<PathBuf>,
    /// The interface that is its.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
}

/// Where programs are, and where they run.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Folders of programs, the first first.
    pub folders: Vec<PathBuf>,
    /// The node's network namespace; the process' own if `None`.
    pub namespace: Option<PathBuf>,
    /// How long one may take.
    pub patience: Duration,
}

/// What a plugin reads: its settings, and what is added for this call.
pub fn input(list: &List, plugin: &Plugin, capabilities: &Map<String, Value>, previous: Option<&Value>) -> Value {
    let mut input = plugin.settings.clone();
    input.remove("capabilities");
    input.insert("name".to_owned(), list.name.clone().into());
    input.insert("cniVersion".to_owned(), list.version.clone().into());
    let told = plugin.capabilities.iter().filter_map(|name| Some((name.clone(), capabilities.get(name)?.clone())));
    let told: Map<String, Value> = told.collect();
    if !told.is_empty() {
        input.insert("runtimeConfig".to_owned(), Value::Object(told));
    }
    if let Some(previous) = previous {
        input.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(input)
}

impl Place {
    /// A plugin's program.
    pub fn find(&self, plugin: &Plugin, verb: Verb) -> Result<PathBuf> {
        let there = self.folders.iter().map(|folder| folder.join(&plugin.kind)).find(|path| path.is_file());
        there.ok_or_else(|| Error::Missing {
            plugin: plugin.described(),
            verb: verb.to_string(),
            kind: plugin.kind.clone(),
            folders: self.folders.clone(),
        })
    }

    /// Runs a plugin and returns what it printed.
    pub async fn call(&self, plugin: &Plugin, verb: Verb, target: &Target, input: &Value) -> Result<Vec<u8>> {
        let program = self.find(plugin, verb)?;
        let failed = |(message, code)| Error::Plugin { plugin: plugin.described(), verb: verb.to_string(), message, code };
        let child = self.spawn(&program, verb, target).await.map_err(|error| failed((error.to_string(), 0)))?;
        // It may have started others (plugins for addresses), which end with it.
        let group = Group(child.id());
        let ran = tokio::time::timeout(self.patience, converse(child, input.to_string())).await;
        let (status, output, complaint) = match ran {
            Ok(Ok(ran)) => ran,
            Ok(Err(error)) => return Err(failed((error.to_string(), 0))),
            Err(_) => {
                drop(group);
                return Err(failed((format!("no answer within {} s", self.patience.as_secs_f32()), 0)));
            }
        };
        // What it has started in the background is its own business once it has succeeded.
        std::mem::forget(group);
        if !complaint.is_empty() {
            tracing::debug!(plugin = plugin.kind, %verb, complaint = %String::from_utf8_lossy(&complaint), "a plugin wrote");
        }
        if status.success() { Ok(output) } else { Err(failed(said(&output, &complaint, status))) }
    }

    async fn spawn(&self, program: &Path, verb: Verb, target: &Target) -> std::io::Result<Child> {
        let path = self.folders.iter().map(|folder| folder.to_string_lossy()).collect::<Vec<_>>().join(":");
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", verb.command())
            .env("CNI_CONTAINERID", &target.pod)
            .env("CNI_NETNS", target.namespace.as_deref().unwrap_or(Path::new("")))
            .env("CNI_IFNAME", &target.interface)
            .env("CNI_ARGS", &target.arguments)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(namespace) = &self.namespace {
            let namespace = std::fs::File::open(namespace)?;
            // SAFETY: one system call with a descriptor that the closure owns.
            unsafe {
                command.pre_exec(move || {
                    nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).map_err(Into::into)
                });
            }
        }
        let mut tries = 0;
        loop {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => return other,
            }
        }
    }
}

/// A plugin's processes, which are killed when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: numbers only. The child was not waited for yet, so the number is still its own.
            unsafe { libc::killpg(pid, libc::SIGKILL) };
        }
    }
}

async fn converse(mut child: Child, input: String) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let told = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading says by itself what it did not like.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let printed = async {
        match stdout {
            Some(stdout) => stdout.take(MOST_OUTPUT).read_to_end(&mut output).await.map(drop),
            None => Ok(()),
        }
    };
    let complained = async {
        match stderr {
            Some(stderr) => stderr.take(MOST_OUTPUT).read_to_end(&mut complaint).await.map(drop),
            None => Ok(()),
        }
    };
    let ((), printed, complained) = tokio::join!(told, printed, complained);
    printed.and(complained)?;
    Ok((child.wait().await?, output, complaint))
}

/// Why a plugin failed: its error's message and code, or the best that can be made of its output.
fn said(output: &[u8], complaint: &[u8], status: ExitStatus) -> (String, u32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (output, complaint) = (text(output), text(complaint));
    if output.is_empty() {
        let how = match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit status {}", status.code().unwrap_or_default()),
        };
        return match complaint.is_empty() {
            true => (format!("netplugin failed with no error message: {how}"), 0),
            false => (format!("netplugin failed: {complaint:?}"), 0),
        };
    }
    let Ok(Value::Object(error)) = serde_json::from_str(&output) else {
        return (format!("netplugin failed but error parsing its diagnostic message {output:?}"), 0);
    };
    let field = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let details = if field("details").is_empty() { String::new() } else { format!("; {}", field("details")) };
    let code = error.get("code").and_then(Value::as_u64).and_then(|code| u32::try_from(code).ok());
    (format!("{}{details}", field("msg")), code.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plugin_reads_its_settings_and_what_it_asked_for() {
        let list = json!({"name": "n", "cniVersion": "1.0.0", "plugins": [
            {"type": "portmap", "snat": true, "capabilities": {"portMappings": true, "dns": false, "bandwidth": true}}]});
        let list = List::read(list).unwrap();
        let told = json!({"portMappings": [{"hostPort": 80}], "dns": {}});
        let previous = json!({"ips": []});
        let read = input(&list, &list.plugins[0], told.as_object().unwrap(), Some(&previous));
        assert_eq!(
            read,
            json!({"name": "n", "cniVersion": "1.0.0", "type": "portmap", "snat": true,
                "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn failures_are_told_in_the_plugins_words() {
        let ended = ExitStatus::from_raw(1 << 8);
        let told = [
            said(br#"{"code": 7, "msg": "bad subnet", "details": "10.0.0.0/99"}"#, b"noise", ended),
            said(br#"{"code": 11, "msg": "try again"}"#, b"", ended),
            said(b"", b"no such device\n", ended),
            said(b"", b"", ExitStatus::from_raw(9)),
            said(b"oops", b"", ended),
        ];
        let want = [
            ("bad subnet; 10.0.0.0/99", 7),
            ("try again", 11),
            ("netplugin failed: \"no such device\"", 0),
            ("netplugin failed with no error message: signal 9", 0),
            ("netplugin failed but error parsing its diagnostic message \"oops\"", 0),
        ];
        assert_eq!(told, want.map(|(message, code)| (message.to_owned(), code)));
    }
}
