//! Opening paths inside of folders that others may be changing meanwhile.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    NixPath,
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
};

/// How often the kernel is asked. It gives up (EAGAIN) when something is renamed or mounted anywhere on the machine just while it
/// follows a `..`, and leaves trying again to us (openat2(2)).
const TRIES: usize = 128;

/// Opens `path` in `root`, closed on exec. `resolve` says what links may lead to: `RESOLVE_IN_ROOT` takes `root` for `/`,
/// `RESOLVE_BENEATH` refuses (EXDEV) what leads out of it. Magic links of `/proc` are never followed.
///
/// # Errors
/// The kernel's.
pub fn open<P: ?Sized + NixPath>(root: impl AsFd, path: &P, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    patiently(|| openat2(&root, path, how))
}

fn patiently<T>(mut ask: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    let mut answer = ask();
    for _ in 1..TRIES {
        match answer {
            Err(Errno::EAGAIN) => answer = ask(),
            _ => break,
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_again_when_it_lost_a_race() {
        let mut answers = [Err(Errno::EAGAIN), Err(Errno::EAGAIN), Ok(7), Ok(8)].into_iter();
        assert_eq!(patiently(|| answers.next().unwrap()), Ok(7));
        let mut asked = 0;
        let never = patiently(|| -> nix::Result<()> {
            asked += 1;
            Err(Errno::EAGAIN)
        });
        assert_eq!((never, asked), (Err(Errno::EAGAIN), TRIES));
        assert_eq!(patiently(|| -> nix::Result<()> { Err(Errno::ENOENT) }), Err(Errno::ENOENT));
    }
}
