//! The processes of a VM that are this same executable: its monitor, and the supervisor of its QEMU. Not for people.

use std::process::ExitCode;

/// Becomes such a process where the first argument asks for it.
pub(crate) fn run() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1)?;
    if first == vmm::engine::software::SUPERVISOR_ARGUMENT {
        Some(vmm::engine::software::supervisor_main())
    } else if first == vmm::monitor::ARGUMENT {
        Some(vmm::monitor::main())
    } else {
        None
    }
}
