//! Long work made visible: a bar or a spinner on a terminal, a line for each step elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmm::image::{Stage, Step};
use vmm::{CancelToken, Progress, image};

/// What is shown at the moment.
#[derive(Default)]
struct Shown {
    step: String,
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
            _ => {}
        }
    }

    fn bytes(&self, step: &str, done: u64, total: Option<u64>) {
        let mut shown = self.lock();
        if self.quiet || shown.cleared {
            return;
        }
        if shown.step != step {
            step.clone_into(&mut shown.step);
            if let Some(bar) = shown.bar.take() {
                bar.finish_and_clear();
            }
            if self.terminal {
                shown.bar = Some(bar(step, total));
            } else {
                // Progress is for people; a closed standard error is no reason to fail.
                let _ = writeln!(io::stderr(), "→ {step}");
            }
        }
        if let Some(bar) = &shown.bar {
            bar.set_position(done);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The display of a pull, which the token cancels.
pub(crate) struct PullDisplay {
    display: Display,
    token: CancelToken,
}

impl PullDisplay {
    /// A display with nothing on it yet.
    pub(crate) fn new(quiet: bool, token: &CancelToken) -> Self {
        Self { display: display(quiet).1, token: token.clone() }
    }

    /// Takes everything off the terminal again.
    pub(crate) fn clear(&self) {
        self.display.clear();
    }
}

impl image::Progress for PullDisplay {
    fn step(&self, step: Step<'_>) {
        let doing = match step.stage {
            Stage::Waiting => "waiting for another pull of",
            Stage::Downloading => "downloading",
            Stage::Verifying => "verifying",
            Stage::Unpacking => "unpacking",
            _ => "preparing",
        };
        self.display.bytes(&format!("{doing} {}", step.subject), step.done, step.total);
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
