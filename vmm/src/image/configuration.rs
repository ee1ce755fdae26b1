//! What the kernel of an image was built with.

use super::error::{KernelSnafu, Result, StorageSnafu};
use super::files;
use super::image::{Image, MODULES};
use super::kernel_modules::modules_of;
use super::layers::Layer;
use super::root::RootFileSystem;
use super::store::ImageStore;
use crate::boot::Kernel;
use snafu::ResultExt;

/// The configuration of a distribution's kernel has 300 KiB.
const LARGEST: u64 = 4 << 20;

/// A kernel of the store is no larger.
const LARGEST_KERNEL: u64 = 512 << 20;

/// What is known of the kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// The text of its `.config`: from `/boot` of the image, or out of the kernel itself. None: neither has it.
    pub configuration: Option<String>,
    /// The image brings its modules.
    pub has_modules: bool,
}

/// The configuration that a root file system has in its `/boot` for a kernel.
pub(super) fn in_boot(root: &RootFileSystem, release: &str) -> Result<Option<Vec<u8>>> {
    let path = format!("/boot/config-{release}");
    if root.has(&path)? { root.read(&path, LARGEST).map(Some) } else { Ok(None) }
}

impl ImageStore {
    /// What the image's kernel was built with, and whether its modules are there.
    pub fn kernel_facts(&self, image: &Image) -> Result<KernelFacts> {
        let release = image.kernel_release();
        let layers: Vec<_> = self.layers.chain(image.layer())?.iter().map(Layer::spec).collect();
        let root = RootFileSystem::open(&layers, &image.profile().root.device)?;
        let lists = [format!("{}/modules.dep", modules_of(release)), format!("{MODULES}/modules.dep")];
        let in_folder =
            files::read(&image.folder.join(&lists[1]), LARGEST)?.is_some_and(|list| !list.is_empty());
        let has_modules = in_folder || root.has(&lists[0])?;
        let configuration = if let Some(bytes) = in_boot(&root, release)? {
            String::from_utf8(bytes).ok()
        } else {
            let path = image.kernel();
            let bytes = files::read(&path, LARGEST_KERNEL)?;
            let bytes = bytes
                .ok_or_else(|| std::io::ErrorKind::NotFound.into())
                .context(StorageSnafu { action: "read", path })?;
            let kernel = Kernel::from_file_contents(&bytes, image.arch());
            kernel.context(KernelSnafu { image: image.to_string() })?.configuration()
        };
        Ok(KernelFacts { configuration, has_modules })
    }
}
