//! Describing a VM that is to be created and started.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::disk::{DiskSize, ExtraDisk};
use super::progress::Observer;
use super::{CancelToken, Error, Progress, Sandbox, Timeline, start};
use crate::agent::ByteString;
use crate::home::{EngineChoice, HealthCheck, Home, Init, RestartPolicy};
use crate::image::BaseFile;
use crate::machine::{ConsoleKind, MemorySize};

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When it is not in the store.
    #[default]
    Missing,
    /// Never: it must be in the store.
    Never,
}

/// Whether what an image says of its boot is heeded: parameters for the kernel, services that must not run. Where its
/// root file system is must be known in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootProfileUse {
    /// It is.
    #[default]
    Image,
    /// It is not: the image boots as if nothing were known of it.
    Native,
}

impl BootProfileUse {
    /// Its name, as project files write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Native => "native",
        }
    }
}

/// Where what a guest writes to its root file system goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RootWrites {
    /// To the VM's own layer of the root's disk.
    #[default]
    Root,
    /// To the guest's memory, and away when it ends. The root's disk is attached read-only.
    Memory,
    /// To another disk of the VM's own, which stays with it. The root's disk is attached read-only.
    Disk,
}

impl RootWrites {
    /// Its name, as the command line and project files write it behind `read-only`; of a root that can be written `no`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "no",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

impl RootWrites {
    /// Where the writes of a VM with this root go.
    pub(super) fn of(root: &vmm_protocol::Root) -> Self {
        match root.overlay {
            None => Self::Root,
            Some(vmm_protocol::Overlay::Memory) => Self::Memory,
            Some(vmm_protocol::Overlay::Disk { .. }) => Self::Disk,
        }
    }
}

impl FromStr for RootWrites {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Root, Self::Memory, Self::Disk].into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| {
            format!("{name:?} is no place for what is written to the root: use memory, disk or no")
        })
    }
}

/// How a VM is started, whether it is new or was there before.
#[derive(Clone, Debug)]
pub struct StartOptions {
    pub(super) detached: bool,
    pub(super) ready_timeout: Duration,
    pub(super) cancel: Option<CancelToken>,
    pub(super) observer: Observer,
    pub(super) executable: Option<PathBuf>,
    pub(super) seccomp: bool,
    pub(super) timeline: Option<Timeline>,
}

/// How long a guest may take to get ready, unless it is told otherwise. A loaded host without hardware
/// virtualization needs much of it.
pub(super) const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(120);

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            detached: false,
            ready_timeout: DEFAULT_READY_TIMEOUT,
            cancel: None,
            observer: Observer::default(),
            executable: None,
            seccomp: true,
            timeline: None,
        }
    }
}

