//! The programs that the project needs, how to see that one is there, and the packages that hold it.

use super::manager::Manager;
use super::qemu;
use crate::command;

/// Something that must be on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// The processor of the software engine.
    Qemu,
    /// Fetches images that come as Python packages.
    Pip,
    /// The C library as an archive: the guest agent is linked with it.
    StaticLibc,
    /// Reads and checks disks in the tests; the product itself never runs it.
    QemuImg,
    /// Makes and checks the file systems of the tests.
    Ext4,
    /// Serves images to the tests of downloads.
    Nginx,
    /// Tells what the tests of power cuts do to files.
    Strace,
    /// Links the fuzzer.
    Cxx,
    /// Runs the Python package in its tests, and the peer of the comparison.
    PythonVenv,
    /// The peer of the comparison of disks.
    StorageDaemon,
    /// Makes Debian's disk.
    Mmdebstrap,
    /// Makes the partitions of disks that are imported.
    Sfdisk,
    /// Packs disks that are imported.
    Xz,
    /// Packs initial file systems that are imported.
    Cpio,
}

/// What `vmm` needs to be built and to run a machine.
pub(crate) const TO_RUN: &[Tool] = &[Tool::Qemu, Tool::Pip, Tool::StaticLibc];

/// What the tests need beside that.
pub(crate) const TO_TEST: &[Tool] = &[
    Tool::Qemu,
    Tool::Pip,
    Tool::StaticLibc,
    Tool::QemuImg,
    Tool::Ext4,
    Tool::Nginx,
    Tool::Strace,
    Tool::Mmdebstrap,
    Tool::Sfdisk,
    Tool::Xz,
    Tool::Cpio,
    Tool::PythonVenv,
];

/// What fuzzing needs beside that.
pub(crate) const TO_FUZZ: &[Tool] = &[Tool::Cxx];

/// What the comparison with another product needs.
pub(crate) const TO_COMPARE: &[Tool] =
    &[Tool::Qemu, Tool::Pip, Tool::StaticLibc, Tool::QemuImg, Tool::PythonVenv];

/// What the comparison of disks needs.
pub(crate) const TO_COMPARE_DISKS: &[Tool] =
    &[Tool::Qemu, Tool::StaticLibc, Tool::StorageDaemon, Tool::Ext4, Tool::Mmdebstrap];

