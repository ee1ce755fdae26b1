//! Finds QEMU, and learns of it what a start needs: version, machines, libraries, firmware folders.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{OptionExt, ResultExt, Snafu, ensure};

use super::install::install_hint;
use super::qemu_cache::QemuCache;
use crate::arch::Arch;

/// The version of a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QemuVersion {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub micro: u32,
}

impl QemuVersion {
    /// The oldest that has what we use: `vhost-user-rng` and `-vsock` with the devices' own features over MMIO,
    /// sealed memfds, and the exact microvm that the boot parameters were measured on.
    pub const MINIMUM: Self = Self { major: 8, minor: 2, micro: 0 };
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl FromStr for QemuVersion {
    type Err = ();

    /// Reads the first line of `--version`: `QEMU emulator version 10.0.2 (Debian …)`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (_, rest) = text.lines().next().unwrap_or_default().split_once("version ").ok_or(())?;
        let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
        let mut parts = number.split('.').map(str::parse::<u32>);
        let mut next = || parts.next().and_then(Result::ok);
        let (major, minor) = (next().ok_or(())?, next().ok_or(())?);
        Ok(Self { major, minor, micro: next().unwrap_or(0) })
    }
}

/// A QEMU that can run our machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// The program, with no symbolic link in its path.
    pub path: PathBuf,
    /// Its version.
    pub version: QemuVersion,
    /// The machines we use that it has: `microvm`, `q35`, `virt`.
    pub machines: Vec<String>,
    /// It was built with its `-sandbox`.
    pub sandbox: bool,
    /// Its dynamic loader and libraries, as the loader names them. Empty: it is static, or they are not known.
    pub libraries: Vec<PathBuf>,
    /// It needs no loader and no libraries.
    pub is_static: bool,
    /// The folders in which it looks for firmware.
    pub firmware_folders: Vec<PathBuf>,
}

/// Why there is no QEMU to use.
#[derive(Debug, Snafu)]
pub enum QemuError {
    /// None was found.
    #[snafu(display("{program} is not installed (looked on the path)"))]
    NotFound {
        /// Its name.
        program: &'static str,
        /// The guest's architecture.
        arch: Arch,
    },
    /// `VMM_QEMU` names something that is no program.
    #[snafu(display("VMM_QEMU names {}, which is no program", path.display()))]
    NotAProgram {
        /// What it names.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It does not run, or says nothing that we understand.
    #[snafu(display("cannot learn the version of QEMU at {}: {reason}", path.display()))]
    Unusable {
        /// The program.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// It is too old.
    #[snafu(display("QEMU at {} is version {version}; vmm needs {} or later", path.display(), QemuVersion::MINIMUM))]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: QemuVersion,
        /// The guest's architecture.
        arch: Arch,
    },
    /// It emulates another architecture, or lacks the machines we use.
    #[snafu(display("QEMU at {} has no machine for {arch} guests", path.display()))]
    NoMachine {
        /// The program.
        path: PathBuf,
        /// The guest's architecture.
        arch: Arch,
    },
}

impl QemuError {
    /// The command that mends it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotFound { arch, .. } | Self::TooOld { arch, .. } => install_hint(*arch),
            Self::NotAProgram { .. } | Self::Unusable { .. } | Self::NoMachine { .. } => {
                "set VMM_QEMU to a working QEMU 8.2 or later for this guest, or unset it to use the one on the path"
                    .to_owned()
            }
        }
    }
}

