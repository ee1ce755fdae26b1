//! Launches a machine: devices served, supervisor started, plan sent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use snafu::{ResultExt, ensure};

use super::arguments::{Board, DeviceShape, MachineShape, QBOOT, arguments};
use super::clock::CounterRate;
use super::plan::{Plan, Reading, Report, ReportReader, send_plan};
use super::qemu::Qemu;
use super::qemu_cache::QemuCache;
use super::running::SoftwareMachine;
use super::tick_rate::tick_rate;
use super::timer_watch::TimerWatch;
use super::{
    DevicesSnafu, HugePagesSnafu, NotInQemuSnafu, PrepareSnafu, RefusedSnafu, SUPERVISOR_ARGUMENT,
    SilentSnafu, SoftwareEngine, SoftwareError, SupervisorSnafu, TalkSnafu, check_processors,
};
use crate::arch::Arch;
use crate::engine::{EngineKind, JailReport, LaunchReport, MachineEnd};
use crate::machine::Machine;
use crate::threads::{self, Role};
use crate::virtio::transport::vhost_user::VhostUserServer;
use crate::virtio::{DeviceType, VirtioDevice};

/// The supervisor builds the jail in a few milliseconds; one that takes this long is stuck.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A supervisor with QEMU under it.
pub(super) struct Started {
    /// The supervisor.
    pub supervisor: Child,
    /// The socket to it: closing it, or saying that no more will be written, kills QEMU.
    pub lifeline: UnixStream,
    /// What it will report.
    pub reports: ReportReader,
    /// QEMU's process number.
    pub process: u32,
    /// A handle on QEMU's process, should the supervisor be killed.
    pub handle: Option<OwnedFd>,
    /// What keeps QEMU in.
    pub jail: JailReport,
}

/// Devices that QEMU 10 cannot have from elsewhere, over vhost-user.
const NOT_IN_QEMU: [DeviceType; 2] = [DeviceType::Balloon, DeviceType::Console];

