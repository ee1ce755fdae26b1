//! Long work made visible: a bar or a spinner on a terminal, a line for each step elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmm::image::Step;
use vmm::{CancelToken, Progress, image};

/// What is shown at the moment.
#[derive(Default)]
struct Shown {
    step: String,
    /// How many tenths of it were told, where there is no bar.
    tenths: u64,
    bar: Option<ProgressBar>,
    cleared: bool,
}

/// The display of one piece of work.
#[derive(Clone)]
pub(crate) struct Display {
    shown: Arc<Mutex<Shown>>,
    terminal: bool,
    quiet: bool,
}

/// A display, and the observer that feeds it.
pub(crate) fn display(quiet: bool) -> (impl Fn(&Progress) + Send + Sync + 'static, Display) {
    let display = Display { shown: Arc::default(), terminal: io::stderr().is_terminal(), quiet };
    let observer = display.clone();
    (move |progress: &Progress| observer.show(progress), display)
}

impl Display {
    /// Takes everything off the terminal again.
    pub(crate) fn clear(&self) {
        let mut shown = self.lock();
        shown.cleared = true;
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn show(&self, progress: &Progress) {
        match progress {
            Progress::Pulling { step, done, total } => self.bytes(step, *done, *total),
            Progress::Booting if self.terminal => self.bytes("booting", 0, None),
            Progress::Ready => self.clear(),
            Progress::Warning { message } => self.warn(message),
            _ => {}
        }
    }

    fn bytes(&self, step: &str, done: u64, total: Option<u64>) {
        let mut shown = self.lock();
        if self.quiet || shown.cleared {
            return;
        }
        let tenths = total.filter(|total| *total > 0).map_or(0, |total| done.saturating_mul(10) / total);
        if shown.step != step {
            step.clone_into(&mut shown.step);
            shown.tenths = tenths;
            if let Some(bar) = shown.bar.take() {
                bar.finish_and_clear();
            }
            if self.terminal {
                shown.bar = Some(bar(step, total));
            } else {
                tell(step, done, total);
            }
        } else if !self.terminal && tenths > shown.tenths && total.is_some_and(|total| total >= LONG) {
            shown.tenths = tenths;
            tell(step, done, total);
        }
        if let Some(bar) = &shown.bar {
            bar.set_position(done);
        }
    }

    /// Shows that a step has begun that nobody can tell the length of.
    pub(crate) fn step(&self, step: &str) {
        self.bytes(step, 0, None);
    }

    /// Changes what stands beside the spinner.
    pub(crate) fn message(&self, text: &str) {
        if let Some(bar) = &self.lock().bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Says something that stays.
    fn warn(&self, message: &str) {
        let shown = self.lock();
        let say = || {
            // A closed standard error is no reason to fail.
            let _ = writeln!(io::stderr(), "vmm: {message}");
        };
        match &shown.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What takes long enough to tell of it more than once, in bytes.
const LONG: u64 = 10_000_000;

/// A line for where there is no terminal.
fn tell(step: &str, done: u64, total: Option<u64>) {
    let amount = match total {
        Some(total) => format!(" ({} / {})", short(done), short(total)),
        None => String::new(),
    };
    // Progress is for people; a closed standard error is no reason to fail.
    let _ = writeln!(io::stderr(), "→ {step}{amount}");
}

/// An amount of bytes without a fraction: `45 MB`.
fn short(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// The display of a copy: only on a terminal.
#[derive(Clone)]
pub(crate) struct CopyDisplay {
    display: Display,
    total: Option<u64>,
}

impl CopyDisplay {
    /// A display with nothing on it yet.
    pub(crate) fn new(quiet: bool, total: Option<u64>) -> Self {
        let display = display(quiet).1;
        Self { display: Display { quiet: quiet || !display.terminal, ..display }, total }
    }

    /// Shows that so many bytes have gone through.
    pub(crate) fn show(&self, bytes: u64) {
        self.display.bytes("copying", bytes, self.total);
        if self.total.is_none() {
            self.display.message(&format!("copying {}", short(bytes)));
        }
    }

    /// Takes everything off the terminal again.
    pub(crate) fn clear(&self) {
        self.display.clear();
    }
}

/// The display of a pull, which the token cancels.
pub(crate) struct PullDisplay {
    display: Display,
    token: CancelToken,
    /// The image, as in `alpine 3.23`.
    image: Mutex<String>,
}

impl PullDisplay {
    /// A display with nothing on it yet.
    pub(crate) fn new(quiet: bool, token: &CancelToken) -> Self {
        Self { display: display(quiet).1, token: token.clone(), image: Mutex::default() }
    }

    /// Takes everything off the terminal again.
    pub(crate) fn clear(&self) {
        self.display.clear();
    }
}

impl image::Progress for PullDisplay {
    fn image(&self, image: &str) {
        image.clone_into(&mut self.image.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn step(&self, step: Step<'_>) {
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.display.bytes(&step.describe(&image), step.done, step.total);
    }

    fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}

fn bar(step: &str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "→ {msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
        None => "{spinner} {msg}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    // The template is a constant; where it were wrong the plain bar would do.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(step.to_owned());
    if total.is_none() {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_in_lines_have_no_fractions() {
        assert_eq!(
            [0, 999, 1000, 999_999, 45_900_000].map(short),
            ["0 B", "999 B", "1 kB", "999 kB", "45 MB"]
        );
    }
}
