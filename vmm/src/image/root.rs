//! The root file system of an image, read on the host, without mounting it.

use std::io::{IoSliceMut, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Read};
use flate2::read::GzDecoder;
use snafu::ResultExt;
use vmm_disk::{DiskImage, LayerSpec, open_chain};

use super::error::{
    DecompressSnafu, DiskSnafu, Result, RootContentsSnafu, RootFileSystemSnafu, TooLargeSnafu,
};

/// The ext4 file system on a disk without partitions.
pub(super) struct RootFileSystem {
    ext4: Ext4,
    /// The disk, for messages.
    disk: PathBuf,
}

impl RootFileSystem {
    /// Opens the one on a disk of these layers, from the base up. Names of other files in their headers are not
    /// followed.
    pub(super) fn open(layers: &[LayerSpec]) -> Result<Self> {
        let path = layers.last().map(|layer| layer.path.as_path()).unwrap_or(Path::new(""));
        let disk = open_chain(layers, true).map_err(Into::into).context(DiskSnafu { path })?;
        let reader: Box<dyn Ext4Read> = Box::new(DiskReader(disk));
        let ext4 = Ext4::load(reader).context(RootFileSystemSnafu { path, inside: "the superblock" })?;
        Ok(Self { ext4, disk: path.to_owned() })
    }

    /// A whole file, unpacked if its name says that it is packed. Neither form may be larger than `limit`.
    pub(super) fn read(&self, inside: &str, limit: u64) -> Result<Vec<u8>> {
        let context = || RootFileSystemSnafu { path: &self.disk, inside };
        let mut file = self.ext4.open(inside).with_context(|_| context())?;
        let length = file.metadata().len();
        let too_large =
            || TooLargeSnafu { what: format!("{inside} in {}", self.disk.display()), limit }.fail();
        if length > limit {
            return too_large();
        }
        let mut contents = Vec::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = file.read_bytes(&mut buffer).with_context(|_| context())?;
            contents.extend_from_slice(&buffer[..count]);
            if contents.len() as u64 > limit {
                return too_large();
            }
            if count == 0 {
                break;
            }
        }
        match inside.rsplit('.').next() {
            Some("gz") => {
                let mut unpacked = Vec::new();
                GzDecoder::new(contents.as_slice())
                    .take(limit + 1)
                    .read_to_end(&mut unpacked)
                    .context(DecompressSnafu { what: inside })?;
                if unpacked.len() as u64 > limit {
                    return too_large();
                }
                Ok(unpacked)
            }
            Some("xz" | "zst") => {
                let what = format!("{inside}, packed in a way that is not read here (only gzip is)");
                RootContentsSnafu { path: &self.disk, what }.fail()
            }
            _ => Ok(contents),
        }
    }

    /// A whole file of text.
    pub(super) fn read_text(&self, inside: &str, limit: u64) -> Result<String> {
        let what = format!("no text in {inside}");
        String::from_utf8(self.read(inside, limit)?)
            .or_else(|_| RootContentsSnafu { path: &self.disk, what }.fail())
    }

    /// Whether there is something of this name.
    pub(super) fn has(&self, inside: &str) -> Result<bool> {
        self.ext4.exists(inside).context(RootFileSystemSnafu { path: &self.disk, inside })
    }
}

/// A disk, as the reader of file systems wants it.
struct DiskReader(Arc<dyn DiskImage>);

impl Ext4Read for DiskReader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.0.read(&mut [IoSliceMut::new(dst)], start_byte)?)
    }
}
