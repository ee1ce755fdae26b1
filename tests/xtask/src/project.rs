//! Where things of the project lie.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the work tree.
pub(crate) fn root() -> PathBuf {
    // Cargo says where the package is; a tree that was moved after it was built is found all the same.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.ancestors().nth(2).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    // We lie in `<target>/release` ourselves, wherever the user's configuration has put that.
    std::env::current_exe()
        .ok()
        .and_then(|path| path.ancestors().nth(2).map(Path::to_path_buf))
        .filter(|path| path.join("release").is_dir())
        .unwrap_or_else(|| root().join("target"))
}

/// The release build of `vmm`.
pub(crate) fn vmm_binary() -> PathBuf {
    target().join("release").join("vmm")
}

/// The home that the system tests take their images from: pulled once.
pub(crate) fn test_images() -> PathBuf {
    target().join("test-images")
}

/// The cargo that started us, for this work tree.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What it told us of our own package is nothing to the build: ring would be compiled anew for it, and all above.
    let of_our_package = |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_our_package)) {
        cargo.env_remove(name);
    }
    if is_built_by_verify_alone() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
        cargo.env("CARGO_INCREMENTAL", "0");
    }
    cargo
}

/// Whether nobody has built anything here by hand, or with an editor. What the next build of a change could use then takes a
/// third of the build to write, and it changes what cargo takes for the same program: so it is as whoever works here has it,
/// from the first command to the last.
fn is_built_by_verify_alone() -> bool {
    static ALONE: OnceLock<bool> = OnceLock::new();
    *ALONE.get_or_init(|| {
        // Cargo makes the folder in any case.
        let kept = std::fs::read_dir(target().join("debug").join("incremental"));
        kept.map_or(true, |mut entries| entries.next().is_none())
    })
}

/// A path as the user would type it from where they are.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
