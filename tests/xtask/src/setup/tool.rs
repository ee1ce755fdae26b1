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
}

/// What `vmm` needs to be built and to run a machine.
pub(crate) const TO_RUN: &[Tool] = &[Tool::Qemu, Tool::Pip, Tool::StaticLibc];

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
            // The compiler prints the bare name of a library that it does not find.
            Self::StaticLibc => {
                cfg!(not(target_os = "linux"))
                    || command::output("cc", &["-print-file-name=libc.a"])
                        .is_some_and(|path| path.trim().contains('/'))
            }
        }
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
            (Self::StaticLibc, Manager::Brew) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_that_can_be_missing_has_a_package_everywhere() {
        for manager in [Manager::Apt, Manager::Dnf, Manager::Pacman, Manager::Brew] {
            for tool in TO_RUN.iter().filter(|tool| !(manager == Manager::Brew && **tool == Tool::StaticLibc))
            {
                assert!(!tool.packages(manager).is_empty(), "{tool:?} with {manager:?}");
            }
        }
    }
}
