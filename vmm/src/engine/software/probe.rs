//! What the software engine can do on this host, found out by building its jail and starting QEMU in it.

use super::clock::CounterRate;
use super::launch::start;
use super::plan::Plan;
use super::{SoftwareEngine, SoftwareError};
use crate::arch::Arch;
use crate::engine::{EngineKind, EngineOptions, EngineProbe, JailReport, chain};

/// How much slower than the processor itself an emulated one computes, roughly.
pub(in crate::engine) const SLOWDOWN: u32 = 15;

/// What the software engine can do on this host, and how well it is jailed.
pub(in crate::engine) fn probe(arch: Arch, options: &EngineOptions) -> EngineProbe {
    let unusable = |error: &SoftwareError| EngineProbe {
        kind: EngineKind::Software,
        usable: false,
        reason: chain(error),
        advice: error.hint().into_iter().collect(),
        nesting: false,
        slowdown: None,
        program: None,
        version: None,
        jail: None,
        clock: None,
    };
    let engine = match SoftwareEngine::find(arch, options) {
        Ok(engine) => engine,
        Err(error) => return unusable(&error),
    };
    let qemu = &engine.qemu;
    let (usable, reason, jail) = match engine.try_jail() {
        Ok(jail) => (true, format!("QEMU {} emulates the processor", qemu.version), Some(jail)),
        Err(error) => (false, chain(&error), None),
    };
    let mut advice = Vec::new();
    let clock = match (arch, engine.clock()) {
        (Arch::Arm64, _) => "the board's own counter".to_owned(),
        (Arch::X86_64, CounterRate::Known { kilohertz }) if qemu.has_machine("microvm") => {
            format!("the processor's counter, at {}.{:03} MHz", kilohertz / 1000, kilohertz % 1000)
        }
        (Arch::X86_64, CounterRate::Known { .. }) => {
            advice.push("this QEMU has no microvm machine: boots take half a second longer".to_owned());
            "a PC's timer chips".to_owned()
        }
        (Arch::X86_64, CounterRate::Unknown { reason }) => {
            advice.push(format!("boots take half a second longer: {reason}"));
            "a PC's timer chips".to_owned()
        }
    };
    EngineProbe {
        kind: EngineKind::Software,
        usable,
        reason,
        advice,
        nesting: usable,
        slowdown: Some(SLOWDOWN),
        program: Some(qemu.path.clone()),
        version: Some(qemu.version.to_string()),
        jail,
        clock: Some(clock),
    }
}

impl SoftwareEngine {
    /// Builds the jail around a QEMU that only says its version.
    fn try_jail(&self) -> Result<JailReport, SoftwareError> {
        let plan = Plan {
            program: self.qemu.path.clone(),
            libraries: self.qemu.libraries.clone(),
            is_static: self.qemu.is_static,
            firmware: Vec::new(),
            arguments: vec!["--version".to_owned()],
            files: Vec::new(),
            own_filter: self.qemu.sandbox,
        };
        let mut started = start(&self.supervisor, &plan, &[])?;
        // It ends by itself; the supervisor with it.
        drop(started.lifeline);
        let _ = started.supervisor.wait();
        Ok(started.jail)
    }
}
