//! The laboratory's initial file system: process 1, what it needs to reach the root disk, and the images.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use laboratory::LIBRARIES;

use super::alpine::Alpine;
use super::archive::Archive;
use super::libraries::{self, beneath_root};
use crate::failure::{Failure, Outcome};

/// The modules that `laboratory-init` loads before it has Alpine's root.
const MODULES: [&str; 5] = ["virtio_blk", "crc16", "mbcache", "jbd2", "ext4"];

/// The number of `/dev/console`.
const CONSOLE: (u32, u32) = (5, 1);

/// What goes into it.
pub(super) struct Initramfs {
    init: PathBuf,
    /// Looks at the images once and is gone before the laboratory is frozen: another one makes no other laboratory.
    vmm: PathBuf,
    /// What `vmm` needs, by where it looks for it.
    libraries: BTreeSet<PathBuf>,
    /// The name of each module, and its file.
    modules: Vec<(&'static str, PathBuf)>,
    /// The home with the images, and the names of its files.
    home: PathBuf,
    images: Vec<PathBuf>,
}

impl Initramfs {
    pub(super) fn new(init: PathBuf, vmm: PathBuf, alpine: &Alpine) -> Outcome<Self> {
        let modules = MODULES.iter().filter_map(|name| Some((*name, alpine.module(name)?))).collect();
        let libraries = libraries::of([vmm.as_path()])?;
        Ok(Self { init, vmm, libraries, modules, home: alpine.home().to_owned(), images: alpine.files()? })
    }

    /// The program that is process 1.
    pub(super) fn init(&self) -> Outcome<Vec<u8>> {
        std::fs::read(&self.init)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", self.init.display())))
    }

    /// All other files that tell one laboratory from another.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let modules = self.modules.iter().map(|(_, path)| path.clone());
        let images = self.images.iter().map(|name| self.home.join(name));
        modules.chain(images).chain(self.libraries.iter().cloned()).collect()
    }

    /// Writes it to a file.
    pub(super) fn write(&self, path: &Path) -> Outcome {
        let init = self.init()?;
        let output = File::create(path).map(|file| Archive::new(BufWriter::new(file)));
        output
            .and_then(|archive| self.fill(archive, &init))
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", path.display())))
    }

    fn fill(&self, mut archive: Archive<impl io::Write>, init: &[u8]) -> io::Result<()> {
        for folder in ["dev", "modules"] {
            archive.folder(folder, 0o755)?;
        }
        archive.character_device("dev/console", CONSOLE)?;
        archive.file("init", 0o755, init)?;
        archive.file("vmm", 0o755, &std::fs::read(&self.vmm)?)?;
        for (name, module) in &self.modules {
            archive.file(&format!("modules/{name}.ko"), 0o644, &std::fs::read(module)?)?;
        }
        let images = self.images.iter().map(|name| (name.clone(), self.home.join(name)));
        add_files(&mut archive, "images", 0o700, images)?;
        let libraries = self.libraries.iter().filter_map(|path| Some((beneath_root(path)?, path.clone())));
        add_files(&mut archive, LIBRARIES, 0o755, libraries)?;
        archive.finish()
    }
}

/// Adds a folder with these files (names in it, sources), which whoever may enter the folder may read.
fn add_files(
    archive: &mut Archive<impl io::Write>,
    folder: &str,
    permissions: u32,
    files: impl Iterator<Item = (PathBuf, PathBuf)>,
) -> io::Result<()> {
    archive.folder(folder, permissions)?;
    let files: Vec<_> = files.collect();
    // A folder's name sorts before the names of what is in it.
    let folders: BTreeSet<&Path> = files.iter().flat_map(|(name, _)| name.ancestors().skip(1)).collect();
    for name in folders.into_iter().filter(|name| !name.as_os_str().is_empty()) {
        archive.folder(&format!("{folder}/{}", name.display()), permissions)?;
    }
    for (name, source) in files {
        archive.file(&format!("{folder}/{}", name.display()), permissions, &std::fs::read(source)?)?;
    }
    Ok(())
}
