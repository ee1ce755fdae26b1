//! Projects: a folder, the VMs that its `vmm.toml` describes, and what is remembered of them. Without a file it is one
//! VM of the managed image, with a disk of the project's own.
//!
//! What is done goes in steps, each of which can be told before it happens: the file is read ([`Project::describe`]),
//! compared with what is there ([`HeldProject::plan`]), and what differs is done ([`HeldProject::apply`]).
//!
//! May depend on: `sandbox`, `home`, `image` and `machine` (their values: names, sizes), `boot` (the rules of a
//! kernel's command line). Never on `monitor`, `engine`.

mod description;
mod duration;
mod error;
mod file;
mod guest;
mod locate;
mod materials;
mod plan;
mod record;
mod status;
mod up;
mod wait;

pub use description::{
    HealthCheck, HostPath, MachineDescription, ONLY_MACHINE, ProjectDisk, Script, ScriptRun, ScriptSource,
};
pub use duration::parse_duration;
pub use error::ProjectError;
pub use file::{FILE_NAME, Problem, ProjectFile, TEMPLATE};
pub use plan::{Action, Change, MachinePlan, Plan};
pub use status::{MachineStatus, ProjectStatus};
pub use up::{ProjectEvent, ProjectOptions};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use snafu::{ResultExt, ensure};

use crate::home::{EngineChoice, Home, HomeError, nearest_name};
use crate::image::Digest;
use crate::kernels::KernelStore;
use crate::sandbox::{self, Sandbox};
use error::{DestructiveSnafu, ExistsSnafu, MachineSnafu, NotUpSnafu, UntrustedSnafu, WriteSnafu};
use locate::Location;
use plan::LiveVm;
use record::{HeldRecord, ProjectRecord};

/// A project: its folder, and its file if it has one.
///
/// ```no_run
/// use vmm::project::{Project, ProjectOptions};
///
/// let home = vmm::Home::open_default()?;
/// let options = ProjectOptions::new(&vmm::CancelToken::new()?);
/// let project = Project::find(&home, ".")?;
/// let mut held = project.hold(&options)?;
/// let plan = held.plan(&project.describe()?, &[])?;
/// held.apply(&plan, true, &options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Project {
    home: Home,
    location: Location,
    engine: Option<EngineChoice>,
    require_hardware: bool,
}

/// What a project's file says, and which files beyond its folder it uses.
#[derive(Clone, Debug)]
pub struct Description {
    location: Location,
    file: ProjectFile,
    outside: Vec<PathBuf>,
    question: Digest,
}

/// A project that no other command is at work on.
#[derive(Debug)]
pub struct HeldProject {
    home: Home,
    held: HeldRecord,
}

impl Project {
    /// The project that a folder is in: the nearest folder upwards with a `vmm.toml`, or else this folder.
    pub fn find(home: &Home, folder: impl AsRef<Path>) -> Result<Self, ProjectError> {
        Ok(Self::at(home, locate::find(folder.as_ref())?))
    }

    /// This folder as a project, whatever is above it. It may be gone.
    pub fn exactly(home: &Home, folder: impl AsRef<Path>) -> Result<Self, ProjectError> {
        Ok(Self::at(home, locate::exactly(folder.as_ref())?))
    }

    fn at(home: &Home, location: Location) -> Self {
        Self { home: home.clone(), location, engine: None, require_hardware: false }
    }

    /// Overrules the engine that its file asks for, in all machines.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Has all machines refuse an engine that is no hardware boundary.
    pub fn require_hardware(mut self) -> Self {
        self.require_hardware = true;
        self
    }

    /// Every project of which something is remembered.
    pub fn list(home: &Home) -> Result<Vec<Self>, ProjectError> {
        let all = record::all(home)?.into_iter();
        all.map(|(_, record)| Self::exactly(home, record.folder)).collect()
    }