impl StartOptions {
    pub(super) fn check_cancelled(&self) -> Result<(), Error> {
        let cancelled = self.cancel.as_ref().is_some_and(CancelToken::is_cancelled);
        if cancelled { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The VM outlives the handle and this process, until it is stopped.
    pub fn detached(mut self, detached: bool) -> Self {
        self.detached = detached;
        self
    }

    /// How long the guest may take to get ready; 120 s where nothing is said.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Cancelling this token ends the start, and leaves nothing of it.
    pub fn cancel_token(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Who is told what the start is doing.
    pub fn progress(mut self, observer: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.observer = Observer::new(observer);
        self
    }

    /// The `vmm` executable that runs the VM. Where nothing is said it is what `VMM_BIN` names, this program if it is
    /// called `vmm`, the one beside it, or the one on the path.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// Whether each thread of the VM's monitor is held to the system calls that it needs; it is where nothing is said.
    /// Without is for debugging: a guest that takes the monitor over then has all of its user's rights.
    pub fn seccomp(mut self, wanted: bool) -> Self {
        self.seccomp = wanted;
        self
    }

    /// Where it is noted when the steps of the start were done.
    pub fn timeline(mut self, timeline: &Timeline) -> Self {
        self.timeline = Some(timeline.clone());
        self
    }
}

/// A VM that is to be created and started.
///
/// ```no_run
/// let sandbox = vmm::Sandbox::builder("alpine").cpus(2).memory("1G".parse()?).start()?;
/// println!("{}", String::from_utf8_lossy(&sandbox.command(["uname", "-a"]).output()?.stdout));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is started"]
pub struct SandboxBuilder {
    pub(super) image: String,
    pub(super) home: Option<Home>,
    pub(super) name: Option<String>,
    pub(super) remove: bool,
    pub(super) stop_timeout: Option<Duration>,
    pub(super) cpus: u8,
    pub(super) memory: MemorySize,
    pub(super) engine: EngineChoice,
    pub(super) require_hardware: bool,
    pub(super) nested: bool,
    pub(super) console: ConsoleKind,
    pub(super) balloon: bool,
    pub(super) huge_pages: bool,
    pub(super) init: Init,
    pub(super) env: Vec<(ByteString, ByteString)>,
    pub(super) host_name: Option<String>,
    pub(super) boot_profile: BootProfileUse,
    pub(super) kernel: Option<PathBuf>,
    pub(super) base_file: Option<BaseFile>,
    pub(super) root_writes: RootWrites,
    pub(super) overlay: Option<PathBuf>,
    pub(super) disk_size: Option<DiskSize>,
    pub(super) disks: Vec<ExtraDisk>,
    pub(super) command_line: Option<String>,
    pub(super) traced_kernel: bool,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) restart: RestartPolicy,
    pub(super) pull: PullPolicy,
    pub(super) options: StartOptions,
}

impl SandboxBuilder {
    pub(super) fn new(image: String) -> Self {
        Self {
            image,
            home: None,
            name: None,
            remove: false,
            stop_timeout: None,
            cpus: 1,
            memory: MemorySize::default(),
            engine: EngineChoice::default(),
            require_hardware: false,
            nested: false,
            console: ConsoleKind::default(),
            balloon: false,
            huge_pages: false,
            init: Init::default(),
            env: Vec::new(),
            host_name: None,
            boot_profile: BootProfileUse::default(),
            kernel: None,
            base_file: None,
            root_writes: RootWrites::default(),
            overlay: None,
            disk_size: None,
            disks: Vec::new(),
            command_line: None,
            traced_kernel: false,
            health_check: None,
            restart: RestartPolicy::default(),
            pull: PullPolicy::default(),
            options: StartOptions::default(),
        }
    }

    /// The home that it is created in; [`Home::open_default`] where none is given.
    pub fn home(mut self, home: &Home) -> Self {
        self.home = Some(home.clone());
        self
    }

    /// Names it. A VM with a name keeps its disk when it ends, until it is removed; one without leaves nothing.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether nothing of it is kept when it ends, though it has a name.
    pub fn remove_at_end(mut self, remove: bool) -> Self {
        self.remove = remove;
        self
    }

    /// How long its guest may take to shut down, where whoever stops it does not say; 10 s where nothing is said.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = Some(timeout);
        self
    }

    /// The number of processors; 1 where nothing is said.
    pub fn cpus(mut self, count: u8) -> Self {
        self.cpus = count;
        self
    }

    /// The guest's memory; 512 MiB where nothing is said.
    pub fn memory(mut self, size: MemorySize) -> Self {
        self.memory = size;
        self
    }

    /// The engine; the best that works here where nothing is said.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Refuses to start on an engine that does not isolate by hardware.
    pub fn require_hardware(mut self, required: bool) -> Self {
        self.require_hardware = required;
        self
    }

    /// The guest may run virtual machines itself: its processors have the extension for it, and its kernel the modules,
    /// if the image has them.
    pub fn nested(mut self, nested: bool) -> Self {
        self.nested = nested;
        self
    }

    /// What the guest's console is; the serial port where nothing is said. The software engine has no other.
    pub fn console(mut self, console: ConsoleKind) -> Self {
        self.console = console;
        self
    }

    /// Gives the VM a balloon: memory that the guest frees goes back to the host by itself, and
    /// [`Sandbox::set_balloon`] asks for more. The software engine has none.
    pub fn balloon(mut self, balloon: bool) -> Self {
        self.balloon = balloon;
        self
    }

    /// Gives the VM its memory in huge pages of the host's: its memory is quicker to reach, and takes more of the host's.
    /// The software engine has none.
    pub fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Who is PID 1 in the guest.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Sets a variable in the environment of every command in the guest.
    pub fn env(mut self, key: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// The name that the guest gives itself; the VM's name, or else its image's, where nothing is said.
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = Some(name.into());
        self
    }

    /// Whether what the image says of its boot is heeded; it is where nothing is said.
    pub fn boot_profile(mut self, profile: BootProfileUse) -> Self {
        self.boot_profile = profile;
        self
    }

    /// Boots this kernel instead of the image's: a name of the store's ([`crate::kernels`]), or a file, which has a `/` in its
    /// path or else no kernel of its name in the store; `image` is the image's own.
    pub fn kernel(mut self, kernel: impl Into<PathBuf>) -> Self {
        self.kernel = Some(kernel.into());
        self
    }

    /// Makes its disk over this file, which stays as it is, instead of an image of the store. What boots it is found on
    /// the file, as an import would find it.
    pub fn base_file(mut self, base: BaseFile) -> Self {
        self.image = base.file.display().to_string();
        self.base_file = Some(base);
        self
    }

    /// Where what its guest writes to the root goes; to the VM's layer of the root's disk where nothing is said.
    pub fn root_writes(mut self, writes: RootWrites) -> Self {
        self.root_writes = writes;
        self
    }

    /// The file that has what its guest writes to its disk, instead of one in the home. It must not be there yet, and goes
    /// with the VM.
    pub fn overlay(mut self, file: impl Into<PathBuf>) -> Self {
        self.overlay = Some(file.into());
        self
    }

    /// How large its disk is; as large as the image's where nothing is said. The file system on it grows with it, if it
    /// is ext4 and has the disk for itself.
    pub fn disk_size(mut self, size: DiskSize) -> Self {
        self.disk_size = Some(size);
        self
    }

    /// Gives it a disk of its user's beside its own, as `/dev/vdb` and so on.
    pub fn disk(mut self, disk: ExtraDisk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds parameters to the kernel's command line.
    pub fn command_line(mut self, parameters: impl Into<String>) -> Self {
        self.command_line = Some(parameters.into());
        self
    }

    /// How it is seen that the VM does what it is for: [`VmInfo::health`](super::VmInfo::health) tells.
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.health_check = Some(check);
        self
    }

    /// What follows when the VM ends though nobody asked for it; nothing where nothing is said. One that is to be started
    /// again has a name and is detached.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// When the image is fetched.
    pub fn pull(mut self, policy: PullPolicy) -> Self {
        self.pull = policy;
        self
    }

    /// The VM outlives the handle and this process, until it is stopped.
    pub fn detached(mut self, detached: bool) -> Self {
        self.options = self.options.detached(detached);
        self
    }

    /// How long the guest may take to get ready; 120 s where nothing is said.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.options = self.options.ready_timeout(timeout);
        self
    }

