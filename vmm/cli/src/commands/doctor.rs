//! `vmm doctor`: what this host offers, and what to do about what it lacks.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use vmm::arch::Arch;
use vmm::engine::{EngineOptions, EngineProbe, HostProbe};
use vmm::{Home, engine};

use super::{print, print_json};
use crate::error::{FAILED, Failure};

#[derive(Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let arch = Arch::host().ok_or_else(|| Failure::usage("vmm does not run on this processor"))?;
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let supervisor = std::env::current_exe()?;
        let probe = engine::probe(
            arch,
            &EngineOptions { cache: Some(home.cache()), ..EngineOptions::new(supervisor) },
        );
        if self.json {
            print_json(&probe)?;
        } else {
            print(&describe(&probe, &home))?;
        }
        let usable = probe.engines.iter().any(|engine| engine.usable);
        Ok(if usable { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}

fn describe(probe: &HostProbe, home: &Home) -> String {
    let mut text = format!(
        "home: {}\nhardware virtualization: {}\n",
        home.root().display(),
        probe.virtualization.summary
    );
    text.push_str(&match &probe.seccomp_missing {
        None => "system call filters: each thread of a VM's monitor has one\n".to_owned(),
        Some(why) => format!(
            "system call filters: the kernel has none ({why}); VMs start with `--no-seccomp` only\n  \
             do: use a kernel that has CONFIG_SECCOMP_FILTER\n"
        ),
    });
    for engine in &probe.engines {
        describe_engine(&mut text, engine);
    }
    text
}

fn describe_engine(text: &mut String, engine: &EngineProbe) {
    // Writing into a string does not fail.
    let _ = writeln!(
        text,
        "engine {}: {}; {}",
        engine.kind,
        if engine.usable { "works" } else { "does not work" },
        engine.reason
    );
    if let Some(slowdown) = engine.slowdown.filter(|slowdown| *slowdown > 1) {
        let _ = writeln!(
            text,
            "  speed: a guest computes about {slowdown} times slower than on hardware virtualization"
        );
    }
    if engine.usable {
        let can = if engine.nesting { "can" } else { "cannot" };
        let _ = writeln!(text, "  nesting: a guest {can} run virtual machines itself (--nested)");
    }
    if let Some(clock) = &engine.clock {
        let _ = writeln!(text, "  clock: {clock}");
    }
    if let Some(jail) = &engine.jail {
        let missing: Vec<_> = jail.missing().collect();
        let _ =
            writeln!(text, "  jail: {} of {} bars hold", jail.bars.len() - missing.len(), jail.bars.len());
        for state in missing {
            let _ = writeln!(
                text,
                "    missing: {}: {}",
                state.bar,
                state.missing.as_deref().unwrap_or_default()
            );
        }
    }
    for advice in &engine.advice {
        let _ = writeln!(text, "  do: {advice}");
    }
}
