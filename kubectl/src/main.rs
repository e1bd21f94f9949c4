//! The `kubectl` program.

use nix::sys::signal::{SigHandler, Signal, signal};

fn main() {
    // A reader that went away ends us silently, as other tools do.
    // SAFETY: no handler of ours is installed; the default action is set before anything else runs.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    std::process::exit(kubectl::run(&words));
}
