//! Becoming the process of a VM: its own session, its signals, and what it is told to do.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use snafu::{OptionExt, ResultExt, Snafu};
use vmm_sys::signals::Signals;
use vmm_sys::{Interest, Poller};

use crate::control::{
    Answer, ClientLine, Hello, LineBuffer, MonitorLine, Refusal, RefusalCode, Request, StartRequest,
};
use crate::home::{End, EndReason, HeldVm, Home, HomeError, Timestamp};
use crate::threads;

/// How long a starter may take to say what to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a monitor could not do its work. What becomes of the VM is told at its control socket instead.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum MonitorError {
    /// The standard input is no socket of a starter.
    #[snafu(display("this is vmm's own process for a VM: it is started by the library, not by hand"))]
    NotStarted {
        /// What is wrong with it.
        source: io::Error,
    },
    /// The starter went away, or said something else than what to start.
    #[snafu(display("the process that started this monitor did not say what to start"))]
    NoRequest,
    /// The system refused something.
    #[snafu(display("cannot {what}"))]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The home cannot be used.
    #[snafu(context(false), display("cannot use the VM's folder"))]
    Home {
        /// The cause.
        source: HomeError,
    },
    /// The VM's folder holds no description of a VM.
    #[snafu(display("the VM's folder holds no description of a VM"))]
    NoSpec,
    /// The kernel has no filters of system calls.
    #[snafu(display("this host's kernel cannot keep the monitor from system calls that it does not need"))]
    NoFilter {
        /// The cause.
        source: io::Error,
    },
}

impl MonitorError {
    /// What the user can do about it.
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoFilter { .. } => {
                Some("use a kernel that has CONFIG_SECCOMP_FILTER; `--no-seccomp` does without".to_owned())
            }
            _ => None,
        }
    }
}

/// A process that is ready to be the monitor of some VM.
pub(super) struct Process {
    pub(super) starter: UnixStream,
    pub(super) signals: Signals,
}

/// What a monitor is asked to do.
pub(super) struct Asked {
    request_id: u64,
    request: StartRequest,
    lock_file: File,
}

impl Asked {
    /// Takes the VM over.
    pub(super) fn accept(self) -> Result<Start, MonitorError> {
        let Self { request_id, request, lock_file } = self;
        if request.seccomp {
            threads::confine().context(NoFilterSnafu)?;
        }
        let home = Home::open(&request.home)?;
        let held = HeldVm::from_lock_file(home.folder(&request.id), lock_file)?;
        Ok(Start { request_id, request, held })
    }

    /// How to tell the starter that nothing comes of it.
    pub(super) fn refusal(&self, starter: &UnixStream) -> io::Result<impl FnOnce(&MonitorError) + use<>> {
        let starter = starter.try_clone()?;
        let id = self.request_id;
        Ok(move |error: &MonitorError| {
            let end = End {
                reason: EndReason::StartFailed,
                message: crate::engine::chain(error),
                hint: error.hint(),
                console_tail: String::new(),
                at: Timestamp::now(),
            };
            // A starter that is gone needs no answer.
            let _ = say(&starter, &MonitorLine::Answer { id, what: Answer::Ended(end) });
        })
    }
}

/// What a monitor is to do, with the VM in hand.
pub(super) struct Start {
    pub(super) request_id: u64,
    pub(super) request: StartRequest,
    pub(super) held: HeldVm,
}

impl Process {
    /// Leaves the session, the folder and the standard streams of whoever started us.
    pub(super) fn become_one() -> Result<Self, MonitorError> {
        // Nobody may wait for the end of a pipe, or for a lock, that a VM would keep for its whole life.
        vmm_sys::prepared_child::close_inherited()
            .context(SystemSnafu { what: "close what was inherited" })?;
        let starter = rustix::stdio::stdin().try_clone_to_owned().context(NotStartedSnafu)?;
        rustix::net::sockopt::socket_type(&starter).map_err(io::Error::from).context(NotStartedSnafu)?;
        // A child that inherited it would keep the starter's connection open after us.
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.context(SystemSnafu { what: "open /dev/null" })?;
        rustix::stdio::dup2_stdin(&null)
            .map_err(io::Error::from)
            .context(SystemSnafu { what: "leave stdin" })?;
        let signals = Signals::of_termination().context(SystemSnafu { what: "wait for signals" })?;
        // Fails only for the leader of a group, which a shell makes of what it starts itself.
        let _ = rustix::process::setsid();
        rustix::process::chdir("/").map_err(io::Error::from).context(SystemSnafu { what: "enter /" })?;
        // A guest with all of its connections must not keep us from answering whoever stops it.
        vmm_sys::process::allow_many_descriptors();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        Ok(Self { starter: UnixStream::from(starter), signals })
    }

    /// Reads what to start, takes over the VM's lock.
    pub(super) fn receive_start(&self) -> Result<Asked, MonitorError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut lines = LineBuffer::default();
        let mut lock_file = None;
        let mut greeted = false;
        loop {
            while let Some(line) = lines.next_line().ok().context(NoRequestSnafu)? {
                match serde_json::from_slice(&line) {
                    Ok(ClientLine::Hello(hello)) => {
                        say(&self.starter, &MonitorLine::Hello(Hello::ours()))?;
                        if !crate::control::VERSION.understands(hello.control) {
                            // Its own library tells its user so, by our greeting.
                            return NoRequestSnafu.fail();
                        }
                        greeted = true;
                    }
                    Ok(ClientLine::Request { id, what: Request::Start(request) }) if greeted => {
                        let lock_file = File::from(lock_file.take().context(NoRequestSnafu)?);
                        return Ok(Asked { request_id: id, request, lock_file });
                    }
                    _ => {
                        let message = "the first request to a new monitor is to start".to_owned();
                        let refusal = Refusal { code: RefusalCode::OutOfPlace, message };
                        say(&self.starter, &MonitorLine::Refused(refusal))?;
                        return NoRequestSnafu.fail();
                    }
                }
            }
            self.receive(&mut lines, &mut lock_file, deadline)?;
        }
    }

    fn receive(
        &self,
        lines: &mut LineBuffer,
        lock_file: &mut Option<OwnedFd>,
        deadline: Instant,
    ) -> Result<(), MonitorError> {
        let what = "read from the process that started us";
        let mut poller = Poller::new().context(SystemSnafu { what })?;
        poller.add(&self.starter, 0, Interest::READ).context(SystemSnafu { what })?;
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = poller.wait(Some(left)).context(SystemSnafu { what })?.count();
        snafu::ensure!(ready > 0, NoRequestSnafu);
        let mut bytes = [0; 4096];
        let (length, files) =
            vmm_sys::fd_passing::receive(self.starter.as_fd(), &mut bytes).context(SystemSnafu { what })?;
        snafu::ensure!(length > 0, NoRequestSnafu);
        lines.push(&bytes[..length]);
        *lock_file = files.into_iter().next().or(lock_file.take());
        Ok(())
    }
}

fn say(mut starter: &UnixStream, line: &MonitorLine) -> Result<(), MonitorError> {
    let what = "answer the process that started us";
    let bytes = crate::control::to_line(line).map_err(io::Error::from).context(SystemSnafu { what })?;
    starter.write_all(&bytes).context(SystemSnafu { what })
}
