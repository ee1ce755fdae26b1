//! A home with VMs that are scripts.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmm_disk::Format;

use crate::arch::Arch;
use crate::control::Connection;
use crate::home::{End, EngineChoice, HeldVm, Home, RestartPolicy, Timestamp, VmFolder, VmName, VmSpec};
use crate::image::{ImageStore, NewLayer};
use crate::machine::{BootSpec, ConsoleKind, DiskSpec, MachineSpec, MemorySize, VsockSpec};
use crate::sandbox::launch::launch;
use crate::sandbox::program::MonitorProgram;
use crate::sandbox::{Error, Sandbox, StartOptions, hold, start};

/// What a machine, its guest and its agent do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// All goes well.
    Ready,
    /// It writes to its console, and that is all.
    Silent,
    AgentFails,
    OtherVersion,
    Garbage,
    NoEngine,
    /// All goes well, until somebody asks how the guest is; then …
    Panics,
    EngineDies,
    /// … one of the monitor's threads does what its role has no need of.
    Escapes,
    PowersOff,
    /// All goes well, and the machine has a balloon.
    Balloon,
    /// All goes well, and the machine has a disk of layers.
    Disk,
    /// The same, and its agent cannot hold the guest still.
    OldAgent,
    /// The agent does not take the request to shut down.
    RefusesShutdown,
    /// The agent takes it and does nothing.
    IgnoresShutdown,
    /// Its engine dies as above, and does not start it another time.
    NeverTwice,
    /// The first command in the guest succeeds, and none after it.
    SickLater,
}

impl Script {
    const ALL: [Self; 17] = [
        Self::Ready,
        Self::Silent,
        Self::AgentFails,
        Self::OtherVersion,
        Self::Garbage,
        Self::NoEngine,
        Self::Panics,
        Self::EngineDies,
        Self::Escapes,
        Self::PowersOff,
        Self::Balloon,
        Self::Disk,
        Self::OldAgent,
        Self::RefusesShutdown,
        Self::IgnoresShutdown,
        Self::NeverTwice,
        Self::SickLater,
    ];

    /// The script that a VM is to play: its description says it in place of an image's name.
    pub(super) fn of(spec: &VmSpec) -> Self {
        let script = Self::ALL.into_iter().find(|script| format!("{script:?}") == spec.image);
        script.unwrap()
    }
}

/// A program that is no monitor, and says so.
pub(super) fn broken_program() -> MonitorProgram {
    let arguments = ["-c", "echo no such test >&2"].map(Into::into).to_vec();
    MonitorProgram { path: PathBuf::from("/bin/sh"), arguments }
}

pub(super) struct TestHome {
    _base: tempfile::TempDir,
    pub(super) home: Home,
}

