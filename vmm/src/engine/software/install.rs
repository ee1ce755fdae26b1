//! The command that installs QEMU on this host, for those who lack it.

use std::path::Path;

use crate::arch::Arch;

/// How to get QEMU 8.2 or later here.
pub(super) fn install_hint(arch: Arch) -> String {
    let command = if cfg!(target_os = "macos") {
        "brew install qemu".to_owned()
    } else {
        let text = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        linux_command(&text, arch)
    };
    if in_checkout() { format!("run `cargo quickstart` in the checkout, or: {command}") } else { command }
}

/// Whether this executable was built in a checkout of vmm, where `cargo quickstart` does the installing.
fn in_checkout() -> bool {
    let Ok(executable) = std::env::current_exe() else { return false };
    executable.ancestors().any(|folder| {
        folder.ends_with("target") && folder.parent().is_some_and(|top| top.join("tests/xtask").is_dir())
    }) || Path::new("tests/xtask/Cargo.toml").is_file()
}

/// Chooses by `/etc/os-release` (os-release(5)): `ID` first, then what it says it is like.
fn linux_command(os_release: &str, arch: Arch) -> String {
    let field = |name: &str| {
        os_release.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key == name).then(|| value.trim_matches(['"', '\'']).to_owned())
        })
    };
    let id = field("ID").unwrap_or_default();
    let like = field("ID_LIKE").unwrap_or_default();
    let version = field("VERSION_ID").unwrap_or_default();
    let families: Vec<&str> = std::iter::once(id.as_str()).chain(like.split_whitespace()).collect();
    let is = |names: &[&str]| families.iter().any(|family| names.contains(family));
    let package = match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Arm64 => "qemu-system-arm",
    };
    if id == "debian" && version == "12" {
        format!(
            "enable the suite bookworm-backports in apt's sources (Debian 12's own QEMU is too old), then \
             `sudo apt update && sudo apt install -t bookworm-backports {package}`"
        )
    } else if is(&["debian", "ubuntu"]) {
        format!("`sudo apt update && sudo apt install {package}`")
    } else if is(&["fedora", "rhel", "centos"]) {
        format!("`sudo dnf install {package}-core`").replace("qemu-system-arm", "qemu-system-aarch64")
    } else if is(&["arch"]) {
        match arch {
            Arch::X86_64 => "`sudo pacman -S qemu-system-x86`".to_owned(),
            Arch::Arm64 => "`sudo pacman -S qemu-system-aarch64`".to_owned(),
        }
    } else if is(&["alpine"]) {
        match arch {
            Arch::X86_64 => "`sudo apk add qemu-system-x86_64`".to_owned(),
            Arch::Arm64 => "`sudo apk add qemu-system-aarch64`".to_owned(),
        }
    } else if is(&["suse", "opensuse"]) {
        format!(
            "`sudo zypper install {}`",
            package.replace("qemu-system-x86", "qemu-x86").replace("qemu-system-arm", "qemu-arm")
        )
    } else {
        format!(
            "install QEMU 8.2 or later with your package manager (`{package}` or `qemu`), or set VMM_QEMU to its path"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_of_distributions_gets_its_own_command() {
        for (os_release, command) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", "-t bookworm-backports qemu-system-x86`"),
            ("ID=debian\nVERSION_ID=\"13\"\n", "sudo apt install qemu-system-x86`"),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "sudo apt install qemu-system-x86`"),
            ("ID=fedora\n", "sudo dnf install qemu-system-x86-core`"),
            ("ID=manjaro\nID_LIKE=arch\n", "sudo pacman -S qemu-system-x86`"),
            ("ID=alpine\n", "sudo apk add qemu-system-x86_64`"),
            ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", "sudo zypper install qemu-x86`"),
            ("", "VMM_QEMU"),
        ] {
            let hint = linux_command(os_release, Arch::X86_64);
            assert!(hint.contains(command), "{os_release:?}: {hint}");
        }
        assert!(linux_command("ID=fedora\n", Arch::Arm64).contains("qemu-system-aarch64-core"));
    }
}
