//! Whether the project is laid out as its design says: which module may use which, where `unsafe` may stand, where
//! code may differ by platform.
//!
//! It reads the sources as text, so that a path that no feature compiles is seen too.

mod packages;
mod paths;
mod rules;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

pub use packages::package_arrows;

/// Everything in the project's sources that the design forbids, a line each.
pub fn offences(root: &Path) -> std::io::Result<Vec<String>> {
    let mut offences = packages::offences(root)?;
    let mut files = Vec::new();
    for folder in rules::FOLDERS {
        rust_files(&root.join(folder), &mut files)?;
    }
    let exports = paths::exports(&fs::read_to_string(root.join("vmm/src/lib.rs"))?);
    for file in &files {
        let place = file.strip_prefix(root).unwrap_or(file);
        offences.extend(offences_in(place, &fs::read_to_string(file)?, &exports));
    }
    Ok(offences)
}

/// What is wrong in one file, by its place in the project.
pub fn offences_in(place: &Path, source: &str, exports: &Exports) -> Vec<String> {
    let code = text::without_comments_and_strings(source);
    let mut offences = rules::forbidden_words(place, &code);
    let Some(module) = paths::module_of(place) else { return offences };
    for used in paths::uses(place, &code, exports) {
        if let Some(rule) = rules::forbidden_use(&module, &used) {
            offences.push(format!("{}:{}: {rule}", place.display(), used.line));
        }
    }
    offences
}

pub use paths::{Exports, exports};

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
