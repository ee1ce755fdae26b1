//! The file systems that lie on disks and are written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use rustix::fs::{OFlags, syncfs};
use vmm_sys::freeze;

use super::FileSystem;
use crate::health::unescape;

/// One that is mounted.
struct Mounted {
    mount_point: String,
    file: File,
}

impl FileSystem for Mounted {
    fn name(&self) -> &str {
        &self.mount_point
    }

    fn is_needed(&self) -> bool {
        self.mount_point == "/"
    }

    fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.file)?)
    }

    fn freeze(&self) -> io::Result<()> {
        freeze::freeze(&self.file)
    }

    fn thaw(&self) -> io::Result<()> {
        freeze::thaw(&self.file)
    }
}

/// All that there are, in the order in which they were mounted.
pub(crate) fn mounted() -> io::Result<Vec<Box<dyn FileSystem>>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<Box<dyn FileSystem>> = Vec::new();
    for Mount { mount_point, device } in writable(&mounts) {
        // It is only asked about, and no pipe that is mounted there is waited for.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let Ok(file) = File::options().read(true).custom_flags(flags).open(&mount_point) else { continue };
        // Something else may be mounted over it. Where the numbers are the file system's own, they are not compared.
        let there = file.metadata()?.dev();
        let is_it = device.0 == 0 || there == rustix::fs::makedev(device.0, device.1);
        if is_it {
            found.push(Box::new(Mounted { mount_point, file }));
        }
    }
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    mount_point: String,
    device: (u32, u32),
}

/// Every file system on a device once, however often parts of it are mounted (proc_pid_mountinfo(5)).
fn writable(mounts: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mounts.lines() {
        let Some((place, what)) = line.split_once(" - ") else { continue };
        let place: Vec<&str> = place.split(' ').collect();
        let what: Vec<&str> = what.split(' ').collect();
        let (&[_, _, numbers, _, mount_point, ..], &[_, source, options, ..]) = (&place[..], &what[..])
        else {
            continue;
        };
        let device = numbers
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
        let Some(device) = device else { continue };
        // Some that lie on disks have numbers of their own, as those in memory do.
        let on_disk = device.0 != 0 || source.starts_with("/dev/");
        let read_only = options.split(',').any(|option| option == "ro");
        if on_disk && !read_only && !found.iter().any(|mount| mount.device == device) {
            found.push(Mount { mount_point: unescape(mount_point), device });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_on_disks_that_are_written_are_found_once() {
        let mounts = "\
1 0 0:2 / / rw - rootfs none rw
20 1 254:0 / / rw,relatime - ext4 /dev/vda rw
21 20 0:19 / /proc rw,nosuid - proc proc rw
22 20 0:5 / /dev rw - devtmpfs dev rw,size=100k
23 20 254:0 /home /srv/a\\040b ro,relatime shared:3 - ext4 /dev/vda rw
24 20 254:16 / /mnt ro,relatime - ext4 /dev/vdb ro
25 20 7:0 / /loop\\040one rw - ext4 /dev/loop0 rw,errors=continue
26 20 0:40 / /data rw - btrfs /dev/vdc rw,space_cache
garbage
27 20 x:y / /odd rw - ext4 /dev/vdd rw
";
        let found: Vec<_> =
            writable(mounts).into_iter().map(|mount| (mount.mount_point, mount.device)).collect();
        let expected = [("/", (254, 0)), ("/loop one", (7, 0)), ("/data", (0, 40))];
        assert_eq!(found, expected.map(|(place, device)| (place.to_owned(), device)));
    }

    #[test]
    fn those_of_this_machine_can_be_asked_about() {
        let found = mounted().unwrap();
        assert!(found.iter().all(|file_system| !file_system.name().is_empty()));
    }
}
