//! The root file system: wait for its device, mount it, move into it, free what was there before.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};
use vmm_protocol::{Overlay, Root};

use super::Fatal;

/// Where the root is mounted before it becomes the root.
const NEW_ROOT: &str = "/root.new";

/// A device that the kernel has not found by then is not there.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a root that is only read is mounted beneath what is written, and where that is.
const LOWER: &str = "/root.lower";
const UPPER: &str = "/root.upper";

/// In a file system that has other things in it too, what is written to an overlay lies here.
const OVERLAY: &str = ".vmm-overlay";

/// Waits for the root's devices to appear in `/dev`.
pub(super) fn wait_for_devices(root: &Root) -> Result<(), Fatal> {
    wait_for_device(&root.device)?;
    match &root.overlay {
        Some(Overlay::Disk { device }) => wait_for_device(device),
        Some(Overlay::Memory) | None => Ok(()),
    }
}

fn wait_for_device(name: &str) -> Result<(), Fatal> {
    let device = Path::new(name);
    let failed = |error: io::Error| Fatal::new(format!("wait for the root device {name}"), error);
    if device.exists() {
        return Ok(());
    }
    let folder = device.parent().unwrap_or(Path::new("/dev"));
    let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
    add_watch(&watch, folder, WatchFlags::CREATE).map_err(|errno| failed(errno.into()))?;
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    // It may have come before the watch.
    while !device.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the kernel found no such device")));
        }
        let left = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        // What was created does not matter: the device is looked for again.
        let mut events = [0; 4096];
        while rustix::io::read(&watch, &mut events).is_ok_and(|length| length > 0) {}
    }
    Ok(())
}

/// Mounts the root and makes it ours.
pub(super) fn enter(root: &Root) -> Result<(), Fatal> {
    let failed = |what: &str, error: io::Error| {
        let what = format!("{what} the root {} ({})", root.device, root.file_system);
        Fatal::new(what, error)
    };
    fs::create_dir_all(NEW_ROOT).map_err(|error| failed("make a place for", error))?;
    match &root.overlay {
        None => mount_device(root, &root.device, NEW_ROOT, root.read_only)
            .map_err(|error| failed("mount", error))?,
        Some(overlay) => lay_over(root, overlay).map_err(|error| failed("lay an overlay over", error))?,
    }
    move_into().map_err(|error| failed("enter", error))
}

fn mount_device(root: &Root, device: &str, target: &str, read_only: bool) -> io::Result<()> {
    let (mut flags, data) = parse_options(&root.options);
    flags.set(MountFlags::RDONLY, read_only);
    let mount_with = |data: String| {
        let data = CString::new(data)?;
        io::Result::Ok(mount(device, target, &root.file_system, flags, data.as_c_str())?)
    };
    match mount_with(data.clone()) {
        // A journal is not replayed to a disk that cannot be written; without it, what was synced is there.
        Err(error) if read_only && error.raw_os_error() == Some(Errno::ROFS.raw_os_error()) => {
            let separator = if data.is_empty() { "" } else { "," };
            mount_with(format!("{data}{separator}noload"))
        }
        result => result,
    }
}

/// Mounts the root to be read, and over it what takes all that is written.
fn lay_over(root: &Root, overlay: &Overlay) -> io::Result<()> {
    for place in [LOWER, UPPER] {
        fs::create_dir_all(place)?;
    }
    mount_device(root, &root.device, LOWER, true)?;
    let folder = match overlay {
        Overlay::Memory => {
            mount("tmpfs", UPPER, "tmpfs", MountFlags::empty(), c"mode=755")?;
            Path::new(UPPER).to_owned()
        }
        Overlay::Disk { device } => {
            mount_device(root, device, UPPER, false)?;
            if root.grow {
                grow_file_system(device, UPPER)?;
            }
            Path::new(UPPER).join(OVERLAY)
        }
    };
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    for place in [&upper, &work] {
        fs::create_dir_all(place)?;
    }
    // What is seen at the root is the upper folder's.
    for place in [&folder, &upper] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
    }
    let options = format!("lowerdir={LOWER},upperdir={},workdir={}", upper.display(), work.display());
    Ok(mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), CString::new(options)?.as_c_str())?)
}

/// Gives the root file system the whole of its device. Called when it is the root; what lies over another one has grown
/// before.
pub(super) fn grow(root: &Root) -> io::Result<()> {
    match root.overlay {
        None => grow_file_system(&root.device, "/"),
        Some(_) => Ok(()),
    }
}

fn grow_file_system(device: &str, mounted: &str) -> io::Result<()> {
    let mut device = fs::File::open(device)?;
    let size = io::Seek::seek(&mut device, io::SeekFrom::End(0))?;
    let root = fs::File::open(mounted)?;
    let block_size = u64::try_from(rustix::fs::fstatfs(&root)?.f_bsize).unwrap_or(0).max(1);
    vmm_sys::ext4::resize(&root, size / block_size)
}

fn move_into() -> io::Result<()> {
    let devices = Path::new(NEW_ROOT).join("dev");
    if !devices.exists() {
        fs::create_dir(&devices)?;
    }
    mount_move("/dev", &devices)?;
    free_initial_files();
    chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// The initial file system lies in memory, and nobody will ever see it again. Programs and modules that are open stay.
fn free_initial_files() {
    let Ok(device) = fs::symlink_metadata("/").map(|root| root.dev()) else { return };
    remove_beneath(Path::new("/"), device);
}

fn remove_beneath(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // What is mounted there, the new root above all, is not ours to remove.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            remove_beneath(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

/// The options that are the kernel's, and those that are the file system's.
fn parse_options(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        flags |= match option {
            "dirsync" => MountFlags::DIRSYNC,
            "noatime" => MountFlags::NOATIME,
            "nodev" => MountFlags::NODEV,
            "nodiratime" => MountFlags::NODIRATIME,
            "noexec" => MountFlags::NOEXEC,
            "nosuid" => MountFlags::NOSUID,
            "relatime" => MountFlags::RELATIME,
            "strictatime" => MountFlags::STRICTATIME,
            "sync" => MountFlags::SYNCHRONOUS,
            other => {
                data.push(other);
                MountFlags::empty()
            }
        };
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_to_whom_they_belong() {
        let (flags, data) = parse_options("noatime,commit=30,,nodev,data=ordered");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NODEV);
        assert_eq!(data, "commit=30,data=ordered");
        assert_eq!(parse_options(""), (MountFlags::empty(), String::new()));
    }
}
