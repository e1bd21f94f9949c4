//! What containers see of devices and of their pod's names: the parts that are looked up on the node.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::cgroup::DeviceRule;
use crate::cgroup::devices::{MKNOD, READ, WRITE, default_rules};
use crate::disk;
use crate::error::{Error, Result, Step};

/// A container's device files, and what it may do with devices (`None`: everything).
pub struct Devices {
    /// Files.
    pub files: Vec<shim::DeviceSpec>,
    /// Rules.
    pub rules: Option<Vec<DeviceRule>>,
}

/// The usual devices and those asked for; all of the node's for a privileged container.
pub fn devices(config: &cri::ContainerConfig, privileged: bool) -> Result<Devices> {
    let usual = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let file = |(name, major, minor): (&str, u32, u32)| shim::DeviceSpec {
        path: format!("/dev/{name}"),
        mode: libc::S_IFCHR | 0o666,
        major,
        minor,
        uid: 0,
        gid: 0,
    };
    let mut devices = Devices { files: usual.into_iter().map(file).collect(), rules: Some(default_rules()) };
    if privileged {
        devices.rules = None;
        devices.add_tree(Path::new("/dev"), "/dev", MKNOD | READ | WRITE)?;
    }
    for device in &config.devices {
        let access = access(&device.permissions)?;
        let target = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        devices.add_tree(Path::new(&device.host_path), target, access)?;
    }
    Ok(devices)
}

fn access(permissions: &str) -> Result<u32> {
    let bit = |letter| match letter {
        'r' => Ok(READ),
        'w' => Ok(WRITE),
        'm' => Ok(MKNOD),
        other => Err(Error::Invalid(format!("device permission {other:?} is not one of r, w and m"))),
    };
    permissions.chars().map(bit).try_fold(0, |all, bit| Ok(all | bit?))
}

impl Devices {
    /// Adds a device, or all devices below a directory.
    fn add_tree(&mut self, host: &Path, target: &str, access: u32) -> Result<()> {
        let meta = std::fs::metadata(host).step_with(|| format!("look at device {}", host.display()))?;
        match meta.is_dir() {
            true => self.add_below(host, target, access),
            false => self.add(&meta, target, access),
        }
        Ok(())
    }

    /// Adds all devices below a directory. They come and go: one that has just been unplugged is none.
    fn add_below(&mut self, host: &Path, target: &str, access: u32) {
        // These are the container's own.
        let own = ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev"];
        for name in disk::names(host).into_iter().filter(|name| !own.contains(&name.as_str())) {
            let (path, target) = (host.join(&name), format!("{}/{name}", target.trim_end_matches('/')));
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => self.add_below(&path, &target, access),
                Ok(meta) => self.add(&meta, &target, access),
                Err(_) => {}
            }
        }
    }

    /// Adds a device; links, sockets and the like, which lie in /dev, too, are none.
    fn add(&mut self, meta: &std::fs::Metadata, target: &str, access: u32) {
        let kind = meta.file_type();
        let letter = match (kind.is_block_device(), kind.is_char_device()) {
            (true, _) => 'b',
            (_, true) => 'c',
            _ => return,
        };
        let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        if let Some(rules) = &mut self.rules {
            rules.push(DeviceRule { kind: letter, major: Some(major), minor: Some(minor), access });
        }
        self.files.retain(|known| known.path != target);
        self.files.push(shim::DeviceSpec {
            path: target.to_owned(),
            mode: meta.mode(),
            major,
            minor,
            uid: meta.uid(),
            gid: meta.gid(),
        });
    }
}

/// Writes the sandbox's /etc/hosts, /etc/hostname and /etc/resolv.conf.
pub fn sandbox_files(dir: &Path, config: &cri::PodSandboxConfig) -> Result<()> {
    let host = super::has_host_network(config);
    let node = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let resolv = match &config.dns_config {
        Some(dns) => resolv_conf(dns),
        None => node("/etc/resolv.conf"),
    };
    let hostname = if host || config.hostname.is_empty() { node("/etc/hostname") } else { format!("{}\n", config.hostname) };
    for (name, content) in [("hosts", node("/etc/hosts")), ("hostname", hostname), ("resolv.conf", resolv)] {
        disk::write_mode(&dir.join(name), content.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_files() {
        let dns = cri::DnsConfig {
            servers: vec!["10.43.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search default.svc.cluster.local svc.cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
    }

    #[test]
    fn a_device_that_has_gone_is_none() {
        let mut devices = Devices { files: Vec::new(), rules: Some(Vec::new()) };
        // It lists the descriptor by which it is read, which has gone then.
        devices.add_tree(Path::new("/proc/self/fd"), "/dev/x", READ).unwrap();
        assert!(devices.add_tree(Path::new("/dev/no/such"), "/dev/x", READ).is_err(), "one that was asked for by name");
    }

    #[test]
    fn an_asked_device_is_allowed_and_made() {
        let device =
            cri::Device { container_path: "/dev/x".into(), host_path: "/dev/null".into(), permissions: "rw".into() };
        let config = cri::ContainerConfig { devices: vec![device], ..Default::default() };
        let devices = devices(&config, false).unwrap();
        let rule = devices.rules.unwrap().pop().unwrap();
        let file = devices.files.last().unwrap();
        assert_eq!((rule.to_string().as_str(), file.path.as_str(), file.major, file.minor), ("c 1:3 rw", "/dev/x", 1, 3));
    }
}