impl Qemu {
    /// The name of the program for guests of this architecture.
    pub fn program(arch: Arch) -> &'static str {
        match arch {
            Arch::X86_64 => "qemu-system-x86_64",
            Arch::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Finds it where `named` says, else by `VMM_QEMU`, else on the path; and asks it, unless `cache` remembers this
    /// very file.
    pub(super) fn find(arch: Arch, named: Option<&Path>, cache: &QemuCache) -> Result<Self, QemuError> {
        let set = || std::env::var_os("VMM_QEMU").filter(|path| !path.is_empty());
        let named = named.map(|path| path.as_os_str().to_owned()).or_else(set);
        let path = locate(arch, named.as_deref(), std::env::var_os("PATH").as_deref())?;
        let qemu = match cache.recall(&path) {
            Some(qemu) => qemu,
            None => {
                let qemu = inspect(&path)?;
                cache.remember(&qemu);
                qemu
            }
        };
        qemu.fit_for(arch)
    }

    fn fit_for(self, arch: Arch) -> Result<Self, QemuError> {
        let Self { version, .. } = self;
        ensure!(version >= QemuVersion::MINIMUM, TooOldSnafu { path: self.path, version, arch });
        let wanted: &[&str] = match arch {
            Arch::X86_64 => &["microvm", "q35"],
            Arch::Arm64 => &["virt"],
        };
        let has_machine = self.machines.iter().any(|machine| wanted.contains(&machine.as_str()));
        ensure!(has_machine, NoMachineSnafu { path: self.path, arch });
        Ok(self)
    }

    /// Whether it has this machine.
    pub(super) fn has_machine(&self, name: &str) -> bool {
        self.machines.iter().any(|machine| machine == name)
    }
}

/// Where the program lies, without links.
fn locate(arch: Arch, named: Option<&OsStr>, search: Option<&OsStr>) -> Result<PathBuf, QemuError> {
    let program = Qemu::program(arch);
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return executable(&path).context(NotAProgramSnafu { path });
    }
    let folders = search.into_iter().flat_map(std::env::split_paths);
    folders
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find_map(|path| executable(&path).ok())
        .context(NotFoundSnafu { program, arch })
}

fn executable(path: &Path) -> io::Result<PathBuf> {
    let path = path.canonicalize()?;
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    rustix::fs::access(&path, rustix::fs::Access::EXEC_OK)?;
    Ok(path)
}

/// Asks QEMU itself. Takes some ten milliseconds per question, so the answers are remembered.
fn inspect(path: &Path) -> Result<Qemu, QemuError> {
    let unusable = |reason: String| QemuError::Unusable { path: path.to_owned(), reason };
    let version_output = run(path, &["--version"]).map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&version_output.stdout).into_owned();
    let version = text.parse().map_err(|()| {
        let said = if text.trim().is_empty() {
            String::from_utf8_lossy(&version_output.stderr)
        } else {
            text.into()
        };
        unusable(format!("it says {:?}", said.trim().chars().take(200).collect::<String>()))
    })?;
    let machines = run(path, &["-machine", "help"]).map_err(|error| unusable(error.to_string()))?;
    let machines = String::from_utf8_lossy(&machines.stdout);
    // A name may be an alias of a versioned machine, then it stands first in a line all the same.
    let machines = machines.lines().filter_map(|line| line.split_whitespace().next());
    let machines =
        machines.filter(|name| ["microvm", "q35", "virt"].contains(name)).map(str::to_owned).collect();
    // `-sandbox` is parsed before `--version` is answered, and refused by a QEMU that was built without it.
    let sandbox = run(path, &["-sandbox", "on", "--version"]).is_ok_and(|output| output.status.success());
    let folders = run(path, &["-L", "help"]).map(|output| lines_as_paths(&output.stdout)).unwrap_or_default();
    let linkage = linkage(path);
    Ok(Qemu {
        path: path.to_owned(),
        version,
        machines,
        sandbox,
        libraries: libraries(path, &linkage).unwrap_or_default(),
        is_static: linkage == Linkage::Static,
        firmware_folders: folders.into_iter().filter(|folder| folder.is_absolute()).collect(),
    })
}

fn lines_as_paths(text: &[u8]) -> Vec<PathBuf> {
    String::from_utf8_lossy(text).lines().map(PathBuf::from).collect()
}

