//! What the tests of the whole product share: a home of its own for each test, the `vmm` that is built, machines in
//! it, a terminal to type into, and a look at what is left behind.
//!
//! A system test reads as a user's story:
//!
//! ```no_run
//! use vmm_tests::TestHome;
//!
//! let home = TestHome::new();
//! let run = home.vmm(["run", "alpine", "--", "echo", "hello"]).run();
//! assert_eq!(run.succeeded().stdout(), "hello\n");
//! assert!(home.leftovers().is_empty());
//! ```

pub mod bare_boot;
pub mod boot_costs;
mod embedding;
pub mod engine_machine;
mod holdings;
mod home;
mod images;
mod invocation;
mod machine;
mod processes;
mod running;
pub mod structure;
mod terminal;
#[cfg(target_arch = "x86_64")]
pub mod tiny_guest;
pub mod whole_machine;

pub use embedding::{example, library, python_environment, repository};
pub use holdings::{Holdings, settles};
pub use home::TestHome;
pub use images::{binary, cached, kernels};
pub use invocation::{Finished, Invocation};
pub use machine::TestVm;
pub use processes::{Process, bury_orphans, descendants};
pub use running::Running;
pub use terminal::Terminal;

use std::path::Path;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen before it is called hung. Nothing depends on it but the time that a
/// failing test takes: the slowest machine under the heaviest load is quicker.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Leaves a test that needs what this machine does not have, and says so: `cargo verify` counts it.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        println!("skipped: {}", format_args!($($reason)*));
        return;
    }};
}

/// Writes a program: a script for the shell.
pub fn program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("a file can be written");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a file of ours");
}

/// Bytes that nobody foresees.
pub fn random(length: usize) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; length];
    let source = std::fs::File::open("/dev/urandom");
    source.and_then(|mut source| source.read_exact(&mut bytes)).expect("the system has such bytes");
    bytes
}

/// How many rounds a repeated test makes: the usual number, or what a soak suite asks for.
pub fn rounds(usual: usize) -> usize {
    std::env::var("VMM_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Whether a repeated test makes one more round: the usual number, or for as long as a soak suite asks for.
pub fn goes_on(round: usize, usual: usize, began: Instant) -> bool {
    let seconds = std::env::var("VMM_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    match seconds.map(Duration::from_secs) {
        Some(time) => began.elapsed() < time,
        None => round < rounds(usual),
    }
}

/// Whether we run in the laboratory: see `docs/testing.md`.
pub fn in_laboratory() -> bool {
    std::env::var_os("VMM_LABORATORY").is_some()
}

/// The engine that machines of the tests run on: the whole matrix is one run of the tests for each value of
/// `VMM_TEST_ENGINE`.
pub fn engine() -> String {
    std::env::var("VMM_TEST_ENGINE").unwrap_or_else(|_| "software".to_owned())
}