impl Tool {
    /// Its name, for people.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Qemu => match qemu::installed() {
                Some(version) => format!("QEMU {version} ({} or later is needed)", qemu::NEEDED),
                None => format!("QEMU {} or later", qemu::NEEDED),
            },
            Self::Pip => "pip".to_owned(),
            Self::StaticLibc => "the static C library".to_owned(),
            Self::QemuImg => "qemu-img".to_owned(),
            Self::Ext4 => "the tools of ext4".to_owned(),
            Self::Nginx => "nginx".to_owned(),
            Self::Strace => "strace".to_owned(),
            Self::Cxx => "a C++ compiler".to_owned(),
            Self::PythonVenv => "Python's venv".to_owned(),
            Self::StorageDaemon => "qemu-storage-daemon".to_owned(),
            Self::Mmdebstrap => "mmdebstrap".to_owned(),
            Self::Sfdisk => "sfdisk".to_owned(),
            Self::Xz => "xz".to_owned(),
            Self::Cpio => "cpio".to_owned(),
        }
    }

    /// Whether it is there, and new enough.
    pub(crate) fn is_present(self) -> bool {
        match self {
            Self::Qemu => qemu::installed().is_some_and(|version| version >= qemu::NEEDED),
            Self::Pip => {
                let answers = |program, arguments: &[&str]| command::output(program, arguments).is_some();
                answers("python3", &["-m", "pip", "--version"]) || answers("uv", &["--version"])
            }
            Self::QemuImg => command::exists("qemu-img"),
            Self::Ext4 => command::exists("mkfs.ext4") && command::exists("e2fsck"),
            Self::Nginx => command::exists("nginx"),
            Self::Strace => cfg!(not(target_os = "linux")) || command::exists("strace"),
            Self::StorageDaemon => command::exists("qemu-storage-daemon"),
            Self::Mmdebstrap => cfg!(not(target_os = "linux")) || command::exists("mmdebstrap"),
            Self::Sfdisk => cfg!(not(target_os = "linux")) || command::exists("sfdisk"),
            Self::Xz => command::exists("xz"),
            Self::Cpio => command::exists("cpio"),
            Self::Cxx => command::exists("c++"),
            // Debian's Python has the module but not what it installs.
            Self::PythonVenv => command::output("python3", &["-c", "import venv, ensurepip"]).is_some(),
            // The compiler prints the bare name of a library that it does not find.
            Self::StaticLibc => {
                cfg!(not(target_os = "linux"))
                    || command::output("cc", &["-print-file-name=libc.a"])
                        .is_some_and(|path| path.trim().contains('/'))
            }
        }
    }

    /// Whether it is a part of QEMU, and comes in the same version.
    pub(crate) fn is_of_qemu(self) -> bool {
        matches!(self, Self::Qemu | Self::QemuImg | Self::StorageDaemon)
    }

    /// The packages that bring it.
    pub(crate) fn packages(self, manager: Manager) -> &'static [&'static str] {
        let arm = cfg!(target_arch = "aarch64");
        match (self, manager) {
            (Self::Qemu, Manager::Apt) if arm => &["qemu-system-arm"],
            (Self::Qemu, Manager::Apt) => &["qemu-system-x86"],
            (Self::Qemu, Manager::Dnf) if arm => &["qemu-system-aarch64-core"],
            (Self::Qemu, Manager::Dnf) => &["qemu-system-x86-core"],
            (Self::Qemu, Manager::Pacman) if arm => &["qemu-system-aarch64"],
            (Self::Qemu, Manager::Pacman) => &["qemu-system-x86"],
            (Self::Qemu, Manager::Brew) => &["qemu"],
            (Self::Pip, Manager::Apt | Manager::Dnf) => &["python3", "python3-pip"],
            (Self::Pip, Manager::Pacman) => &["python", "python-pip"],
            (Self::Pip, Manager::Brew) => &["python"],
            (Self::StaticLibc, Manager::Apt) => &["libc6-dev"],
            (Self::StaticLibc, Manager::Dnf) => &["glibc-static"],
            (Self::StaticLibc, Manager::Pacman) => &["glibc"],
            (Self::QemuImg, Manager::Apt) => &["qemu-utils"],
            (Self::QemuImg, Manager::Dnf | Manager::Pacman) => &["qemu-img"],
            (Self::QemuImg, Manager::Brew) => &["qemu"],
            (Self::Ext4, _) => &["e2fsprogs"],
            (Self::Nginx, Manager::Apt) => &["nginx-light"],
            (Self::Nginx, _) => &["nginx"],
            (Self::Strace, Manager::Apt | Manager::Dnf | Manager::Pacman) => &["strace"],
            (Self::Cxx, Manager::Apt) => &["g++"],
            (Self::Cxx, Manager::Dnf) => &["gcc-c++"],
            (Self::Cxx, Manager::Pacman) => &["gcc"],
            (Self::StorageDaemon, Manager::Apt) => &["qemu-utils"],
            (Self::StorageDaemon, Manager::Dnf | Manager::Pacman) => &["qemu-img"],
            (Self::StorageDaemon, Manager::Brew) => &["qemu"],
            (Self::Mmdebstrap, Manager::Apt | Manager::Dnf | Manager::Pacman) => &["mmdebstrap"],
            (Self::Sfdisk, Manager::Apt) => &["fdisk"],
            (Self::Sfdisk, Manager::Dnf | Manager::Pacman) => &["util-linux"],
            (Self::Xz, Manager::Apt) => &["xz-utils"],
            (Self::Xz, _) => &["xz"],
            // macOS has its own.
            (Self::Cpio, Manager::Apt | Manager::Dnf | Manager::Pacman) => &["cpio"],
            (Self::PythonVenv, Manager::Apt) => &["python3", "python3-venv"],
            (Self::PythonVenv, Manager::Dnf) => &["python3"],
            (Self::PythonVenv, Manager::Pacman | Manager::Brew) => &["python"],
            // Apple's compiler is there, and needs no such library; the others are Linux' own.
            (
                Self::StaticLibc | Self::Cxx | Self::Strace | Self::Mmdebstrap | Self::Sfdisk | Self::Cpio,
                Manager::Brew,
            ) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_that_can_be_missing_has_a_package_everywhere() {
        for manager in [Manager::Apt, Manager::Dnf, Manager::Pacman, Manager::Brew] {
            for tool in [TO_RUN, TO_TEST, TO_FUZZ, TO_COMPARE, TO_COMPARE_DISKS].concat() {
                // Or cannot run there.
                let comes_with_macos = manager == Manager::Brew
                    && matches!(
                        tool,
                        Tool::StaticLibc
                            | Tool::Cxx
                            | Tool::Mmdebstrap
                            | Tool::Strace
                            | Tool::Sfdisk
                            | Tool::Cpio
                    );
                assert_eq!(tool.packages(manager).is_empty(), comes_with_macos, "{tool:?} with {manager:?}");
            }
        }
    }
}
