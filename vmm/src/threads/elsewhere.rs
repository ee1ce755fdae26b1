//! Systems without filters of system calls: threads may do what the process may.

use std::io;

use super::Role;

pub(super) fn check() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no filters of system calls"))
}

pub(super) fn prepare() -> io::Result<()> {
    Ok(())
}

pub(super) fn hold_to(_: Role) -> io::Result<()> {
    Ok(())
}

/// Why a process ended that made a forbidden call: here nothing is forbidden.
pub fn how_it_ended(_: u32, _: &str) -> Option<&str> {
    None
}
