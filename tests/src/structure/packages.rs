//! Which package of ours may use which, read from their `Cargo.toml`.

use std::fs;
use std::path::Path;

/// Each package of the product, where it lies, and those of ours that it may use.
const ARROWS: [(&str, &str, &[&str]); 9] = [
    ("vmm-sys", "vmm/sys", &[]),
    ("vmm-protocol", "guest-agent/protocol", &[]),
    ("vmm-archive", "guest-agent/archive", &["vmm-sys"]),
    ("vmm-disk", "vmm/disk", &["vmm-sys"]),
    ("guest-agent", "guest-agent", &["vmm-archive", "vmm-protocol", "vmm-sys"]),
    ("vmm", "vmm", &["vmm-archive", "vmm-disk", "vmm-protocol", "vmm-sys"]),
    // The benchmarks of `vmm bench`, which measure what anybody could.
    ("vmm-benches", "benches", &["vmm", "vmm-sys"]),
    // The command line and the C interface use nothing that the library does not export.
    ("vmm-cli", "vmm/cli", &["vmm", "vmm-benches"]),
    ("vmm-capi", "vmm/capi", &["vmm"]),
];

/// All packages of ours, also those that nothing of the product may use.
const OURS: [&str; 14] = [
    "vmm-sys",
    "vmm-protocol",
    "vmm-archive",
    "vmm-disk",
    "guest-agent",
    "vmm",
    "vmm-cli",
    "vmm-capi",
    "vmm-tests",
    "vmm-benches",
    "vmm-rulers",
    "laboratory",
    "xtask",
    "image-builder",
];

/// What belongs to programs, and never into the library.
const PROGRAMS_ONLY: [&str; 4] = ["clap", "indicatif", "tracing-subscriber", "tokio"];

pub(super) fn offences(root: &Path) -> std::io::Result<Vec<String>> {
    let mut offences = Vec::new();
    for (package, folder, _) in ARROWS {
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml"))?;
        offences.extend(package_arrows(package, &manifest));
    }
    Ok(offences)
}

/// What is wrong with the dependencies of one package.
pub fn package_arrows(package: &str, manifest: &str) -> Vec<String> {
    let allowed =
        ARROWS.iter().find(|(name, _, _)| *name == package).map_or(&[][..], |(_, _, allowed)| allowed);
    let mut offences = Vec::new();
    for dependency in dependencies(manifest) {
        if OURS.contains(&dependency) && !allowed.contains(&dependency) {
            offences.push(format!("the package {package} must not depend on {dependency}"));
        }
        if PROGRAMS_ONLY.contains(&dependency) && package != "vmm-cli" {
            offences.push(format!("the package {package} must not depend on {dependency}: only programs do"));
        }
    }
    offences
}

/// What a package needs to run: its dependencies, without those of its tests.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut relevant = false;
    manifest.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            relevant = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
            return section
                .split_once("dependencies.")
                .map(|(_, name)| name)
                .filter(|_| !section.starts_with("dev-"));
        }
        let end = line.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))?;
        line.get(..end).filter(|name| relevant && !name.is_empty())
    })
}
