//! What the commands for projects share: which project, what happens, what a person is asked.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueHint};
use vmm::Home;
use vmm::project::{Project, ProjectEvent, vms_of_projects};

use crate::error::Failure;
use crate::progress::{self, Display};
use crate::sanitise::{self, say};

/// A longer line of a script's is shown in pieces.
const LONGEST_LINE: usize = 4096;

/// Which project a command is about.
#[derive(Args)]
pub(super) struct WhichProject {
    /// The project's folder; otherwise the nearest one upwards with a vmm.toml, or else this folder
    #[arg(long, short = 'C', value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    project: Option<PathBuf>,
}

impl WhichProject {
    pub(super) fn open(&self, home: &Home) -> Result<Project, Failure> {
        Ok(match &self.project {
            Some(folder) => Project::exactly(home, folder)?,
            None => Project::find(home, ".")?,
        })
    }
}

/// Refuses what would take a VM away from the project that knows it by its name.
pub(super) fn refuse_if_of_project(home: &Home, vm: &str) -> Result<(), Failure> {
    let Some(folder) = vms_of_projects(home)?.remove(vm) else { return Ok(()) };
    let message = format!("{vm} is a VM of the project {}, which knows it by this name", folder.display());
    Err(Failure::usage(message).with_hint("make a VM of its own of it: vmm clone"))
}

/// Asks a person for a yes. `None`: there is nobody to ask.
pub(super) fn ask(question: &str) -> Result<Option<bool>, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    write!(io::stderr(), "{} [y/N] ", sanitise::text(question))?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(Some(["y", "yes"].contains(&answer.trim().to_lowercase().as_str())))
}

type StartObserver = Box<dyn Fn(&vmm::Progress) + Send + Sync>;

/// Shows what happens to a project's machines.
pub(super) struct EventDisplay {
    quiet: bool,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    /// The start that is under way.
    starting: Option<(String, StartObserver, Display)>,
    /// What machines wrote of a line that has not ended yet.
    lines: HashMap<String, Vec<u8>>,
}

impl EventDisplay {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, shown: Mutex::default() }
    }

    pub(super) fn show(&self, event: &ProjectEvent) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ProjectEvent::Starting { machine, progress } => shown.start(machine, progress, self.quiet),
            ProjectEvent::Output { .. } => {}
            _ => shown.clear(),
        }
        if self.quiet {
            return;
        }
        match event {
            ProjectEvent::Waiting => say("→ waiting for another vmm that is at work on this project"),
            ProjectEvent::Moved { from } => {
                say(&format!("→ this project was at {}: its VMs came along", from.display()));
            }
            ProjectEvent::Stopping { machine } => say(&format!("→ {machine}: stopping")),
            ProjectEvent::Script { machine, script } => say(&format!("→ {machine}: running {script}")),
            ProjectEvent::Output { machine, bytes } => shown.output(machine, bytes),
            ProjectEvent::Checking { machine } => say(&format!("→ {machine}: waiting until it is healthy")),
            _ => {}
        }
    }

    /// Takes everything off the terminal again, and ends every line.
    pub(super) fn clear(&self) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Shown {
    fn start(&mut self, machine: &str, progress: &vmm::Progress, quiet: bool) {
        if self.starting.as_ref().is_none_or(|(starting, ..)| starting != machine) {
            self.clear();
            let (observer, display) = progress::display(quiet);
            self.starting = Some((machine.to_owned(), Box::new(observer), display));
        }
        if let Some((_, observer, _)) = &self.starting {
            observer(progress);
        }
    }

    fn clear(&mut self) {
        if let Some((_, _, display)) = self.starting.take() {
            display.clear();
        }
        for (machine, line) in self.lines.drain().filter(|(_, line)| !line.is_empty()) {
            say_line(&machine, &line);
        }
    }

    /// Shows whole lines, each with the machine that wrote it.
    fn output(&mut self, machine: &str, bytes: &[u8]) {
        let pending = self.lines.entry(machine.to_owned()).or_default();
        pending.extend_from_slice(bytes);
        while let Some(end) = pending
            .iter()
            .position(|byte| *byte == b'\n')
            .or_else(|| (pending.len() >= LONGEST_LINE).then_some(LONGEST_LINE - 1))
        {
            let line: Vec<u8> = pending.drain(..=end).collect();
            say_line(machine, &line);
        }
    }
}

fn say_line(machine: &str, line: &[u8]) {
    say(&format!("  {machine} | {}", String::from_utf8_lossy(line).trim_end()));
}
