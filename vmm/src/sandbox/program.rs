//! The executable that is the monitor process: finding it and starting it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use snafu::ResultExt;
use vmm_sys::process::Process;

use super::error::MonitorStartSnafu;
use super::{Error, StartOptions};
use crate::control::Connection;

/// The executable's name.
const NAME: &str = "vmm";

/// The argument that makes it a monitor. It is written here and in `monitor`, which meet at the control socket only.
const ARGUMENT: &str = "monitor";

/// Makes a test binary a monitor.
#[cfg(test)]
pub(crate) const MARKER: &str = "this-process-is-a-monitor";

/// How a monitor is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MonitorProgram {
    /// The executable.
    pub(crate) path: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
}

impl MonitorProgram {
    /// Finds it: given, named by `VMM_BIN`, this very program, beside it, or on the path.
    pub(crate) fn find(options: &StartOptions) -> Result<Self, Error> {
        let named = std::env::var_os("VMM_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = match options.executable.clone().or(named) {
            Some(named) => {
                if !is_executable(&named) {
                    let message = format!("{}, which is to run the VM, is no executable", named.display());
                    return Err(Error::Invalid { message });
                }
                std::path::absolute(&named).unwrap_or(named)
            }
            None => {
                let ours = std::env::current_exe().ok();
                let path = std::env::var_os("PATH").unwrap_or_default();
                find_beside(ours.as_deref()).or_else(|| find_on(&path)).ok_or(Error::NoMonitor)?
            }
        };
        Ok(Self::at(path))
    }

    /// The executable at this place.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, arguments: vec![ARGUMENT.into()] }
    }

    /// The arguments that make it a keeper.
    pub(super) fn keeper_arguments(&self) -> Vec<OsString> {
        #[cfg(test)]
        if let Some(arguments) = self.keeper_of_tests() {
            return arguments;
        }
        vec![super::keeper::ARGUMENT.into()]
    }

    /// This test binary as a keeper of VMs whose machines are scripts.
    #[cfg(test)]
    fn keeper_of_tests(&self) -> Option<Vec<OsString>> {
        let of_tests = self.arguments.iter().any(|argument| argument == MARKER);
        let keeper = |argument: &OsString| match argument.to_str() {
            Some("life_cycle_tests::monitor_process") => "life_cycle_tests::keeper_process".into(),
            _ => argument.clone(),
        };
        of_tests.then(|| self.arguments.iter().map(keeper).collect())
    }

    /// This test binary as a monitor whose machines are scripts (`life_cycle_tests`). Other than `main`, a test is not the
    /// first thread, and could have an arena of the allocator that a monitor must not have (`vmm_sys::allocator`).
    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        let test =
            ["life_cycle_tests::monitor_process", "--exact", "--nocapture", "--test-threads=1", "--skip"];
        let mut arguments = vec!["MALLOC_ARENA_MAX=1".into(), std::env::current_exe().unwrap().into()];
        arguments.extend(test.into_iter().chain([MARKER]).map(Into::into));
        Self { path: PathBuf::from("/usr/bin/env"), arguments }
    }

    /// Starts it. The first control connection is its standard input.
    pub(super) fn start(&self, log: &Path) -> Result<Connection, Error> {
        let context = || MonitorStartSnafu { program: &self.path };
        let (ours, theirs) = UnixStream::pair().with_context(|_| context())?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let process = spawn(command, log).with_context(|_| context())?;
        Ok(Connection::over(ours, process)?.of_our_version())
    }
}

/// Starts a process of a VM's that may outlive us. Its standard error is the VM's log.
pub(super) fn spawn(mut command: Command, log: &Path) -> io::Result<Option<Process>> {
    let log = open_log(log);
    let log = log.map_or_else(|_| Stdio::null(), Stdio::from);
    let mut child = command.stderr(log).spawn()?;
    let process = Process::open(child.id()).ok().flatten();
    // We may outlive it: then nobody else would bury it.
    let bury = move || child.wait();
    thread::Builder::new().name("vmm-monitor".to_owned()).stack_size(64 << 10).spawn(bury)?;
    Ok(process)
}

