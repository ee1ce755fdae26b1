//! The shared libraries that the laboratory takes along: its own system has others, and none of this machine's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};

/// The libraries that these programs need and the loader itself, each by the path at which a program looks for it.
pub(super) fn of<'a>(programs: impl IntoIterator<Item = &'a Path>) -> Outcome<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        let listed = laboratory::libraries(program).map_err(|error| {
            Failure::new(format!("cannot list the libraries of {}: {error}", program.display()))
        })?;
        libraries.extend(listed);
    }
    Ok(libraries)
}

/// A path without the root before it, to be put beneath another folder.
pub(super) fn beneath_root(path: &Path) -> Option<PathBuf> {
    path.strip_prefix("/").ok().map(Path::to_path_buf)
}
