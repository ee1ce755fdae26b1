//! What can be known of a VM, or of a change to one, before anything is done: whoever stops or removes a VM for it asks
//! first.

use std::collections::BTreeSet;

use snafu::{OptionExt, ResultExt};

use super::builder::{PullPolicy, SandboxBuilder};
use super::disk::{check_grows, check_whole, true_path};
use super::error::{DiskSnafu, InvalidSnafu, NoArchSnafu};
use super::{Error, reconfigure, start};
use crate::arch::Arch;
use crate::home::{Home, HomeError};
use crate::image::{ImageError, ImageStore};

impl SandboxBuilder {
    /// Whether such a VM can be created, as far as that is known without fetching anything: whether there is such an
    /// image, whether its disk fits, what no VM can be.
    pub fn foresee(&self) -> Result<(), Error> {
        self.foresee_disks()?;
        if self.base_file.is_some() {
            return Ok(());
        }
        let arch = Arch::host().context(NoArchSnafu)?;
        let home = self.home.clone().map_or_else(Home::open_default, Ok)?;
        let store = ImageStore::open(home.root())?;
        let image = match store.find(&self.image.parse()?, arch) {
            Ok(image) => image,
            Err(ImageError::NotPulled { .. }) if self.pull == PullPolicy::Missing => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let Some(size) = self.disk_size else { return Ok(()) };
        check_whole(&image.profile().root.device)?;
        let base = store.layers().layer(image.layer())?;
        check_grows(vmm_disk::inspect(&base.path, base.format).context(DiskSnafu)?.virtual_size, size)
    }

    /// Whether [`Sandbox::reconfigure`](super::Sandbox::reconfigure) can make a VM this, and its disk as large, once it
    /// does not run.
    pub fn foresee_change(&self, home: &Home, name: &str) -> Result<(), Error> {
        self.foresee_disks()?;
        let folder = home.find(name)?;
        let gone = || HomeError::NoSuchVm { wanted: name.to_owned(), nearest: None };
        let spec = folder.spec()?.ok_or_else(gone)?;
        reconfigure::check(self, home, &spec)?;
        let Some((size, disk)) = self.disk_size.zip(spec.machine.disks.first()) else { return Ok(()) };
        check_whole(&spec.configuration.root.device)?;
        let Some(top) = disk.layers.last() else { return Ok(()) };
        check_grows(vmm_disk::inspect(&top.path, top.format).context(DiskSnafu)?.virtual_size, size)
    }

    /// What can be said of the disks of its user's. Those that are not there yet may be made before it starts.
    fn foresee_disks(&self) -> Result<(), Error> {
        start::check(self)?;
        let mut seen = BTreeSet::new();
        for disk in &self.disks {
            let path = true_path(disk.path());
            let message = format!("the disk {} is given twice", disk.path().display());
            snafu::ensure!(seen.insert(path), InvalidSnafu { message });
        }
        Ok(())
    }
}
