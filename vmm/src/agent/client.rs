//! Requests to the agent: one after the other on a connection, each with a deadline.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_protocol::{
    AGENT_PORT, Answer, ErrorKind, Exit, Health, Pack, ProcessId, ProcessInfo, Reply, Request, Shutdown,
    ShutdownMode, Signal, SignalTarget, TerminalSize, Transfer, Unpack, header,
};

use super::connect::Timed;
use super::error::{RefusalSnafu, UnexpectedSnafu, printable};
use super::kept::KeptConnections;
use super::wire::{Cancel, Wire};
use super::{
    AgentError, AgentProcess, AttachSpec, Connector, Download, FrozenGuest, ProcessSpec, ProcessTail, Upload,
    VsockSocket,
};

/// How long the agent may take to answer what it can answer at once. An emulated guest under load is slow, not stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Speaks to the agent of one machine. Cheap to clone; no two requests share a connection at the same time, so clones can be
/// used from many threads at once.
#[derive(Clone, Debug)]
pub struct AgentClient {
    connector: Arc<dyn Connector>,
    answer_timeout: Duration,
    kept: Option<Arc<KeptConnections>>,
}

/// What came of a request.
struct Answered {
    stream: UnixStream,
    reply: Reply,
    /// The agent waits for another request on the stream, when it has said everything.
    is_kept: bool,
}

