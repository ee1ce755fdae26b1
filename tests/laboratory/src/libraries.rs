//! The shared libraries of programs: a machine that takes a program from elsewhere has others, or none.

use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The libraries that a program needs and the loader itself, each by the path at which it is looked for. Of kind
/// [`ErrorKind::NotFound`] is the error where one is missing, or ldd(1) itself.
pub fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output()?;
    // Of a static program and of a script it says that they are no dynamic executables.
    parse(&String::from_utf8_lossy(&output.stdout)).map_err(|missing| {
        let what = format!("{} needs {missing}, which is not here", program.display());
        Error::new(ErrorKind::NotFound, what)
    })
}

/// Reads what ldd(1) says: `name => path (address)`, or only a path for the loader. A name without a path is an error,
/// but for the one that the kernel brings.
fn parse(said: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for line in said.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place == "not found" {
            return Err(name.to_owned());
        }
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_listed_by_their_paths() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(parse(said).unwrap(), [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so.2")]);
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        assert_eq!(parse("\tlibodd.so.1 => not found\n").unwrap_err(), "libodd.so.1");
    }

    #[test]
    fn this_very_program_needs_a_c_library_that_is_there() {
        let own = libraries(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.iter().all(|path| path.is_file()), "{own:?}");
        assert!(own.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{own:?}");
    }
}
