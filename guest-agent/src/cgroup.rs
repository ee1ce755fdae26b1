//! A control group for each process, so that nothing it started escapes its end.
//!
//! Making a group costs the kernel far more than using one, so groups that are empty again are used again.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use vmm_sys::kill::kill;

/// Empty groups that are kept for the next processes.
const FREE_LIMIT: usize = 8;

/// No deeper than this are groups in groups looked at. A container in a container has some six.
const DEPTH_LIMIT: u32 = 32;

/// A control group. Its descriptor is what a process is born into.
#[derive(Debug)]
pub struct Group {
    name: String,
    folder: OwnedFd,
    events: OwnedFd,
    /// A process that is born into a group which was once killed dies at birth: the kernel compares how often the group
    /// was killed with what it read from the parent's group (`kill_seq`, kernel/cgroup/cgroup.c).
    killed: Cell<bool>,
}

impl Group {
    /// Whether a process is in it.
    pub fn is_populated(&self) -> bool {
        let mut text = [0; 128];
        match rustix::io::pread(&self.events, &mut text, 0) {
            Ok(length) => contains(&text[..length], b"populated 1"),
            // A group that cannot be asked must not be taken for empty.
            Err(_) => true,
        }
    }

    /// Ends every process in it, at once and for good.
    pub fn kill(&self) {
        self.killed.set(true);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let written = openat(&self.folder, "cgroup.kill", flags, Mode::empty())
            .and_then(|kill| rustix::io::write(kill, b"1"));
        if written.is_err() {
            // A kernel before 5.14. Whoever forks faster than we read is met again the next time round.
            for _ in 0..100 {
                if !self.is_populated() {
                    break;
                }
                self.signal(9);
            }
        }
    }

    /// Sends a signal to every process in it, and in the groups that they made in it.
    pub fn signal(&self, signal: i32) {
        signal_beneath(self.folder.as_fd(), signal, DEPTH_LIMIT);
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// The groups of our processes, beneath one of our own.
#[derive(Debug, Default)]
pub struct Groups {
    /// None: there is no cgroup2, and processes are ended by their process group.
    root: Option<OwnedFd>,
    free: Vec<Group>,
    /// Their process has ended and left others behind.
    left: Vec<Group>,
    made: u32,
}

impl Groups {
    /// Makes our group in a mounted cgroup2.
    pub fn beneath(mount: &Path) -> io::Result<Self> {
        let path = mount.join("vmm");
        match mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let root = openat(CWD, &path, FOLDER, Mode::empty())?;
        Ok(Self { root: Some(root), ..Self::default() })
    }

    /// Makes a group ahead of its use.
    pub fn prepare(&mut self) {
        if let Some(group) = self.make() {
            self.free.push(group);
        }
    }

    /// An empty group for a process; none where there is no cgroup2.
    pub fn take(&mut self) -> Option<Group> {
        if let Some(group) = self.free.pop() {
            return Some(group);
        }
        for group in self.left.extract_if(.., |group| !group.is_populated()).collect::<Vec<_>>() {
            self.give_back(group);
        }
        self.free.pop().or_else(|| self.make())
    }

    /// Takes back the group of a process that has ended.
    pub fn give_back(&mut self, group: Group) {
        if group.is_populated() {
            self.left.push(group);
        } else if self.free.len() < FREE_LIMIT && !group.killed.get() {
            self.free.push(group);
        } else if let Some(root) = &self.root {
            let _ = unlinkat(root, &group.name, AtFlags::REMOVEDIR);
        }
    }

    fn make(&mut self) -> Option<Group> {
        let root = self.root.as_ref()?;
        let name = loop {
            self.made += 1;
            let name = self.made.to_string();
            match mkdirat(root, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) => break name,
                // One may be left of an agent before us: whoever is in it is none of ours, and must not end with ours.
                Err(Errno::EXIST) => {}
                Err(_) => return None,
            }
        };
        let folder = openat(root, &name, FOLDER, Mode::empty()).ok()?;
        let events =
            openat(&folder, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Group { name, folder, events, killed: Cell::new(false) })
    }
}

fn signal_beneath(folder: BorrowedFd<'_>, signal: i32, depth: u32) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if let Ok(list) = openat(folder, "cgroup.procs", flags, Mode::empty()) {
        let mut text = String::new();
        let _ = io::Read::read_to_string(&mut std::fs::File::from(list), &mut text);
        // Process 0 stands for one outside of our sight.
        for pid in text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0) {
            let _ = kill(pid, signal);
        }
    }
    let Ok(entries) = Dir::read_from(folder) else { return };
    let inner = entries.flatten().filter(|entry| entry.file_type() == FileType::Directory);
    let inner = inner.filter(|entry| ![c".", c".."].contains(&entry.file_name()));
    for entry in inner.take_while(|_| depth > 0) {
        if let Ok(group) = openat(folder, entry.file_name(), FOLDER, Mode::empty()) {
            signal_beneath(group.as_fd(), signal, depth - 1);
        }
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