impl TestHome {
    pub(super) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let home = Home::open(base.path()).unwrap();
        Self { _base: base, home }
    }

    /// Starts a VM that is looked after as `upkeep` says, and runs in the background.
    pub(super) fn run_kept(&self, script: Script, upkeep: impl FnOnce(&mut VmSpec)) -> Sandbox {
        let held = self.create(Some("box"), script);
        let mut spec = held.folder().spec().unwrap().unwrap();
        upkeep(&mut spec);
        held.write_spec(&spec).unwrap();
        let (folder, options) = (held.folder().clone(), StartOptions::default().detached(true));
        let program = MonitorProgram::of_tests();
        let lifeline = launch(&program, held, true, vmm_sys::clock::monotonic_us(), &options).unwrap();
        start::started(&program, folder, lifeline, &options).unwrap()
    }

    fn create(&self, name: Option<&str>, script: Script) -> HeldVm {
        let name: Option<VmName> = name.map(|name| name.parse().unwrap());
        let held = self.home.create(name.as_ref()).unwrap();
        let folder = held.folder();
        let has_disk = matches!(script, Script::Disk | Script::OldAgent);
        let root = vmm_protocol::Root {
            device: "/dev/vda".to_owned(),
            file_system: "ext4".to_owned(),
            options: String::new(),
            read_only: false,
            grow: false,
            overlay: None,
        };
        let spec = VmSpec {
            version: VmSpec::VERSION,
            id: folder.id().clone(),
            name,
            remove: false,
            stop_timeout_ms: None,
            image: format!("{script:?}"),
            image_reference: "none:0.0.0-20260101-0000000".to_owned(),
            image_version: "0.0.0-20260101-0000000".to_owned(),
            created: Timestamp::now(),
            engine: EngineChoice::Auto,
            require_hardware: false,
            configuration: vmm_protocol::Configuration {
                host_name: Some("box".to_owned()),
                time_ns: None,
                entropy: Vec::new(),
                environment: Vec::new(),
                resolv_conf: None,
                root,
                init: vmm_protocol::Init::Agent,
                mask_services: Vec::new(),
            },
            own_kernel: false,
            stored_kernel: None,
            health_check: None,
            restart: RestartPolicy::No,
            snapshots: Vec::new(),
            machine: MachineSpec {
                arch: Arch::host().unwrap(),
                cpus: 1,
                memory: MemorySize::MINIMUM,
                nested: false,
                console: ConsoleKind::default(),
                balloon: script == Script::Balloon,
                huge_pages: false,
                boot: BootSpec {
                    kernel: "/nowhere".into(),
                    initramfs: "/nowhere".into(),
                    command_line: String::new(),
                },
                disks: if has_disk { vec![disk_of(&held)] } else { Vec::new() },
                vsock: VsockSpec { guest_cid: 3, socket: VmFolder::vsock_socket(&folder.sockets()) },
            },
        };
        held.write_spec(&spec).unwrap();
        held
    }

    pub(super) fn launch(
        &self,
        name: Option<&str>,
        script: Script,
        options: &StartOptions,
    ) -> (VmFolder, Result<Connection, Error>) {
        let held = self.create(name, script);
        let folder = held.folder().clone();
        let lifeline =
            launch(&MonitorProgram::of_tests(), held, true, vmm_sys::clock::monotonic_us(), options);
        // As for every new VM: one that was given up before it had a monitor is there to be cleared away.
        let lifeline = lifeline.inspect_err(|error| start::discard(&folder, error));
        (folder, lifeline)
    }

    pub(super) fn run_with(
        &self,
        name: Option<&str>,
        script: Script,
        options: &StartOptions,
    ) -> Result<Sandbox, Error> {
        let (folder, lifeline) = self.launch(name, script, options);
        Ok(Sandbox::of(folder, Some(lifeline?)))
    }

    pub(super) fn run(&self, name: Option<&str>, script: Script) -> Result<Sandbox, Error> {
        self.run_with(name, script, &StartOptions::default())
    }

    pub(super) fn run_as(&self, program: &MonitorProgram, script: Script) -> Result<Connection, Error> {
        launch(program, self.create(None, script), true, 0, &StartOptions::default())
    }

    pub(super) fn start_again(&self, name: &str, options: &StartOptions) -> Result<Sandbox, Error> {
        let folder = self.home.find(name)?;
        let held = hold(&folder, name)?;
        let lifeline =
            launch(&MonitorProgram::of_tests(), held, false, vmm_sys::clock::monotonic_us(), options)?;
        Ok(Sandbox::of(folder, Some(lifeline)))
    }

    pub(super) fn connect(&self, folder: &VmFolder) -> Connection {
        Connection::connect(&VmFolder::control_socket(&folder.sockets())).unwrap()
    }

    /// Kills a VM's monitor and waits until it is gone.
    pub(super) fn kill_monitor(&self, sandbox: &Sandbox) {
        let pid = sandbox.info().unwrap().monitor_pid.unwrap();
        let process = vmm_sys::process::Process::open(pid).unwrap().unwrap();
        process.kill().unwrap();
        assert!(process.wait(Duration::from_secs(60)).unwrap());
    }

    /// Stops a VM's monitor as Ctrl-Z would.
    pub(super) fn stop_monitor(&self, sandbox: &Sandbox) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let pid = sandbox.info().unwrap().monitor_pid.unwrap();
        signal(pid, Signal::SIGSTOP);
        let child = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        // Left for whoever buries it.
        waitid(WaitId::Pid(child), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).unwrap();
    }

    /// Nothing is left of any VM.
    pub(super) fn assert_empty(&self) {
        let names = |folder: PathBuf| -> Vec<_> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names(self.home.vms()), [".lock"]);
        assert!(names(self.home.names()).is_empty());
        assert!(!self.home.runtime().exists(), "{:?}", names(self.home.runtime().to_owned()));
    }
}

/// A base layer, and a layer of the VM's own upon it.
fn disk_of(held: &HeldVm) -> DiskSpec {
    const SIZE: u64 = 1 << 20;
    let store = ImageStore::open(held.folder().home().root()).unwrap();
    let layers = store.layers();
    let base = NewLayer { format: Format::Raw, below: None, durable: true };
    let base = layers.create(base, |path| vmm_disk::create_raw(path, SIZE)).unwrap();
    let id = layers.draw_id().unwrap();
    held.will_own(&layers.folder_of(&base.id)).unwrap();
    held.will_own(&layers.folder_of(&id)).unwrap();
    let top = NewLayer { format: Format::Qcow2, below: Some(base.id.clone()), durable: true };
    let top = layers.create_as(id, top, |path| vmm_disk::create_overlay(path, SIZE)).unwrap();
    DiskSpec { layers: vec![base.spec(), top.spec()], read_only: false, serial: "root".to_owned() }
}

pub(super) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Waits until the end is told.
pub(super) fn end_of(connection: &mut Connection) -> End {
    use crate::control::{Event, MonitorLine};
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    loop {
        if let MonitorLine::Event(Event::Ended(end)) = connection.next(deadline, None).unwrap() {
            return end;
        }
    }
}