impl SoftwareEngine {
    pub(super) fn launch_machine(
        &self,
        machine: Machine,
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<SoftwareMachine, SoftwareError> {
        check_processors(machine.arch, machine.cpus, machine.nested)?;
        let kinds = machine.devices.iter().map(|device| device.device_type());
        if let Some(kind) = kinds.into_iter().find(|kind| NOT_IN_QEMU.contains(kind)) {
            return NotInQemuSnafu { kind: kind.name() }.fail();
        }
        ensure!(!machine.huge_pages, HugePagesSnafu);
        let board = self.board(&machine);
        let limit = board.max_devices();
        ensure!(machine.devices.len() <= limit, DevicesSnafu { count: machine.devices.len(), limit });
        let shape = MachineShape {
            arch: machine.arch,
            cpus: machine.cpus,
            memory: machine.memory,
            nested: machine.nested,
            command_line: &machine.command_line,
            devices: machine.devices.iter().map(|device| device_shape(device.as_ref())).collect(),
            own_filter: self.qemu.sandbox,
            board,
        };
        let plan = self.plan(&shape);
        let (control, qemus_control) = UnixStream::pair().context(PrepareSnafu)?;
        let (servers, qemus_sockets) = serve(machine.devices).context(PrepareSnafu)?;
        let mut descriptors = vec![
            machine.kernel.as_fd(),
            machine.initramfs.as_fd(),
            qemus_control.as_fd(),
            machine.console.as_fd(),
        ];
        descriptors.extend(qemus_sockets.iter().map(AsFd::as_fd));
        let started = start(&self.supervisor, &plan, &descriptors)?;
        let report = LaunchReport {
            engine: EngineKind::Software,
            program: Some(format!("QEMU {} ({})", self.qemu.version, shape.board.name())),
            jail: Some(started.jail.clone()),
            processor_us: None,
        };
        for bar in started.jail.missing() {
            tracing::warn!(bar = ?bar.bar, reason = bar.missing, "QEMU's jail lacks a bar");
        }
        // Where QEMU failed, what is remembered of it may be what failed (a library that came to it since).
        let (cache, program) = (QemuCache::new(self.cache.clone()), self.qemu.path.clone());
        let ended = Box::new(move |end| {
            if matches!(end, MachineEnd::Failed(_)) {
                cache.forget(&program);
            }
            ended(end);
        });
        let timer = match shape.board {
            Board::Microvm { .. } => TimerWatch::new(),
            Board::Q35 | Board::Virt => TimerWatch::none(),
        };
        SoftwareMachine::new(started, control, servers, timer, report, ended).context(PrepareSnafu)
    }

    /// The quickest board that this host can give this machine.
    fn board(&self, machine: &Machine) -> Board {
        match (machine.arch, self.clock()) {
            (Arch::Arm64, _) => Board::Virt,
            (Arch::X86_64, CounterRate::Known { kilohertz }) if self.qemu.has_machine("microvm") => {
                let several = machine.cpus > 1;
                let tick_rate = several.then(|| tick_rate(&machine.kernel).ok().flatten()).flatten();
                let has_qboot = find_firmware(&self.qemu, QBOOT).is_some();
                Board::Microvm { kilohertz: *kilohertz, tick_rate, has_qboot }
            }
            (Arch::X86_64, _) => Board::Q35,
        }
    }

    fn plan(&self, shape: &MachineShape<'_>) -> Plan {
        Plan {
            program: self.qemu.path.clone(),
            libraries: self.qemu.libraries.clone(),
            is_static: self.qemu.is_static,
            // What is not there QEMU does not need.
            firmware: shape
                .board
                .firmware()
                .iter()
                .filter_map(|name| find_firmware(&self.qemu, name))
                .collect(),
            arguments: arguments(shape),
            files: vec!["-kernel".to_owned(), "-initrd".to_owned()],
            own_filter: shape.own_filter,
        }
    }
}

fn device_shape(device: &dyn VirtioDevice) -> DeviceShape {
    DeviceShape { kind: device.device_type(), queue_sizes: device.queue_sizes().to_vec() }
}

/// Serves each device on a socket, whose other end is for QEMU.
fn serve(devices: Vec<Box<dyn VirtioDevice>>) -> io::Result<(Vec<VhostUserServer>, Vec<OwnedFd>)> {
    let mut servers = Vec::new();
    let mut sockets = Vec::new();
    for (index, device) in devices.into_iter().enumerate() {
        let name = device.device_type().name();
        let (ours, qemus) = UnixStream::pair()?;
        servers.push(VhostUserServer::start(device, ours, &format!("{name}{index}"))?);
        sockets.push(qemus.into());
    }
    Ok((servers, sockets))
}

/// A file of firmware, where QEMU itself would look for it.
fn find_firmware(qemu: &Qemu, name: &str) -> Option<PathBuf> {
    qemu.firmware_folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Starts a supervisor with this plan and waits until QEMU runs in its jail.
pub(super) fn start(
    supervisor: &Path,
    plan: &Plan,
    descriptors: &[std::os::fd::BorrowedFd<'_>],
) -> Result<Started, SoftwareError> {
    let (lifeline, supervisors_end) = UnixStream::pair().context(PrepareSnafu)?;
    let child = Command::new(supervisor)
        .arg(SUPERVISOR_ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(supervisors_end))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = Reaped(Some(child.context(SupervisorSnafu { path: supervisor })?));
    // QEMU starts with the plan, and this thread starts no process any more.
    threads::enter(Role::Machine).context(PrepareSnafu)?;
    lifeline.set_read_timeout(Some(START_TIMEOUT)).context(PrepareSnafu)?;
    send_plan(&lifeline, plan, descriptors).context(TalkSnafu)?;
    let mut reports = ReportReader::default();
    loop {
        match reports.read(&lifeline).context(TalkSnafu)? {
            Reading::Report(Report::Started { process, jail }, handle) => {
                let Some(supervisor) = child.keep() else { return SilentSnafu { path: supervisor }.fail() };
                lifeline.set_read_timeout(None).context(PrepareSnafu)?;
                return Ok(Started { supervisor, lifeline, reports, process, handle, jail });
            }
            Reading::Report(Report::Refused { reason }, _) => return RefusedSnafu { reason }.fail(),
            Reading::Report(Report::Ended { errors, .. }, _) => {
                return RefusedSnafu { reason: errors }.fail();
            }
            Reading::Nothing => {}
            Reading::End => return SilentSnafu { path: supervisor }.fail(),
        }
    }
}

/// A child that is killed and waited for, unless it is kept.
struct Reaped(Option<Child>);

impl Reaped {
    fn keep(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
