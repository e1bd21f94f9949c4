//! What the user sees while a command works: a spinner for the step under way, a line for each one done. Plain lines where
//! standard error is no terminal.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// A command's steps, one after another.
#[derive(Default)]
pub struct Progress {
    step: Option<(String, Instant, ProgressBar)>,
}

impl Progress {
    /// Ends the step before and begins another.
    pub fn step(&mut self, text: impl Into<String>) {
        self.done();
        let text = text.into();
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(text.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.step = Some((text, Instant::now(), bar));
    }

    /// Ends the step under way.
    pub fn done(&mut self) {
        if let Some((text, started, bar)) = self.step.take() {
            bar.finish_and_clear();
            eprintln!("✓ {text} ({:.1} s)", started.elapsed().as_secs_f32());
        }
    }
}

impl Drop for Progress {
    /// A step that was not ended has failed.
    fn drop(&mut self) {
        if let Some((text, _, bar)) = self.step.take() {
            bar.finish_and_clear();
            eprintln!("✗ {text}");
        }
    }
}
