//! `cargo verify --soak NAME`: the long loops. Each suite takes an hour or less, goes on where it was interrupted,
//! and leaves a summary that a claim can cite.

mod boots;
mod fuzz;
mod kernel;
mod kills;
mod laboratory;
mod operations;
mod power_cut;
mod progress;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::failure::{Failure, Outcome};
use crate::steps::seconds;
use progress::Progress;

/// A long loop, cut into pieces.
trait Suite: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What it does, in a line.
    fn purpose(&self) -> &'static str;

    /// Brings what it needs and builds it.
    fn prepare(&self) -> Outcome {
        Ok(())
    }

    /// Its pieces, by name.
    fn pieces(&self) -> Outcome<Vec<String>>;

    /// How many pieces may run at once.
    fn at_once(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Runs a piece; what it found good to know, in a line.
    fn run(&self, piece: &str) -> Outcome<String>;
}

const SUITES: [&dyn Suite; 7] = [
    &boots::Boots,
    &kills::Kills,
    &laboratory::Laboratory,
    &power_cut::PowerCut,
    &operations::Operations,
    &fuzz::Fuzz,
    &kernel::Kernel,
];

/// Says which suites there are.
pub(crate) fn list() {
    for suite in SUITES {
        println!("{:10} {}", suite.name(), suite.purpose());
    }
}

/// Runs the suite of this name, or only one piece of it.
pub(crate) fn run(name: &str, only: Option<&str>) -> Outcome {
    let suite = SUITES.into_iter().find(|suite| suite.name() == name);
    let suite = suite.ok_or_else(|| {
        Failure::new(format!("there is no soak suite {name}"))
            .hint("`cargo verify --list` says which there are.")
    })?;
    suite.prepare()?;
    let mut pieces = suite.pieces()?;
    pieces.retain(|piece| only.is_none_or(|only| only == piece));
    if pieces.is_empty() {
        return Err(Failure::new(format!("the soak suite {name} has no piece {}", only.unwrap_or_default())));
    }
    let progress = Progress::open(name)?;
    pieces.retain(|piece| only.is_some() || !progress.is_done(piece));
    println!("==> {name}: {} pieces to do, {} done before", pieces.len(), progress.done());
    run_pieces(suite, pieces, &Mutex::new(progress))
}

fn run_pieces(suite: &dyn Suite, pieces: Vec<String>, progress: &Mutex<Progress>) -> Outcome {
    let waiting = Mutex::new(pieces.into_iter());
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..suite.at_once() {
            scope.spawn(|| {
                while let Some(piece) = waiting.lock().ok().and_then(|mut waiting| waiting.next()) {
                    let began = Instant::now();
                    let outcome = suite.run(&piece);
                    let time = seconds(began.elapsed());
                    let line = match &outcome {
                        Ok(found) => format!("ok   {piece}: {found} ({time})"),
                        Err(failure) => format!("FAIL {piece}: {failure} ({time})"),
                    };
                    println!("  {line}");
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    if let Ok(mut progress) = progress.lock() {
                        progress.record(&piece, outcome.is_ok(), &line);
                    }
                }
            });
        }
    });
    if let Ok(progress) = progress.lock() {
        println!("  the summary is in {}", progress.summary_path().display());
    }
    if failed.into_inner() {
        Err(Failure::new(format!("the soak suite {} failed", suite.name())))
    } else {
        Ok(())
    }
}
