//! When what happened in a run: as a list, a trace or a picture.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use vmm::home::End;
use vmm::{Sandbox, SandboxBuilder, Step, Timeline};

use crate::error::Failure;

#[derive(Args)]
pub(super) struct Timings {
    /// Tell at the end, on standard error, when each step of the run was done
    #[arg(long)]
    timings: bool,
    /// Write a trace of the run, with the steps of the guest's kernel, to be opened in Perfetto or chrome://tracing; the kernel
    /// takes longer by that
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write a picture of the run (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl Timings {
    /// Begins to watch a run, as far as that is wanted; what cannot be written is said before anything is started.
    pub(super) fn begin(&self, begun: Instant) -> Result<Watch, Failure> {
        let target = |path: &Option<PathBuf>| path.as_deref().map(Target::create).transpose();
        Ok(Watch {
            timeline: Timeline::since(begun),
            print: self.timings,
            trace: target(&self.trace)?,
            plot: target(&self.plot)?,
        })
    }
}

/// A run that is watched.
pub(super) struct Watch {
    timeline: Timeline,
    print: bool,
    trace: Option<Target>,
    plot: Option<Target>,
}

impl Watch {
    /// Has the start of a VM watched.
    pub(super) fn apply(&self, builder: SandboxBuilder) -> SandboxBuilder {
        builder.timeline(&self.timeline).traced_kernel(self.trace.is_some())
    }

    pub(super) fn mark(&self, step: Step) {
        self.timeline.mark(step);
    }

    pub(super) fn stopped(&self, end: &End) {
        self.timeline.stopped(end);
    }

    /// Asks the guest for what is to be in the trace, while it is there.
    pub(super) fn hear(&mut self, sandbox: &Sandbox) {
        let Some(trace) = &mut self.trace else { return };
        match sandbox.kernel_log() {
            Ok(log) => trace.log = log,
            // A trace of the rest is better than none.
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "vmm: the trace is without the guest's kernel: {error}");
            }
        }
    }

    /// Tells what was seen.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if let Some(mut target) = self.trace {
            let trace = self.timeline.trace(&std::mem::take(&mut target.log));
            target.write(&format!("{trace}\n"))?;
        }
        if let Some(target) = self.plot {
            target.write(&self.timeline.plot())?;
        }
        if self.print {
            let mut before = Duration::ZERO;
            let mut text = format!("{:>11}  {:>11}  step\n", "at", "after");
            for moment in self.timeline.moments() {
                let after = milliseconds(moment.at.saturating_sub(before));
                text += &format!("{}  {after}  {}\n", milliseconds(moment.at), moment.step);
                before = moment.at;
            }
            std::io::stderr().write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

fn milliseconds(span: Duration) -> String {
    format!("{:>8.1} ms", span.as_secs_f64() * 1000.0)
}

/// A file that is written at the end. Until then there is `FILE.partial`, which goes with a run that fails.
struct Target {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    log: Vec<vmm::KernelRecord>,
}

impl Target {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path: path.to_owned(), partial, file, log: Vec::new() })
    }

    fn write(mut self, text: &str) -> Result<(), Failure> {
        let written =
            self.file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&self.partial, &self.path));
        written.map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // One that was written has its own name now.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot write {}: {error}", path.display()))
}
