//! What a project's machines are: the words of `vmm.toml` as values that cannot be wrong.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::home::{EngineChoice, Init};
use crate::image::{Format, ImageRef};
use crate::machine::{ConsoleKind, MemorySize};
use crate::sandbox::{BootProfileUse, DiskSize, PullPolicy, RootWrites};

/// The name of the machine of a project that has only one, and no tables `[vm.NAME]`.
pub const ONLY_MACHINE: &str = "default";

/// How long a guest may take to boot, where nothing is said: as long as without a project.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// A machine of a project.
///
/// As JSON it is what its VM must be restarted or made anew for, by the names of the keys: two of them are compared so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineDescription {
    /// The image that its disk is made over.
    pub managed_image: ImageRef,
    /// A disk file that its disk is made over instead of an image. What is compared is where it leads: see `materials`.
    #[serde(skip)]
    pub base_image: Option<HostPath>,
    /// The file that has what is written to its disk.
    #[serde(serialize_with = "path_as_text")]
    pub overlay: Option<HostPath>,
    /// Where what is written to its root goes.
    pub read_only: RootWrites,
    /// Disk files of the project's that it has beside its own.
    #[serde(skip)]
    pub disks: Vec<ProjectDisk>,
    /// Whether what the image says of its boot is heeded.
    #[serde(serialize_with = "profile_as_text")]
    pub boot_profile: BootProfileUse,
    /// Its processors.
    pub cpus: u8,
    /// Its memory.
    #[serde(serialize_with = "as_text")]
    pub memory: MemorySize,
    /// How large its disk is; as large as its image's where nothing is said.
    pub disk_size: Option<DiskSize>,
    /// What runs its processors.
    pub engine: EngineChoice,
    /// An engine that is no hardware boundary is refused.
    pub require_hardware: bool,
    /// It may run virtual machines itself.
    pub nested: bool,
    /// What its console is.
    pub console: ConsoleKind,
    /// It has a balloon.
    pub balloon: bool,
    /// Its memory is in huge pages of the host's.
    pub huge_pages: bool,
    /// Who is PID 1 in it.
    pub init: Init,
    /// The name that it gives itself; its name in the project where none is given.
    pub hostname: Option<String>,
    /// A kernel instead of the image's. What is compared is the file's content: see `materials`.
    #[serde(skip)]
    pub kernel: Option<HostPath>,
    /// What is added to the kernel's command line.
    pub kernel_parameters: String,
    /// Variables for every command in it.
    pub env: BTreeMap<String, String>,
    /// When its image is fetched.
    #[serde(skip)]
    pub pull: PullPolicy,
    /// How long it may take to boot.
    #[serde(skip)]
    pub boot_timeout: Duration,
    /// What makes it what its user wants, after a start.
    #[serde(skip)]
    pub provision: Vec<Script>,
    /// How it is seen that it does what it is for.
    #[serde(skip)]
    pub health: Option<HealthCheck>,
}

impl Default for MachineDescription {
    fn default() -> Self {
        Self {
            managed_image: ImageRef::default(),
            base_image: None,
            overlay: None,
            read_only: RootWrites::default(),
            disks: Vec::new(),
            boot_profile: BootProfileUse::default(),
            cpus: 1,
            memory: MemorySize::default(),
            disk_size: None,
            engine: EngineChoice::default(),
            require_hardware: false,
            nested: false,
            console: ConsoleKind::default(),
            balloon: false,
            huge_pages: false,
            init: Init::default(),
            hostname: None,
            kernel: None,
            kernel_parameters: String::new(),
            env: BTreeMap::new(),
            pull: PullPolicy::default(),
            boot_timeout: BOOT_TIMEOUT,
            provision: Vec::new(),
            health: None,
        }
    }
}

/// The path of a file on the host, as a project's file has it. Relative ones begin at the project's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// As it is written.
    pub path: PathBuf,
    /// The line that it stands in.
    pub line: usize,
    /// Its column there.
    pub column: usize,
}

/// A disk file that a machine has beside its own disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectDisk {
    /// The file.
    pub path: Option<HostPath>,
    /// How large it is made where it is not there; such a disk is made by `vmm up`.
    pub size: Option<DiskSize>,
    /// The guest only reads it.
    pub read_only: bool,
    /// Its format, where its name does not tell it.
    pub format: Option<Format>,
}

/// When a script runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScriptRun {
    /// Once for each disk.
    #[default]
    Once,
    /// After each start.
    Always,
}

/// A script that makes a machine what its user wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// What to call it.
    pub name: Option<String>,
    /// When it runs.
    pub run: ScriptRun,
    /// What it does.
    pub source: ScriptSource,
    /// Whom it runs as; root where nobody is named.
    pub user: Option<String>,
    /// It is ended after so long.
    pub timeout: Option<Duration>,
}

impl Script {
    /// What to call the script that stands at this place among a machine's.
    pub(super) fn title(&self, index: usize) -> String {
        match (&self.name, &self.source) {
            (Some(name), _) => name.clone(),
            (None, ScriptSource::File(file)) => file.path.display().to_string(),
            (None, _) => format!("script {}", index + 1),
        }
    }
}

/// Where a script's text is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ScriptSource {
    /// Nowhere yet.
    #[default]
    Missing,
    /// In the project's file.
    Inline(String),
    /// In a file of its own.
    File(HostPath),
}

/// How it is seen that a machine does what it is for: a command in it that succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// How long to wait between two attempts.
    pub interval: Duration,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// How often it may fail before the machine is given up.
    pub retries: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            retries: 30,
        }
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn path_as_text<S: Serializer>(path: &Option<HostPath>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| &path.path).serialize(serializer)
}

fn profile_as_text<S: Serializer>(profile: &BootProfileUse, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(profile.name())
}
