//! What `up` is about to do, found out before anything is done.

use serde::Serialize;
use serde_json::{Map, Value};

use super::description::MachineDescription;
use super::file::{Effect, effect_of};
use super::materials::ReadyMachine;
use super::record::MachineRecord;
use crate::home::{Timestamp, VmState};
use crate::image::{ImageRef, ImageVersion};
use crate::sandbox::VmInfo;

/// What a plan needs to know of a VM.
#[derive(Clone, Debug)]
pub(super) struct LiveVm {
    pub(super) runs: bool,
    pub(super) started: Option<Timestamp>,
    image: String,
    image_version: String,
}

impl From<&VmInfo> for LiveVm {
    fn from(info: &VmInfo) -> Self {
        Self {
            // One that is about to end has to be started again.
            runs: info.state.is_live() && info.state != VmState::Stopping,
            started: info.started,
            image: info.image.clone(),
            image_version: info.image_version.clone(),
        }
    }
}

/// What `up` is about to do.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// For each machine that was asked for, in the order of the project's file.
    pub machines: Vec<MachinePlan>,
    /// Machines that are remembered and not described any more. They are left as they are.
    pub undescribed: Vec<String>,
}

/// What `up` is about to do with one machine.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MachinePlan {
    /// Its name in the project.
    pub name: String,
    /// The name of its VM.
    pub vm: String,
    /// What becomes of that.
    pub action: Action,
    /// What it is now and shall be.
    pub changes: Vec<Change>,
    /// The scripts that are about to run, by their names.
    pub scripts: Vec<String>,
    /// The snapshots of its disk, by their names.
    pub snapshots: Vec<String>,
    #[serde(skip)]
    pub(super) ready: ReadyMachine,
}

/// What becomes of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// There is none: it is created and started.
    Create,
    /// It is removed with its disk, and a new one created and started.
    Recreate,
    /// It is stopped, changed and started.
    Restart,
    /// It does not run: it is started, changed before where that is due.
    Start,
    /// It runs and goes on.
    Keep,
}

/// The value of a key that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What the VM was made with.
    pub from: Value,
    /// What the project's file says.
    pub to: Value,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.machines.iter().all(MachinePlan::is_empty)
    }

    /// The machines whose disks would be lost.
    pub fn destroys(&self) -> Vec<String> {
        self.destroyed().map(|machine| machine.name.clone()).collect()
    }

    /// The same, with what else goes with each disk: `web with its 2 snapshots (a, b)`.
    pub fn losses(&self) -> Vec<String> {
        let told = |machine: &MachinePlan| match machine.snapshots.as_slice() {
            [] => machine.name.clone(),
            [only] => format!("{} with its snapshot {only}", machine.name),
            all => format!("{} with its {} snapshots ({})", machine.name, all.len(), all.join(", ")),
        };
        self.destroyed().map(told).collect()
    }

    fn destroyed(&self) -> impl Iterator<Item = &MachinePlan> {
        self.machines.iter().filter(|machine| machine.action == Action::Recreate)
    }
}

impl MachinePlan {
    /// Whether there is nothing to do for it.
    pub fn is_empty(&self) -> bool {
        self.action == Action::Keep && self.scripts.is_empty()
    }

    /// Plans one machine, by what is remembered of it and what its VM is. `None`: there is no VM.
    pub(super) fn new(
        ready: ReadyMachine,
        vm: String,
        record: Option<&MachineRecord>,
        info: Option<&LiveVm>,
    ) -> Self {
        let (action, changes) = match (record, info) {
            (Some(record), Some(info)) => decide(&ready, record, info),
            // What was remembered of it is lost. The next `up` makes it what is described.
            (None, Some(info)) => (if info.runs { Action::Keep } else { Action::Start }, Vec::new()),
            (_, None) => (Action::Create, Vec::new()),
        };
        let run = info.filter(|_| action == Action::Keep).and_then(|info| info.started);
        let new_disk = matches!(action, Action::Create | Action::Recreate);
        let record = record.filter(|_| !new_disk);
        let due = due_scripts(&ready, record, run);
        let scripts = due.into_iter().map(|index| ready.scripts[index].title.clone()).collect();
        Self { name: ready.name.clone(), vm, action, changes, scripts, snapshots: Vec::new(), ready }
    }
}

