//! The user's terminal while a remote program has it: raw, its size told, and as it was before when we are done.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::termios::{self, SetArg, Termios};
use streaming::command::Size;

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdin())
}

/// Raw mode, until dropped.
pub struct Raw(Option<Termios>);

impl Raw {
    /// Makes the terminal raw, if there is one.
    pub fn enter() -> Self {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok();
        if let Some(mut attributes) = before.clone() {
            termios::cfmakeraw(&mut attributes);
            // A terminal that stays cooked still works.
            let _ = termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &attributes);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &before);
        }
    }
}

/// Does something while what is typed is not shown.
pub fn without_echo<T>(act: impl FnOnce() -> T) -> T {
    let stdin = std::io::stdin();
    let before = termios::tcgetattr(stdin.as_fd()).ok();
    if let Some(mut attributes) = before.clone() {
        attributes.local_flags.remove(termios::LocalFlags::ECHO);
        let _ = termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &attributes);
    }
    let _before = Raw(before);
    act()
}

mod ioctl {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

fn size_of(terminal: BorrowedFd<'_>) -> Option<Size> {
    use std::os::fd::AsRawFd;
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open while borrowed and the structure is what this request fills.
    unsafe { ioctl::window_size(terminal.as_raw_fd(), &raw mut size) }.ok()?;
    Some(Size { width: size.ws_col, height: size.ws_row })
}

/// The size of the terminal that output goes to.
pub fn size() -> Option<Size> {
    size_of(std::io::stdout().as_fd()).or_else(|| size_of(std::io::stdin().as_fd()))
}
