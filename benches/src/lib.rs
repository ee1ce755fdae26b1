//! The benchmarks behind `vmm bench`: what a VM costs from its start to its end, ours beside other people's on the same
//! machine in the same minutes, and a verdict only where the measurements carry one.
//!
//! A run is rounds of all subjects in turn, so that what the machine does meanwhile meets all of them. [`run`] gives a
//! [`Report`], which is shown as a [`table`], kept as JSON, and drawn as a [`page`].
//!
//! ```no_run
//! let settings = vmm_benches::Settings {
//!     benchmarks: vec![vmm_benches::Benchmark::Start],
//!     ..vmm_benches::Settings::new("vmm".into(), vmm::Home::open_default()?, vmm::CancelToken::new()?)
//! };
//! let report = vmm_benches::run(&settings, &|line| eprintln!("{line}"))?;
//! println!("{}", vmm_benches::table::of(&report));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod benchmark;
mod bounded;
pub mod comparison;
pub mod host;
mod memory;
mod noise;
pub mod page;
mod peers;
pub mod report;
mod session;
pub mod statistics;
mod suite;
pub mod table;
mod trouble;
mod words;

pub use benchmark::{Benchmark, Better, Measure};
pub use comparison::{Changes, Verdict};
pub use noise::Noise;
pub use peers::names as peer_names;
pub use report::Report;
pub use suite::{Settings, run};
pub use trouble::Trouble;

/// Our own name among the subjects.
pub const OURSELVES: &str = peers::ours::NAME;

/// The rounds of a whole run, unless somebody says otherwise.
pub const DEFAULT_ROUNDS: usize = 10;

/// Those of a short one.
pub const QUICK_ROUNDS: usize = 5;
