//! Creating a VM from an image, and starting it or one that was there before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use snafu::{OptionExt, ResultExt};
use vmm_disk::{Format, LayerSpec};
use vmm_protocol::Overlay;

use super::builder::{BootProfileUse, PullPolicy, RootWrites, SandboxBuilder, StartOptions};
use super::disk::{check_grows, check_whole};
use super::error::{AgentBinarySnafu, CommandLineSnafu, NoArchSnafu, SystemSnafu};
use super::inspect::letter;
use super::keeper;
use super::kernel::{self, Chosen, Given};
use super::launch::launch;
use super::program::MonitorProgram;
use super::{CancelToken, Error, Progress, Sandbox, hold};
use crate::agent;
use crate::arch::Arch;
use crate::boot::CommandLine;
use crate::control::Connection;
use crate::home::{HeldVm, Home, HomeError, RestartPolicy, Timestamp, VmFolder, VmName, VmSpec};
use crate::image::{
    self, BaseFile, BootFiles, BootProfile, Compatibility, Extras, Image, ImageError, ImageRef, ImageStore,
    NewLayer, PullMode,
};
use crate::kernels::KernelStore;
use crate::machine::{BootSpec, ConsoleKind, DiskSpec, MachineSpec, VsockSpec};

/// The guest's address. Each VM has a device of its own, so one number serves all (0 to 2 are taken).
const GUEST_CID: u32 = 3;

/// Pulls tell their progress more often than anybody can read.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Starts a VM that was created before.
pub(super) fn existing(home: &Home, name: &str, options: &StartOptions) -> Result<Sandbox, Error> {
    let asked_at_us = vmm_sys::clock::monotonic_us();
    let program = MonitorProgram::find(options)?;
    let folder = home.find(name)?;
    let held = hold(&folder, name)?;
    keeper::dismiss(&folder)?;
    refresh_boot_files(&held, options)?;
    let lifeline = launch(&program, held, false, asked_at_us, options)?;
    started(&program, folder, lifeline, options)
}

/// Starts a VM again for its keeper.
pub(super) fn again(
    program: &MonitorProgram,
    folder: &VmFolder,
    options: &StartOptions,
) -> Result<Connection, Error> {
    let asked_at_us = vmm_sys::clock::monotonic_us();
    let held = hold(folder, folder.id().as_str())?;
    refresh_boot_files(&held, options)?;
    launch(program, held, false, asked_at_us, options)
}

/// The handle on a VM that is ready, which gets its keeper if it is to have one.
pub(crate) fn started(
    program: &MonitorProgram,
    folder: VmFolder,
    lifeline: Connection,
    options: &StartOptions,
) -> Result<Sandbox, Error> {
    let sandbox = Sandbox::of(folder, (!options.detached).then_some(lifeline));
    // One whose starter is its lifeline ends with that in any case.
    if options.detached
        && sandbox.link.folder().spec()?.is_some_and(|spec| spec.restart != RestartPolicy::No)
        && let Err(error) = keeper::start(program, sandbox.link.folder(), options)
    {
        // Why it is not kept says more than what becomes of it.
        let _ = sandbox.kill();
        return Err(error);
    }
    Ok(sandbox)
}

/// Finds the image of a VM that is to be, or fetches it.
pub(super) fn fetch(builder: &SandboxBuilder) -> Result<(), Error> {
    check(builder)?;
    let arch = Arch::host().context(NoArchSnafu)?;
    let home = builder.home.clone().map_or_else(Home::open_default, Ok)?;
    find_image(&home, builder, arch).map(drop)
}

/// Creates a VM and starts it.
pub(super) fn new(builder: &SandboxBuilder) -> Result<Sandbox, Error> {
    if builder.base_file.is_none() {
        builder.image.parse::<ImageRef>()?;
    }
    begin(builder, |home, name, arch, held| {
        let image = find_image(home, builder, arch)?;
        builder.options.check_cancelled()?;
        let store = ImageStore::open(home.root())?;
        describe(builder, &store, &image, name, held, |layers| {
            own_disks(builder, &store, &image, held, layers)
        })
    })
}

/// Creates a VM whose disk has these layers, none of which it owns, and starts it.
pub(super) fn on_layers(
    builder: &SandboxBuilder,
    image: &Image,
    layers: Vec<LayerSpec>,
) -> Result<Sandbox, Error> {
    begin(builder, |home, name, _, held| {
        let store = ImageStore::open(home.root())?;
        describe(builder, &store, image, name, held, |_| Ok(vec![root_disk(layers, false)]))
    })
}

