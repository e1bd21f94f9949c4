//! `knarr install-service`: a systemd unit that runs a server or an agent with the given flags.
//!
//! `KillMode=process` leaves containers alone when the service stops or restarts: their shims live on, and the next run finds them. The
//! token goes into a file that only root reads, and from there into the environment: not into the unit, the journal or the list of processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    local::record::write_whole,
    token::{Join, Share, TokenFlags},
};

const UNITS: &str = "/etc/systemd/system";
const ENVIRONMENT: &str = "/etc/knarr";

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to run.
    #[arg(value_enum)]
    role: Role,
    /// Print the unit, and change nothing.
    #[arg(long)]
    print: bool,
    /// Install and enable it, but do not start it.
    #[arg(long, conflicts_with = "print")]
    no_start: bool,
    #[command(flatten)]
    token: TokenFlags,
    /// The flags of `knarr server` or `knarr agent`; the token is not one of them.
    #[arg(last = true)]
    flags: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// A control plane, with a node.
    Server,
    /// A node.
    Agent,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    if args.flags.iter().any(|flag| flag == "--token" || flag.starts_with("--token=")) {
        bail!(
            "the flags of a unit are for everybody to read: give --token before the --, and it goes into a file of root's"
        );
    }
    let program = std::env::current_exe().context("find our own program")?;
    let environment = PathBuf::from(ENVIRONMENT).join(format!("{}.env", args.role.name()));
    let unit = unit(args.role, &program, &environment, &args.flags);
    if args.print {
        print!("{unit}");
        return Ok(());
    }
    install(args, &unit, &environment)
}

fn install(args: &Args, unit: &str, environment: &Path) -> Result<()> {
    let service = format!("knarr-{}.service", args.role.name());
    let token = match args.role {
        Role::Server => args.token.read::<Share>()?.map(|token| match token.authority {
            Some(authority) => token.text(authority),
            None => token.secret,
        }),
        Role::Agent => args.token.read::<Join>()?.map(|token| token.text()),
    };
    fs::create_dir_all(ENVIRONMENT).with_context(|| format!("create {ENVIRONMENT}"))?;
    if token.is_some() || !environment.exists() {
        let text = token.map(|token| format!("KNARR_TOKEN={token}\n")).unwrap_or_default();
        write_whole(environment, text.as_bytes(), 0o600)?;
    }
    let path = Path::new(UNITS).join(&service);
    write_whole(&path, unit.as_bytes(), 0o644)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", &service])?;
    if !args.no_start {
        systemctl(&["restart", &service])?;
    }
    println!("{} is installed; `journalctl -u {service}` shows its log", path.display());
    Ok(())
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let status = Command::new("systemctl").args(arguments).status().context("run systemctl")?;
    if !status.success() {
        bail!("systemctl {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// A word as systemd's unit files want it: `%` and `$` stand for themselves.
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c));
    if plain { escaped } else { format!("\"{escaped}\"") }
}

fn unit(role: Role, program: &Path, environment: &Path, flags: &[String]) -> String {
    let program = program.display().to_string();
    let words = [program.as_str(), role.name()].into_iter().chain(flags.iter().map(String::as_str));
    let command: Vec<String> = words.map(quoted).collect();
    format!(
        "[Unit]\n\
         Description=Kubernetes {name} (knarr)\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         EnvironmentFile=-{environment}\n\
         ExecStart={command}\n\
         KillMode=process\n\
         Delegate=yes\n\
         Restart=always\n\
         RestartSec=2s\n\
         TimeoutStartSec=0\n\
         LimitNOFILE=1048576\n\
         LimitNPROC=infinity\n\
         LimitCORE=infinity\n\
         TasksMax=infinity\n\
         OOMScoreAdjust=-999\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        name = role.name(),
        environment = environment.display(),
        command = command.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(role: Role) -> String {
        let flags = ["--server=https://192.0.2.1:6443", "--node-name", "a b%"].map(str::to_owned);
        unit(role, Path::new("/bin/true"), Path::new("/etc/knarr/agent.env"), &flags)
    }

    #[test]
    fn words_stay_words() {
        let unit = example(Role::Agent);
        let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert_eq!(line, "ExecStart=/bin/true agent --server=https://192.0.2.1:6443 --node-name \"a b%%\"");
    }

    #[test]
    fn systemd_takes_the_units() {
        let folder = tempfile::tempdir().unwrap();
        for role in [Role::Server, Role::Agent] {
            let path = folder.path().join(format!("knarr-{}.service", role.name()));
            fs::write(&path, example(role)).unwrap();
            let Ok(checked) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else { return };
            let said = String::from_utf8_lossy(&checked.stderr);
            let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("knarr-")).collect();
            assert_eq!(about_ours, Vec::<&str>::new());
        }
    }
}
