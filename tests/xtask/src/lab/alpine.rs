//! The Alpine that the system tests pull: its kernel and its root file system are the laboratory's own, and all of it is
//! in the laboratory's image store.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;

/// A pulled image, in a home.
pub(super) struct Alpine {
    home: PathBuf,
    /// The image's folder.
    folder: PathBuf,
    /// The names of its layers, from the base up.
    layers: Vec<String>,
}

impl Alpine {
    /// Brings it into the home of the tests, if it is not there.
    pub(super) fn pull(vmm: &Path) -> Outcome<Self> {
        let home = project::test_images();
        let mut pull = Command::new(vmm);
        pull.args(["pull", "--quiet", "alpine"]).env("VMM_HOME", &home).stdout(Stdio::null());
        let status = pull
            .status()
            .map_err(|error| Failure::new(format!("cannot start {}: {error}", vmm.display())))?;
        if !status.success() {
            return Err(Failure::new(format!("`{}` failed: {status}", command::line(&pull)))
                .hint("The laboratory is made of Alpine's kernel and root file system."));
        }
        Self::newest(home)
    }

    /// The version that was pulled last.
    fn newest(home: PathBuf) -> Outcome<Self> {
        let images = home.join("images/alpine");
        let none = || Failure::new(format!("there is no Alpine for x86_64 in {}", images.display()));
        let entries = std::fs::read_dir(&images).map_err(|_| none())?;
        let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        found.retain(|path| path.to_string_lossy().ends_with("-x86_64") && path.join("vmlinux").is_file());
        found.sort_by_key(|path| path.join("metadata.json").metadata().and_then(|meta| meta.modified()).ok());
        let folder = found.pop().ok_or_else(none)?;
        let metadata = std::fs::read(folder.join("metadata.json")).map_err(|_| none())?;
        let metadata: Option<Value> = serde_json::from_slice(&metadata).ok();
        let layer = metadata.as_ref().and_then(|metadata| metadata.get("layer")?.as_str());
        let layer = layer.ok_or_else(none)?.to_owned();
        let mut layers = vec![layer];
        while let Some(below) = below(&home, &layers[0]) {
            layers.insert(0, below);
        }
        Ok(Self { home, folder, layers })
    }

    /// The decompressed kernel.
    pub(super) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The same, where it lies in a home.
    pub(super) fn kernel_in(&self, home: &Path) -> PathBuf {
        home.join(self.kernel().strip_prefix(&self.home).unwrap_or(&self.kernel()))
    }

    /// The disk with the root file system: that which was fetched, whatever has been made of it.
    pub(super) fn root_disk(&self) -> PathBuf {
        self.home.join("layers").join(&self.layers[0]).join("disk.qcow2")
    }

    /// A module of the kernel that the image's machines load, unpacked; none that is built in.
    pub(super) fn module(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(format!("modules/{name}.ko"))).filter(|path| path.is_file())
    }

    /// Everything that a home must have for machines of this image, as names in the home.
    pub(super) fn files(&self) -> Outcome<Vec<PathBuf>> {
        let mut names = Vec::new();
        let layers = self.layers.iter().map(|layer| self.home.join("layers").join(layer));
        for folder in std::iter::once(self.folder.clone()).chain(layers) {
            let folder = &folder;
            self.add_folder(folder, &mut names)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", folder.display())))?;
        }
        Ok(names)
    }

    /// The home that its names are in.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    fn add_folder(&self, folder: &Path, names: &mut Vec<PathBuf>) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            entries.push(entry?.path());
        }
        entries.sort();
        for path in entries {
            // What was remembered of looking at these very files is of no use for others.
            if path.is_dir() {
                self.add_folder(&path, names)?;
            } else if path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')) {
                names.push(path.strip_prefix(&self.home).unwrap_or(&path).to_owned());
            }
        }
        Ok(())
    }
}

/// The layer below another one.
fn below(home: &Path, layer: &str) -> Option<String> {
    let record = std::fs::read(home.join("layers").join(layer).join("layer.json")).ok()?;
    let record: Value = serde_json::from_slice(&record).ok()?;
    Some(record.get("below")?.as_str()?.to_owned())
}
