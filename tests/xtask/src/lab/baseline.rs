//! `cargo lab baseline`: measures anew what boots cost, for the test that holds them to it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Laboratory, build, lock, order};
use crate::failure::{Failure, Outcome};
use crate::project;

/// The program, where it finds its way as tests do.
const PROGRAM: &str = "deps/boot-costs";

/// How many boots of each kind.
const ROUNDS: &str = "10";

/// How long they may take.
const LIMIT: Duration = Duration::from_secs(900);

pub(super) fn run() -> Outcome<ExitCode> {
    let locked = lock()?;
    let program = build::test_program("boot-costs")?;
    let laboratory = Laboratory::prepare([(PathBuf::from(PROGRAM), program)])?;
    drop(locked);
    let inside = format!("{}/{PROGRAM}", laboratory::PROGRAMS);
    let mut said = Vec::new();
    let status = laboratory
        .start()?
        .run_quietly(&order::with_pipes(&[&inside, ROUNDS]), LIMIT, |bytes| said.extend_from_slice(bytes))?;
    let said = String::from_utf8_lossy(&said);
    if status != 0 {
        return Err(Failure::new("the boots could not be measured").hint(said));
    }
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&said) {
        return Err(Failure::new(format!("what was measured cannot be read: {error}")).hint(said));
    }
    let file = project::root().join("tests/boot-costs.json");
    std::fs::write(&file, &*said)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    println!("written to {}", project::shown(&file));
    Ok(ExitCode::SUCCESS)
}
