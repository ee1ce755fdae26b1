//! A tree of small files, with what trees have: links, modes, times, odd names.

use std::error::Error;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// So many are in each folder.
const IN_A_FOLDER: usize = 200;

/// Makes a tree of so many files, unless it is there.
pub(super) fn make(tree: &Path, files: usize) -> Result<(), Box<dyn Error>> {
    if tree.join("whole").is_file() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(tree);
    for number in 0..files {
        let folder = tree.join(format!("{:03}", number / IN_A_FOLDER));
        if number.is_multiple_of(IN_A_FOLDER) {
            fs::create_dir_all(&folder)?;
        }
        let name = match number % 50 {
            0 => format!("with space {number}"),
            1 => format!("new\nline {number}"),
            2 => format!("-rf {number}"),
            3 => format!("grüß-{number}"),
            4 => format!("{number}-{}", "n".repeat(200)),
            _ => format!("file-{number}"),
        };
        let path = folder.join(name);
        // 0 to 8 KiB, 2 KiB in the middle.
        let length = (number * 7919) % 64 * ((number * 104_729) % 128);
        fs::write(&path, vec![b'a' + u8::try_from(number % 26)?; length])?;
        fs::set_permissions(&path, Permissions::from_mode(if number % 10 == 0 { 0o755 } else { 0o640 }))?;
        let modified = UNIX_EPOCH + Duration::new(1_500_000_000 + number as u64, 123_456_789);
        File::open(&path)?.set_modified(modified)?;
        match number % 40 {
            0 => symlink(&path, folder.join(format!("link-{number}")))?,
            1 => fs::hard_link(&path, folder.join(format!("twin-{number}")))?,
            _ => {}
        }
    }
    Ok(fs::write(tree.join("whole"), "")?)
}

/// Whether two trees are the same in all that is copied.
pub(super) fn compare(one: &Path, other: &Path) -> Result<(), Box<dyn Error>> {
    let listed = [listing(one)?, listing(other)?];
    if listed[0] != listed[1] {
        return Err(format!("{} came back otherwise than {}", other.display(), one.display()).into());
    }
    let same = Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).status()?;
    if same.success() { Ok(()) } else { Err("the contents of the tree came back changed".into()) }
}

/// Names, kinds, modes, lengths, links and times.
fn listing(tree: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut lines = Vec::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            let length = if metadata.is_dir() { 0 } else { metadata.len() };
            let (links, time) =
                if metadata.is_dir() { (0, 0) } else { (metadata.nlink(), metadata.mtime_nsec()) };
            lines.push(format!(
                "{:?} {:o} {length} {links} {} {time} {:?}",
                path.strip_prefix(tree)?,
                metadata.mode(),
                metadata.mtime(),
                fs::read_link(&path).ok()
            ));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    lines.sort();
    Ok(lines)
}
