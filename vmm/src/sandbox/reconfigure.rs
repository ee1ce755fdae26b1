//! Changing what a VM is, while it does not run. Its disk stays.

use std::fs;

use snafu::ResultExt;

use super::builder::SandboxBuilder;
use super::error::{AgentBinarySnafu, SystemSnafu};
use super::start::{self, OWN_KERNEL};
use super::{Error, hold};
use crate::agent;
use crate::home::{Home, HomeError, VmSpec};
use crate::image::{Extras, Image, ImageRef, ImageStore};

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
    check_image(builder, &spec, &image)?;
    let agent = agent::binary(arch).context(AgentBinarySnafu)?;
    let extras = Extras { nested: builder.nested, balloon: builder.balloon };
    let mut files = store.prepare(&image, &agent, extras)?;
    let profile = start::boot_profile(builder, &image);
    let command_line = start::command_line(builder, &profile, arch)?;
    // Last of all that may fail: the old kernel is gone with it.
    if let Some(kernel) = &builder.kernel {
        let (kernel, release) = start::take_kernel(kernel, arch, &folder)?;
        files.initramfs = store.initramfs(&image, &agent, release.as_deref(), extras)?;
        files.kernel = kernel;
    }
    let configuration = &mut spec.configuration;
    configuration.host_name = Some(start::host_name(builder, spec.name.as_ref(), &image));
    configuration.environment.clone_from(&builder.env);
    configuration.init = builder.init.into();
    configuration.mask_services = profile.mask_services;
    spec.image.clone_from(&builder.image);
    spec.engine = builder.engine;
    spec.require_hardware = builder.require_hardware;
    spec.own_kernel = builder.kernel.is_some();
    let machine = &mut spec.machine;
    machine.cpus = builder.cpus;
    machine.memory = builder.memory;
    machine.nested = builder.nested;
    machine.console = builder.console;
    machine.balloon = builder.balloon;
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

/// A disk is made over one image and no other.
fn check_image(builder: &SandboxBuilder, spec: &VmSpec, image: &Image) -> Result<(), Error> {
    let wanted: ImageRef = builder.image.parse()?;
    if wanted.name() == image.name() && wanted.fits(&image.version()) {
        return Ok(());
    }
    let (is, wanted) = (&spec.image_reference, &builder.image);
    let message = format!("a VM of {is} cannot become one of {wanted}: its disk is made over that image");
    Err(Error::Invalid { message })
}
