//! `images/cache.json`: what the records of all images say in short, so that a list needs not read and check each.
//!
//! The folders are the truth. Each entry names the record that it was read from by its looks, so one that is out of date
//! is seen; the index can be lost, cut or wrong, and is then made anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::files;
use super::image::{Image, METADATA};
use super::layers::LayerId;
use super::record;
use super::reference::ImageName;
use super::store::ImageStore;
use super::version::ImageVersion;
use crate::arch::Arch;

const NAME: &str = "cache.json";

/// An image in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its name.
    pub name: ImageName,
    /// Its version.
    pub version: ImageVersion,
    /// The machines that it is for.
    pub arch: Arch,
    /// What `uname -r` says in the guest.
    pub kernel: String,
    /// The topmost layer of its disk.
    pub layer: LayerId,
    /// The lengths of its files and layers; none where one of these is missing.
    pub bytes: Option<u64>,
}

/// The looks of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    inode: u64,
    size: u64,
    changed_ns: i128,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    look: Look,
    #[serde(flatten)]
    summary: Summary,
}

impl ImageStore {
    /// All images in short, by name, version and architecture, from the index as far as that is up to date. Those that
    /// cannot be read are left out, with a warning in the log.
    pub fn summaries(&self) -> Result<Vec<Summary>> {
        let path = self.images.join(NAME);
        let known = read(&path);
        let mut entries = BTreeMap::new();
        for (image, _, _) in self.image_folders()? {
            let Some(look) = look_at(&image.join(METADATA)) else { continue };
            let key = image.strip_prefix(&self.images).unwrap_or(&image).to_string_lossy().into_owned();
            let known = known.get(&key).filter(|entry| entry.look == look && entry.summary.bytes.is_some());
            if let Some(entry) = known {
                entries.insert(key, entry.clone());
                continue;
            }
            let summary = self.load(&image).map(|image| image.map(|image| self.summary(&image)));
            match summary {
                Ok(Some(summary)) => drop(entries.insert(key, Entry { look, summary })),
                Ok(None) => {}
                Err(error) => tracing::warn!(key, %error, "an image cannot be read"),
            }
        }
        if entries != known {
            write(&path, &entries);
        }
        let mut summaries: Vec<Summary> = entries.into_values().map(|entry| entry.summary).collect();
        summaries.sort_by(|one, other| {
            let key = |summary: &Summary| (summary.name.clone(), summary.version, summary.arch);
            key(one).cmp(&key(other))
        });
        Ok(summaries)
    }

    fn summary(&self, image: &Image) -> Summary {
        Summary {
            name: image.name().clone(),
            version: image.version(),
            arch: image.arch(),
            kernel: image.kernel_release().to_owned(),
            layer: image.layer().clone(),
            bytes: self.size(image).ok(),
        }
    }
}

fn look_at(path: &Path) -> Option<Look> {
    let metadata = fs::metadata(path).ok()?;
    let changed_ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Some(Look { inode: metadata.ino(), size: metadata.len(), changed_ns })
}

fn read(path: &Path) -> BTreeMap<String, Entry> {
    let bytes = files::read(path, record::LARGEST).ok().flatten();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Remembers. That it fails, as in a store that is read-only, costs time and nothing else.
fn write(path: &Path, entries: &BTreeMap<String, Entry>) {
    // Several may do so at once: each writes a file of its own, and the last one stays.
    let own = path.with_file_name(format!("{NAME}-{}{}", std::process::id(), files::PARTIAL));
    let written = serde_json::to_vec_pretty(entries)
        .map_err(std::io::Error::from)
        .and_then(|bytes| write_privately(&own, &bytes))
        .and_then(|()| fs::rename(&own, path));
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "the index of images cannot be written");
    }
}

/// What is in a home is its user's alone.
fn write_privately(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::PullMode;
    use super::super::testing::{Fake, fake};
    use super::*;

    #[test]
    fn the_index_says_what_the_folders_say_whatever_becomes_of_it() {
        let home = Fake::new();
        let store = home.store();
        assert_eq!(store.summaries().unwrap(), []);
        let image = store.pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap().image;
        let expected = vec![store.summary(&image)];
        assert_eq!(store.summaries().unwrap(), expected);
        let path = home.home.path().join("images").join(NAME);
        let written = fs::read(&path).unwrap();
        for damaged in [&b""[..], b"{", b"[]", &written[..written.len() / 2]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(store.summaries().unwrap(), expected);
            assert_eq!(fs::read(&path).unwrap(), written);
        }
        // An entry that is right by its looks is believed: no record is read for it.
        let text = String::from_utf8(written).unwrap().replace("6.18.56", "9.18.56");
        fs::write(&path, text).unwrap();
        assert_eq!(store.summaries().unwrap()[0].kernel, "9.18.56-0-virt");
        // And one of another record is not.
        store.pull(&fake(), Arch::X86_64, PullMode::Force, &()).unwrap();
        assert_eq!(store.summaries().unwrap(), expected);
        // Nor is one whose layer was missing: it may be there again.
        let layer = store.layers().folder_of(image.layer());
        let aside = layer.with_extension("aside");
        fs::remove_file(&path).unwrap();
        fs::rename(&layer, &aside).unwrap();
        let summaries = store.summaries().unwrap();
        assert_eq!(summaries[0].bytes, None);
        assert!(store.sizes_of_summary(&summaries[0]).is_err());
        fs::rename(&aside, &layer).unwrap();
        assert_eq!(store.summaries().unwrap(), expected);
        store.remove(&image).unwrap();
        assert_eq!(store.summaries().unwrap(), []);
    }
}
