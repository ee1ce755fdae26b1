//! The file system that QEMU sees: its program, libraries, firmware, kernel and initial file system, all read-only.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount, mount_bind, mount_change, unmount};

use crate::engine::software::plan::Plan;

/// Where QEMU finds its firmware.
pub(super) const FIRMWARE_FOLDER: &str = "/firmware";

/// Where the host's file system is while the new one is filled.
const OLD: &str = "/old";

/// What every dynamic loader reads if it is there: where libraries lie.
const LOADER_INDEXES: [&str; 2] = ["/etc/ld.so.cache", "/etc/ld-musl-x86_64.path"];

/// Which files of the host go where.
pub(super) struct Sources {
    /// Places without links in the host's file system, and where QEMU's finds them.
    binds: Vec<(PathBuf, PathBuf)>,
}

impl Sources {
    /// Resolves everything while the host's file system is in place.
    pub(super) fn find(plan: &Plan) -> Result<Self, String> {
        if plan.libraries.is_empty() && !plan.is_static {
            return Err("it is not known which libraries QEMU needs (is it a script?)".to_owned());
        }
        let indexes = LOADER_INDEXES.iter().map(PathBuf::from).filter(|path| path.is_file());
        let at_its_place = std::iter::once(plan.program.clone()).chain(plan.libraries.iter().cloned());
        let mut binds = Vec::new();
        for path in at_its_place.chain(indexes) {
            let resolved = path.canonicalize();
            let resolved = resolved.map_err(|error| format!("cannot find {}: {error}", path.display()))?;
            binds.push((resolved, path));
        }
        for path in &plan.firmware {
            let resolved = path.canonicalize();
            let resolved = resolved.map_err(|error| format!("cannot find {}: {error}", path.display()))?;
            let Some(name) = path.file_name() else { return Err("firmware without a name".to_owned()) };
            binds.push((resolved, Path::new(FIRMWARE_FOLDER).join(name)));
        }
        Ok(Self { binds })
    }
}

/// The paths of the plan's files within.
pub(super) fn paths(plan: &Plan) -> Vec<String> {
    (0..plan.files.len()).map(|index| format!("/file{index}")).collect()
}

/// Enters the file system. The inner error: it cannot be made here, and nothing has changed. The outer: it failed
/// half way.
pub(super) fn enter(
    plan: &Plan,
    sources: &Sources,
    descriptors: &[OwnedFd],
    root: bool,
) -> io::Result<Result<(), String>> {
    let files: Vec<&OwnedFd> = descriptors.iter().take(plan.files.len()).collect();
    if let Err(reason) = change_root(&files, &plan.program) {
        return Ok(Err(reason));
    }
    for (source, target) in &sources.binds {
        bind(source, target).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot show {} to QEMU: {error}", source.display()))
        })?;
    }
    for (descriptor, target) in files.iter().zip(paths(plan)) {
        show_file(descriptor, Path::new(&target), root)?;
    }
    unmount(OLD, UnmountFlags::DETACH)?;
    std::fs::remove_dir(OLD)?;
    Ok(vmm_sys::mounts::restrict_tree(c"/")
        .map_err(|error| format!("its files cannot be made read-only (needs Linux 5.12): {error}")))
}

/// Puts an empty file system in the place of the host's, which goes to [`OLD`].
fn change_root(files: &[&OwnedFd], program: &Path) -> Result<(), String> {
    let cannot = |what: &str, errno: rustix::io::Errno| format!("cannot {what}: {errno}");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| cannot("make the mounts private", errno))?;
    // Tried before there is no way back.
    mount_bind(program, program).map_err(|errno| cannot("bind a file", errno))?;
    // Any folder will do: it is covered only until the new root is entered.
    let Some(place) = ["/tmp", "/var", "/usr"].into_iter().find(|place| Path::new(place).is_dir()) else {
        return Err("there is no folder to mount on".to_owned());
    };
    let copies: u64 = files
        .iter()
        .filter_map(|&file| rustix::fs::fstat(file).ok())
        .map(|stat| stat.st_size.unsigned_abs())
        .sum();
    let options = format!("mode=0755,nr_inodes=2048,size={}", copies + (1 << 20));
    let options = CString::new(options).map_err(|error| error.to_string())?;
    mount("vmm-jail", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|errno| cannot("mount an empty file system", errno))?;
    let old = Path::new(place).join("old");
    let moved = std::fs::create_dir(&old)
        .map_err(|error| format!("cannot make a folder: {error}"))
        .and_then(|()| {
            rustix::process::pivot_root(place, &old).map_err(|errno| cannot("change the root", errno))
        })
        .and_then(|()| std::env::set_current_dir("/").map_err(|error| error.to_string()));
    if moved.is_err() {
        // What lies beneath it must be seen again.
        let _ = unmount(place, UnmountFlags::DETACH);
    }
    moved
}

fn in_old(path: &Path) -> PathBuf {
    Path::new(OLD).join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows a file of the host at a place within.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(target)?;
    Ok(mount_bind(in_old(source), target)?)
}

/// Shows an open file at a place within: bound where it has a name and can be read by QEMU's user, else copied.
fn show_file(file: &OwnedFd, target: &Path, root: bool) -> io::Result<()> {
    let wanted = rustix::fs::fstat(file)?;
    // Root becomes nobody, who may read only what all may read.
    if !root || wanted.st_mode & 0o004 != 0 {
        let name = format!("{OLD}/proc/self/fd/{}", file.as_raw_fd());
        if let Ok(path) = std::fs::read_link(name)
            && path.is_absolute()
            && bind(&path, target).is_ok()
        {
            let shown = target.metadata()?;
            if (shown.dev(), shown.ino()) == (wanted.st_dev, wanted.st_ino) {
                return Ok(());
            }
            // Another file has taken its name meanwhile.
            unmount(target, UnmountFlags::DETACH)?;
        }
    }
    let mut copy = File::create(target)?;
    copy_all(file, &mut copy)?;
    copy.set_permissions(std::fs::Permissions::from_mode(0o444))
}

/// Where there is no file system of its own: the plan's files by their descriptors, which QEMU inherits.
pub(super) fn descriptor_paths(plan: &Plan, descriptors: &[OwnedFd], root: bool) -> io::Result<Vec<String>> {
    let mut paths = Vec::new();
    for file in descriptors.iter().take(plan.files.len()) {
        let readable = !root || rustix::fs::fstat(file)?.st_mode & 0o004 != 0;
        let inherited = if readable { file.try_clone()? } else { memory_copy(file)? };
        // Opened by this name, a file is checked against the opener's rights, not reached through folders.
        paths.push(format!("/proc/self/fd/{}", inherited.as_raw_fd()));
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty())?;
        // Open until QEMU has it, which is until this process ends.
        std::mem::forget(inherited);
    }
    Ok(paths)
}

fn memory_copy(file: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = rustix::fs::memfd_create("vmm-file", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut copy = File::from(copy);
    copy_all(file, &mut copy)?;
    Ok(copy.into())
}

fn copy_all(file: &OwnedFd, copy: &mut File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::from(file.try_clone()?);
    // By position: the offset of the descriptor is shared with whoever else has it.
    let mut buffer = vec![0u8; 1 << 20];
    let mut offset = 0u64;
    loop {
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Ok(());
        }
        io::Write::write_all(copy, &buffer[..count])?;
        offset += count as u64;
    }
}
