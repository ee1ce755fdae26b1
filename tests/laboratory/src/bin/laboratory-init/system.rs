//! From an initial file system to a whole one: Alpine's root, which is only read, with memory over it; what the kernel
//! shows; KVM.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use laboratory::{IMAGES, LIBRARIES, PROGRAMS, ROOT_DISK};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use crate::failure::{Context, Failure, Result};
use crate::kvm;

/// The word that has us execute a program in another root.
pub(crate) const BENEATH: &str = "beneath";

/// What the disk with the root needs, each behind what it needs itself. What a kernel has built in is not there.
const MODULES: [&str; 5] = ["virtio_blk", "crc16", "mbcache", "jbd2", "ext4"];

/// Where the parts lie before they are one: Alpine's root, the memory over it, both together.
const BASE: &str = "/base";
const SPACE: &str = "/space";
const WHOLE: &str = "/whole";

/// The images as they came with us, on their way to where they are used.
const ARRIVED_IMAGES: &str = "/images";

/// A `vmm` that came with us to look at the images, on its way, too.
const ARRIVED_VMM: &str = "/vmm";
const VMM: &str = "/lab/vmm";

/// Where its libraries stay: those of the programs under test are usually the same.
const LAB: &str = "/lab";

/// The kernel's own file systems that are there from the start, and the folder that tests use.
const EARLY: [(&str, &str); 4] =
    [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/lab")];

/// Those that come when the root is whole.
const LATE: [(&str, &str); 6] = [
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("debugfs", "/sys/kernel/debug"),
];

/// Makes the system.
pub(crate) fn build() -> Result<()> {
    for (kind, place) in EARLY {
        mount_kind(kind, place)?;
    }
    for name in MODULES {
        load_module(name)?;
    }
    make_folder(BASE)?;
    // Its journal may not be empty; a disk that is only read cannot empty it.
    mount(ROOT_DISK, BASE, "ext4", MountFlags::RDONLY, c"noload").context("mount the root disk")?;
    mount_bind("/proc", format!("{BASE}/proc")).context("show /proc to modprobe")?;
    run(Command::new("/proc/self/exe").args([BENEATH, BASE, "modprobe", "overlay"]))?;

    mount_kind("tmpfs", SPACE)?;
    for folder in ["upper", "work"] {
        make_folder(&format!("{SPACE}/{folder}"))?;
    }
    make_folder(WHOLE)?;
    let layers = format!("lowerdir={BASE},upperdir={SPACE}/upper,workdir={SPACE}/work");
    let layers = CString::new(layers).context("name the layers")?;
    mount("overlay", WHOLE, "overlay", MountFlags::empty(), layers.as_c_str())
        .context("put memory over the root")?;
    move_folder(Path::new(ARRIVED_IMAGES), Path::new(IMAGES)).context("move the images")?;
    move_folder(&Path::new("/").join(LIBRARIES), &Path::new(LAB).join(LIBRARIES))
        .context("move the libraries")?;
    fs::copy(ARRIVED_VMM, VMM).and_then(|_| fs::remove_file(ARRIVED_VMM)).context("move vmm")?;
    enter_whole_root()?;

    for (kind, place) in LATE {
        mount_kind(kind, place)?;
    }
    make_folder(PROGRAMS)?;
    link_libraries(LAB)?;
    rustix::system::sethostname(b"laboratory").context("set the name of the host")?;
    run(Command::new("/sbin/ip").args(["link", "set", "lo", "up"]))?;
    kvm::load()?;
    verify_images()
}

/// Has the images looked at: their checksums take seconds here, and that they were good is remembered. It is done once
/// for all runs of a laboratory that is frozen; a later `vmm` that remembers in another way looks again.
fn verify_images() -> Result<()> {
    if let Err(failure) = run(Command::new(VMM).args(["pull", "--quiet", "alpine"]).env("VMM_HOME", IMAGES)) {
        // What is tested may well be broken: each run then looks for itself.
        eprintln!("laboratory-init: {failure}");
    }
    fs::remove_file(VMM).context("remove vmm")
}

/// Makes the whole root the only one, as switch_root(8) does: a mere chroot(2) would refuse user namespaces to tests.
fn enter_whole_root() -> Result<()> {
    for (_, place) in EARLY {
        let new = format!("{WHOLE}{place}");
        make_folder(&new)?;
        mount_move(place, &new).context(&format!("move {place}"))?;
    }
    let enter = || -> rustix::io::Result<()> {
        rustix::process::chdir(WHOLE)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    enter().context("enter the root")
}

fn mount_kind(kind: &str, place: &str) -> Result<()> {
    make_folder(place)?;
    // The folder for homes is as large as memory; others have what the kernel thinks right.
    let options: &CStr = match place {
        "/lab" => c"size=100%,mode=755",
        "/tmp" | "/dev/shm" => c"mode=1777",
        "/dev/pts" => c"ptmxmode=0666",
        _ => c"",
    };
    mount(kind, place, kind, MountFlags::empty(), options).context(&format!("mount {kind} at {place}"))
}

fn make_folder(path: &str) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).context(&format!("make {path}"))
}

fn load_module(name: &str) -> Result<()> {
    let path = format!("/modules/{name}.ko");
    match File::open(&path) {
        Ok(file) => match rustix::system::finit_module(file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error).context(&format!("load {path}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(&format!("open {path}")),
    }
}

/// Copies with permissions and removes behind itself: both lie in memory.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let (source, target) = (entry?.path(), to.join(""));
        let target = target.join(source.file_name().unwrap_or_default());
        let metadata = fs::symlink_metadata(&source)?;
        if metadata.is_dir() {
            move_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
            fs::remove_file(&source)?;
        }
    }
    fs::set_permissions(to, PermissionsExt::from_mode(fs::metadata(from)?.permissions().mode()))?;
    fs::remove_dir(from)
}

/// Puts the libraries in a folder to where programs look for them, as far as nothing is there.
pub(crate) fn link_libraries(folder: &str) -> Result<()> {
    link_missing(&Path::new(folder).join(LIBRARIES), Path::new("/")).context("link the libraries")
}

fn link_missing(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            fs::create_dir_all(&target)?;
            link_missing(&source, &target)?;
        } else if !target.exists() {
            std::os::unix::fs::symlink(&source, &target)?;
        }
    }
    Ok(())
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context(&format!("start {command:?}"))?;
    if status.success() { Ok(()) } else { Err(Failure::new(&format!("{command:?} failed: {status}"))) }
}

/// Executes a program in another root; comes back only if it cannot.
pub(crate) fn execute_beneath(root: &str, command: &[String]) -> Failure {
    let enter = rustix::process::chroot(root).and_then(|()| rustix::process::chdir("/"));
    if let Err(failure) = enter.context(&format!("enter {root}")) {
        return failure;
    }
    let Some((program, arguments)) = command.split_first() else { return Failure::new("no command") };
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let error = Command::new(program).args(arguments).env("PATH", path).exec();
    Failure::new(&format!("cannot execute {program}: {error}"))
}
