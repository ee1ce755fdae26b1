//! Brings what the project needs onto the machine, and only what is missing.

mod apt;
mod manager;
mod qemu;
mod tool;

use manager::Manager;
use tool::Tool;
pub(crate) use tool::{TO_COMPARE, TO_COMPARE_DISKS, TO_FUZZ, TO_RUN, TO_TEST};

use crate::failure::{Failure, Outcome};

/// Installs those of the tools that are missing or too old, by the machine's own package manager.
pub(crate) fn install_missing(tools: &[Tool]) -> Outcome {
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| !tool.is_present()).collect();
    for tool in tools.iter().filter(|tool| !missing.contains(tool)) {
        println!("  {} is there", tool.describe());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|tool| tool.describe()).collect::<Vec<_>>().join(", ");
    println!("  missing: {names}");
    let Some(manager) = Manager::of_this_machine() else {
        return Err(Failure::new(format!("no package manager known here can install {names}"))
            .hint("Install it by hand, so that it is on the path, and start again."));
    };
    manager.install(&missing)?;
    match missing.iter().find(|tool| !tool.is_present()) {
        None => Ok(()),
        Some(tool) => {
            Err(Failure::new(format!("{} is still missing after the installation", tool.describe()))
                .hint("Install it by hand, so that it is on the path, and start again."))
        }
    }
}

/// Says what of the tools is missing or too old, and installs nothing.
pub(crate) fn require(tools: &[Tool]) -> Outcome {
    let missing = tools.iter().filter(|tool| !tool.is_present()).map(|tool| tool.describe());
    let missing = missing.collect::<Vec<_>>().join(", ");
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("missing: {missing}"))
        .hint("`cargo xtask setup test` installs what the tests need."))
}