fn find_beside(ours: Option<&Path>) -> Option<PathBuf> {
    let ours = ours?;
    if ours.file_name().is_some_and(|name| name == NAME) && is_executable(ours) {
        return Some(ours.to_owned());
    }
    let folder = ours.parent()?;
    // Cargo puts tests and examples one folder below. Above any other folder may be one where others put things.
    let of_cargo = folder.file_name().is_some_and(|name| name == "deps" || name == "examples");
    let folders = [Some(folder), folder.parent().filter(|_| of_cargo)];
    folders.into_iter().flatten().map(|folder| folder.join(NAME)).find(|path| is_executable(path))
}

fn find_on(path: &std::ffi::OsStr) -> Option<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(NAME)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// When a log is this long it begins anew with the next monitor, who adds no more than that.
const LONGEST_LOG: u64 = 1 << 20;

fn open_log(path: &Path) -> io::Result<File> {
    let log = File::options().create(true).append(true).mode(0o600).open(path)?;
    if log.metadata()?.len() >= LONGEST_LOG {
        log.set_len(0)?;
    }
    Ok(log)
}

/// The last line of a monitor's log that tells of an error: why it ended, if it could say. What is no line of the log is
/// what something else wrote there, such as a panic.
pub(super) fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2048)))?;
        let mut text = Vec::new();
        file.take(2048).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().ok()?;
    let lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let line = lines.take_while(|line| !IN_ORDER.iter().any(|level| line.contains(level))).next()?;
    let line = line.split_once(" ERROR ").map_or(line, |(_, told)| told);
    Some(line.chars().filter(|c| !c.is_control()).take(500).collect())
}

/// What a log's line has in it where all is well: the monitor that wrote such a line last did not say why it ended.
const IN_ORDER: [&str; 4] = [" INFO ", " WARN ", " DEBUG ", " TRACE "];

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(path: &Path) {
        File::options().create(true).truncate(true).write(true).mode(0o755).open(path).unwrap();
    }

    #[test]
    fn the_executable_is_found_beside_us_and_on_the_path() {
        let base = tempfile::tempdir().unwrap();
        let program = base.path().join("target/deps/program-1234");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        assert_eq!(find_beside(Some(&program)), None);
        let vmm = base.path().join("target/vmm");
        executable(&vmm);
        assert_eq!(find_beside(Some(&program)), Some(vmm.clone()));
        assert_eq!(find_beside(Some(&vmm)), Some(vmm.clone()));
        let elsewhere = base.path().join("target/tools/program");
        assert_eq!(find_beside(Some(&elsewhere)), None);
        let path = std::env::join_paths([Path::new("relative"), base.path(), vmm.parent().unwrap()]).unwrap();
        assert_eq!(find_on(&path), Some(vmm));
        assert_eq!(find_on(base.path().as_os_str()), None);
    }

    #[test]
    fn what_a_monitor_said_last_is_found() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("log");
        assert_eq!(last_line(&log), None);
        std::fs::write(&log, format!("{}\nno room\x1b[31m\n\n", "x".repeat(5000))).unwrap();
        assert_eq!(last_line(&log).as_deref(), Some("no room[31m"));
        std::fs::write(&log, "2026-11-21T15:26:09Z ERROR cannot enter /\n").unwrap();
        assert_eq!(last_line(&log).as_deref(), Some("cannot enter /"));
        std::fs::write(&log, "2026-11-21T15:26:09Z ERROR of another day\n2026-11-22T15:26:09Z  INFO ready\n")
            .unwrap();
        assert_eq!(last_line(&log), None);
    }

    #[test]
    fn a_log_that_has_grown_long_begins_anew() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("log");
        std::fs::write(&log, "old\n").unwrap();
        assert_eq!(open_log(&log).unwrap().metadata().unwrap().len(), 4);
        open_log(&log).unwrap().set_len(LONGEST_LOG).unwrap();
        assert_eq!(open_log(&log).unwrap().metadata().unwrap().len(), 0);
    }
}
