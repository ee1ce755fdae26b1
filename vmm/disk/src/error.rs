//! Why a disk is not opened or made.

use std::io;
use std::path::PathBuf;

use snafu::Snafu;

use crate::foreign::ForeignError;
use crate::qcow2::{CheckError, HeaderError};

/// Why a disk is not opened or made.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[snafu(display("a disk needs at least one layer"))]
    NoLayers,
    #[snafu(display("a disk of {count} layers is too deep: {} at most", crate::chain::MAX_LAYERS))]
    TooDeep { count: usize },
    #[snafu(display("cannot open the layer {}", path.display()))]
    OpenLayer { path: PathBuf, source: io::Error },
    #[snafu(display("the layer {} is neither a file nor a block device", path.display()))]
    NotAFile { path: PathBuf },
    #[snafu(display("cannot make the disk {} larger", path.display()))]
    Grow { path: PathBuf, source: io::Error },
    #[snafu(display("the disk {} has {} MiB: it can become larger and not smaller", path.display(), now >> 20))]
    Shrink { path: PathBuf, now: u64 },
    #[snafu(display("cannot lock the layer {}", path.display()))]
    LockLayer { path: PathBuf, source: io::Error },
    #[snafu(display("the layer {} is in use by another virtual machine or tool", path.display()))]
    InUse { path: PathBuf },
    #[snafu(display("the layer {} is no qcow2 image that can be used", path.display()))]
    Qcow2 { path: PathBuf, source: HeaderError },
    #[snafu(display("the raw layer {} would hide all that is below it: it can only be the lowest", path.display()))]
    RawAbove { path: PathBuf },
    #[snafu(display("the lowest layer {} builds on another image, {name:?}, which is not among the layers", path.display()))]
    MissingBase { path: PathBuf, name: String },
    #[snafu(display("cannot make {}: it is there already", path.display()))]
    Exists { path: PathBuf },
    #[snafu(display("cannot {what} {}", path.display()))]
    Publish { what: &'static str, path: PathBuf, source: io::Error },
    #[snafu(display("the file that came for the layer {} is another one", path.display()))]
    OtherTop { path: PathBuf },
    #[snafu(display("{} is no empty layer for this disk", path.display()))]
    NotEmpty { path: PathBuf },
    #[snafu(display("cannot write back what belongs into the layer {}", path.display()))]
    Settle { path: PathBuf, source: io::Error },
    #[snafu(display("cannot record the layer {}", path.display()))]
    Record { path: PathBuf, source: crate::RecordError },
    #[snafu(display("cannot inspect {}", path.display()))]
    Inspect { path: PathBuf, source: io::Error },
    #[snafu(display("{source}"))]
    Foreign { path: PathBuf, source: ForeignError },
    #[snafu(display("cannot compact {}", path.display()))]
    Compact { path: PathBuf, source: io::Error },
    #[snafu(display("cannot replace {}", path.display()))]
    Replace { path: PathBuf, source: io::Error },
    #[snafu(display(
        "{} is one of {names} names of the same file (hard links), and the others would keep the old one: remove them \
         first, or make a copy",
        path.display()
    ))]
    Links { path: PathBuf, names: u64 },
    #[snafu(display("{} has snapshots of its own, which would be lost", path.display()))]
    Snapshots { path: PathBuf },
    #[snafu(display("cannot read the disk at {offset}"))]
    CopyRead { offset: u64, source: io::Error },
    #[snafu(display("the copy was stopped"))]
    CopyStopped,
    #[snafu(display("the disk holds more than the {limit} bytes that there is room for"))]
    CopyTooLarge { limit: u64 },
    #[snafu(display("cannot check {}", path.display()))]
    Check { path: PathBuf, source: CheckError },
}
