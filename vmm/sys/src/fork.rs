//! A fork, for the one case in which it is safe.

use std::fs;
use std::io;

/// Who we are after a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The process that called; the child's number.
    Parent(u32),
    /// The new process.
    Child,
}

/// Makes a copy of this process. Refused when it has more than one thread: a copy would have only the one, and the
/// locks that the others held for ever. Needs `/proc`.
#[expect(unsafe_code, reason = "no safe interface forks, since with threads it is not safe")]
pub fn fork_single_threaded() -> io::Result<Fork> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "a process with several threads cannot fork"));
    }
    // SAFETY: we are the only thread, and only it could start another: so no lock is held and no state is half
    // changed, and the child may do whatever we may.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        pid => u32::try_from(pid).map(Fork::Parent).map_err(|_| io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_ok());
        assert_eq!(fork_single_threaded().unwrap_err().kind(), io::ErrorKind::Unsupported);
        drop(go);
        other.join().unwrap();
    }
}