fn decide(ready: &ReadyMachine, record: &MachineRecord, info: &LiveVm) -> (Action, Vec<Change>) {
    let mut changes = changes(&record.applied, &ready.compared);
    // Another name for the image that its disk is made over is no other image.
    let same_image = ready.base.is_none() && has_image(info, &ready.description.managed_image);
    changes.retain(|change| change.key != "managed_image" || !same_image);
    let action = match (changes.iter().map(|change| effect_of(&change.key)).collect::<Vec<_>>(), info.runs) {
        (effects, _) if effects.contains(&Effect::Recreate) => Action::Recreate,
        (_, false) => Action::Start,
        (effects, _) if effects.contains(&Effect::Restart) => Action::Restart,
        _ => Action::Keep,
    };
    (action, changes)
}

fn has_image(info: &LiveVm, wanted: &ImageRef) -> bool {
    let version: Option<ImageVersion> = info.image_version.parse().ok();
    let image: Option<ImageRef> = info.image.parse().ok();
    version.is_some_and(|version| wanted.fits(&version))
        && image.is_some_and(|image| image.name() == wanted.name())
}

/// The keys that are not what they were. One that an older vmm did not know was what it is by itself.
pub(super) fn changes(applied: &Map<String, Value>, wanted: &Map<String, Value>) -> Vec<Change> {
    let unsaid = serde_json::to_value(MachineDescription::default()).unwrap_or_default();
    let value = |map: &Map<String, Value>, key: &str| {
        map.get(key).or_else(|| unsaid.get(key)).cloned().unwrap_or(Value::Null)
    };
    let mut keys: Vec<&String> = applied.keys().chain(wanted.keys()).collect();
    keys.sort();
    keys.dedup();
    let both = keys.into_iter().map(|key| (key, value(applied, key), value(wanted, key)));
    both.filter(|(key, from, to)| from != to && effect_of(key) != Effect::Nothing)
        .map(|(key, from, to)| Change { key: key.clone(), from, to })
        .collect()
}

