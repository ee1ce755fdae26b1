//! From a request to a running process: who, where, with what, on which streams.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, MemfdFlags, OFlags, Uid, fchown, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use vmm_protocol::{ByteString, ErrorKind, Request, Start, TerminalSize};
use vmm_sys::spawn::{Identity, Program, SpawnError, Spawner, Step};

use crate::cgroup::Group;
use crate::command::Command;
use crate::environment::Environment;
use crate::refusal::Refusal;
use crate::users::{self, Account};

/// The soft limit of open files that programs expect: more would break those that use `select`.
const OPEN_FILES: u64 = 1024;

/// A process that was started, and our ends of its streams, none of which block.
#[derive(Debug)]
pub struct Launched {
    /// Its number.
    pub pid: u32,
    /// Whom it runs as.
    pub uid: u32,
    /// Our ends of its streams.
    pub streams: Streams,
}

/// Our ends of a process's streams.
#[derive(Debug)]
pub struct Streams {
    /// The way to its input, if it was asked for.
    pub stdin: Option<OwnedFd>,
    /// Its output, or its terminal.
    pub stdout: OwnedFd,
    /// Its error output, if it has no terminal.
    pub stderr: Option<OwnedFd>,
}

/// Starts processes.
pub struct Launcher {
    spawner: Spawner,
    /// What a process reads whose input nobody feeds.
    null: File,
    /// Variables of every process.
    environment: Vec<(ByteString, ByteString)>,
}

impl Launcher {
    /// Prepares what all processes share.
    pub fn new(environment: Vec<(ByteString, ByteString)>) -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { spawner: Spawner::new(), null, environment })
    }

    /// Starts what a request asks for, in a control group if there is one.
    pub fn launch(&mut self, start: &Start, group: Option<&Group>) -> Result<Launched, Refusal> {
        let account = users::find(start.user.as_deref())?;
        let environment =
            Environment::new(&account, start.terminal.is_some(), &self.environment, &start.environment)?;
        let command = Command::new(start, &account, &environment)?;
        let no_streams =
            |error| Refusal::system(ErrorKind::Resources, "the guest has no streams for a process", error);
        let environment = environment.to_strings();
        let (pid, streams) = match start.terminal {
            Some(size) => {
                let (streams, terminal) = terminal(size, account.uid).map_err(no_streams)?;
                let inner = [terminal.as_fd(); 3];
                (self.spawn(&command, &account, &environment, inner, true, group)?, streams)
            }
            None => {
                let (streams, stdin, [stdout, stderr]) = pipes(start.stdin).map_err(no_streams)?;
                let stdin = stdin.unwrap_or(self.null.try_clone().map_err(no_streams)?.into());
                let inner = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
                (self.spawn(&command, &account, &environment, inner, false, group)?, streams)
            }
        };
        Ok(Launched { pid, uid: account.uid, streams })
    }

    /// Starts this program once more to do what a client asks, whose connection it gets.
    pub fn launch_worker(&mut self, request: &Request, client: &OwnedFd) -> Result<u32, Refusal> {
        let cannot = |error: io::Error| {
            Refusal::system(ErrorKind::Resources, "the guest cannot start a worker", error)
        };
        let mut file =
            File::from(memfd_create("work", MemfdFlags::CLOEXEC).map_err(io::Error::from).map_err(cannot)?);
        let written = serde_json::to_writer(&mut file, request).map_err(io::Error::from);
        written.and_then(|()| file.rewind()).map_err(cannot)?;
        let started = self.spawner.spawn(&Program {
            // Also where the file is not to be found any more, as that of process 1.
            candidates: &[c"/proc/self/exe".to_owned()],
            argv: &[c"vmm-agent".to_owned(), crate::worker::ARGUMENT.to_owned()],
            environment: &[],
            stdin: file.as_fd(),
            stdout: client.as_fd(),
            stderr: self.null.as_fd(),
            terminal: false,
            identity: None,
            directories: &[],
            cgroup: None,
            open_files: None,
        });
        started.map_err(|error| cannot(error.source))
    }

    fn spawn(
        &mut self,
        command: &Command,
        account: &Account,
        environment: &[CString],
        [stdin, stdout, stderr]: [BorrowedFd<'_>; 3],
        terminal: bool,
        group: Option<&Group>,
    ) -> Result<u32, Refusal> {
        let is_us = account.uid == 0 && account.gid == 0 && account.groups.is_empty();
        let identity = Identity { uid: account.uid, gid: account.gid, groups: &account.groups };
        let mut spawn = |command: &Command| {
            self.spawner.spawn(&Program {
                candidates: &command.candidates,
                argv: &command.argv,
                environment,
                stdin,
                stdout,
                stderr,
                terminal,
                identity: (!is_us).then_some(identity),
                directories: &command.directories,
                cgroup: group.map(Group::as_fd),
                open_files: Some(OPEN_FILES),
            })
        };
        spawn(command).or_else(|error| match command.as_script().filter(|_| is_no_program(&error)) {
            Some(script) => spawn(&script).map_err(|error| script.refusal(&error)),
            None => Err(command.refusal(&error)),
        })
    }
}

fn is_no_program(error: &SpawnError) -> bool {
    error.step == Step::Execute
        && error.source.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

/// Our ends, the process's input if it has one, and its two outputs.
type Pipes = (Streams, Option<OwnedFd>, [OwnedFd; 2]);

fn pipes(input: bool) -> io::Result<Pipes> {
    let (stdout, inner_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, inner_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    do_not_block(&stdout)?;
    do_not_block(&stderr)?;
    let (inner_stdin, stdin) = if input {
        let (inner, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        do_not_block(&stdin)?;
        (Some(inner), Some(stdin))
    } else {
        (None, None)
    };
    Ok((Streams { stdin, stdout, stderr: Some(stderr) }, inner_stdin, [inner_stdout, inner_stderr]))
}

fn terminal(size: TerminalSize, uid: u32) -> io::Result<(Streams, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let inner = ioctl_tiocgptpeer(&ours, flags)?;
    if uid != 0 {
        // The group stays the one that devpts gives.
        fchown(&inner, Some(Uid::from_raw(uid)), None::<Gid>)?;
    }
    set_size(&ours, size)?;
    // Everybody's terminal speaks UTF-8 today: the line editor then deletes characters, not bytes.
    let mut modes = tcgetattr(&inner)?;
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&inner, OptionalActions::Now, &modes)?;
    do_not_block(&ours)?;
    let stdin = rustix::io::fcntl_dupfd_cloexec(&ours, 3)?;
    Ok((Streams { stdin: Some(stdin), stdout: ours, stderr: None }, inner))
}

/// Changes the size of a terminal; the programs on it are told.
pub(crate) fn set_size(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// For a descriptor that was just made: no other flag is set that this call changes.
fn do_not_block(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(&fd, OFlags::NONBLOCK)?)
}
