//! `vmm up`: the VMs of a project, as its file describes them.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;
use vmm::engine::{self, EngineOptions, Wishes};
use vmm::project::{
    Action, Change, Description, HeldProject, MachinePlan, Plan, ProjectError, ProjectOptions,
};
use vmm::{CancelToken, Home};

use super::project::{EventDisplay, WhichProject, ask};
use super::{print, print_json, run};
use crate::error::Failure;
use crate::sanitise::say;
use crate::signals::SignalForwarder;
use crate::values;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm up                     in a folder of a project, or in any other
  vmm up --dry-run           only say what there is to do
  vmm up web db              these VMs of a project that has several")]
pub(crate) struct Up {
    #[command(flatten)]
    project: WhichProject,
    /// Only say what there is to do
    #[arg(long)]
    dry_run: bool,
    /// Print what there was to do, or is with --dry-run, as JSON
    #[arg(long)]
    json: bool,
    /// Remove disks where another image asks for that, without a question
    #[arg(long, short)]
    yes: bool,
    /// Let the project use the files outside its folder that it names; remembered until it names others
    #[arg(long)]
    trust: bool,
    /// What runs the guests' processors, whatever the file says: auto, kvm, hvf or software
    #[arg(long, value_name = "ENGINE", env = "VMM_ENGINE")]
    engine: Option<values::Engine>,
    /// Refuse an engine that is no hardware boundary
    #[arg(long)]
    require_hardware: bool,
    /// For debugging: do not hold the VMs' monitors to the system calls that they need
    #[arg(long)]
    no_seccomp: bool,
    /// Names of VMs in the project; all of them where none is named
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

impl Up {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let mut project = self.project.open(&home)?;
        if let Some(engine) = values::Engine::of(self.engine) {
            project = project.engine(engine);
        }
        if self.require_hardware {
            project = project.require_hardware();
        }
        let description = project.describe()?;
        let display = Arc::new(EventDisplay::new(quiet));
        let token = CancelToken::new()?;
        let shown = display.clone();
        let options = ProjectOptions::new(&token)
            .executable(std::env::current_exe()?)
            .seccomp(!self.no_seccomp)
            .observer(move |event| shown.show(event));
        // Until something is done, a signal simply ends us.
        let mut held = project.hold(&options)?;
        self.trust(&mut held, &description)?;
        let plan = held.plan(&description, &self.vms)?;
        held.foresee(&plan)?;
        foresee_engines(&home, &description, &plan)?;
        if self.dry_run {
            return self.tell(&plan);
        }
        if !quiet {
            lines_of(&plan).iter().for_each(|line| say(&format!("→ {line}")));
        }
        let agreed = self.yes || agree(&plan)?;
        let signals = SignalForwarder::install(&token)?;
        for (_, machine) in description.machines() {
            run::tell_of_engine(&home, machine.engine, quiet || plan.is_empty())?;
        }
        let outcome = held.apply(&plan, agreed, &options);
        display.clear();
        match outcome {
            Ok(()) if self.json => print_json(&plan).map(|()| ExitCode::SUCCESS),
            Ok(()) => report(&plan),
            Err(ProjectError::Cancelled) => Ok(run::cancelled(&signals)),
            // What a script wrote was shown as it came.
            Err(error @ ProjectError::Script { .. }) if !quiet => Err(Failure::from(error).without_quote()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gets the user's word, where the project needs it.
    fn trust(&self, held: &mut HeldProject, description: &Description) -> Result<(), Failure> {
        if held.trusts(description) {
            return Ok(());
        }
        if !self.trust {
            say("This project uses files outside its folder:");
            for path in description.outside() {
                say(&format!("  {}", path.display()));
            }
            // Where nobody can be asked, or says no, the plan is refused.
            if ask("Do you trust it with them?")? != Some(true) {
                return Ok(());
            }
        }
        Ok(held.trust(description)?)
    }

    fn tell(&self, plan: &Plan) -> Result<ExitCode, Failure> {
        if self.json {
            print_json(plan)?;
        } else if plan.is_empty() {
            report(plan)?;
        } else {
            print(&lines_of(plan).iter().map(|line| format!("{line}\n")).collect::<String>())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Finds out before a VM is stopped whether its engine can give it what is new.
fn foresee_engines(home: &Home, description: &Description, plan: &Plan) -> Result<(), Failure> {
    let options = EngineOptions { cache: Some(home.cache()), ..EngineOptions::new(std::env::current_exe()?) };
    for (name, machine) in description.machines() {
        let is_started = |plan: &MachinePlan| plan.name == *name && plan.action != Action::Keep;
        if !plan.machines.iter().any(is_started) {
            continue;
        }
        let wishes = Wishes {
            cpus: machine.cpus,
            nested: machine.nested,
            console: machine.console,
            balloon: machine.balloon,
            huge_pages: machine.huge_pages,
        };
        engine::foresee(machine.engine, wishes, &options)?;
    }
    Ok(())
}

/// Asks whether disks may be lost. Where nobody can be asked, they may not.
fn agree(plan: &Plan) -> Result<bool, Failure> {
    let lost = plan.losses();
    if lost.is_empty() {
        return Ok(false);
    }
    Ok(ask(&format!("Remove the disk of {}?", lost.join(", ")))?.unwrap_or(false))
}

/// What there is to do, a line for each step.
fn lines_of(plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = plan.machines.iter().flat_map(lines_of_machine).collect();
    lines.extend(plan.undescribed.iter().map(|name| {
        format!("{name}: not described any more, and left as it is; vmm destroy {name} removes it")
    }));
    lines
}

fn lines_of_machine(machine: &MachinePlan) -> Vec<String> {
    let MachinePlan { name, vm, action, changes, scripts, .. } = machine;
    let what = match action {
        Action::Create => Some(format!("create {vm}")),
        Action::Recreate => Some("remove it with its disk, and create it anew".to_owned()),
        Action::Restart => Some("restart".to_owned()),
        Action::Start => Some("start".to_owned()),
        _ => None,
    };
    let why: Vec<String> = changes
        .iter()
        .map(|Change { key, from, to }| format!("{key} {} → {}", plain(from), plain(to)))
        .collect();
    let why = if why.is_empty() { String::new() } else { format!(", for {}", why.join(", ")) };
    let action = what.map(|what| format!("{name}: {what}{why}"));
    action.into_iter().chain(scripts.iter().map(|script| format!("{name}: run {script}"))).collect()
}

/// A value as a person writes it: a text without quotes, none as such.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(map) if map.is_empty() => "none".to_owned(),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}={}", plain(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        value => value.to_string(),
    }
}

/// Says for each machine that it is up.
fn report(plan: &Plan) -> Result<ExitCode, Failure> {
    let lines = plan.machines.iter().map(|machine| {
        let name = &machine.name;
        if machine.is_empty() { format!("{name} runs already\n") } else { format!("{name} is up\n") }
    });
    print(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
