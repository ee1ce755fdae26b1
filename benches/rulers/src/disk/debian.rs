//! The guest's system: Debian with its own kernel and `fio`, and a small program in the place of its init.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The release, and what is installed beside the smallest system.
const RELEASE: &str = "trixie";
const PACKAGES: &str = "--include=linux-image-cloud-amd64,fio";

/// The label of its file system, by which the kernel finds it.
pub(crate) const LABEL: &str = "bench";

/// Its first program. It takes jobs from the second serial port, a line each: the disk's PCI slot and what to tell `fio`.
pub(crate) const PROGRAM: &str = "/usr/local/sbin/jobs";
const JOBS: &str = include_str!("jobs.sh");

/// What a guest is started from.
pub(crate) struct System {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disk: PathBuf,
}

/// Makes the system, once.
pub(crate) fn prepare(folder: &Path) -> Result<System, Box<dyn Error>> {
    let folder = folder.join(RELEASE);
    if !folder.exists() {
        let partial = folder.with_extension("partial");
        let _there_or_not = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        make(&partial)?;
        fs::rename(&partial, &folder)?;
    }
    let file = |name| folder.join(name);
    Ok(System { kernel: file("vmlinuz"), initramfs: file("initrd.img"), disk: file("debian.ext4") })
}

fn make(folder: &Path) -> Result<(), Box<dyn Error>> {
    println!("making a Debian disk with fio in {}", folder.display());
    let root = folder.join("root");
    let mut fetch = Command::new("mmdebstrap");
    fetch
        .args(["--quiet", "--variant=minbase", "--format=tar", PACKAGES, RELEASE])
        .arg(folder.join("root.tar"));
    done(&mut fetch)?;
    fs::create_dir(&root)?;
    done(
        Command::new("tar")
            .args(["--exclude=./dev/*", "-xf"])
            .arg(folder.join("root.tar"))
            .arg("-C")
            .arg(&root),
    )?;
    let program = root.join(PROGRAM.trim_start_matches('/'));
    fs::write(&program, JOBS)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    for (of, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        fs::copy(find(&root.join("boot"), of)?, folder.join(name))?;
    }
    let disk = folder.join("debian.ext4");
    done(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-L", LABEL, "-d"])
            .arg(&root)
            .arg(disk)
            .arg("2G"),
    )?;
    fs::remove_dir_all(&root)?;
    fs::remove_file(folder.join("root.tar"))?;
    Ok(())
}

/// The file in a folder whose name begins so.
fn find(folder: &Path, beginning: &str) -> Result<PathBuf, Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(beginning) {
            return Ok(entry.path());
        }
    }
    Err(format!("there is no {beginning}… in {}", folder.display()).into())
}

fn done(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}
