//! What can go wrong with images, and what to do about it.

use std::io;
use std::path::PathBuf;

use snafu::Snafu;

use super::reference::ImageRef;
use crate::arch::Arch;
use crate::boot::{InitramfsError, KernelError, ModuleError};
use crate::home::nearest_name;

/// Why something with an image failed.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum ImageError {
    /// Neither the catalog nor the store has an image of this name, version and architecture.
    #[snafu(display("there is no image {image} for {arch}: known are {known}"))]
    Unknown {
        /// What was asked for.
        image: ImageRef,
        /// For which machines.
        arch: Arch,
        /// What there is.
        known: String,
    },
    /// The catalog has it, the store does not.
    #[snafu(display("the image {image} for {arch} is not here yet: fetch it with `vmm pull {image}`"))]
    NotPulled {
        /// What was asked for.
        image: ImageRef,
        /// For which machines.
        arch: Arch,
    },
    /// The image is gone, and none that could stand in for it is here.
    #[snafu(display(
        "the image {wanted} is gone, and {found} is another release: another MAJOR.MINOR does not go with its disk"
    ))]
    Incompatible {
        /// What state was made with.
        wanted: ImageRef,
        /// The newest of that name.
        found: String,
    },
    /// A disk says that it is of another release than its image.
    #[snafu(display(
        "{} says in /etc/vmm-image that it is {found}, which is another release than {wanted}: another MAJOR.MINOR does \
         not go with it", path.display()
    ))]
    IncompatibleSystem {
        /// The disk.
        path: PathBuf,
        /// The image's version.
        wanted: String,
        /// The disk's.
        found: String,
    },
    /// What makes an image of what was fetched did not do so.
    #[snafu(display("cannot customise the image {image}: {why}"))]
    Customise {
        /// The image.
        image: String,
        /// Why not.
        why: String,
    },
    /// A name that users cannot give.
    #[snafu(display("{name} is a name of the catalog: choose another one"))]
    Reserved {
        /// The name.
        name: String,
    },
    /// What is to be written is there already.
    #[snafu(display("{} is there already: remove it, or choose another name", path.display()))]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Images are being made, and what they will need cannot be known.
    #[snafu(display("an image is being pulled or made at this moment: try again when that is done"))]
    Busy,
    /// A file of the store cannot be read, written, or given another name.
    #[snafu(display("cannot {action} {}", path.display()))]
    Storage {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of the store is not what was put there.
    #[snafu(display("{} is damaged ({what}): mend it with `vmm pull --force {image}`", path.display()))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The image that it belongs to.
        image: String,
    },
    /// A file of an image that was made here is not what was put there.
    #[snafu(display("{} is damaged ({what}): remove it with `vmm images rm {image}`, and {again} it again", path.display()))]
    DamagedImport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The image that it belongs to.
        image: String,
        /// How it was made.
        again: &'static str,
    },
    /// A file of an image that was made of a VM is not what was put there.
    #[snafu(display("{} is damaged ({what}): {mend}", path.display()))]
    DamagedCommit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        mend: String,
    },
    /// The record of a layer that belongs to no image is not what was put there.
    #[snafu(display("{} is damaged ({what}), and with it the disk that it belongs to", path.display()))]
    DamagedLayer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The record of what is trusted is not what was put there.
    #[snafu(display("{} is damaged ({what}): if you remove it, what comes next is trusted anew", path.display()))]
    DamagedTrust {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file of the user's that machines stand on is not what it was.
    #[snafu(display(
        "{} is not what it was when a VM was made over it ({what}): bring it back as it was, or make a new VM of it",
        file.display()
    ))]
    FileChanged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A newer version of this program wrote it.
    #[snafu(display("{} was written by a newer version of vmm: update this one", path.display()))]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// An image of the name is there.
    #[snafu(display("there is an image {image} already: replace it with --force"))]
    NameInUse {
        /// The image.
        image: String,
    },
    /// There is no such layer.
    #[snafu(display("there is no layer {id} in {}", folder.display()))]
    NoLayer {
        /// Its id.
        id: String,
        /// The folder of all layers.
        folder: PathBuf,
    },
    /// A file of the user's is a layer already, whether it is there or not.
    #[snafu(display("{} is the place of another VM's disk, layer {id}: choose another, or remove that VM", path.display()))]
    Taken {
        /// The file.
        path: PathBuf,
        /// The layer that leads to it.
        id: String,
    },
    /// The caller's part of making a layer failed.
    #[snafu(display("cannot make the layer {}", path.display()))]
    MakeLayer {
        /// The layer's file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no way out of this machine.
    #[snafu(display("no network ({reason}): {missing} is missing here; {cached}"))]
    Offline {
        /// What the network said.
        reason: String,
        /// What was to be fetched.
        missing: String,
        /// What works all the same.
        cached: String,
    },
    /// Nothing on this machine can fetch a Python package.
    #[snafu(display("pip is missing, which fetches {package}: install it with `{install}`"))]
    NoPip {
        /// The package that was to be fetched.
        package: String,
        /// The command that mends it.
        install: String,
    },
    /// What was asked to fetch something failed.
    #[snafu(display("cannot fetch {what} with {tool}: {reason}"))]
    Fetch {
        /// What was to be fetched.
        what: String,
        /// The command.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// A program cannot be started.
    #[snafu(display("cannot start {tool}"))]
    Spawn {
        /// The program.
        tool: String,
        /// Why not.
        source: io::Error,
    },
    /// A web server does not give what was asked for.
    #[snafu(display("cannot download {url}: {reason}"))]
    Download {
        /// What was asked for.
        url: String,
        /// Why it did not come.
        reason: String,
    },
    /// A publisher's file of checksums does not tell one.
    #[snafu(display("cannot find the checksum of {name} in {url}: {reason}"))]
    NoChecksum {
        /// The file that it should be of.
        name: String,
        /// The file of checksums.
        url: String,
        /// What is wrong with that.
        reason: &'static str,
    },
    /// What was fetched is something else than its publisher promises.
    #[snafu(display(
        "{url} is not what its publisher promises: its checksum is {found} instead of {expected}"
    ))]
    NotPublished {
        /// What was fetched.
        url: String,
        /// The checksum of what came.
        found: String,
        /// That of the publisher's file.
        expected: String,
    },
    /// A publisher promises another file than at first use.
    #[snafu(display(
        "the publisher of {url} promises another file than when it was first fetched here: the checksum was {trusted} \
         and is {published}; if you know why, remove {} to trust the new one", record.display()
    ))]
    TrustChanged {
        /// The file.
        url: String,
        /// The checksum that is trusted.
        trusted: String,
        /// The one that is promised now.
        published: String,
        /// Where the trusted one is recorded.
        record: PathBuf,
    },
    /// What was fetched is something else than the catalog promises.
    #[snafu(display(
        "{what} is not what the catalog promises: its {property} is {found} instead of {expected}"
    ))]
    Mismatch {
        /// What was fetched.
        what: String,
        /// By what it was told.
        property: &'static str,
        /// What came.
        found: String,
        /// What was promised.
        expected: String,
    },
    /// An archive cannot be read.
    #[snafu(display("cannot read {member} from {}", archive.display()))]
    Archive {
        /// The file in it.
        member: String,
        /// The archive.
        archive: PathBuf,
        /// Why not.
        source: zip::result::ZipError,
    },
    /// A tar archive cannot be read.
    #[snafu(display("cannot read the archive {}", path.display()))]
    Tar {
        /// The archive.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An archive has no file of this name.
    #[snafu(display("there is no {name} in the archive {}", path.display()))]
    NoMember {
        /// The file in it.
        name: String,
        /// The archive.
        path: PathBuf,
    },
    /// What was to be imported cannot become an image as it is.
    #[snafu(display("cannot import {}: {why}", path.display()))]
    Import {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The partition table of what was to be imported cannot be read.
    #[snafu(display("cannot import {}", path.display()))]
    ImportPartitions {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: vmm_disk::PartitionError,
    },
    /// What the catalog has fetched cannot be decompressed.
    #[snafu(display("cannot decompress {what}"))]
    Decompress {
        /// What it is.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Something is larger than anything of its kind is.
    #[snafu(display("{what} is larger than {limit} bytes"))]
    TooLarge {
        /// What it is.
        what: String,
        /// What is allowed.
        limit: u64,
    },
    /// The image's kernel cannot be booted.
    #[snafu(display("cannot use the kernel of {image}"))]
    Kernel {
        /// The image.
        image: String,
        /// Why not.
        source: KernelError,
    },
    /// The image's modules cannot be used.
    #[snafu(display("cannot use the kernel modules of {image}"))]
    Modules {
        /// The image.
        image: String,
        /// Why not.
        source: ModuleError,
    },
    /// The image's disk cannot be opened.
    #[snafu(display("cannot read the disk {}", path.display()))]
    Disk {
        /// The disk.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something in the image's root file system cannot be read.
    #[snafu(display("cannot read {inside} in the root file system of {}", path.display()))]
    RootFileSystem {
        /// The disk.
        path: PathBuf,
        /// What was read.
        inside: String,
        /// Why not.
        source: ext4_view::Ext4Error,
    },
    /// The root file system lacks something that every image has.
    #[snafu(display("the root file system of {} has {what}", path.display()))]
    RootContents {
        /// The disk.
        path: PathBuf,
        /// What it has or lacks.
        what: String,
    },
    /// The initial file system cannot be made.
    #[snafu(display("cannot make the initial file system of {image}"))]
    Initramfs {
        /// The image.
        image: String,
        /// Why not.
        source: InitramfsError,
    },
    /// The caller wanted it.
    #[snafu(display("getting {image} was given up"))]
    Cancelled {
        /// The image.
        image: String,
    },
}

/// The result of work on images.
pub(super) type Result<T, E = ImageError> = std::result::Result<T, E>;

fn without_version(image: &str) -> &str {
    image.split_once(':').map_or(image, |(name, _)| name)
}

impl ImageError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { image, known, .. } => {
                let nearest = nearest_name(image.name().as_str(), known.split(", ").map(without_version))?;
                Some(format!("did you mean {nearest}?"))
            }
            _ => None,
        }
    }
}
