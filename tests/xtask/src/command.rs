//! Running other programs: what is run is printed, and what failed is said in a line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, Outcome};
use crate::steps::seconds;

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints the command and runs it with our own terminal.
pub(crate) fn show(command: &mut Command) -> Outcome {
    println!("  $ {}", line(command));
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("`{}` failed: {status}", line(command)))) }
}

/// Prints the command and runs it; what it says goes unread, unless it fails.
pub(crate) fn quietly(command: &mut Command) -> Outcome {
    println!("  $ {}", line(command));
    let began = Instant::now();
    let output = command.stdin(Stdio::inherit()).output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        println!("    ({})", seconds(began.elapsed()));
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n  | ");
    Err(Failure::new(format!("`{}` failed: {}", line(command), output.status)).hint(format!("  | {tail}")))
}

/// What the command printed, if it ran and succeeded.
pub(crate) fn output(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the path has a program of this name.
pub(crate) fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What only the administrator needs lies outside of other users' path, and can be asked all the same.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start `{}`: {error}", command.get_program().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo it's", "a=b", ""]);
        assert_eq!(line(&command), r"sh -c 'echo it'\''s' a=b ''");
    }

    #[test]
    fn a_failure_names_the_command_and_ends_with_what_it_said() {
        let failure = quietly(Command::new("sh").args(["-c", "echo lost >&2; exit 3"])).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("| lost"), "{text}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_said_to_be_missing() {
        assert!(exists("sh"));
        assert!(!exists("no-such-program"));
        let failure = show(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(failure.contains("cannot start `no-such-program`"), "{failure}");
    }
}
