//! Processes: waiting for one to end, and finding those that a test left behind.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Once;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, set_child_subreaper};

use crate::PATIENCE;

/// A process that lives, or lived when it was looked for.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// What it is, for people.
    pub command: String,
    handle: Option<OwnedFd>,
}

impl Process {
    /// Takes a handle on a process, which stays its own even when its number is used again.
    pub fn open(pid: u32) -> Self {
        let handle = number(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        Self { pid, command, handle }
    }

    /// Waits until it has ended; says whether it did in time.
    pub fn ends_within(&self, time: Duration) -> bool {
        let Some(handle) = &self.handle else { return true };
        let time = Timespec::try_from(time).expect("a time");
        let mut waited = [PollFd::new(handle, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut waited, Some(&time))).expect("poll a process") > 0
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Kills it, as nothing can prevent.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends it a signal; one that has ended takes none.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = number(self.pid).filter(|_| !self.has_ended()) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn number(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Makes this process the one to which the children of processes that died fall: whatever a test started, however far
/// it went away, is then a descendant of the test.
pub(crate) fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let ourselves = rustix::process::getpid();
        set_child_subreaper(Some(ourselves)).expect("Linux lets a process adopt orphans");
    });
}

/// All processes that live and descend from this one.
pub fn descendants() -> Vec<Process> {
    let all = all();
    let mut found = Vec::new();
    let mut parents = vec![std::process::id()];
    while let Some(parent) = parents.pop() {
        for (pid, _) in all.iter().filter(|(_, their_parent)| *their_parent == parent) {
            parents.push(*pid);
            found.push(Process::open(*pid));
        }
    }
    // One whose memory is gone already has no command any more: nothing can keep it from its end, which may take a moment.
    found.retain(|process| {
        let is_ending = process.command.is_empty();
        !process.ends_within(if is_ending { PATIENCE } else { Duration::ZERO })
    });
    found
}

/// How many children this process has, those among them that have ended and were not asked how.
pub(crate) fn children() -> usize {
    let ourselves = std::process::id();
    every().filter(|(_, _, parent)| *parent == ourselves).count()
}

/// Buries the orphans that fell to this process and have ended. Only for when nothing that the test itself started runs:
/// whoever waits for that would not hear of its end.
pub fn bury_orphans() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// All processes and their parents, without those that have ended and only wait to be asked how.
fn all() -> Vec<(u32, u32)> {
    let living = every().filter(|(_, state, _)| state != "Z" && state != "X");
    living.map(|(pid, _, parent)| (pid, parent)).collect()
}

/// All processes, with their state and their parent.
fn every() -> impl Iterator<Item = (u32, String, u32)> {
    let entries = fs::read_dir("/proc").expect("Linux's list of processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything.
        let (_, fields) = status.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?.to_owned();
        let parent = fields.next()?.parse().ok()?;
        Some((pid, state, parent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PATIENCE;

    #[test]
    fn a_grandchild_whose_parent_is_gone_is_found_and_can_be_killed() {
        adopt_orphans();
        let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
        let output = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
        let pid: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        let orphan = descendants().into_iter().find(|process| process.pid == pid).unwrap();
        assert!(!orphan.has_ended());
        orphan.kill();
        assert!(orphan.ends_within(PATIENCE));
    }
}
