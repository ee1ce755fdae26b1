//! The disk with the programs under test: what is built anew rides on it, so that the laboratory itself need not be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kept::{keep_last_used, make_folder, remove_if_there, touch};
use crate::command;
use crate::failure::{Failure, Outcome};

/// The size of the disk, the same for each: a laboratory that was frozen has seen it. Most of it is a hole.
pub(super) const SIZE: &str = "2G";

/// How many disks are kept: others may be about to use theirs. Suites and single runs have different ones.
const KEPT: usize = 4;

/// The disk with these contents (names on it, files here), made if it is not there.
pub(super) fn disk(folder: &Path, content: &[(PathBuf, PathBuf)]) -> Outcome<PathBuf> {
    make_folder(folder)?;
    let digest = digest(content)?;
    let disk = folder.join(format!("{digest:016x}.ext4"));
    let failed = |error: io::Error| Failure::new(format!("cannot make {}: {error}", disk.display()));
    if disk.is_file() {
        touch(&disk)?;
        return Ok(disk);
    }
    let stage = folder.join("stage");
    let partial = disk.with_extension("partial");
    let gather = || -> io::Result<()> {
        remove_if_there(&stage)?;
        for (name, source) in content {
            let target = stage.join(name);
            std::fs::create_dir_all(target.parent().unwrap_or(&stage))?;
            // A library's name is often a link to that of its version, which would lead nowhere.
            let source = source.canonicalize()?;
            if std::fs::hard_link(&source, &target).is_err() {
                std::fs::copy(&source, &target)?;
            }
        }
        remove_if_there(&partial)
    };
    gather().map_err(failed)?;
    let mut mke2fs = Command::new("mke2fs");
    // No journal for a disk that is only read.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d"]);
    mke2fs.arg(&stage).arg(&partial).arg(SIZE).env("PATH", path_with_system());
    let output = mke2fs
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("cannot start mke2fs: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("`{}` failed", command::line(&mke2fs))).hint(said));
    }
    std::fs::rename(&partial, &disk).and_then(|()| remove_if_there(&stage)).map_err(failed)?;
    keep_last_used(folder, KEPT).map_err(failed)?;
    Ok(disk)
}

/// What tells one content from another without reading it: cargo writes a file anew when it changes.
fn digest(content: &[(PathBuf, PathBuf)]) -> Outcome<u64> {
    let mut hasher = DefaultHasher::new();
    for (name, source) in content {
        let metadata = source
            .metadata()
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", source.display())))?;
        (name, source, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// The path with the folders of the administrator's programs, which others' paths lack.
fn path_with_system() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