/// The dynamic loader and all libraries that it would load, asked of the loader itself.
fn libraries(program: &Path, linkage: &Linkage) -> Option<Vec<PathBuf>> {
    let Linkage::Dynamic { loader } = linkage else { return None };
    let output = run(loader, &["--list".as_ref(), program.as_os_str()]).ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // "libz.so.1 => /lib/libz.so.1 (0x…)", and the loader itself without an arrow.
    let paths = text.lines().filter_map(|line| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path);
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path).trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    let mut paths: Vec<PathBuf> = std::iter::once(loader.clone()).chain(paths).collect();
    paths.sort();
    paths.dedup();
    Some(paths)
}

/// How a program comes by its libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Linkage {
    /// It has them within.
    Static,
    /// A loader brings them.
    Dynamic {
        /// The loader.
        loader: PathBuf,
    },
    /// It is no program that we can read, perhaps a script.
    Unknown,
}

/// Looks for the ELF segment that names the dynamic loader (`PT_INTERP`).
fn linkage(program: &Path) -> Linkage {
    try_linkage(program).unwrap_or(Linkage::Unknown)
}

fn try_linkage(program: &Path) -> Option<Linkage> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(program).ok()?;
    let mut header = [0u8; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    // 64-bit, little-endian: what all our hosts run.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (table, entry_size, count) = (word(32), u64::from(half(54)), u64::from(half(56)));
    for index in 0..count.min(64) {
        let mut entry = [0u8; 56];
        file.read_exact_at(&mut entry, table.checked_add(index * entry_size)?).ok()?;
        let entry_word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap_or_default());
        const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
        if entry[..4] == PT_INTERP {
            let mut name = vec![0u8; usize::try_from(entry_word(32).min(4096)).ok()?];
            file.read_exact_at(&mut name, entry_word(8)).ok()?;
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            return Some(Linkage::Dynamic { loader: PathBuf::from(OsStr::from_bytes(&name[..end])) });
        }
    }
    Some(Linkage::Static)
}

fn run(program: &Path, arguments: &[impl AsRef<OsStr>]) -> io::Result<Output> {
    Command::new(program).args(arguments).stdin(Stdio::null()).output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let parse = |text: &str| text.parse::<QemuVersion>();
        let debian = parse("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright").unwrap();
        assert_eq!(debian, QemuVersion { major: 10, minor: 0, micro: 2 });
        assert_eq!(
            parse("QEMU emulator version 9.2\n").unwrap(),
            QemuVersion { major: 9, minor: 2, micro: 0 }
        );
        assert_eq!(parse("QEMU emulator version 8.2.50-dirty").unwrap().minor, 2);
        assert!(parse("qemu 9").is_err());
        assert!(parse("version 99999999999999.1").is_err());
        assert!(parse("").is_err());
        assert!(parse("QEMU emulator version 7.2.9").unwrap() < QemuVersion::MINIMUM);
    }

    #[test]
    fn a_missing_qemu_says_what_installs_it() {
        let error = locate(Arch::X86_64, Some("/nonexistent/qemu".as_ref()), None).unwrap_err();
        assert!(matches!(error, QemuError::NotAProgram { .. }), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = Qemu::fit_for(
            Qemu {
                path: folder.path().join("qemu"),
                version: QemuVersion { major: 7, minor: 2, micro: 0 },
                machines: vec!["microvm".to_owned()],
                sandbox: true,
                libraries: Vec::new(),
                is_static: false,
                firmware_folders: Vec::new(),
            },
            Arch::X86_64,
        )
        .unwrap_err();
        assert!(error.to_string().contains("is version 7.2.0; vmm needs 8.2.0 or later"), "{error}");
        assert!(!error.hint().is_empty());
    }

    #[test]
    fn what_is_no_qemu_is_refused_with_what_it_said() {
        let error = inspect(Path::new("/bin/echo")).unwrap_err();
        assert!(matches!(error, QemuError::Unusable { .. }), "{error}");
    }
}
