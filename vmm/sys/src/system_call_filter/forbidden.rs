//! What happens when a thread makes a call that its filter does not allow: a line in the log, and the process ends.

use std::io;
use std::mem::MaybeUninit;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What the line says of the call. The line begins with ` ERROR monitor`, the process and `ended:`.
pub const FORBIDDEN: &str = "which its filter forbids";

/// `si_code` of a signal that a filter raised (`SYS_SECCOMP`, asm-generic/siginfo.h).
const RAISED_BY_FILTER: i32 = 1;

/// A call that no filter of ours allows, and that does nothing where there is no filter.
const NEVER_ALLOWED: libc::c_long = libc::SYS_ptrace;

/// The part of `siginfo_t` that tells of a call (`_sigsys`, asm-generic/siginfo.h), on 64 bits.
#[repr(C)]
struct CallInfo {
    signal: i32,
    errno: i32,
    code: i32,
    _padding: i32,
    _instruction: usize,
    call: i32,
    _architecture: u32,
}

/// Has every forbidden call write a line to standard error before it ends the process: which thread made which call.
///
/// The process still ends by `SIGSYS`: the handler serves once, and then makes a forbidden call itself.
pub fn report_forbidden_calls() -> io::Result<()> {
    // On the stack for signals, if the thread has one; at once again, and then without a handler.
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(report), flags, SigSet::empty());
    // SAFETY: the handler calls only what is async-signal-safe (signal-safety(7)): system calls and copies between
    // arrays of its own. It does not return.
    #[expect(unsafe_code, reason = "a signal's handler may run between any two instructions")]
    unsafe {
        sigaction(Signal::SIGSYS, &action)?
    };
    Ok(())
}

extern "C" fn report(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a `siginfo_t`, which is larger than the structure and begins with its fields.
    #[expect(unsafe_code, reason = "the crate does not name these fields")]
    let info = unsafe { info.cast::<CallInfo>().read() };
    if info.code == RAISED_BY_FILTER {
        let mut line = Line { bytes: [0; 160], length: 0 };
        line.add(b" ERROR monitor ");
        line.add_number(std::process::id());
        line.add(b" ended: thread ");
        line.add(&thread_name());
        line.add(b" made system call ");
        line.add_number(info.call.unsigned_abs());
        line.add(b", ");
        line.add(FORBIDDEN.as_bytes());
        line.add(b"\n");
        // Nobody is there to be told that it failed.
        let _ = rustix::io::write(rustix::stdio::stderr(), &line.bytes[..line.length]);
    }
    // SAFETY: where the filter ends the process, which is its purpose, the call does not return; without a filter
    // `PTRACE_TRACEME` (0) touches no memory.
    #[expect(unsafe_code, reason = "the process is to end by the signal of its filter")]
    unsafe {
        libc::syscall(NEVER_ALLOWED, 0, 0, 0, 0);
    }
    std::process::abort();
}

/// The calling thread's name as the kernel knows it, up to its end.
fn thread_name() -> [u8; 16] {
    let mut name = MaybeUninit::<[u8; 16]>::zeroed();
    // SAFETY: the kernel writes at most 16 bytes with a zero at their end (PR_GET_NAME, prctl(2)); whatever it leaves
    // is zero already.
    #[expect(unsafe_code, reason = "a wrapper would allocate, which a handler must not")]
    unsafe {
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        name.assume_init()
    }
}

/// A line that is put together without allocating.
struct Line {
    bytes: [u8; 160],
    length: usize,
}

impl Line {
    /// Adds bytes up to a zero among them, as far as there is room.
    fn add(&mut self, text: &[u8]) {
        for &byte in text.iter().take_while(|&&byte| byte != 0) {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    fn add_number(&mut self, mut number: u32) {
        let mut digits = [b'0'; 10];
        let mut first = digits.len();
        while let Some(at) = first.checked_sub(1) {
            digits[at] += u8::try_from(number % 10).unwrap_or(0);
            first = at;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.add(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_texts_and_numbers_and_ends_where_the_room_does() {
        let mut line = Line { bytes: [0; 160], length: 0 };
        line.add(b"cpu0\0\0\0");
        for number in [0, 7, 41, u32::MAX] {
            line.add(b" ");
            line.add_number(number);
        }
        assert_eq!(&line.bytes[..line.length], b"cpu0 0 7 41 4294967295");
        line.add(&[b'x'; 500]);
        assert_eq!(line.length, 160);
    }
}
