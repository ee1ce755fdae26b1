//! Holding threads to their roles by filters of system calls (seccomp(2)).

use std::io::{self, Write};
use std::panic::PanicHookInfo;

use vmm_sys::system_call_filter as filter;

use super::Role;
use super::filters::rules;

pub(super) fn check() -> io::Result<()> {
    filter::is_supported()
}

/// What a process does before its threads are held.
///
/// Some code does more the first time, or when things go wrong, than its thread could do then: it is done now, or done
/// without.
pub(super) fn prepare() -> io::Result<()> {
    filter::is_supported()?;
    filter::report_forbidden_calls()?;
    vmm_sys::allocator::use_one_arena();
    // Found out by a call, or from a file.
    let _ = rustix::param::page_size();
    std::panic::set_hook(Box::new(tell_panic));
    Ok(())
}

pub(super) fn hold_to(role: Role) -> io::Result<()> {
    filter::allow(&rules(role))
}

/// Tells of a panic in a line, and never by a backtrace, which would be read out of the program's file.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let message = panic.payload();
    let message = message
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| message.downcast_ref::<String>().map(String::as_str))
        .unwrap_or_default();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // In one piece, so that the lines of two threads do not mix. Nobody is there to be told that it failed.
    let _ = io::stderr().write_all(format!("thread {name} panicked at {place}: {message}\n").as_bytes());
}

/// Why a process ended that made a forbidden call, from the last line of its log: which thread made which.
pub fn how_it_ended(process: u32, last_line: &str) -> Option<&str> {
    let told = last_line.trim_start().strip_prefix(&format!("monitor {process} ended: "))?;
    told.ends_with(filter::FORBIDDEN).then_some(told)
}