/// Begins a VM, lets it be made, and starts it.
fn begin(
    builder: &SandboxBuilder,
    make: impl FnOnce(&Home, Option<VmName>, Arch, &HeldVm) -> Result<(), Error>,
) -> Result<Sandbox, Error> {
    let asked_at_us = vmm_sys::clock::monotonic_us();
    let options = &builder.options;
    let name = builder.name.as_deref().map(str::parse::<VmName>).transpose().map_err(HomeError::from)?;
    check(builder)?;
    let arch = Arch::host().context(NoArchSnafu)?;
    let program = MonitorProgram::find(options)?;
    let home = builder.home.clone().map_or_else(Home::open_default, Ok)?;
    home.clear_leftovers()?;
    // Before the image is fetched: that a name is in use is said at once.
    let held = home.create(name.as_ref())?;
    let folder = held.folder().clone();
    let started = make(&home, name, arch, &held)
        .map(|()| held)
        .and_then(|held| launch(&program, held, true, asked_at_us, options))
        .and_then(|lifeline| started(&program, folder.clone(), lifeline, options));
    started.inspect_err(|error| discard(&folder, error))
}

/// What no VM can be.
pub(super) fn check(builder: &SandboxBuilder) -> Result<(), Error> {
    if builder.cpus == 0 {
        return Err(Error::Invalid { message: "a VM needs at least one processor".to_owned() });
    }
    let stays = builder.name.is_some() && !builder.remove && builder.options.detached;
    if builder.restart != RestartPolicy::No && !stays {
        let message =
            "a VM that is to be started again needs a name, is kept when it ends, and runs in the background";
        return Err(Error::Invalid { message: message.to_owned() });
    }
    if let Some(check) = &builder.health_check {
        check.check().map_err(|error| Error::Invalid { message: error.to_string() })?;
    }
    if builder.root_writes == RootWrites::Memory && (builder.disk_size.is_some() || builder.overlay.is_some())
    {
        let message = "what this VM writes to its root stays in memory: there is no disk to say anything of \
                       (it gets one with --read-only=disk)";
        return Err(Error::Invalid { message: message.to_owned() });
    }
    Ok(())
}

/// What a VM's kernel needs beside what every VM's does.
pub(super) fn extras(builder: &SandboxBuilder, command_line: &CommandLine) -> Extras {
    let overlay = builder.root_writes != RootWrites::Root;
    let signed = CommandLine::wants_signed_modules(&command_line.to_string());
    Extras { nested: builder.nested, balloon: builder.balloon, overlay, signed }
}

/// Makes everything that a new VM is. `disks` gets the image's layers.
fn describe(
    builder: &SandboxBuilder,
    store: &ImageStore,
    image: &Image,
    name: Option<VmName>,
    held: &HeldVm,
    disks: impl FnOnce(Vec<LayerSpec>) -> Result<Vec<DiskSpec>, Error>,
) -> Result<(), Error> {
    let (folder, arch) = (held.folder(), image.arch());
    let agent = agent::binary(arch).context(AgentBinarySnafu)?;
    let profile = boot_profile(builder, image);
    let command_line = command_line(builder, &profile, arch)?;
    let extras = extras(builder, &command_line);
    let mut files = store.prepare(image, &agent, extras)?;
    let given = Given { home: folder.home(), store, image, agent: &agent, extras };
    let boots = kernel::place(builder, &given, folder, &mut files)?;
    let BootFiles { kernel, initramfs, layers } = files;
    if builder.disk_size.is_some() {
        check_whole(&profile.root.device)?;
    }
    let disks = disks(layers.iter().map(image::Layer::spec).collect())?;
    let configuration = vmm_protocol::Configuration {
        host_name: Some(host_name(builder, name.as_ref(), image)),
        time_ns: None,
        entropy: Vec::new(),
        environment: builder.env.clone(),
        resolv_conf: None,
        root: root_of(builder, &profile, disks.len())?,
        init: builder.init.into(),
        mask_services: profile.mask_services,
    };
    let machine = MachineSpec {
        arch,
        cpus: builder.cpus,
        memory: builder.memory,
        nested: builder.nested,
        console: builder.console,
        balloon: builder.balloon,
        huge_pages: builder.huge_pages,
        boot: BootSpec { kernel, initramfs, command_line: command_line.to_string() },
        disks,
        vsock: VsockSpec { guest_cid: GUEST_CID, socket: VmFolder::vsock_socket(&folder.sockets()) },
    };
    let spec = VmSpec {
        version: VmSpec::VERSION,
        id: folder.id().clone(),
        name,
        remove: builder.remove,
        stop_timeout_ms: builder.stop_timeout.map(milliseconds),
        image: builder.image.clone(),
        image_reference: image.reference().to_string(),
        image_version: image.version().to_string(),
        created: Timestamp::now(),
        engine: builder.engine,
        require_hardware: builder.require_hardware,
        configuration,
        own_kernel: boots.own_kernel,
        stored_kernel: boots.stored_kernel,
        machine,
        health_check: builder.health_check.clone(),
        restart: builder.restart,
        snapshots: Vec::new(),
    };
    held.write_spec(&spec)?;
    Ok(())
}