    /// Writes a `vmm.toml` with every key and what it does into a folder that has none.
    pub fn init(folder: impl AsRef<Path>) -> Result<PathBuf, ProjectError> {
        let path = folder.as_ref().join(FILE_NAME);
        let mut file = match File::options().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return ExistsSnafu { path }.fail(),
            file => file.context(WriteSnafu { path: &path })?,
        };
        if let Err(source) = file.write_all(TEMPLATE.as_bytes()) {
            // Half a file would say something else, and keep the next attempt away.
            let _ = std::fs::remove_file(&path);
            return Err(ProjectError::Write { path, source });
        }
        Ok(path)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.location.folder
    }

    /// Its file, if it has one.
    pub fn file(&self) -> Option<&Path> {
        self.location.file.as_deref()
    }

    /// Reads its file. Without one it is one machine of the managed image.
    pub fn describe(&self) -> Result<Description, ProjectError> {
        let location = self.location.clone();
        let text = locate::read(&location)?;
        let mut file = ProjectFile::parse(&text).map_err(|problems| {
            let path = location.file.clone().unwrap_or_else(|| location.folder.clone());
            ProjectError::File { path, problems }
        })?;
        for (_, machine) in &mut file.machines {
            machine.engine = self.engine.unwrap_or(machine.engine);
            machine.require_hardware |= self.require_hardware;
        }
        let (outside, question) = materials::outside(&location, &text, &file)?;
        Ok(Description { location, file, outside, question })
    }

    /// Takes the project for a command; waits for another that has it.
    pub fn hold(&self, options: &ProjectOptions) -> Result<HeldProject, ProjectError> {
        let waiting = || options.tell(&ProjectEvent::Waiting);
        let held = HeldRecord::hold(&self.home, &self.location.folder, &options.waiter(), &waiting)?;
        if let Some(from) = held.moved_from.clone() {
            held.save()?;
            options.tell(&ProjectEvent::Moved { from });
        }
        Ok(HeldProject { home: self.home.clone(), held })
    }

    /// What its machines do. A file that cannot be read is told in it, and the rest still found out.
    pub fn status(&self) -> Result<ProjectStatus, ProjectError> {
        status::look(self, &self.remembered()?)
    }

    /// Whether it has a machine of this name, described or remembered; fails where it has not.
    pub fn knows(&self, machine: &str) -> Result<(), ProjectError> {
        let described = self.describe().map(|description| description.names()).unwrap_or_default();
        let names = names(&self.remembered()?, &described);
        known(machine, &names, &self.location.folder).map(drop)
    }

    /// The VM of a machine; without a name, of the only one.
    pub fn machine(&self, name: Option<&str>) -> Result<Sandbox, ProjectError> {
        let record = self.remembered()?;
        let described = self.describe().map(|description| description.names()).unwrap_or_default();
        let known = names(&record, &described);
        let folder = &self.location.folder;
        let machine = match (name, known.as_slice()) {
            (Some(name), _) => self::known(name, &known, folder)?,
            (None, [only]) => only.clone(),
            (None, _) => {
                return Err(ProjectError::SeveralMachines { folder: folder.clone(), machines: known });
            }
        };
        let found = match record.machines.get(&machine) {
            Some(remembered) => vm(&self.home, &remembered.vm).context(MachineSnafu { machine: &machine })?,
            None => None,
        };
        found.ok_or_else(|| NotUpSnafu { folder, machine }.build())
    }

    fn remembered(&self) -> Result<ProjectRecord, ProjectError> {
        let found = record::find(&self.home, &self.location.folder)?;
        Ok(found.map_or_else(|| ProjectRecord::new(&self.location.folder), |(_, record)| record))
    }
}

impl Description {
    /// Its machines with their names, in the order of the file.
    pub fn machines(&self) -> &[(String, MachineDescription)] {
        &self.file.machines
    }

    /// The files beyond the project's folder that it uses: for these it needs its user's word.
    pub fn outside(&self) -> &[PathBuf] {
        &self.outside
    }

