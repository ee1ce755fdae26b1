//! Files that are kept for later, and go when others were used since.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use vmm_sys::file::if_there;

use crate::failure::{Failure, Outcome};

pub(super) fn make_folder(path: &Path) -> Outcome {
    std::fs::create_dir_all(path)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", path.display())))
}

/// Notes that a file or folder is of use now: of those that are kept for later, the last used stay.
pub(super) fn touch(path: &Path) -> Outcome {
    let touched = std::fs::File::open(path).and_then(|open| open.set_modified(SystemTime::now()));
    touched.map_err(|error| Failure::new(format!("cannot use {}: {error}", path.display())))
}

/// Removes all but so many of what lies in a folder: those that were not used for longest. Who runs one has its files
/// open.
pub(super) fn keep_last_used(folder: &Path, count: usize) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        all.push((entry.metadata()?.modified()?, entry.path()));
    }
    all.sort();
    let old = all.len().saturating_sub(count);
    all.into_iter().take(old).try_for_each(|(_, path)| remove_if_there(&path))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    if_there(if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_used_are_kept() {
        let folder = std::env::temp_dir().join(format!("vmm-lab-kept-{}", std::process::id()));
        for (name, age) in [("old", 30), ("middle", 20), ("new", 10)] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            std::fs::File::open(folder.join(name)).unwrap().set_modified(time).unwrap();
        }
        touch(&folder.join("old")).unwrap();
        keep_last_used(&folder, 2).unwrap();
        let there = ["old", "middle", "new"].map(|name| folder.join(name).exists());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(there, [true, false, true]);
    }
}