/// The disks of a VM: the one that it writes first, then its user's. A root that is only read and has another disk for
/// what is written is the last, so that the first is what snapshots and clones are about in any case.
fn own_disks(
    builder: &SandboxBuilder,
    store: &ImageStore,
    image: &Image,
    held: &HeldVm,
    layers: Vec<LayerSpec>,
) -> Result<Vec<DiskSpec>, Error> {
    let mut first = layers.clone();
    if builder.root_writes != RootWrites::Memory {
        first.push(create_top_layer(store, image, held, builder)?.spec());
    }
    let mut disks = vec![root_disk(first, builder.root_writes == RootWrites::Memory)];
    disks.extend(extra_disks(builder)?);
    if builder.root_writes == RootWrites::Disk {
        disks.push(DiskSpec { layers, read_only: true, serial: BASE.to_owned() });
    }
    Ok(disks)
}

/// The disk, always the last, over which the guest of a read-only root lays what it writes to the first.
const BASE: &str = "base";

/// Whether a disk is that one: those of the user's have a number in their serial.
pub(super) fn is_base(disk: &DiskSpec) -> bool {
    disk.serial == BASE
}

/// Tells the guest where its base is after another disk came or went.
pub(super) fn place_base(spec: &mut VmSpec) -> Result<(), Error> {
    let number = spec.machine.disks.len();
    let root = &mut spec.configuration.root;
    if let Some(Overlay::Disk { device }) = &root.overlay {
        root.device = on_disk(device, number)?;
    }
    Ok(())
}

/// The disks of the user's, as the builder says.
pub(super) fn extra_disks(builder: &SandboxBuilder) -> Result<Vec<DiskSpec>, Error> {
    (2..).zip(&builder.disks).map(|(number, disk)| disk.spec(number)).collect()
}

/// A span of time, as it is written down.
pub(super) fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn root_disk(layers: Vec<LayerSpec>, read_only: bool) -> DiskSpec {
    DiskSpec { layers, read_only, serial: "root".to_owned() }
}

/// Where the guest finds its root, of a machine with so many disks.
pub(super) fn root_of(
    builder: &SandboxBuilder,
    profile: &BootProfile,
    disks: usize,
) -> Result<vmm_protocol::Root, Error> {
    let written = profile.root.device.clone();
    let (device, overlay) = match builder.root_writes {
        RootWrites::Root => (written, None),
        RootWrites::Memory => (written, Some(Overlay::Memory)),
        RootWrites::Disk => (on_disk(&written, disks)?, Some(Overlay::Disk { device: written })),
    };
    Ok(vmm_protocol::Root {
        device,
        file_system: profile.root.file_system.clone(),
        options: String::new(),
        read_only: overlay.is_some(),
        grow: builder.disk_size.is_some(),
        overlay,
    })
}

/// The same place on the `number`th disk: `/dev/vda2` is `/dev/vdc2` on the third.
fn on_disk(first: &str, number: usize) -> Result<String, Error> {
    match first.strip_prefix("/dev/vda") {
        Some(partition) if (1..=26).contains(&number) => {
            Ok(format!("/dev/vd{}{partition}", letter(number - 1)))
        }
        _ => {
            let message = "a VM whose root is read-only can have 24 other disks".to_owned();
            Err(Error::Invalid { message })
        }
    }
}

/// What the image says of its boot, as far as the builder wants to hear it.
pub(super) fn boot_profile(builder: &SandboxBuilder, image: &Image) -> BootProfile {
    match builder.boot_profile {
        BootProfileUse::Image => image.profile().clone(),
        BootProfileUse::Native => {
            BootProfile { root: image.profile().root.clone(), ..BootProfile::default() }
        }
    }
}

