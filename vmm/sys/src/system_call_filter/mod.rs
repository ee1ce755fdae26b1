//! Filters of system calls: a list of calls that a process refuses itself, and a list of those that a thread may make.
//!
//! What a thread starts inherits its filters, and no filter can be taken off again.

pub mod calls;
mod forbidden;
mod program;

use std::io;

pub use forbidden::{FORBIDDEN, report_forbidden_calls};

/// What becomes of one system call.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    call: libc::c_long,
    conditions: &'static [Condition],
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Allow,
    Absent,
}

impl Rule {
    /// Allows the call.
    pub const fn any(call: libc::c_long) -> Self {
        Self { call, conditions: &[], verdict: Verdict::Allow }
    }

    /// Allows the call when all of these hold. Of several rules for one call, one is enough.
    pub const fn with(call: libc::c_long, conditions: &'static [Condition]) -> Self {
        Self { call, conditions, verdict: Verdict::Allow }
    }

    /// Answers the call as a kernel does that is too old for it, so that the caller falls back to another.
    pub const fn absent(call: libc::c_long) -> Self {
        Self { call, conditions: &[], verdict: Verdict::Absent }
    }

    /// The call's number.
    pub const fn call(&self) -> libc::c_long {
        self.call
    }
}

/// What one argument of a call must be.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Which argument, counted from 0.
    pub index: u8,
    /// What its low 32 bits must be: for those that the kernel itself takes no more of.
    pub argument: Argument,
}

/// What the low 32 bits of an argument must be.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// One of these.
    OneOf(&'static [u32]),
    /// None of these bits is set.
    Without(u32),
    /// All of these bits are set.
    With(u32),
    /// The number of the process that puts the filter on.
    ThisProcess,
}

/// Refuses these system calls with `EPERM` from now on, for good. Calls of another architecture's numbering end the
/// process. `no_new_privs` must be set.
pub fn refuse(calls: &[libc::c_long]) -> io::Result<()> {
    put_on(&mut program::refusing(calls)?)
}

/// Allows the calling thread these system calls and no others from now on, for good. Any other ends the process by
/// `SIGSYS`, which [`report_forbidden_calls`] explains.
///
/// The thread and what it starts can gain no more rights by executing a program (`no_new_privs`).
pub fn allow(rules: &[Rule]) -> io::Result<()> {
    let mut program = program::allowing(rules, libc::SECCOMP_RET_TRAP)?;
    rustix::thread::set_no_new_privs(true)?;
    put_on(&mut program)
}

/// Whether this kernel takes filters (`CONFIG_SECCOMP_FILTER`); what it says if not.
#[expect(unsafe_code, reason = "prctl(PR_SET_SECCOMP) takes a pointer to a program")]
pub fn is_supported() -> io::Result<()> {
    let nothing = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel reads nothing at address zero: who takes filters says so, and puts none on (seccomp(2), EFAULT).
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, nothing) };
    match io::Error::last_os_error() {
        error if result != 0 && error.raw_os_error() != Some(libc::EFAULT) => Err(error),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "prctl(PR_SET_SECCOMP) takes a pointer to a program")]
fn put_on(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let header = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: `header` describes `program`, which lives until the call returns; the kernel copies it (seccomp(2)).
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const header) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
