//! Why a tree was not packed or unpacked.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use snafu::Snafu;

/// Why a tree was not packed or unpacked.
#[derive(Debug, Snafu)]
pub enum Error {
    /// A file or folder cannot be read, written or made.
    #[snafu(display("cannot {what} {}", in_a_line(path)))]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not of a kind that can be dealt with, or stands in the way.
    #[snafu(display("{} {why}", in_a_line(path)))]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// The archive has a member that must not be unpacked.
    #[snafu(display("the archive's member {:?} {why}", OsStr::from_bytes(name)))]
    Refused {
        /// Its name in the archive.
        name: Vec<u8>,
        /// Why.
        why: &'static str,
    },
    /// The archive is damaged, or no archive.
    #[snafu(display("the archive cannot be read: {what}"))]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// The archive has more members than it may have.
    #[snafu(display("it has more than {most} files and folders"))]
    TooMany {
        /// How many it may have.
        most: u64,
    },
    /// The stream of the archive's bytes failed.
    #[snafu(display("{source}"))]
    Stream {
        /// How.
        source: io::Error,
    },
}

/// What kind of failure it is, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A file or folder is not there.
    NoSuchFile,
    /// It must not be read, written or made.
    NotPermitted,
    /// There is no room for it.
    NoSpace,
    /// It is of a kind that was not asked for, or stands in the way.
    Unfit,
    /// The archive is damaged, or goes where it must not.
    BadArchive,
    /// The stream failed.
    Stream,
    /// Something else.
    Other,
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Failure::NoSuchFile,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Failure::NotPermitted,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::NoSpace,
                _ => Failure::Other,
            },
            Self::Unfit { .. } => Failure::Unfit,
            Self::Refused { .. } | Self::Damaged { .. } => Failure::BadArchive,
            Self::TooMany { .. } => Failure::Other,
            Self::Stream { .. } => Failure::Stream,
        }
    }

    /// The error with its cause in one line, without the system's number of it.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::File { source, .. } => {
                let cause = source.to_string();
                format!("{self}: {}", cause.split(" (os error").next().unwrap_or_default())
            }
            _ => self.to_string(),
        }
    }
}

/// A path as it is shown: a name may have line feeds in it, and an error is one line.
fn in_a_line(path: &Path) -> String {
    path.display().to_string().replace(char::is_control, "\u{fffd}")
}

/// For `map_err`: what was tried, and on what.
pub(crate) fn trying<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    move |error| Error::File { what, path: path.to_owned(), source: error.into() }
}

pub(crate) fn damaged<T>(what: &'static str) -> Result<T, Error> {
    Err(Error::Damaged { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_the_name() {
        let path = PathBuf::from("new\nline\u{1b}[31m");
        let error = Error::Unfit { path: path.clone(), why: "is a folder" };
        assert_eq!(error.to_string(), "new\u{fffd}line\u{fffd}[31m is a folder");
        let error = trying("read", &path)(io::Error::from_raw_os_error(2));
        assert_eq!(error.line(), "cannot read new\u{fffd}line\u{fffd}[31m: No such file or directory");
    }
}