/// The kernel's command line: ours, then the image's, then the user's.
pub(super) fn command_line(
    builder: &SandboxBuilder,
    profile: &BootProfile,
    arch: Arch,
) -> Result<CommandLine, Error> {
    let mut command_line = match builder.console {
        ConsoleKind::Serial => CommandLine::new(arch),
        ConsoleKind::Virtio => CommandLine::on_virtio_console(arch),
    };
    for parameters in profile.command_line.iter().chain(&builder.command_line) {
        command_line.append(parameters).context(CommandLineSnafu)?;
    }
    if builder.traced_kernel {
        // Some three thousand lines, which nobody is to wait for on the console.
        command_line.append("initcall_debug log_buf_len=1M").context(CommandLineSnafu)?;
    }
    Ok(command_line)
}

/// The name that the guest gives itself.
pub(super) fn host_name(builder: &SandboxBuilder, name: Option<&VmName>, image: &Image) -> String {
    let fallback = || name.map_or(image.name().as_str(), VmName::as_str).to_owned();
    builder.host_name.clone().unwrap_or_else(fallback)
}

/// The image of a VM that is to be: found, fetched, or made of its file, and customised.
pub(super) fn find_image(home: &Home, builder: &SandboxBuilder, arch: Arch) -> Result<Image, Error> {
    let StartOptions { observer, cancel, .. } = &builder.options;
    let store = ImageStore::open(home.root())?;
    let progress = PullProgress {
        tell: &|progress| observer.tell(progress),
        cancel: cancel.as_ref(),
        last: Mutex::new(None),
        image: Mutex::default(),
    };
    observer.tell(&Progress::FindingImage { image: builder.image.clone() });
    let found = match &builder.base_file {
        Some(base) => {
            let base = base_file(home, builder, base, arch)?;
            store.refer(&base, arch, &progress)
        }
        None => match (store.find(&builder.image.parse()?, arch), builder.pull) {
            (Err(ImageError::NotPulled { image, .. }), PullPolicy::Missing) => {
                store.pull(&image, arch, PullMode::IfMissing, &progress).map(|pulled| pulled.image)
            }
            (found, _) => found,
        },
    };
    let image = found.map_err(cancelled)?;
    let work = super::customise::Work {
        home,
        engine: builder.engine,
        require_hardware: builder.require_hardware,
        options: &builder.options,
    };
    work.finish(image, &progress)
}

/// A disk file, with the kernel that is asked for. One of the store needs no modules of the disk's.
fn base_file(home: &Home, builder: &SandboxBuilder, base: &BaseFile, arch: Arch) -> Result<BaseFile, Error> {
    let asked = builder.kernel.as_ref().map(|asked| kernel::asked_for(home, asked, arch)).transpose()?;
    Ok(match asked {
        None | Some(Chosen::OfImage) => base.clone(),
        Some(Chosen::File(kernel)) => BaseFile { kernel: Some(kernel), ..base.clone() },
        Some(Chosen::Stored(stored)) => BaseFile {
            kernel: Some(stored.kernel()),
            modules: Some(stored.modules()),
            initrd: None,
            ..base.clone()
        },
    })
}

/// What was given up is no failure of the image's.
pub(super) fn cancelled(error: ImageError) -> Error {
    match error {
        ImageError::Cancelled { .. } => Error::Cancelled,
        error => error.into(),
    }
}

/// The layer that the VM writes to, recorded as its own before it is there.
pub(super) fn create_top_layer(
    store: &ImageStore,
    image: &Image,
    held: &HeldVm,
    builder: &SandboxBuilder,
) -> Result<image::Layer, Error> {
    let base = store.layers().layer(image.layer())?;
    let size = vmm_disk::inspect(&base.path, base.format).context(super::error::DiskSnafu)?.virtual_size;
    let size = match builder.disk_size {
        Some(wanted) => check_grows(size, wanted).map(|()| wanted.bytes())?,
        None => size,
    };
    let durable = builder.name.is_some();
    let new = NewLayer { format: Format::Qcow2, below: Some(image.layer().clone()), durable };
    let id = store.layers().draw_id()?;
    held.will_own(&store.layers().folder_of(&id))?;
    match &builder.overlay {
        None => {
            let make = if durable { vmm_disk::create_overlay } else { vmm_disk::create_overlay_unsynced };
            Ok(store.layers().create_as(id, new, |path| make(path, size))?)
        }
        Some(file) => {
            let file = overlay_file(file)?;
            if durable {
                held.see_owned_on_disk()?;
            }
            let make = |path: &Path| vmm_disk::create_overlay_unsynced(path, size);
            Ok(store.layers().create_at(id, new, &file, make)?)
        }
    }
}

