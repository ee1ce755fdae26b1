//! What the monitor's process takes of the host's processors until the guest's first instruction, on a host with KVM. What
//! becomes of the guest does not matter, so a `/dev/kvm` that runs no kernel will do.

use std::error::Error;
use std::time::Duration;

use vmm::{EngineChoice, Home, MemorySize, Sandbox};

use vmm_benches::statistics::Sample;

/// What it may take, in milliseconds of processor time.
const GOAL_MS: f64 = 8.0;

/// Long enough for the machine to be launched.
const PATIENCE: Duration = Duration::from_secs(3);

const NAME: &str = "vmm-bench-start";

pub(crate) fn run(rounds: usize) -> Result<(), Box<dyn Error>> {
    let home = Home::open_default()?;
    let mut milliseconds = Vec::new();
    // A round before the first does not pay for cold caches.
    for round in 0..=rounds {
        let started = Sandbox::builder("alpine")
            .home(&home)
            .name(NAME)
            .cpus(1)
            .memory(MemorySize::mebibytes(128)?)
            .engine(EngineChoice::Named(vmm::engine::EngineKind::Kvm))
            .ready_timeout(PATIENCE)
            .start();
        if let Ok(sandbox) = &started {
            sandbox.kill()?;
        }
        let machines = Sandbox::list(&home)?;
        let ours = machines.iter().find(|vm| vm.name.as_ref().is_some_and(|name| name.as_str() == NAME));
        let microseconds = ours.and_then(|vm| vm.timings.processor);
        if ours.is_some() {
            Sandbox::attach(&home, NAME)?.remove(true)?;
        }
        let microseconds = match (microseconds, started) {
            (Some(microseconds), _) => u32::try_from(microseconds)?,
            (None, Err(error)) => return Err(error.into()),
            (None, Ok(_)) => return Err("the machine does not tell its processor time".into()),
        };
        if round > 0 {
            milliseconds.push(f64::from(microseconds) / 1000.0);
        }
    }
    let sample = Sample::new(milliseconds);
    let verdict = if sample.median() <= GOAL_MS { "reached" } else { "missed" };
    println!(
        "processor time of the monitor until the guest's first instruction: {:.1} ms ({:.1} to {:.1}, {} rounds); \
         goal {GOAL_MS} ms: {verdict}",
        sample.median(),
        sample.quantile(0.0),
        sample.quantile(1.0),
        sample.count()
    );
    Ok(())
}
