//! The processes of a VM that are this same executable: its monitor, its keeper, the supervisor of its QEMU, a trial of
//! the host's virtualization. Not for people.

use std::process::ExitCode;

use crate::log;

/// Becomes such a process where the first argument asks for it.
pub(crate) fn run() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1)?;
    if first == vmm::engine::software::SUPERVISOR_ARGUMENT {
        Some(vmm::engine::software::supervisor_main())
    } else if first == vmm::engine::native::TRIAL_ARGUMENT {
        Some(vmm::engine::native::trial_main())
    } else if first == vmm::monitor::ARGUMENT {
        log::start_within_bounds();
        Some(vmm::monitor::main())
    } else if first == vmm::sandbox::keeper::ARGUMENT {
        log::start_within_bounds();
        Some(vmm::sandbox::keeper::main())
    } else {
        None
    }
}
