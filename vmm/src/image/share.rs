//! An image whose files are those of another one: second names for them, not copies.

use std::path::Path;

use super::error::{DamagedSnafu, Result};
use super::files;
use super::image::{Image, Metadata};
use super::kernel_modules;
use super::pull;
use super::store::ImageStore;
use super::verify::{self, Damage, Thoroughness};

impl ImageStore {
    /// Makes an image that has the files of another one. Called under the lock of the new one.
    pub(super) fn make_beside(&self, base: &Image, metadata: Metadata) -> Result<Image> {
        let folder = self.folder_of(metadata.name.as_str(), metadata.version, metadata.arch);
        let partial = pull::fresh_partial(&folder)?;
        share_files(base, &partial).and_then(|()| publish_checked(self, metadata, &partial)).inspect_err(
            |_| {
                // The first error is the one to tell.
                let _ = files::remove_folder(&partial);
            },
        )
    }
}

/// Gives the files of an image second names in `partial`, and the initial file systems that were made for it.
pub(super) fn share_files(image: &Image, partial: &Path) -> Result<()> {
    let made = kernel_modules::initramfs_records(&image.folder)?;
    for file in image.metadata.files.iter().chain(&made) {
        files::share(&image.folder.join(&file.name), &partial.join(&file.name))?;
    }
    Ok(())
}

/// Makes an image of the files in `partial`, each of which is read, and a record, and gives it its place.
pub(super) fn publish_checked(store: &ImageStore, metadata: Metadata, partial: &Path) -> Result<Image> {
    if let Some(Damage { path, what }) = verify::verify(partial, &metadata.files, Thoroughness::Full)? {
        return DamagedSnafu { path, what, image: format!("{}:{}", metadata.name, metadata.version) }.fail();
    }
    pull::publish(store, metadata, partial)
}
