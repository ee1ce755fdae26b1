//! The kernel of an import: the one that the user names, or the newest on the disk that has its modules there.

use std::cmp::Ordering;
use std::path::Path;

use snafu::{OptionExt, ResultExt};

use super::super::error::{ImportSnafu, KernelSnafu, Result, StorageSnafu};
use super::super::files;
use super::super::kernel_modules::{ModuleFiles, modules_of};
use super::super::root::RootFileSystem;
use super::Import;
use super::modules::ModuleSource;
use super::system::System;
use crate::boot::Kernel;

/// A kernel file as distributions ship it is smaller.
const LARGEST_FILE: u64 = 256 << 20;
/// So many names in a folder are looked at, and so many kernels tried.
const MOST_NAMES: usize = 4096;
const MOST_KERNELS: usize = 16;
/// How the names of kernels begin.
const BEGINNINGS: [&str; 6] = ["vmlinuz", "vmlinux", "bzImage", "Image", "kernel", "linux"];

/// The kernel that will boot.
pub(super) struct FoundKernel {
    pub(super) kernel: Kernel,
    /// What `uname -r` will say.
    pub(super) release: String,
    /// Where it was, for people.
    pub(super) place: String,
}

/// Finds the kernel. With a source of modules, whether the disk has them does not matter.
pub(super) fn find(import: &Import, system: &System, modules: Option<&ModuleSource>) -> Result<FoundKernel> {
    if let Some(path) = &import.kernel {
        let storage = StorageSnafu { action: "read", path };
        let contents = files::read(path, LARGEST_FILE)?;
        let contents = contents.ok_or_else(|| std::io::ErrorKind::NotFound.into()).context(storage)?;
        let place = path.display().to_string();
        return examine(import, system, modules, &contents, place)?.map_err(|why| refused(import, why));
    }
    let mut first_refusal = None;
    for (file_system, path) in candidates(system)?.into_iter().take(MOST_KERNELS) {
        let contents = file_system.read(&path, LARGEST_FILE)?;
        match examine(import, system, modules, &contents, path.clone()) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => first_refusal = first_refusal.or(Some(why)),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                let why = format!("{error}{}", cause.unwrap_or_default());
                first_refusal = first_refusal.or(Some(why));
            }
        }
    }
    let none = "it has no kernel in /boot or /lib/modules: name one with --kernel, and what holds its modules with \
                --modules or --initrd";
    Err(refused(import, first_refusal.unwrap_or_else(|| none.to_owned())))
}

fn refused(import: &Import, why: String) -> super::super::error::ImageError {
    ImportSnafu { path: &import.file, why }.build()
}

/// Whether a file is a kernel for the machines that have its modules. The inner error is what is missing.
fn examine(
    import: &Import,
    system: &System,
    modules: Option<&ModuleSource>,
    contents: &[u8],
    place: String,
) -> Result<Result<FoundKernel, String>> {
    let kernel = Kernel::from_file_contents(contents, import.arch).context(KernelSnafu { image: &place })?;
    let why = || format!("the kernel {place} does not tell its release");
    let release = kernel.release().with_context(|| ImportSnafu { path: &import.file, why: why() })?;
    let folder = modules_of(&release);
    let there = match modules {
        Some(modules) => modules.has(&folder)?,
        None => system.root.has(&format!("{folder}/modules.dep"))?,
    };
    let missing = || {
        let source = modules.map_or("the disk", |_| "what was named");
        format!(
            "{source} has no modules for the kernel {release}: name what holds them with --modules or --initrd (an \
             empty folder, if the kernel needs none)"
        )
    };
    Ok(if there { Ok(FoundKernel { kernel, release, place }) } else { Err(missing()) })
}

/// The files that may be kernels, the newest first.
fn candidates(system: &System) -> Result<Vec<(&RootFileSystem, String)>> {
    let mut found = Vec::new();
    let mut look = |file_system, folder: &str, beginnings: &[&str]| -> Result<()> {
        let folder_end = folder.trim_end_matches('/');
        for name in RootFileSystem::files_in(file_system, folder, MOST_NAMES)? {
            if beginnings.iter().any(|beginning| name.starts_with(beginning)) {
                found.push((file_system, format!("{folder_end}/{name}")));
            }
        }
        Ok(())
    };
    look(&system.root, "/boot", &BEGINNINGS)?;
    for other in &system.others {
        look(other, "/", &BEGINNINGS)?;
    }
    for release in system.root.folders_in("/lib/modules", MOST_NAMES)? {
        // Other names there are folders and files of other kinds.
        look(&system.root, &modules_of(&release), &["vmlinuz", "vmlinux"])?;
    }
    // Names that are equal but for the folder stay in the order in which they were found.
    found.sort_by(|(_, one), (_, other)| compare(version_of(other), version_of(one)));
    Ok(found)
}

/// The part of a kernel's path that tells its version: what follows the first `-`, or the folder's name.
fn version_of(path: &str) -> &str {
    let path = Path::new(path);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    match name.split_once('-') {
        // What is kept for a broken system is the last to boot.
        Some((_, version)) if version.contains("rescue") => "",
        Some((_, version)) => version,
        None if folder.starts_with(|first: char| first.is_ascii_digit()) => folder,
        None => "",
    }
}

/// Compares versions as people read them: runs of digits as numbers, everything else as text.
fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (runs(one), runs(other));
    loop {
        let ordering = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (one.parse::<u64>(), other.parse::<u64>()) {
                (Ok(one), Ok(other)) => one.cmp(&other),
                (Ok(_), Err(_)) => Ordering::Greater,
                (Err(_), Ok(_)) => Ordering::Less,
                (Err(_), Err(_)) => one.cmp(other),
            },
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
}

/// The runs of digits and of letters in a version, without what stands between them.
fn runs(version: &str) -> impl Iterator<Item = &str> {
    let mut rest = version;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = rest.starts_with(|c: char| c.is_ascii_digit());
        let other = |c: char| !c.is_ascii_alphanumeric() || c.is_ascii_digit() != digits;
        let (run, behind) = rest.split_at(rest.find(other).unwrap_or(rest.len()));
        rest = behind;
        (!run.is_empty()).then_some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_comes_first() {
        let mut paths = [
            "/boot/vmlinuz-0-rescue-4f3a",
            "/boot/vmlinuz-6.9.12-amd64",
            "/boot/vmlinuz-6.12.9-1-amd64",
            "/boot/vmlinuz-6.12.117+deb13-cloud-amd64",
            "/lib/modules/6.13.1/vmlinuz",
            "/boot/vmlinuz",
        ];
        paths.sort_by(|one, other| compare(version_of(other), version_of(one)));
        let expected = ["/lib/modules/6.13.1/vmlinuz", "/boot/vmlinuz-6.12.117+deb13-cloud-amd64"];
        assert_eq!(paths[..2], expected);
        assert_eq!(paths[2..4], ["/boot/vmlinuz-6.12.9-1-amd64", "/boot/vmlinuz-6.9.12-amd64"]);
    }

    #[test]
    fn versions_are_compared_as_people_read_them() {
        for (one, other) in
            [("6.9", "6.12"), ("6.1", "6.1.2"), ("6.1-rc2", "6.1.0"), ("", "1"), ("5-a", "5-b")]
        {
            assert_eq!(compare(one, other), Ordering::Less, "{one} {other}");
        }
        assert_eq!(compare("6.1.0", "6.1.0"), Ordering::Equal);
    }
}
