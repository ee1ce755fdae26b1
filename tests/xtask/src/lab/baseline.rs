//! `cargo lab baseline`: measures anew what boots cost, for the test that holds them to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Laboratory, build, lock, order, suite};
use crate::failure::{Failure, Outcome};
use crate::project;
use crate::verify::pool::in_parallel;

/// The program, where it finds its way as tests do.
const PROGRAM: &str = "deps/boot-costs";

/// How many boots of each kind in each laboratory.
const ROUNDS: &str = "10";

/// How long they may take.
const LIMIT: Duration = Duration::from_secs(900);

/// By the kind of boot, the device, and whether it was read or written: the least and the most exits.
type Baseline = BTreeMap<String, BTreeMap<String, BTreeMap<String, (u64, u64)>>>;

/// Measures in as many laboratories beside each other as the tests run in: what a guest and its monitor do at the same time
/// falls otherwise where both have to wait for a processor, and two interrupts are then not always one.
pub(super) fn run() -> Outcome<ExitCode> {
    let locked = lock()?;
    let program = build::test_program("boot-costs")?;
    let laboratory = Laboratory::prepare([(PathBuf::from(PROGRAM), program)])?;
    drop(locked);
    let count = suite::at_once();
    let mut baseline = Baseline::new();
    for measured in in_parallel(vec![(); count], count, |()| measure(&laboratory)) {
        widen(&mut baseline, measured?);
    }
    let text = serde_json::to_string_pretty(&baseline)
        .map_err(|error| Failure::new(format!("what was measured cannot be written: {error}")))?;
    let file = project::root().join("tests/boot-costs.json");
    std::fs::write(&file, text + "\n")
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    println!("written to {}", project::shown(&file));
    Ok(ExitCode::SUCCESS)
}

fn measure(laboratory: &Laboratory) -> Outcome<Baseline> {
    let inside = format!("{}/{PROGRAM}", laboratory::PROGRAMS);
    let mut said = Vec::new();
    let status = laboratory
        .start()?
        .run_quietly(&order::with_pipes(&[&inside, ROUNDS]), LIMIT, |bytes| said.extend_from_slice(bytes))?;
    let said = String::from_utf8_lossy(&said);
    if status != 0 {
        return Err(Failure::new("the boots could not be measured").hint(said));
    }
    serde_json::from_str(&said)
        .map_err(|error| Failure::new(format!("what was measured cannot be read: {error}")).hint(said))
}

/// Has each range hold another measurement's, too.
fn widen(baseline: &mut Baseline, measured: Baseline) {
    for (kind, devices) in measured {
        let known = baseline.entry(kind).or_default();
        for (device, ranges) in devices {
            let known = known.entry(device).or_default();
            for (access, (least, most)) in ranges {
                let range = known.entry(access).or_insert((least, most));
                *range = (range.0.min(least), range.1.max(most));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_holds_what_was_measured_in_each_laboratory() {
        let parse = |text: &str| serde_json::from_str::<Baseline>(text).unwrap();
        let mut baseline = Baseline::new();
        widen(&mut baseline, parse(r#"{"used":{"block":{"reads":[39,40],"writes":[30,31]}}}"#));
        widen(&mut baseline, parse(r#"{"used":{"block":{"reads":[38,39],"writes":[31,33]}},"bare":{}}"#));
        let both = r#"{"bare":{},"used":{"block":{"reads":[38,40],"writes":[30,33]}}}"#;
        assert_eq!(baseline, parse(both));
    }
}
