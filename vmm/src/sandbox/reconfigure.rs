//! Changing what a VM is, while it does not run. Its disk stays.

use std::fs;

use snafu::ResultExt;

use super::builder::{RootWrites, SandboxBuilder};
use super::error::{AgentBinarySnafu, SystemSnafu};
use super::kernel::{self, Given, OWN_KERNEL};
use super::start;
use super::{Error, hold};
use crate::agent;
use crate::home::{Home, HomeError, VmSpec};
use crate::image::{Image, ImageRef, ImageStore};

/// Makes a VM what the builder says, but for its name, its image and its disk.
pub(super) fn reconfigure(home: &Home, name: &str, builder: &SandboxBuilder) -> Result<(), Error> {
    start::check(builder)?;
    let folder = home.find(name)?;
    let held = hold(&folder, name)?;
    let gone = || HomeError::NoSuchVm { wanted: name.to_owned(), nearest: None };
    let mut spec = folder.spec()?.ok_or_else(gone)?;
    let arch = spec.machine.arch;
    let store = ImageStore::open(home.root())?;
    let image = store.find(&spec.image_reference.parse()?, arch)?;
    let image = image_for(builder, home, &spec, image)?;
    check_writes(builder, &spec)?;
    let agent = agent::binary(arch).context(AgentBinarySnafu)?;
    let profile = start::boot_profile(builder, &image);
    let command_line = start::command_line(builder, &profile, arch)?;
    let extras = start::extras(builder, &command_line);
    let mut files = store.prepare(&image, &agent, extras)?;
    // Last of all that may fail: the old kernel is gone with it.
    let given = Given { home, store: &store, image: &image, agent: &agent, extras };
    let boots = kernel::place(builder, &given, &folder, &mut files)?;
    let first = spec.machine.disks.drain(..1);
    let mut disks: Vec<_> = first.collect();
    let base = spec.machine.disks.drain(..).find(start::is_base);
    let base = base.filter(|_| builder.root_writes == RootWrites::Disk);
    disks.extend(start::extra_disks(builder)?);
    disks.extend(base);
    let grow = spec.configuration.root.grow;
    let configuration = &mut spec.configuration;
    configuration.root = start::root_of(builder, &profile, disks.len())?;
    configuration.root.grow |= grow;
    configuration.host_name = Some(start::host_name(builder, spec.name.as_ref(), &image));
    configuration.environment.clone_from(&builder.env);
    configuration.init = builder.init.into();
    configuration.mask_services = profile.mask_services;
    spec.image.clone_from(&builder.image);
    spec.engine = builder.engine;
    spec.stop_timeout_ms = builder.stop_timeout.map(start::milliseconds);
    spec.require_hardware = builder.require_hardware;
    spec.health_check.clone_from(&builder.health_check);
    spec.restart = builder.restart;
    spec.own_kernel = boots.own_kernel;
    spec.stored_kernel = boots.stored_kernel;
    spec.image_reference = image.reference().to_string();
    spec.image_version = image.version().to_string();
    let machine = &mut spec.machine;
    machine.disks = disks;
    machine.cpus = builder.cpus;
    machine.memory = builder.memory;
    machine.nested = builder.nested;
    machine.console = builder.console;
    machine.balloon = builder.balloon;
    machine.huge_pages = builder.huge_pages;
    machine.boot.kernel = files.kernel;
    machine.boot.initramfs = files.initramfs;
    machine.boot.command_line = command_line.to_string();
    held.write_spec(&spec)?;
    let own = folder.path().join(OWN_KERNEL);
    if !spec.own_kernel && own.exists() {
        fs::remove_file(&own).with_context(|_| SystemSnafu { what: format!("remove {}", own.display()) })?;
    }
    Ok(())
}

/// Whether a VM can be made what the builder says, when it does not run.
pub(super) fn check(builder: &SandboxBuilder, home: &Home, spec: &VmSpec) -> Result<(), Error> {
    check_writes(builder, spec)?;
    // Of a file it is found out by reading it whole: that is left for later.
    if builder.base_file.is_some() {
        return Ok(());
    }
    let store = ImageStore::open(home.root())?;
    let image = store.find(&spec.image_reference.parse()?, spec.machine.arch)?;
    image_for(builder, home, spec, image).map(drop)
}

/// The image that the VM is to boot: its own, for a disk is made over one image and no other. Of a file that is the same
/// file, perhaps with another kernel.
fn image_for(builder: &SandboxBuilder, home: &Home, spec: &VmSpec, image: Image) -> Result<Image, Error> {
    if builder.base_file.is_some() {
        let wanted = start::find_image(home, builder, image.arch())?;
        if wanted.layer() == image.layer() {
            return Ok(wanted);
        }
    } else {
        let wanted: ImageRef = builder.image.parse()?;
        if wanted.name() == image.name() && wanted.fits(&image.version()) {
            return Ok(image);
        }
    }
    let (is, wanted) = (&spec.image, &builder.image);
    let message = format!("a VM of {is} cannot become one of {wanted}: its disk is made over that image");
    Err(Error::Invalid { message })
}

/// Where a VM's writes go is decided when its disks are made.
fn check_writes(builder: &SandboxBuilder, spec: &VmSpec) -> Result<(), Error> {
    if builder.root_writes == RootWrites::of(&spec.configuration.root) {
        return Ok(());
    }
    let message = "whether a VM's root is read-only cannot be changed: make a new VM".to_owned();
    Err(Error::Invalid { message })
}