    fn names(&self) -> Vec<String> {
        self.file.machines.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl HeldProject {
    /// Whether the project may have the files that it uses beyond its folder.
    pub fn trusts(&self, description: &Description) -> bool {
        description.outside.is_empty() || self.held.record.trusted == Some(description.question)
    }

    /// Remembers its user's word that it may have them: these files, for this text of its own file.
    pub fn trust(&mut self, description: &Description) -> Result<(), ProjectError> {
        if self.trusts(description) {
            return Ok(());
        }
        self.held.record.trusted = Some(description.question);
        self.held.save()
    }

    /// What there is to do for these machines, or for all where none is named.
    pub fn plan(&self, description: &Description, machines: &[String]) -> Result<Plan, ProjectError> {
        ensure!(self.trusts(description), UntrustedSnafu { paths: description.outside.clone() });
        let record = &self.held.record;
        let described = description.names();
        for machine in machines {
            known(machine, &described, &record.folder)?;
        }
        let wanted = |name: &String| machines.is_empty() || machines.contains(name);
        let mut plans = Vec::new();
        let kernels = KernelStore::of(&self.home);
        let Description { location, file, outside, .. } = description;
        for ready in materials::gather(&kernels, location, file, outside)? {
            if !wanted(&ready.name) {
                continue;
            }
            let machine = ready.name.clone();
            let remembered = record.machines.get(&machine);
            let vm_name = remembered.map_or_else(|| record.vm_name(&machine), |record| record.vm.clone());
            let found = vm(&self.home, &vm_name).context(MachineSnafu { machine: &machine })?;
            let told = |vm: &Sandbox| Ok((vm.info()?, vm.snapshots()?));
            let told = found.as_ref().map(told).transpose().context(MachineSnafu { machine: &machine })?;
            let live = told.as_ref().map(|(info, _)| LiveVm::from(info));
            let mut plan = MachinePlan::new(ready, vm_name, remembered, live.as_ref());
            let snapshots = told.map(|(_, snapshots)| snapshots).unwrap_or_default();
            plan.snapshots = snapshots.into_iter().map(|snapshot| snapshot.name).collect();
            plans.push(plan);
        }
        let undescribed = record.machines.keys().filter(|name| !described.contains(name)).cloned().collect();
        Ok(Plan { machines: plans, undescribed })
    }

    /// Whether what a plan of this project says can be done, as far as that is known before anything is: an image that is
    /// not known, a disk that would become smaller, and the like.
    pub fn foresee(&self, plan: &Plan) -> Result<(), ProjectError> {
        up::foresee(&self.home, &self.held, plan)
    }

    /// Does what a plan of this project says. One that loses disks is refused, unless that is `agreed`.
    pub fn apply(&mut self, plan: &Plan, agreed: bool, options: &ProjectOptions) -> Result<(), ProjectError> {
        let machines = plan.losses();
        ensure!(agreed || machines.is_empty(), DestructiveSnafu { machines });
        self.foresee(plan)?;
        up::apply(&self.home, &mut self.held, plan, options)
    }

    /// The machines that are remembered, of these or of all where none is named.
    pub fn remembered(&self, machines: &[String]) -> Result<Vec<String>, ProjectError> {
        let all: Vec<String> = self.held.record.machines.keys().cloned().collect();
        if machines.is_empty() {
            return Ok(all);
        }
        machines.iter().map(|machine| known(machine, &all, &self.held.record.folder)).collect()
    }

    /// Shuts machines down in order, or all where none is named; their disks stay. Returns those that ran.
    pub fn down(
        &mut self,
        machines: &[String],
        grace: Duration,
        options: &ProjectOptions,
    ) -> Result<Vec<String>, ProjectError> {
        let mut stopped = Vec::new();
        for machine in self.remembered(machines)? {
            options.waiter().check()?;
            let Some(remembered) = self.held.record.machines.get(&machine) else { continue };
            if up::stop(&self.home, &machine, &remembered.vm, grace, options)? {
                stopped.push(machine);
            }
        }
        Ok(stopped)
    }

    /// Removes machines with their disks, or all where none is named, and forgets them. Of a project without machines
    /// nothing is remembered. Returns those that are gone.
    pub fn destroy(mut self, machines: &[String]) -> Result<Vec<String>, ProjectError> {
        let mut destroyed = Vec::new();
        for machine in self.remembered(machines)? {
            let Some(remembered) = self.held.record.machines.get(&machine) else { continue };
            if let Some(vm) = vm(&self.home, &remembered.vm).context(MachineSnafu { machine: &machine })? {
                vm.remove(true).context(MachineSnafu { machine: &machine })?;
            }
            self.held.record.machines.remove(&machine);
            self.held.save()?;
            destroyed.push(machine);
        }
        if machines.is_empty() {
            self.held.forget()?;
        }
        Ok(destroyed)
    }
}

/// The VMs of a home that belong to projects, by name, with the projects' folders. Projects know them by these names.
pub fn vms_of_projects(home: &Home) -> Result<BTreeMap<String, PathBuf>, ProjectError> {
    let records = record::all(home)?.into_iter().map(|(_, record)| record);
    let vms = records.flat_map(|record| {
        let ProjectRecord { folder, machines, .. } = record;
        machines.into_values().map(move |machine| (machine.vm, folder.clone()))
    });
    Ok(vms.collect())
}

/// The VM of this name. `None`: somebody has removed it.
fn vm(home: &Home, name: &str) -> Result<Option<Sandbox>, sandbox::Error> {
    match Sandbox::attach(home, name) {
        Ok(sandbox) => Ok(Some(sandbox)),
        Err(sandbox::Error::Home { source: HomeError::NoSuchVm { .. } }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The machines that are described, and those that are only remembered.
fn names(record: &ProjectRecord, described: &[String]) -> Vec<String> {
    let only_remembered = record.machines.keys().filter(|name| !described.contains(name));
    described.iter().chain(only_remembered).cloned().collect()
}

/// A name of these.
fn known(wanted: &str, names: &[String], folder: &Path) -> Result<String, ProjectError> {
    if names.iter().any(|name| name == wanted) {
        return Ok(wanted.to_owned());
    }
    let nearest = nearest_name(wanted, names.iter().map(String::as_str)).map(str::to_owned);
    Err(ProjectError::NoSuchMachine { folder: folder.to_owned(), wanted: wanted.to_owned(), nearest })
}
