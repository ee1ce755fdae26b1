//! Names of an archive's members, and what they lead to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::LONGEST_NAME;
use crate::error::Error;

/// The names of which a member's name is made. Those that lead out of the target are refused.
pub(crate) fn names(name: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let refuse = |why| Err(Error::Refused { name: name[..name.len().min(LONGEST_NAME)].to_vec(), why });
    if name.len() > LONGEST_NAME {
        return refuse("has a name that is too long");
    }
    if name.is_empty() || name.contains(&0) {
        return refuse("has a name that no file can have");
    }
    if name.starts_with(b"/") {
        return refuse("has a name that begins with a slash, which leads out of the target");
    }
    let mut names = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("has a name with `..`, which leads out of the target"),
            part => names.push(part),
        }
    }
    Ok(names)
}

/// The folder of a path, and the name in it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A path for people.
pub(crate) fn shown(folder: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { folder.to_owned() } else { folder.join(OsStr::from_bytes(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_but_beneath() {
        let list = |name: &[u8]| names(name).map(|names| names.join(&b' '));
        assert_eq!(list(b"./a//b/./c/").unwrap(), b"a b c");
        assert_eq!(list(b".").unwrap(), b"");
        for name in [&b""[..], b"/", b"/etc/passwd", b"..", b"a/../b", b"a/..", b"a\0b", &[b'a'; 5000]] {
            assert!(names(name).is_err(), "{name:?}");
        }
    }
}