/// The scripts of a machine that are yet to run, by their places. `run`: the run that goes on, if one does.
pub(super) fn due_scripts(
    ready: &ReadyMachine,
    record: Option<&MachineRecord>,
    run: Option<Timestamp>,
) -> Vec<usize> {
    let done = |digest: &String| record.is_some_and(|record| record.done.contains(digest));
    let done_in_run = |digest: &String| {
        record.is_some_and(|record| run.is_some() && record.run == run && record.run_done.contains(digest))
    };
    let due = ready.scripts.iter().enumerate().filter(|(_, script)| {
        if script.runs_once() { !done(&script.digest) } else { !done_in_run(&script.digest) }
    });
    due.map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::locate::Location;
    use crate::project::{ProjectFile, materials};

    fn ready(text: &str) -> ReadyMachine {
        let location = Location { folder: "/".into(), file: None };
        let kernels = crate::kernels::KernelStore::beneath(std::path::Path::new("/nowhere"));
        materials::gather(&kernels, &location, &ProjectFile::parse(text).unwrap(), &[]).unwrap().remove(0)
    }

    /// What is remembered of a machine that was made from a text and has run its scripts.
    fn record(text: &str, run: Timestamp) -> MachineRecord {
        let ready = ready(text);
        let digests = |once: bool| {
            let of = ready.scripts.iter().filter(|script| script.runs_once() == once);
            of.map(|script| script.digest.clone()).collect()
        };
        MachineRecord {
            vm: "web-1".to_owned(),
            applied: ready.compared.clone(),
            done: digests(true),
            run: Some(run),
            run_done: digests(false),
        }
    }

    /// A VM of Alpine 3.23.6.
    fn info(runs: bool, started: Timestamp) -> LiveVm {
        let image_version = "3.23.6-20261014-fdf9327".to_owned();
        LiveVm { runs, started: Some(started), image: "alpine".to_owned(), image_version }
    }

    fn plan(before: &str, now: &str, runs: bool) -> MachinePlan {
        let run = Timestamp(7);
        let (record, info) = (record(before, run), info(runs, run));
        MachinePlan::new(ready(now), "web-1".to_owned(), Some(&record), Some(&info))
    }

    const SCRIPTS: &str =
        "[[provision]]\ninline = \"one\"\n[[provision]]\nrun = \"always\"\ninline = \"two\"\n";

    #[test]
    fn what_runs_as_described_is_left_alone() {
        let plan = plan(SCRIPTS, SCRIPTS, true);
        assert_eq!(plan.action, Action::Keep);
        assert!(plan.is_empty(), "{plan:?}");
    }

    #[test]
    fn a_key_restarts_or_recreates() {
        let changed = |now: &str, runs: bool| {
            let plan = plan("", now, runs);
            let changes = plan.changes.iter();
            let changes: Vec<_> =
                changes.map(|change| format!("{} {} {}", change.key, change.from, change.to)).collect();
            (plan.action, changes.join(", "))
        };
        let memory = "memory \"512M\" \"1G\"".to_owned();
        assert_eq!(changed("memory = \"1G\"", true), (Action::Restart, memory.clone()));
        assert_eq!(changed("memory = \"1G\"", false), (Action::Start, memory));
        let (action, changes) = changed("managed_image = \"debian\"\ncpus = 2", true);
        assert_eq!(action, Action::Recreate);
        assert_eq!(changes, "cpus 1 2, managed_image \"alpine\" \"debian\"");
        assert_eq!(changed("managed_image = \"alpine:3.22\"", false).0, Action::Recreate);
        assert_eq!(changed("managed_image = \"alpine:3.23\"", true), (Action::Keep, String::new()));
        assert_eq!(changed("boot_timeout = \"5m\"\npull = \"never\"", true).0, Action::Keep);
        assert_eq!(changed("", false), (Action::Start, String::new()));
    }

    #[test]
    fn a_script_runs_once_for_a_disk_and_always_for_a_run() {
        let scripts = |before: &str, now: &str, runs: bool| plan(before, now, runs).scripts;
        assert_eq!(scripts(SCRIPTS, SCRIPTS, true), Vec::<String>::new());
        assert_eq!(scripts(SCRIPTS, SCRIPTS, false), ["script 2"]);
        let other_memory = format!("memory = \"1G\"\n{SCRIPTS}");
        assert_eq!(scripts(SCRIPTS, &other_memory, true), ["script 2"]);
        let other_image = format!("managed_image = \"debian\"\n{SCRIPTS}");
        assert_eq!(scripts(SCRIPTS, &other_image, true), ["script 1", "script 2"]);
        // One that is new or has changed.
        assert_eq!(scripts("", SCRIPTS, true), ["script 1", "script 2"]);
        assert_eq!(scripts(SCRIPTS, &SCRIPTS.replace("one", "uno"), true), ["script 1"]);
        // Somebody started the VM by other means.
        let run = record(SCRIPTS, Timestamp(7));
        let later = info(true, Timestamp(8));
        let plan = MachinePlan::new(ready(SCRIPTS), "web-1".to_owned(), Some(&run), Some(&later));
        assert_eq!(plan.scripts, ["script 2"]);
    }

    #[test]
    fn a_vm_that_is_gone_is_created_with_all_its_scripts() {
        let run = record(SCRIPTS, Timestamp(7));
        let plan = MachinePlan::new(ready(SCRIPTS), "web-1".to_owned(), Some(&run), None);
        assert_eq!(plan.action, Action::Create);
        assert_eq!(plan.scripts, ["script 1", "script 2"]);
    }

    #[test]
    fn a_key_that_an_older_vmm_did_not_know_is_no_change() {
        let mut record = record("", Timestamp(7));
        record.applied.remove("balloon");
        record.applied.insert("of_another_vmm".to_owned(), Value::Bool(true));
        let info = info(true, Timestamp(7));
        let plan = |text| MachinePlan::new(ready(text), "web-1".to_owned(), Some(&record), Some(&info));
        assert_eq!(plan("").action, Action::Keep);
        assert_eq!(plan("balloon = true").action, Action::Restart);
    }

    #[test]
    fn what_a_disk_is_made_over_or_how_it_is_written_needs_a_new_one() {
        for now in ["read_only = true", "read_only = \"disk\"", "overlay = \"disk.qcow2\""] {
            let plan = plan("", now, true);
            assert_eq!(plan.action, Action::Recreate, "{now}: {:?}", plan.changes);
        }
        assert_eq!(plan("read_only = false", "", true).action, Action::Keep);
    }

    #[test]
    fn the_snapshots_that_go_with_a_disk_are_told() {
        let mut lost = plan("", "read_only = true", true);
        let mut told = |snapshots: &[&str]| {
            lost.snapshots = snapshots.iter().map(ToString::to_string).collect();
            Plan { machines: vec![lost.clone()], undescribed: Vec::new() }.losses()
        };
        assert_eq!(told(&[]), ["default"]);
        assert_eq!(told(&["a"]), ["default with its snapshot a"]);
        assert_eq!(told(&["a", "b"]), ["default with its 2 snapshots (a, b)"]);
    }
}
