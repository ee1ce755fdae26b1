//! What a request's command is on this system: which files it may mean, where it starts, and why it does not.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::io::Errno;
use vmm_protocol::{ByteString, ErrorKind, Start};
use vmm_sys::spawn::{SpawnError, Step};

use crate::environment::Environment;
use crate::refusal::Refusal;
use crate::users::Account;

/// A command, ready to be executed.
#[derive(Debug)]
pub(crate) struct Command {
    /// The files to try, in order.
    pub candidates: Vec<CString>,
    /// Its arguments, with its name as the first.
    pub argv: Vec<CString>,
    /// The folders to start in, in order.
    pub directories: Vec<CString>,
}

impl Command {
    /// The command of a request, or its user's login shell.
    pub(crate) fn new(start: &Start, account: &Account, environment: &Environment) -> Result<Self, Refusal> {
        let directories = match &start.working_directory {
            Some(directory) => vec![string(directory.as_bytes(), "working directory")?],
            // A home that is missing is no reason not to start; the root folder always is there.
            None => vec![string(&account.home, "home")?, c"/".to_owned()],
        };
        let (candidates, argv) = match start.argv.split_first() {
            Some((name, _)) => {
                let argv = start.argv.iter().map(|argument| string(argument.as_bytes(), "argument"));
                (candidates(name, environment)?, argv.collect::<Result<_, _>>()?)
            }
            None => {
                let shell = string(&account.shell, "login shell")?;
                let base = account.shell.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
                // The dash tells a shell that it is a login shell.
                (vec![shell], vec![string(&[b"-", base].concat(), "login shell")?])
            }
        };
        Ok(Self { candidates, argv, directories })
    }

    /// The same as a script of the shell's, if that is what the first candidate that exists can be: a file of text
    /// without `#!` is run that way by every shell.
    pub(crate) fn as_script(&self) -> Option<Self> {
        let script = self.candidates.iter().find(|path| {
            let metadata = fs::metadata(self.located(path));
            metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        })?;
        let arguments = self.argv.get(1..).unwrap_or_default().iter().cloned();
        let argv = [c"/bin/sh".to_owned(), script.clone()].into_iter().chain(arguments).collect();
        let directories = self.directories.clone();
        Some(Self { candidates: vec![c"/bin/sh".to_owned()], argv, directories })
    }

    /// Why the system did not start it, in the protocol's words.
    pub(crate) fn refusal(&self, error: &SpawnError) -> Refusal {
        let errno = error.source.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        let lacks = matches!(errno, Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOSPC);
        let name = self.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        let kind = match error.step {
            _ if lacks => ErrorKind::Resources,
            Step::Execute if errno == Errno::NOENT => return self.missing(&name),
            Step::Execute => ErrorKind::CommandNotExecutable,
            Step::Directory => {
                let directory =
                    self.directories.first().map(|path| path.to_string_lossy()).unwrap_or_default();
                let what = format!("the working directory {directory:?} cannot be entered");
                return Refusal::system(ErrorKind::WorkingDirectory, what, text(&error.source));
            }
            Step::Clone => ErrorKind::Resources,
            Step::Session | Step::Descriptors | Step::Identity => ErrorKind::Internal,
        };
        let tried = match error.step {
            Step::Execute => "cannot be executed",
            Step::Identity => "cannot be started as that user",
            _ => "cannot be started",
        };
        Refusal::system(kind, format!("{name:?} {tried}"), text(&error.source))
    }

    /// The system says the same for a file that is missing and for one whose interpreter is.
    fn missing(&self, name: &str) -> Refusal {
        if self.candidates.iter().any(|path| fs::metadata(self.located(path)).is_ok()) {
            let message =
                format!("{name:?} cannot be executed: the interpreter it names is not in the guest");
            return Refusal::new(ErrorKind::CommandNotExecutable, message);
        }
        let place = if name.contains('/') { "no such file" } else { "no such command in the PATH" };
        Refusal::new(ErrorKind::CommandNotFound, format!("{name:?} was not found: {place} of the guest"))
    }

    fn located(&self, path: &CString) -> std::path::PathBuf {
        let directory = self.directories.first().map(|path| path.as_bytes()).unwrap_or_default();
        Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(path.as_bytes()))
    }
}

fn candidates(name: &ByteString, environment: &Environment) -> Result<Vec<CString>, Refusal> {
    let name = name.as_bytes();
    if name.is_empty() {
        return Err(Refusal::new(ErrorKind::CommandNotFound, "the command's name is empty"));
    }
    if name.contains(&b'/') {
        return Ok(vec![string(name, "command")?]);
    }
    let path = environment.get(b"PATH").unwrap_or_default();
    path.split(|&byte| byte == b':')
        .map(|folder| match folder {
            b"" => string(name, "command"),
            folder => string(&[folder, b"/", name].concat(), "command"),
        })
        .collect()
}

fn string(bytes: &[u8], what: &str) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| Refusal::new(ErrorKind::Malformed, format!("the {what} has a zero byte")))
}

/// The system's words without the number behind them.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users;

    fn command(start: &Start) -> Command {
        let account = users::find(None).unwrap();
        let environment = Environment::new(&account, false, &[], &start.environment).unwrap();
        Command::new(start, &account, &environment).unwrap()
    }

    fn start(argv: &[&str], path: &str) -> Start {
        Start {
            argv: argv.iter().map(|&argument| argument.into()).collect(),
            environment: vec![("PATH".into(), path.into())],
            ..Start::default()
        }
    }

    #[test]
    fn a_name_is_looked_for_in_the_path_and_a_path_is_taken_as_it_is() {
        assert_eq!(
            command(&start(&["tool"], "/a:/b::")).candidates,
            [c"/a/tool".to_owned(), c"/b/tool".into(), c"tool".into(), c"tool".into()]
        );
        assert_eq!(command(&start(&["./tool"], "/a")).candidates, [c"./tool".to_owned()]);
    }

    #[test]
    fn no_command_is_the_login_shell_with_a_dash() {
        let shell = command(&Start::default());
        let base = shell.candidates[0].to_str().unwrap().rsplit('/').next().unwrap().to_owned();
        assert_eq!(shell.argv, [CString::new(format!("-{base}")).unwrap()]);
    }

    #[test]
    fn a_missing_command_and_a_missing_interpreter_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
        let error = SpawnError { step: Step::Execute, source: Errno::NOENT.into() };
        let kind =
            |name: &str| command(&start(&[name], folder.path().to_str().unwrap())).refusal(&error).kind;
        assert_eq!(kind("script"), ErrorKind::CommandNotExecutable);
        assert_eq!(kind("scrpt"), ErrorKind::CommandNotFound);
        assert_eq!(kind(script.to_str().unwrap()), ErrorKind::CommandNotExecutable);
    }
}