impl AgentClient {
    /// Through the machine's vsock socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_connector(Arc::new(VsockSocket::new(socket)))
    }

    /// Through connections made in some other way.
    #[must_use]
    pub fn with_connector(connector: Arc<dyn Connector>) -> Self {
        Self { connector, answer_timeout: ANSWER_TIMEOUT, kept: None }
    }

    /// Changes how long the agent may take to answer.
    #[must_use]
    pub fn with_answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Uses connections that were kept by clients before it, and keeps its own for those after it.
    #[must_use]
    pub(crate) fn keeping(mut self, kept: Arc<KeptConnections>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Makes a connection for each request again.
    #[must_use]
    pub(crate) fn keeping_none(mut self) -> Self {
        self.kept = None;
        self
    }

    /// The agent waits for another request on this connection.
    pub(super) fn keep(&self, stream: UnixStream) {
        if let Some(kept) = &self.kept {
            kept.put(stream);
        }
    }

    /// How the guest is. All text in it is printable.
    pub fn health(&self) -> Result<Health, AgentError> {
        let what = "ask how the guest is";
        match self.ask(what, &Request::Health)? {
            Reply::Health(mut health) => {
                let texts = health.disks.iter_mut();
                let texts =
                    texts.flat_map(|disk| [&mut disk.device, &mut disk.mount_point, &mut disk.file_system]);
                for text in texts.chain([&mut health.agent]) {
                    *text = printable(text);
                }
                Ok(health)
            }
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Starts a process whose input and output come here.
    pub fn start(&self, spec: &ProcessSpec) -> Result<AgentProcess, AgentError> {
        let what = "start a process";
        let answered = self.open(what, &Request::Start(spec.request(true)), self.deadline())?;
        match answered.reply {
            Reply::Started { process, pid } => {
                let started = AgentProcess::new(self.clone(), answered.stream, process);
                Ok(started.started(pid, spec.has_stdin(), answered.is_kept))
            }
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Starts a process that runs on its own; [`attach`](Self::attach) reaches it later.
    pub fn start_detached(&self, spec: &ProcessSpec) -> Result<ProcessId, AgentError> {
        let what = "start a process";
        match self.ask(what, &Request::Start(spec.request(false)))? {
            Reply::Started { process, .. } => Ok(process),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Takes over the input and output of a process. What is kept of its output comes first.
    pub fn attach(&self, spec: AttachSpec) -> Result<AgentProcess, AgentError> {
        let what = "attach to a process";
        let attach = spec.request();
        let answered = self.open(what, &Request::Attach(attach), self.deadline())?;
        match answered.reply {
            Reply::Attached { stdin, stdout_from, stderr_from, .. } => {
                let process = AgentProcess::new(self.clone(), answered.stream, attach.process);
                Ok(process.attached(stdin, (stdout_from, stderr_from)))
            }
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// What is kept of a process's output, and how it ended if it has. Whoever is attached to it stays.
    pub fn output(&self, process: ProcessId) -> Result<ProcessTail, AgentError> {
        let what = "read a process's output";
        match self.open_younger(what, &Request::Output { process })? {
            (stream, Reply::Attached { stdout_from, stderr_from, .. }) => {
                let process = AgentProcess::new(self.clone(), stream, process);
                process.attached(false, (stdout_from, stderr_from)).tail(self.deadline())
            }
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Waits for a process to end, at most until a deadline.
    pub fn wait(&self, process: ProcessId, deadline: Option<Instant>) -> Result<Exit, AgentError> {
        let what = "wait for a process";
        match self.ask_by(what, &Request::Wait { process }, deadline)? {
            Reply::Ended(exit) => Ok(exit),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, process: ProcessId, signal: Signal, target: SignalTarget) -> Result<(), AgentError> {
        self.do_it("send a signal to a process", &Request::Signal { process, signal, target })
    }

    /// Changes the size of a process's terminal.
    pub fn resize(&self, process: ProcessId, size: TerminalSize) -> Result<(), AgentError> {
        self.do_it("resize a process's terminal", &Request::Resize { process, size })
    }

    /// Lets go of whoever is attached to a process, which goes on.
    pub fn detach(&self, process: ProcessId) -> Result<(), AgentError> {
        self.do_it("detach from a process", &Request::Detach { process })
    }

    /// The processes that were started: those that run, and those that ended last. Their arguments are as the guest
    /// gave them: not fit for a terminal as they are.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, AgentError> {
        let what = "list the processes";
        match self.ask(what, &Request::Processes)? {
            Reply::Processes(processes) => Ok(processes),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Holds the file systems on the guest's disks still. Whoever writes to them waits until what is returned is told to let
    /// them go on, or dropped.
    pub fn freeze(&self) -> Result<FrozenGuest, AgentError> {
        let what = "hold the guest's file systems still";
        match self.open_younger(what, &Request::Freeze)? {
            (stream, Reply::Frozen) => Ok(FrozenGuest::new(stream, self.answer_timeout)),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Sets the guest's clock, to nanoseconds since 1970.
    pub fn set_clock(&self, time_ns: u64) -> Result<(), AgentError> {
        let what = "set the guest's clock";
        match self.open_younger(what, &Request::SetClock { time_ns })? {
            (_, Reply::Done) => Ok(()),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Begins to bring an archive into the guest. What `cancel` says ends it when it becomes readable; a guest that takes nothing
    /// is given up after `patience`.
    pub fn unpack(
        &self,
        request: Unpack,
        patience: Duration,
        cancel: Option<Arc<dyn Cancel>>,
    ) -> Result<Upload, AgentError> {
        let what = "copy files into the guest";
        let stream = self.transfer(what, Transfer::Unpack(request))?;
        Ok(Upload::new(Wire::new(stream, cancel).flowing(patience), what))
    }

    /// Begins to bring an archive out of the guest, in the same way.
    pub fn pack(
        &self,
        request: Pack,
        patience: Duration,
        cancel: Option<Arc<dyn Cancel>>,
    ) -> Result<Download, AgentError> {
        let what = "copy files out of the guest";
        let stream = self.transfer(what, Transfer::Pack(request))?;
        Ok(Download::new(Wire::new(stream, cancel).flowing(patience)))
    }

    fn transfer(&self, what: &'static str, transfer: Transfer) -> Result<UnixStream, AgentError> {
        match self.open_younger(what, &Request::Transfer(transfer))? {
            (stream, Reply::Transferring) => Ok(stream),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// Opens a conversation with a request that the first agents do not know.
    pub(super) fn open_younger(
        &self,
        what: &'static str,
        request: &Request,
    ) -> Result<(UnixStream, Reply), AgentError> {
        match self.open(what, request, self.deadline()) {
            Ok(answered) => Ok((answered.stream, answered.reply)),
            // An agent that does not know the request cannot read it.
            Err(AgentError::Refusal { kind: ErrorKind::Malformed, .. }) => Err(AgentError::TooOld { what }),
            Err(error) => Err(error),
        }
    }

    /// Tells the guest to shut down: processes have `grace` to end themselves. Returns as it begins; that it has
    /// happened is seen on the machine.
    pub fn shutdown(&self, mode: ShutdownMode, grace: Duration) -> Result<(), AgentError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.do_it("shut the guest down", &Request::Shutdown(Shutdown { mode, grace_ms }))
    }

    pub(super) fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.answer_timeout)
    }

    fn do_it(&self, what: &'static str, request: &Request) -> Result<(), AgentError> {
        match self.ask(what, request)? {
            Reply::Done => Ok(()),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    fn ask(&self, what: &'static str, request: &Request) -> Result<Reply, AgentError> {
        self.ask_by(what, request, self.deadline())
    }

    fn ask_by(
        &self,
        what: &'static str,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Reply, AgentError> {
        let Answered { stream, reply, is_kept } = self.open(what, request, deadline)?;
        if is_kept {
            self.keep(stream);
        }
        Ok(reply)
    }

    /// Connects where no connection is kept, asks, and reads the answer; `deadline` is the answer's.
    fn open(
        &self,
        what: &'static str,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Answered, AgentError> {
        // Who waits for ever for an answer is at least told at once that nobody takes the connection.
        let kept = self.kept.as_ref().filter(|_| request.can_be_followed() && deadline.is_some());
        let question = header::encode_keeping(request, kept.is_some());
        let question = question.map_err(|source| AgentError::TooLarge { what, source })?;
        let connected_by = Instant::now() + ANSWER_TIMEOUT.min(self.answer_timeout);
        let connected_by = deadline.map_or(connected_by, |deadline| deadline.min(connected_by));
        // A request of which the agent did not get all was not heard.
        let heard = |stream: &UnixStream| Timed::new(stream, Some(connected_by)).write_all(&question).is_ok();
        let stream = match kept.and_then(|kept| kept.take()).filter(heard) {
            Some(stream) => stream,
            None => self.connector.connect(AGENT_PORT, &question, connected_by)?,
        };
        let answer = header::read_whole(&mut Timed::new(&stream, deadline))
            .map_err(|source| AgentError::from_header(what, source))?;
        let is_kept = kept.is_some() && answer.keep;
        match answer.body {
            Answer::Ok(reply) => Ok(Answered { stream, reply, is_kept }),
            Answer::Error { kind, message } => {
                if is_kept {
                    self.keep(stream);
                }
                RefusalSnafu { what, kind, message: printable(&message) }.fail()
            }
        }
    }
}
