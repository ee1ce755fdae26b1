//! Child processes that do not outlive us.

use std::process::Command;

/// Lets the child be killed when the thread that spawns it ends, however it ends: nothing of a process that was itself
/// killed goes on. What the child starts in turn is its own concern.
///
/// The thread must live as long as the child is wanted. Where the system has no such signal, the child is merely not
/// waited for.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    #[cfg(target_os = "linux")]
    set_parent_death_signal(command);
    command
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the child sets the signal for itself, between fork and exec")]
fn set_parent_death_signal(command: &mut Command) {
    use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;

    let parent: Pid = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Whoever died between the fork and the call above sends no signal any more.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and no lock may be taken. The
    // closure makes two system calls, compares two integers that it owns, and its errors carry only a number, so it
    // neither allocates nor locks.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn a_child_ends_with_the_thread_that_spawned_it() {
        // Given a child that would stay for an hour, spawned by a thread that ends.
        let spawn = || {
            let mut command = Command::new("sleep");
            command.arg("3600").stdout(Stdio::piped());
            die_with_parent(&mut command).spawn().unwrap()
        };
        let mut child = std::thread::spawn(spawn).join().unwrap();
        // When the end of its output is awaited, it comes.
        let mut output = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
