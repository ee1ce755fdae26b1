//! `cargo verify`: every test of the project, from nothing, and a table of what took how long.

pub(crate) mod build;
pub(crate) mod pool;
pub(crate) mod report;
pub(crate) mod some;
mod whole;

use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::steps::Steps;
use crate::{command, lab, project, quickstart, setup};
use build::TestBinary;
use lab::Suite;
use pool::beside;
use report::Report;

/// What CI allows for everything from an empty clone on.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs every test, or those whose names contain the filter.
pub(crate) fn run(filter: Option<&str>) -> Outcome {
    let mut steps = Steps::new();
    let mut report = Report::default();
    // Packages are waited for more than computed.
    steps.step("build vmm, find or install what the tests need", || {
        beside(|| setup::install_missing(setup::TO_TEST), quickstart::build)
    })?;
    // Not beside vmm: on two cores that took 6 min 03 s, and one after the other 5 min 22 s.
    let binaries = steps.step("build the tests", build::test_binaries)?;
    steps.step("pull Alpine", pull)?;

    let kvm = Kvm::find();
    let (suite, unit) =
        steps.step("unit tests, the documentation's examples, prepare the laboratory", || {
            // The longest of the unit tests leave a processor free for a while.
            let prepare = || match kvm {
                Kvm::InLaboratory => Suite::prepare(&binaries, filter),
                Kvm::Here | Kvm::Nowhere => Ok(None),
            };
            let unit = binaries.iter().filter(|binary| !binary.is_system());
            beside(prepare, || whole::run(unit, filter))
        })?;
    report.add(unit);
    let mut system = binaries;
    system.retain(|binary| binary.is_system() && binary.name != lab::SELF_TEST);
    report.add(steps.step("system tests", || pool::run(&system, filter, "software"))?);
    match kvm {
        Kvm::Here => {
            system.retain(TestBinary::is_for_every_engine);
            report.add(steps.step("system tests on KVM", || pool::run(&system, filter, "kvm"))?);
        }
        Kvm::InLaboratory => {
            if let Some(suite) = suite {
                report.add(suite.run(&mut steps, filter)?);
            }
        }
        Kvm::Nowhere => report.add_test(
            "system tests on KVM",
            true,
            "skipped: this machine builds nothing for the laboratory",
        ),
    }

    println!("\n{report}\nWhat took how long:\n{}\n", steps.summary());
    if steps.elapsed() > LIMIT {
        println!("That is longer than the {} minutes that this may take.\n", LIMIT.as_secs() / 60);
    }
    println!("verify: {}", report.closing_line());
    match report.failed() {
        0 if report.passed() == 0 => Err(Failure::new("no test was run")),
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} tests failed"))),
    }
}

/// Where machines run on KVM.
#[derive(Clone, Copy)]
enum Kvm {
    Here,
    InLaboratory,
    Nowhere,
}

impl Kvm {
    fn find() -> Self {
        if works_here() {
            Self::Here
        } else if lab::IS_POSSIBLE {
            Self::InLaboratory
        } else {
            Self::Nowhere
        }
    }
}

/// Whether this machine's own KVM runs machines.
fn works_here() -> bool {
    let doctor = command::output(project::vmm_binary(), &["doctor", "--json"]).unwrap_or_default();
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap_or_default();
    let engines = doctor.get("engines").and_then(|engines| engines.as_array()).into_iter().flatten();
    let kvm = engines.into_iter().find(|engine| engine.get("kind").is_some_and(|kind| kind == "kvm"));
    kvm.and_then(|kvm| kvm.get("usable")?.as_bool()).unwrap_or(false)
}

/// Brings what the system tests need, for suites that run some of them.
pub(crate) fn prepare() -> Outcome {
    setup::install_missing(setup::TO_TEST)?;
    quickstart::build()?;
    pull()
}

/// The tests share what one pull brings: see `vmm-tests`, which is told where it lies.
fn pull() -> Outcome {
    let mut pull = std::process::Command::new(project::vmm_binary());
    command::show(pull.args(["pull", "alpine"]).env("VMM_HOME", project::test_images()))
}
