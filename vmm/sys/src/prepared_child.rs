//! Starting a process from one that has a single thread, with work done in the child before it executes.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, unshare};

/// Starts `command`, running `prepare` in the child just before it executes the program.
///
/// Refused when the process has more than one thread: then the child could find a lock taken by a thread that it
/// does not have.
#[expect(unsafe_code, reason = "code between fork and exec")]
pub fn spawn_prepared(
    command: &mut Command,
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Child> {
    if !is_single_threaded()? {
        return Err(io::Error::other("a process with several threads cannot prepare a child"));
    }
    // SAFETY: what code between fork and exec must not do is rely on state that other threads left half changed in
    // the copied memory (fork(2), "a process shall be created with a single thread"). There are no other threads:
    // checked above, and nobody but this function runs until `spawn` below has forked.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Whether this process has one thread. The kernel knows: unsharing the thread group is refused to others.
fn is_single_threaded() -> io::Result<bool> {
    match unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::EINVAL) => Ok(false),
        // A container's filter may refuse unshare(2) altogether.
        Err(_) => Ok(std::fs::read_dir("/proc/self/task")?.count() == 1),
    }
}

/// Marks every open descriptor from `first` on as closed on exec, so that a program started later gets only what is
/// handed to it. Closes nothing.
#[expect(unsafe_code, reason = "close_range(2) has no safe wrapper")]
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes no descriptor and touches no memory of ours; it sets a flag
    // that std and rustix set on every descriptor of theirs anyway (close_range(2)).
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes what was handed to this process when its program was executed, but for the standard streams: a shell's
/// redirections, locks and pipes of whoever started us.
///
/// What is inherited is told by its flag: it is not closed on `exec`, or it would not be here, and std, rustix and we set
/// that flag on every descriptor that we open.
#[expect(unsafe_code, reason = "descriptors that nobody in this process owns")]
pub fn close_inherited() -> io::Result<()> {
    use rustix::io::FdFlags;
    use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
    let folder = rustix::fs::open(
        "/proc/self/fd",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut numbers: Vec<RawFd> = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder)? {
        numbers.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for number in numbers.into_iter().filter(|&number| number > 2 && number != folder.as_raw_fd()) {
        // SAFETY: the number was open a moment ago. Where another thread has closed it since, the call fails, or tells
        // the flags of what that thread opened; in both cases nothing is read or written through it.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC)) {
            // SAFETY: it is not closed on `exec`, so it was inherited and no value of this process owns it.
            unsafe { rustix::io::close(number) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_refused() {
        // The test harness runs each test on a thread of its own.
        let error =
            std::thread::spawn(|| spawn_prepared(&mut Command::new("true"), || Ok(()))).join().unwrap();
        assert!(error.unwrap_err().to_string().contains("several threads"));
    }

    #[test]
    fn an_open_descriptor_is_not_inherited_once_marked() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        close_on_exec_from(u32::try_from(file.as_raw_fd()).unwrap()).unwrap();
        assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
