//! Any signal by its number, which the safe crates' types do not have.

use std::io;

/// `kill(2)`: sends a signal to a process (positive), a process group (negative), or everybody but ourselves and
/// process 1 (-1). Signal 0 only asks whether that is possible. The crates' types know no real-time signals.
#[expect(unsafe_code, reason = "the system call with all of its numbers")]
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes two numbers and touches no memory.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_can_be_asked_for_by_any_number() {
        let ourselves = i32::try_from(std::process::id()).unwrap();
        kill(ourselves, 0).unwrap();
        assert_eq!(kill(ourselves, 4711).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
