//! Whether mounts can pass between the node and a container that asks for it: what its volume lies on must be shared, or
//! at least a slave for one direction. Otherwise nothing would ever arrive, and nobody would be told.

use std::path::{Path, PathBuf};

use cri::v1 as cri;

use crate::error::{Error, Result, Step};

/// The mount that a path lies on.
#[derive(Debug, PartialEq, Eq)]
struct Under {
    point: PathBuf,
    shared: bool,
    slave: bool,
}

/// Checks a mount's source as this process sees it.
pub fn check(mount: &cri::Mount) -> Result<()> {
    let both = match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => return Ok(()),
        cri::MountPropagation::PropagationHostToContainer => false,
        cri::MountPropagation::PropagationBidirectional => true,
    };
    let path = std::fs::canonicalize(&mount.host_path).step("find mount's source")?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").step("read the mounts")?;
    let Some(under) = under(&table, &path) else { return Ok(()) };
    let wanted = if both { "shared" } else { "shared or slave" };
    if under.shared || (under.slave && !both) {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "failed to generate spec: path {:?} is mounted on {:?} but it is not a {wanted} mount",
        mount.host_path, under.point
    )))
}

/// Reads a table of mounts as /proc has it (proc_pid_mountinfo(5)). The last of several mounts at one place counts.
fn under(table: &str, path: &Path) -> Option<Under> {
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = PathBuf::from(unescaped(fields.nth(4)?));
        let options: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let any = |kind: &str| options.iter().any(|option| option.starts_with(kind));
        let (shared, slave) = (any("shared:"), any("master:"));
        path.starts_with(&point).then_some(Under { point, shared, slave })
    });
    mounts.max_by_key(|under| under.point.as_os_str().len())
}

/// `\040` is a space there.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_and_last_mount_counts() {
        let table = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                     30 21 0:30 / /run rw - tmpfs tmpfs rw\n\
                     31 21 0:31 / /run rw master:7 propagate_from:2 - tmpfs tmpfs rw\n\
                     32 31 0:32 / /run/a\\040b rw shared:9 master:1 - tmpfs tmpfs rw\n\
                     33 21 0:33 / /data rw - tmpfs shared:trap rw\n";
        let found = |path: &str| {
            let under = under(table, Path::new(path)).unwrap();
            (under.point.display().to_string(), under.shared, under.slave)
        };
        let expected = [
            ("/var/lib", ("/", true, false)),
            ("/run/x", ("/run", false, true)),
            ("/runner", ("/", true, false)),
            ("/run/a b/c", ("/run/a b", true, true)),
            ("/data", ("/data", false, false)),
        ];
        for (path, (point, shared, slave)) in expected {
            assert_eq!(found(path), (point.to_owned(), shared, slave), "{path}");
        }
    }
}