    /// Cancelling this token ends the start, and leaves nothing of it.
    pub fn cancel_token(mut self, token: &CancelToken) -> Self {
        self.options = self.options.cancel_token(token);
        self
    }

    /// Who is told what the start is doing.
    pub fn progress(mut self, observer: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.options = self.options.progress(observer);
        self
    }

    /// The `vmm` executable that runs the VM; see [`StartOptions::executable`].
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.options = self.options.executable(path);
        self
    }

    /// Whether the monitor's threads are held to their system calls; see [`StartOptions::seccomp`].
    pub fn seccomp(mut self, wanted: bool) -> Self {
        self.options = self.options.seccomp(wanted);
        self
    }

    /// Where it is noted when the steps of the start were done.
    pub fn timeline(mut self, timeline: &Timeline) -> Self {
        self.options = self.options.timeline(timeline);
        self
    }

    /// Whether the guest's kernel says how long each of its own steps takes, for [`Timeline::trace`]. Its boot takes longer by
    /// that.
    pub fn traced_kernel(mut self, traced: bool) -> Self {
        self.traced_kernel = traced;
        self
    }

    /// How it is started, all at once.
    pub fn options(mut self, options: StartOptions) -> Self {
        self.options = options;
        self
    }

    /// Finds or fetches the image, and creates nothing: whether there can be such a VM is known before an old one goes.
    pub fn fetch(&self) -> Result<(), Error> {
        start::fetch(self)
    }

    /// Finds or fetches the image, creates the VM, starts its monitor process and waits until its agent answers.
    pub fn start(self) -> Result<Sandbox, Error> {
        start::new(&self)
    }
}
