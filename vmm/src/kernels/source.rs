//! The source of a kernel: a tree, or a tarball that is unpacked.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use snafu::{OptionExt, ResultExt, ensure};

use super::build::{BuildProgress, BuildStep, Steps};
use super::error::{CancelledSnafu, ReadSnafu, Result, SourceSnafu, VersionSnafu};
use super::tools;
use crate::arch::Arch;
use crate::boot::Compression;
use crate::image::Digest;

/// The versions that the fragments are for: another one may have other names for things, or other defaults, and the kernel
/// would lack something that nobody sees before it is needed.
const KNOWN: &str = "6.12";

/// A tree's top `Makefile` has 70 KiB.
const LARGEST_MAKEFILE: u64 = 1 << 20;

/// How much of an archive tells what it is.
const HEAD: u64 = 512;

/// Traces of a build in a tree: another one beside it would find half of its files there.
const TRACES: [&str; 3] = [".config", "include/config", "arch/x86/include/generated"];

/// A source that is unpacked and known.
pub(super) struct Source {
    /// The tree.
    pub(super) tree: PathBuf,
    /// What it is called, for people.
    pub(super) name: String,
    /// Such as 6.12.117.
    pub(super) version: String,
    /// Of the tarball, or of the names and contents of the tree.
    pub(super) sha256: Digest,
}

/// Whether all tools are there for a source like this one, and it is one at all.
pub(super) fn check(path: &Path, arch: Arch) -> Result<()> {
    let metadata = fs::metadata(path).context(ReadSnafu { path })?;
    if metadata.is_dir() {
        tools::check(arch, None)?;
        version_of(path, path)?;
        let trace = TRACES.into_iter().find(|trace| path.join(trace).exists());
        let why = |trace| {
            format!("{trace} is left of a build in it; run `make mrproper` there, or give the tarball")
        };
        return trace.map_or(Ok(()), |trace| SourceSnafu { path, why: why(trace) }.fail());
    }
    ensure!(metadata.is_file(), SourceSnafu { path, why: "it is neither a folder nor a file" });
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).context(ReadSnafu { path })?;
    let packing = match Compression::of(&head) {
        Some(Compression::Gzip) => Some(("gzip", "gzip")),
        Some(Compression::Xz) => Some(("xz", "xz-utils")),
        Some(Compression::Zstd) => Some(("zstd", "zstd")),
        Some(Compression::Bzip2) => Some(("bzip2", "bzip2")),
        Some(Compression::Lz4) => Some(("lz4", "lz4")),
        None => {
            let is_tar = head.get(257..262) == Some(b"ustar");
            ensure!(is_tar, SourceSnafu { path, why: "it is neither a folder nor a tar archive" });
            None
        }
    };
    tools::check(arch, packing)
}

/// Makes a tree of a source. A tarball is unpacked into `folder`, which is not there yet.
pub(super) fn prepare(path: &Path, folder: &Path, steps: &mut Steps<'_>) -> Result<Source> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    steps.begin(BuildStep::Reading)?;
    if path.is_dir() {
        let tree = fs::canonicalize(path).context(ReadSnafu { path })?;
        let version = version_of(&tree, path)?;
        let sha256 = digest_of_tree(&tree, steps.progress)?;
        return Ok(Source { tree, name, version, sha256 });
    }
    let file = File::open(path).context(ReadSnafu { path })?;
    let (sha256, _) = Digest::of_reader(&file, |_| {}).context(ReadSnafu { path })?;
    steps.begin(BuildStep::Unpacking)?;
    fs::create_dir(folder).context(super::error::SystemSnafu { what: "make a folder for the source" })?;
    let mut tar = Command::new("tar");
    // Names that lead out of the folder tar refuses by itself.
    tar.args([
        "--force-local",
        "--extract",
        "--strip-components=1",
        "--no-same-owner",
        "--no-same-permissions",
        "--file",
    ]);
    steps.run(tar.arg(path).arg("--directory").arg(folder), "unpacking the source")?;
    let version = version_of(folder, path)?;
    Ok(Source { tree: folder.to_owned(), name, version, sha256 })
}

