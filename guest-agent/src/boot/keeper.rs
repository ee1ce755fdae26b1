//! What starts the agent anew when it is killed: beside the image's own init it is a process like others, which the kernel may
//! choose when memory is short, or a user by mistake.
//!
//! As process 1 nobody in the guest can kill it.

use std::io;
use std::process::exit;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, WaitOptions, waitpid};
use vmm_sys::fork::{Fork, fork_single_threaded};

use crate::console;

/// One that does not live for so long is not followed at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Becomes two processes: the agent, for whom this returns how many there were before it, and one that waits for its end,
/// and makes another of a copy of itself if that was not of its own will. Whoever calls meanwhile waits at the port,
/// which both have open.
pub(super) fn keep() -> io::Result<u32> {
    for generation in 0.. {
        let began = Instant::now();
        match fork_single_threaded()? {
            Fork::Child => return Ok(generation),
            Fork::Parent(agent) => {
                // The image's init ends everybody when it goes down; the agent is of use until it is killed.
                SigSet::all().thread_block()?;
                if !was_killed(agent)? {
                    end();
                }
                console::line("the agent was killed; another one takes its place");
                if began.elapsed() < PAUSE {
                    pause();
                }
            }
        }
    }
    Err(io::ErrorKind::Other.into())
}

#[expect(clippy::disallowed_methods, reason = "there is nothing here that could be skipped")]
fn end() -> ! {
    exit(0)
}

#[expect(clippy::disallowed_methods, reason = "there is no event to wait for")]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn was_killed(agent: u32) -> io::Result<bool> {
    let pid = i32::try_from(agent).ok().and_then(Pid::from_raw);
    loop {
        match waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) if status.signaled() => return Ok(true),
            Ok(Some((_, status))) if status.exited() => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn one_that_was_killed_is_told_from_one_that_has_ended() {
        for (script, killed) in [("exit 3", false), ("kill -9 $$", true)] {
            let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
            assert_eq!(was_killed(child.id()).unwrap(), killed, "{script}");
            // It is buried already.
            let _ = child.wait();
        }
    }
}
