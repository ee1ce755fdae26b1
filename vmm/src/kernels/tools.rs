//! The tools that a build of a kernel needs.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use snafu::ensure;

use super::error::{Result, ToolsSnafu};
use crate::arch::Arch;

/// Programs, and the packages that have them, as Debian and its descendants name those.
const EVERYWHERE: [(&str, &str); 9] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("awk", "mawk"),
    ("tar", "tar"),
    ("gzip", "gzip"),
];

/// What `objtool`, which the build of an x86_64 kernel makes for itself, reads ELF files with.
const LIBELF: (&str, &str) = ("gelf.h", "libelf-dev");

/// How the names of the tools for another architecture than the host's begin.
pub(super) fn prefix(arch: Arch) -> &'static str {
    match arch {
        arch if Arch::host() == Some(arch) => "",
        Arch::X86_64 => "x86_64-linux-gnu-",
        Arch::Arm64 => "aarch64-linux-gnu-",
    }
}

/// Names everything that is not installed at once, with the packages that have it. `packing` is the program that unpacks
/// the source, if that is packed.
pub(super) fn check(arch: Arch, packing: Option<(&'static str, &'static str)>) -> Result<()> {
    let cross: &[(&str, &str)] = match (prefix(arch), arch) {
        ("", _) => &[],
        (_, Arch::X86_64) => &[("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu")],
        (_, Arch::Arm64) => &[("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")],
    };
    let programs = EVERYWHERE.iter().chain(cross).copied().chain(packing);
    let mut missing: Vec<_> = programs.filter(|(program, _)| !is_installed(program)).collect();
    if arch == Arch::X86_64 && is_installed("gcc") && !has_header(LIBELF.0) {
        missing.push(LIBELF);
    }
    let (tools, packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    ensure!(tools.is_empty(), ToolsSnafu { tools, packages });
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| is_executable(&folder.join(program)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether the host's compiler finds a header.
fn has_header(header: &str) -> bool {
    let mut compiler = Command::new("gcc");
    compiler.args(["-E", "-include", header, "-x", "c", "/dev/null"]);
    compiler.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    compiler.status().is_ok_and(|status| status.success())
}
