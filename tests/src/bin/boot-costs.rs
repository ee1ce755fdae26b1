//! Measures what boots cost, in the laboratory: `cargo lab baseline` keeps it in `tests/boot-costs.json`.

use std::process::ExitCode;

use vmm_tests::boot_costs::{Baseline, include, measure};

fn main() -> ExitCode {
    let Some(Ok(rounds)) = std::env::args().nth(1).map(|rounds| rounds.parse::<u32>()) else {
        eprintln!("usage: boot-costs ROUNDS");
        return ExitCode::FAILURE;
    };
    let mut baseline = Baseline::new();
    for _ in 0..rounds {
        for (kind, exits) in measure() {
            include(&mut baseline, kind, &exits);
        }
    }
    println!("{}", serde_json::to_string_pretty(&baseline).unwrap_or_default());
    ExitCode::SUCCESS
}
