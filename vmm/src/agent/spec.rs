//! What process to start, and how to attach to one.

use std::time::Duration;

use vmm_protocol::{Attach, ByteString, OnDisconnect, ProcessId, Start, TerminalSize};

/// A process to be started in the guest.
///
/// ```
/// use vmm::agent::ProcessSpec;
///
/// let spec = ProcessSpec::command(["sh", "-c", "echo $GREETING"]).environment("GREETING", "hello").user("nobody");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    start: Start,
}

impl ProcessSpec {
    /// A command with its arguments. It reads an empty standard input unless [`stdin`](Self::stdin) is asked for.
    #[must_use]
    pub fn command<T: Into<ByteString>>(argv: impl IntoIterator<Item = T>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self { start: Start { argv, ..Start::default() } }
    }

    /// The user's login shell.
    #[must_use]
    pub fn login_shell() -> Self {
        Self::default()
    }

    /// Sets a variable, over those of the machine and the user.
    #[must_use]
    pub fn environment(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.start.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it in this folder instead of the user's home.
    #[must_use]
    pub fn working_directory(mut self, folder: impl Into<ByteString>) -> Self {
        self.start.working_directory = Some(folder.into());
        self
    }

    /// Runs it as `user`, `user:group`, `uid` or `uid:gid` instead of root.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.start.user = Some(user.into());
        self
    }

    /// Gives it a terminal. Standard output and error are then one stream.
    #[must_use]
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.start.terminal = Some(size);
        self
    }

    /// Feeds its standard input from here.
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.start.stdin = true;
        self
    }

    /// Ends it, and all that it started, when our connection breaks. Without, it goes on.
    #[must_use]
    pub fn kill_on_disconnect(mut self) -> Self {
        self.start.on_disconnect = OnDisconnect::Kill;
        self
    }

    /// Ends it, and all that it started, when this time is up.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.start.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Whether standard input is fed from here.
    #[must_use]
    pub fn has_stdin(&self) -> bool {
        self.start.stdin
    }

    pub(super) fn request(&self, attach: bool) -> Start {
        Start { attach, ..self.start.clone() }
    }
}

/// How to attach to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachSpec {
    attach: Attach,
}

impl AttachSpec {
    /// To this process; all that is kept of its output is replayed.
    #[must_use]
    pub fn to(process: ProcessId) -> Self {
        let on_disconnect = OnDisconnect::Continue;
        Self { attach: Attach { process, stdout_from: None, stderr_from: None, on_disconnect } }
    }

    /// Replays nothing that comes before these positions: what we have seen already.
    #[must_use]
    pub fn replay_from(mut self, stdout: u64, stderr: u64) -> Self {
        self.attach.stdout_from = Some(stdout);
        self.attach.stderr_from = Some(stderr);
        self
    }

    /// Ends the process, and all that it started, when our connection breaks.
    #[must_use]
    pub fn kill_on_disconnect(mut self) -> Self {
        self.attach.on_disconnect = OnDisconnect::Kill;
        self
    }

    pub(super) fn request(self) -> Attach {
        self.attach
    }
}
