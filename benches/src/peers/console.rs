//! A machine of a monitor that brings no agent: a shell on its serial console, which is the monitor's standard input and
//! output.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{Booted, Context, Machine, Run, absent, milliseconds, needs_hardware};
use crate::bounded::{Limit, Line, Running};
use crate::host;
use crate::report::Absent;
use crate::trouble::Trouble;

const READY: &str = "vmm-bench-ready";
const DONE: &str = "vmm-bench-done";

/// What is to be known of a monitor that has no overlays.
pub(super) const WITH_A_COPY: &str = "Our kernel and root, an initramfs with a shell on the serial console; its disk is copied before its time begins.";

/// What a monitor that needs hardware virtualization says of itself, or why it is not measured. `get` is how to have it.
pub(super) fn look_for_monitor(context: &Context, name: &str, get: &'static str) -> Result<String, Absent> {
    let program = context.program(name, &[name]);
    let program = program.ok_or_else(|| absent(format!("there is no {name}"), get))?;
    needs_hardware(context)?;
    let said = host::said(&program.to_string_lossy(), &["--version"]);
    let said = said.ok_or_else(|| absent(format!("{} does not run", program.display()), get))?;
    context.guest_files.as_ref().map_err(|why| absent(why.clone(), "apt-get install qemu-utils"))?;
    Ok(said)
}

/// A monitor, started with its console on its standard streams.
pub(super) struct Console {
    pub(super) running: Running,
    /// How the guest's shell ends its machine.
    pub(super) shutdown: &'static str,
    /// Dropped with it: a disk of its own.
    pub(super) _disk: Option<OwnDisk>,
}

/// A copy of the root disk, which is removed with its machine.
pub(super) struct OwnDisk(pub(super) std::path::PathBuf);

impl OwnDisk {
    /// An overlay upon the root. What QEMU makes itself with `snapshot=on` takes no flush for what it is.
    pub(super) fn overlay(context: &Context) -> Result<Self, Trouble> {
        let disk = Self::next(context, "qcow2");
        let mut create = Command::new("qemu-img");
        create
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&context.guest_files()?.root)
            .arg(&disk.0);
        crate::bounded::output(create, "qemu-img", &context.limit())?;
        Ok(disk)
    }

    fn next(context: &Context, ending: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(context.folder.join(format!("disk-{number}.{ending}")))
    }

    /// Copies the root, without its holes.
    pub(super) fn copy(context: &Context) -> Result<Self, Trouble> {
        let disk = Self::next(context, "raw");
        let mut copy = Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto"]).arg(&context.guest_files()?.root).arg(&disk.0);
        crate::bounded::output(copy, "cp", &context.limit())?;
        Ok(disk)
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        // The whole folder goes at the end of the run.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Console {
    /// Waits for the shell: the machine, and how long it took since the monitor was started.
    pub(super) fn ready(mut self, limit: &Limit) -> Result<Booted, Trouble> {
        let ready = self.running.wait_for(limit, |line| said(line, READY).map(|_| line.at))?;
        let took = milliseconds(ready - self.running.began());
        Ok((Box::new(self), took))
    }

    /// Has one line run, and ends it.
    pub(super) fn once(mut self, limit: &Limit) -> Result<Run, Trouble> {
        let began = self.running.began();
        self.running.wait_for(limit, |line| said(line, READY))?;
        let answer = self.run("/bin/true", limit)?;
        self.running.say(self.shutdown)?;
        let end = self.running.finish(limit)?;
        Ok(Run { answer: milliseconds(answer - began), whole: milliseconds(end - began) })
    }

    /// Runs a line; when it was done.
    fn run(&mut self, line: &str, limit: &Limit) -> Result<Instant, Trouble> {
        self.running.say(line)?;
        let (at, status) =
            self.running.wait_for(limit, |line| said(line, DONE).map(|status| (line.at, status)))?;
        if status == "0" { Ok(at) } else { Err(Trouble::Failed(format!("`{line}` failed in the guest"))) }
    }
}

/// What follows a word in a line of the console's, before which the kernel may have said something.
fn said(line: &Line, word: &str) -> Option<String> {
    line.text.split_once(word).map(|(_, rest)| rest.trim().to_owned())
}

const ONE_AFTER_THE_OTHER: Trouble = Trouble::Unsupported("its console takes one command after the other");
const NO_COPIES: Trouble = Trouble::Unsupported("it brings nothing that copies files");

impl Machine for Console {
    fn exec(&mut self, count: usize, limit: &Limit) -> Result<Vec<f64>, Trouble> {
        let one = |_| {
            let began = Instant::now();
            // Its path makes it a program of its own: the word alone is the shell's.
            Ok(milliseconds(self.run("/bin/true", limit)? - began))
        };
        (0..count).map(one).collect()
    }

    fn exec_many(&mut self, _count: usize, _at_once: usize, _limit: &Limit) -> Result<f64, Trouble> {
        Err(ONE_AFTER_THE_OTHER)
    }

    fn shell(&mut self, script: &str, limit: &Limit) -> Result<f64, Trouble> {
        let began = Instant::now();
        Ok(milliseconds(self.run(script, limit)? - began))
    }

    fn copy_in(&mut self, _from: &Path, _to: &str, _limit: &Limit) -> Result<f64, Trouble> {
        Err(NO_COPIES)
    }

    fn copy_out(&mut self, _from: &str, _to: &Path, _limit: &Limit) -> Result<f64, Trouble> {
        Err(NO_COPIES)
    }

    fn processes(&mut self, _limit: &Limit) -> Result<Vec<u32>, Trouble> {
        let mut family = self.running.descendants();
        family.push(self.running.pid());
        Ok(family)
    }

    fn stop(mut self: Box<Self>, limit: &Limit) -> Result<f64, Trouble> {
        let began = Instant::now();
        self.running.say(self.shutdown)?;
        let end = self.running.finish(limit)?;
        Ok(milliseconds(end - began))
    }
}
