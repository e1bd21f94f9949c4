//! Users and groups by the container's own /etc/passwd and /etc/group.
//!
//! Read inside the container's root, after its mounts; both files are the image's, so they are opened without waiting, must be
//! plain files and are read to a limit.

use std::os::fd::AsRawFd;

use knarr_shim::ProcessSpec;

use crate::sys::{self, Outcome};

const LIMIT_BYTES: usize = 1 << 20;

/// Whom a process runs as.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// The user's home directory.
    pub home: String,
}

/// Looks the process' user and groups up.
pub fn resolve(spec: &ProcessSpec) -> Outcome<Identity> {
    decide(spec, &read("/etc/passwd"), &read("/etc/group"))
}

fn read(path: &str) -> String {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let Ok(file) = sys::openat2(sys::CWD, path, flags, 0, libc::RESOLVE_NO_MAGICLINKS) else { return String::new() };
    if !sys::stat(file.as_raw_fd()).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG) {
        return String::new();
    }
    let mut content = vec![0; 4096];
    let mut filled = 0;
    while filled < LIMIT_BYTES {
        match sys::read(file.as_raw_fd(), &mut content[filled..]) {
            Ok(count) if count > 0 => filled += count,
            _ => break,
        }
        if filled == content.len() {
            content.resize(filled * 2, 0);
        }
    }
    String::from_utf8_lossy(&content[..filled]).into_owned()
}

/// name:password:uid:gid:comment:home:shell
fn passwd_entry(passwd: &str, matches: impl Fn(&str, u32) -> bool) -> Option<(&str, u32, u32, &str)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        matches(name, uid).then(|| (name, uid, gid, fields.nth(1).unwrap_or("/")))
    })
}

fn decide(spec: &ProcessSpec, passwd: &str, group: &str) -> Outcome<Identity> {
    let wanted = if spec.user.is_empty() { "0" } else { &spec.user };
    // A name wins over a number, as in the image specification's tools.
    let named = passwd_entry(passwd, |name, _| name == wanted);
    let entry = named.or_else(|| {
        let number = wanted.parse::<u32>().ok()?;
        passwd_entry(passwd, |_, uid| uid == number)
    });
    let uid = match (entry, wanted.parse()) {
        (Some((_, uid, ..)), _) | (None, Ok(uid)) => uid,
        _ => return Err(format!("unable to find user {wanted}: no matching entries in passwd file")),
    };
    // name:password:gid:member,member
    let groups = || {
        group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse::<u32>().ok()?);
            Some((name, gid, fields.next().unwrap_or("")))
        })
    };
    let gid = match spec.group.as_str() {
        "" => entry.map_or(0, |(_, _, gid, _)| gid),
        name => groups()
            .find(|(entry, ..)| *entry == name)
            .map(|(_, gid, _)| gid)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))?,
    };
    let mut all = vec![gid];
    if let (true, Some((name, ..))) = (spec.image_groups, entry) {
        all.extend(
            groups().filter(|(_, _, members)| members.split(',').any(|member| member == name)).map(|(_, gid, _)| gid),
        );
    }
    all.extend(&spec.groups);
    let mut seen = Vec::with_capacity(all.len());
    all.retain(|gid| {
        !seen.contains(gid) && {
            seen.push(*gid);
            true
        }
    });
    let home = entry.map(|(.., home)| home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:2000::/home/app:/bin/sh\nbroken:x\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nstaff:x:50:app\n";

    fn spec(user: &str, group: &str, image_groups: bool) -> ProcessSpec {
        ProcessSpec { user: user.into(), group: group.into(), groups: vec![7, 10], image_groups, ..Default::default() }
    }

    #[test]
    fn users() {
        let identity =
            |uid, gid, groups: &[u32], home: &str| Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() });
        let decided = |user, group, merge| decide(&spec(user, group, merge), PASSWD, GROUP);
        assert_eq!(decided("", "", true), identity(0, 0, &[0, 10, 7], "/root"));
        assert_eq!(decided("app", "", true), identity(1000, 2000, &[2000, 10, 50, 7], "/home/app"));
        assert_eq!(decided("1000", "staff", false), identity(1000, 50, &[50, 7, 10], "/home/app"));
        assert_eq!(decided("4711", "", true), identity(4711, 0, &[0, 7, 10], "/"));
        assert_eq!(
            decided("nobody", "", true),
            Err("unable to find user nobody: no matching entries in passwd file".into())
        );
        assert_eq!(decided("0", "x", true), Err("unable to find group x: no matching entries in group file".into()));
    }
}