/// Where an overlay of the user's will be. What is there is left alone.
fn overlay_file(file: &Path) -> Result<PathBuf, Error> {
    let what = || format!("make the overlay {}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).with_context(|_| SystemSnafu { what: what() })?;
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput.into());
    let path = folder.join(name.with_context(|_| SystemSnafu { what: what() })?);
    if fs::symlink_metadata(&path).is_ok() {
        let message = format!("{} is there already: remove it, or choose another overlay", path.display());
        return Err(Error::Invalid { message });
    }
    Ok(path)
}

/// A VM that starts again boots what its image's kernel and this program's agent are now.
fn refresh_boot_files(held: &HeldVm, options: &StartOptions) -> Result<(), Error> {
    let gone = || HomeError::NoSuchVm { wanted: held.folder().id().to_string(), nearest: None };
    let mut spec = held.folder().spec()?.ok_or_else(gone)?;
    let arch = spec.machine.arch;
    let store = ImageStore::open(held.folder().home().root())?;
    let reference: ImageRef = spec.image_reference.parse()?;
    let (image, compatibility) = store.find_for(&reference, arch)?;
    if compatibility == Compatibility::Near {
        let message = format!("the image {reference} is gone: the VM boots the kernel of {image}");
        options.observer.tell(&Progress::Warning { message });
    }
    let agent = agent::binary(arch).context(AgentBinarySnafu)?;
    let overlay = spec.configuration.root.overlay.is_some();
    let signed = CommandLine::wants_signed_modules(&spec.machine.boot.command_line);
    let extras = Extras { nested: spec.machine.nested, balloon: spec.machine.balloon, overlay, signed };
    for disk in &spec.machine.disks {
        store.verify_disk(&disk.layers)?;
    }
    let files = store.prepare(&image, &agent, extras)?;
    let boot = &mut spec.machine.boot;
    let mut fresh = boot.clone();
    if spec.own_kernel {
        // Only read: written again, it would be lost with a start that dies or finds the disk full.
        let release = kernel::read(&boot.kernel, arch)?.release();
        let extras = Extras { signed: true, ..extras };
        fresh.initramfs = store.initramfs(&image, &agent, release.as_deref(), extras)?;
    } else if let Some(name) = &spec.stored_kernel {
        let kernel = KernelStore::of(held.folder().home()).find(&name.parse()?)?;
        fresh.initramfs = store.initramfs(&image, &agent, Some(kernel.release()), extras)?;
        fresh.kernel = kernel.kernel();
    } else {
        (fresh.kernel, fresh.initramfs) = (files.kernel, files.initramfs);
    }
    if *boot != fresh {
        *boot = fresh;
        held.write_spec(&spec)?;
    }
    Ok(())
}

/// Clears away a new VM that did not come to life. One with a name whose guest failed stays, for its console says why.
pub(crate) fn discard(folder: &VmFolder, error: &Error) {
    let ephemeral = folder.spec().ok().flatten().is_none_or(|spec| spec.ephemeral());
    if matches!(error, Error::Ended { .. }) && !ephemeral {
        return;
    }
    // Usually its monitor has done it.
    match folder.try_hold() {
        Ok(Some(held)) => {
            if let Err(error) = held.remove() {
                tracing::warn!(%error, "cannot clear a VM away");
            }
        }
        Ok(None) => tracing::warn!(id = %folder.id(), "a VM that was given up is still there"),
        Err(_) => {}
    }
}

/// Tells of a pull, and gives it up when that is asked for.
pub(super) struct PullProgress<'a> {
    pub(super) tell: &'a (dyn Fn(&Progress) + Sync),
    pub(super) cancel: Option<&'a CancelToken>,
    pub(super) last: Mutex<Option<(image::Stage, Instant)>>,
    /// The image that is pulled, as in `alpine 3.23`.
    pub(super) image: Mutex<String>,
}

impl image::Progress for PullProgress<'_> {
    fn image(&self, image: &str) {
        if let Ok(mut label) = self.image.lock() {
            image.clone_into(&mut label);
        }
    }

    fn step(&self, step: image::Step<'_>) {
        let now = Instant::now();
        let Ok(mut last) = self.last.lock() else { return };
        let complete = step.total.is_some_and(|total| step.done >= total);
        let recent = last.is_some_and(|(stage, told)| stage == step.stage && now < told + PROGRESS_INTERVAL);
        if recent && !complete {
            return;
        }
        *last = Some((step.stage, now));
        let image = self.image.lock().map(|image| image.clone()).unwrap_or_default();
        let step = Progress::Pulling { step: step.describe(&image), done: step.done, total: step.total };
        (self.tell)(&step);
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_some_and(CancelToken::is_cancelled)
    }
}