/// The version of a tree, if its symbols are known. `path` is what the user named.
fn version_of(tree: &Path, path: &Path) -> Result<String> {
    let makefile = tree.join("Makefile");
    let mut text = String::new();
    let read = File::open(&makefile).and_then(|file| file.take(LARGEST_MAKEFILE).read_to_string(&mut text));
    let foreign = |_: io::Error| SourceSnafu { path, why: "it has no Makefile of Linux's" }.build();
    read.map_err(foreign)?;
    let why = "its Makefile tells no version of Linux";
    let version = parse_version(&text).context(SourceSnafu { path, why })?;
    let is_known = version.strip_prefix(KNOWN).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    ensure!(is_known, VersionSnafu { path, version: &version, known: KNOWN });
    Ok(version)
}

/// Reads the first lines of Linux's `Makefile`: `VERSION = 6`, `PATCHLEVEL = 12`, `SUBLEVEL = 117`.
fn parse_version(makefile: &str) -> Option<String> {
    let number = |key: &str| {
        let mut lines = makefile.lines().take(20).filter_map(|line| line.split_once('='));
        lines.find(|(found, _)| found.trim() == key)?.1.trim().parse::<u16>().ok()
    };
    let (version, level, sub) = (number("VERSION")?, number("PATCHLEVEL")?, number("SUBLEVEL")?);
    Some(format!("{version}.{level}.{sub}"))
}

/// The digest of all names and contents of a tree, but for its history.
fn digest_of_tree(tree: &Path, progress: &dyn BuildProgress) -> Result<Digest> {
    let mut listing = Vec::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        ensure!(!progress.cancelled(), CancelledSnafu);
        let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .context(ReadSnafu { path: &folder })?;
        paths.sort_unstable();
        for path in paths {
            let metadata = fs::symlink_metadata(&path).context(ReadSnafu { path: &path })?;
            let name = path.strip_prefix(tree).unwrap_or(&path).as_os_str().as_bytes();
            if metadata.is_dir() {
                if name != b".git" {
                    folders.push(path);
                }
                continue;
            }
            let contents = if metadata.is_symlink() {
                fs::read_link(&path).map(|target| Digest::of(target.as_os_str().as_bytes()))
            } else {
                File::open(&path).and_then(|file| Digest::of_reader(file, |_| {})).map(|(digest, _)| digest)
            };
            let contents = contents.context(ReadSnafu { path: &path })?;
            listing.extend([name, b"\0", contents.to_string().as_bytes(), b"\n"].concat());
        }
    }
    Ok(Digest::of(&listing))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAKEFILE: &str = "# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\n";

    fn tree(makefile: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Makefile"), makefile).unwrap();
        folder
    }

    fn refusal(path: &Path) -> String {
        let error = version_of(path, path).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "TREE")
    }

    #[test]
    fn a_tree_tells_its_version() {
        let tree = tree(MAKEFILE);
        assert_eq!(version_of(tree.path(), tree.path()).unwrap(), "6.12.117");
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_in_a_line() {
        for (level, version) in [("1", "6.1.117"), ("13", "6.13.117"), ("120", "6.120.117")] {
            let makefile = MAKEFILE.replace("= 12", &format!("= {level}"));
            let expected = format!(
                "TREE is Linux {version}: only 6.12 is known here (Debian's package linux-source-6.12 has it)"
            );
            assert_eq!(refusal(tree(&makefile).path()), expected);
        }
    }

    #[test]
    fn what_is_no_source_is_refused_in_a_line() {
        let other = tree("all:\n\tcc main.c\n");
        assert_eq!(
            refusal(other.path()),
            "TREE is no source of a kernel: its Makefile tells no version of Linux"
        );
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refusal(folder.path()), "TREE is no source of a kernel: it has no Makefile of Linux's");
        let file = folder.path().join("file");
        fs::write(&file, "no archive").unwrap();
        let error = check(&file, Arch::X86_64).unwrap_err().to_string();
        assert!(error.ends_with("it is neither a folder nor a tar archive"), "{error}");
        assert!(check(&folder.path().join("gone"), Arch::X86_64).is_err());
    }

    #[test]
    fn the_digest_of_a_tree_is_that_of_its_names_and_contents() {
        let digest = |tree: &tempfile::TempDir| digest_of_tree(tree.path(), &()).unwrap();
        let (one, other) = (tree(MAKEFILE), tree(MAKEFILE));
        assert_eq!(digest(&one), digest(&other));
        fs::create_dir_all(other.path().join(".git/objects")).unwrap();
        fs::write(other.path().join(".git/objects/x"), "history").unwrap();
        assert_eq!(digest(&one), digest(&other));
        fs::create_dir(other.path().join("kernel")).unwrap();
        fs::write(other.path().join("kernel/fork.c"), "int x;").unwrap();
        assert_ne!(digest(&one), digest(&other));
    }
}
