//! One run of a program, from its arguments to its status.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::processes::Process;
use crate::running::Running;

/// A program that is about to run.
#[must_use = "nothing runs yet"]
pub struct Invocation {
    command: Command,
    stdin: Vec<u8>,
}

impl Invocation {
    pub(crate) fn new(command: Command) -> Self {
        Self { command, stdin: Vec::new() }
    }

    /// Another program than `vmm`.
    pub fn of(command: Command) -> Self {
        Self::new(command)
    }

    /// What it reads; nothing where nothing is said.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Takes a variable out of its environment.
    pub fn without(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Runs it in this folder.
    pub fn in_folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Finished {
        let began = Instant::now();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn();
        let mut input = child.stdin.take().expect("a pipe");
        let stdin = std::mem::take(&mut self.stdin);
        // A program that does not read all of it has its reasons.
        let feeder = std::thread::spawn(move || drop(input.write_all(&stdin)));
        let stdout = drain(child.stdout.take().expect("a pipe"));
        let stderr = drain(child.stderr.take().expect("a pipe"));
        let status = wait(&mut child, &format!("{:?}", self.command));
        feeder.join().expect("the feeder does not panic");
        Finished {
            what: format!("{:?}", self.command),
            status,
            stdout: stdout.join().expect("the reader does not panic"),
            stderr: stderr.join().expect("the reader does not panic"),
            took: began.elapsed(),
        }
    }

    /// Starts it, to be talked to while it runs.
    pub fn start(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn();
        Running::new(child, format!("{:?}", self.command))
    }

    /// The command, for a terminal to run.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    fn spawn(&mut self) -> Child {
        self.command.spawn().unwrap_or_else(|error| panic!("{:?} cannot be started: {error}", self.command))
    }
}

/// Reads everything, so that the writer never waits for us.
fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for a child, and kills it when patience ends.
pub(crate) fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let process = Process::open(child.id());
    let in_time = process.ends_within(PATIENCE);
    if !in_time {
        process.kill();
    }
    let status = child.wait().expect("a child can be waited for");
    assert!(in_time, "{what} did not end");
    status
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    what: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    took: Duration,
}

impl Finished {
    /// Its status, as a shell gives it.
    pub fn status(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// What it wrote to its standard output, as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it wrote to its standard output.
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// What it wrote to its standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// How long it ran.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// It ended with status 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.ended_with(0)
    }

    /// It ended with this status.
    #[track_caller]
    pub fn ended_with(self, status: i32) -> Self {
        assert_eq!(
            self.status(),
            status,
            "the status of {}\n--- stdout\n{}\n--- stderr\n{}",
            self.what,
            self.stdout(),
            self.stderr()
        );
        self
    }

    /// It is a failure of `vmm` itself: status 125, nothing on the standard output, and one line that says each of
    /// these.
    #[track_caller]
    pub fn refused_saying(self, words: &[&str]) -> Self {
        let refused = self.ended_with(125);
        assert_eq!(refused.stdout(), "", "a refusal prints to standard error");
        let said = refused.stderr();
        assert_eq!(said.trim_end().lines().count(), 1, "a refusal is one line:\n{said}");
        for word in words {
            assert!(said.contains(word), "the refusal does not say {word:?}:\n{said}");
        }
        refused
    }
}
