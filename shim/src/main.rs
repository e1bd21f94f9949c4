//! `knarr-shim DIRECTORY`: the process that makes, owns and reaps one pod's containers.
//!
//! One per pod, started by the runtime with a connected socket as descriptor 0 and the sandbox's directory as its argument. It
//! outlives the runtime: containers are its children, their output goes through it into their logs, and how they ended is
//! written beside their state before anyone is told, so a runtime that was away learns of it. The pause process is a fork
//! of it that never execs, so both share their memory.
//!
//! Why an executor of our own rather than a library or `runc`: a fork in a process with one thread and few pages is cheap
//! and safe (no lock can be held by another thread), one process a pod keeps twenty idle pods within a few MiB, starting a
//! container takes one message instead of two processes and a bundle on disk, and every step can use descriptors
//! (openat2, detached mounts) where paths would invite races. It links nothing but libc, and it takes orders only from its
//! socket, which lies in a directory of root's.
//!
//! | module | |
//! |---|---|
//! | `server` | the loop: requests, events, reaping |
//! | `connection` | a client's frames |
//! | `pending` | children that are being set up |
//! | `container` | a running container's streams and record |
//! | `log` | the CRI log format |
//! | `child` | what a forked child does until exec |
//! | `root` | a container's mounts and devices |
//! | `process`, `user` | identity, rights, the command |
//! | `sys` | system calls |

mod child;
mod connection;
mod container;
mod log;
mod pending;
mod process;
mod root;
mod server;
mod sys;
mod user;

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("usage: knarr-shim DIRECTORY   (started by the container runtime)");
        return ExitCode::from(2);
    };
    match server::Server::start(&directory) {
        Ok(mut server) => server.run(),
        Err(error) => {
            eprintln!("knarr-shim {directory}: {error}");
            ExitCode::FAILURE
        }
    }
}
