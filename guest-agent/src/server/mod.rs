//! The agent's heart: one thread that waits for clients, signals, and the streams of processes, and serves them all.
//!
//! One thread needs no locks, starts processes without copying anything, and costs an emulated processor the least.

mod connection;
mod epoll;
mod freezing;
mod process;
mod requests;
mod ring;
mod shutdown;
mod streams;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as SystemSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{WaitOptions, wait};
use vmm_protocol::{
    Answer, ErrorKind, FrameKind, HeaderError, MAX_FRAME, Outcome, Reply, ShutdownMode, Signal, VERSION,
};

use self::connection::{Connection, Role};
use self::epoll::{Epoll, Event, Token};
use self::freezing::{Freezable, Freezing};
use self::process::Process;
pub(crate) use self::requests::listed;
use self::shutdown::ShuttingDown;
use self::streams::{FrameBuffer, Moved};
use self::workers::Workers;
use crate::cgroup::Groups;
use crate::health::Observer;
use crate::launch::Launcher;
use crate::listener::Listener;
use crate::refusal::Refusal;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take to receive what was still to be said.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// For how long no client is taken when the system has no descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// More connections than this are closed at once.
const MAX_CONNECTIONS: usize = 512;

/// Processes that have ended and whose output can still be asked for.
const REMEMBERED: usize = 32;

/// What the agent is in its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Process 1.
    Init,
    /// A process beside the image's own init.
    BesideInit,
    /// A program on a system that is not its own.
    Alone,
}

/// Why the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every process has ended, and the machine is to go down.
    ShutDown(ShutdownMode),
    /// It was told to end by a signal.
    Terminated,
}

/// Serves clients.
pub struct Server {
    place: Place,
    epoll: Epoll,
    listener: Listener,
    signals: SignalFd,
    launcher: Launcher,
    groups: Groups,
    connections: BTreeMap<u64, Connection>,
    processes: BTreeMap<u64, Process>,
    /// The processes that run, by their number in the system.
    running: BTreeMap<i32, u64>,
    /// The processes that do what waits for disks.
    workers: Workers,
    observer: Observer,
    next_id: u64,
    /// Processes with more to move, when the others have had their turn.
    again: BTreeSet<u64>,
    /// Kept connections whose next request may be there already.
    asking_again: BTreeSet<u64>,
    /// No client is taken before this.
    accept_from: Option<Instant>,
    freezable: Option<Freezable>,
    freezing: Option<Freezing>,
    shutting_down: Option<ShuttingDown>,
    end: Option<End>,
    buffer: Box<FrameBuffer>,
}

/// Blocks the signals that the server receives as messages. For the main thread, before it starts others or a server.
pub fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    use SystemSignal::{SIGCHLD, SIGHUP, SIGINT, SIGPWR, SIGTERM, SIGUSR1, SIGUSR2};
    [SIGCHLD, SIGHUP, SIGINT, SIGPWR, SIGTERM, SIGUSR1, SIGUSR2].into_iter().collect()
}

impl Server {
    /// Prepares to serve the clients of a listener.
    pub fn new(place: Place, listener: Listener, launcher: Launcher, groups: Groups) -> io::Result<Self> {
        // The kernel gives process 1 fewer than our clients and processes have at most.
        vmm_sys::process::allow_many_descriptors();
        let epoll = Epoll::new()?;
        let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        epoll.add_level(&listener, Token::Listener)?;
        epoll.add_level(&signals, Token::Signals)?;
        Ok(Self {
            place,
            epoll,
            listener,
            signals,
            launcher,
            groups,
            connections: BTreeMap::new(),
            processes: BTreeMap::new(),
            running: BTreeMap::new(),
            workers: Workers::default(),
            observer: Observer::default(),
            next_id: 1,
            again: BTreeSet::new(),
            asking_again: BTreeSet::new(),
            accept_from: None,
            freezable: Freezable::of(place),
            freezing: None,
            shutting_down: None,
            end: None,
            buffer: Box::new([0; MAX_FRAME]),
        })
    }

    /// Takes the place of so many agents before it: no name of a process is used again.
    pub fn follow(&mut self, agents: u32) {
        self.next_id += u64::from(agents) << 32;
    }

    /// Does ahead what the first request would otherwise wait for.
    pub fn prepare(&mut self) {
        self.groups.prepare();
        self.groups.prepare();
    }

    /// Serves until the machine, or the agent, is to end.
    pub fn run(&mut self) -> io::Result<End> {
        loop {
            let deadline = if self.is_idle() { self.next_deadline() } else { Some(Instant::now()) };
            self.turn(deadline)?;
            if let Some(end) = self.end {
                return Ok(end);
            }
        }
    }

    /// Whether there is nothing to do unless something happens.
    fn is_idle(&self) -> bool {
        self.again.is_empty() && self.asking_again.is_empty()
    }

    /// Waits until something is ready, at most until a deadline, and serves it and what is due.
    fn turn(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        for event in self.epoll.wait(deadline)? {
            self.dispatch(event);
        }
        for id in std::mem::take(&mut self.again) {
            self.serve_process(id);
        }
        for id in std::mem::take(&mut self.asking_again) {
            self.serve_connection(id);
        }
        self.do_what_is_due();
        Ok(())
    }

    fn dispatch(&mut self, event: Event) {
        match event.token {
            Token::Listener => self.accept(),
            Token::Signals => self.receive_signals(),
            Token::Freeze => self.serve_freeze(),
            Token::Connection(id) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.readable |= event.readable;
                    connection.writable |= event.writable;
                    connection.ended |= event.ended;
                    self.serve_connection(id);
                }
            }
            Token::Process(id, stream) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.streams.ready(stream, event.readable, event.writable);
                    self.serve_process(id);
                }
            }
        }
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            // Out of descriptors or memory: the client waits in the queue until others are gone. It would wake us
            // again at once, and for as long as it waits.
            Err(_) => {
                self.accept_from = Some(Instant::now() + ACCEPT_PAUSE);
                return self.epoll.set_level(&self.listener, Token::Listener, false);
            }
        };
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let id = self.new_id();
        self.connections.insert(id, Connection::new(stream, Instant::now() + REQUEST_TIMEOUT));
        self.serve_connection(id);
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Does what can be done for a connection now.
    fn serve_connection(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.role {
            Role::Asking(_) => match connection.next_request() {
                Ok(Some(request)) => self.handle(id, request),
                Ok(None) => {}
                Err(HeaderError::Closed | HeaderError::Transfer { .. }) => connection.broken = true,
                Err(error) => {
                    let answer = refuse_header(&error);
                    connection.answer(&answer);
                    self.close(id);
                }
            },
            Role::Attached(process) => self.serve_process(process),
            Role::Waiting(_) => {}
            Role::Freezing => self.serve_freeze(),
            Role::Closing(_) => connection.flush(),
        }
        // Whoever waits and is gone may have been gone before we read what it wanted: we are not told twice.
        if let Some(connection) = self.connections.get_mut(&id)
            && matches!(connection.role, Role::Waiting(_))
        {
            connection.broken |= connection.ended;
        }
        self.keep_or_drop(id);
    }

    /// Forgets a connection that is done, and waits for one that is not.
    fn keep_or_drop(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let done = matches!(connection.role, Role::Closing(_)) && !connection.is_congested();
        if done || connection.broken || self.watch_connection(id).is_err() {
            // A client that was attached has been let go by its process before.
            self.connections.remove(&id);
        }
    }

    /// Waits for a connection; for it to take more only from when it did not take all.
    fn watch_connection(&mut self, id: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let token = Token::Connection(id);
        if !connection.watched {
            self.epoll.add_readable(connection.stream(), token)?;
            connection.watched = true;
        }
        // Who streams is waited for until its next request: it will take less than all again.
        let wanted = !connection.writable || connection.wants_room && !connection.is_resting();
        if wanted != connection.wants_room {
            self.epoll.want_room(connection.stream(), token, wanted)?;
            connection.wants_room = wanted;
        }
        Ok(())
    }

    /// Everything is said to a client: it asks again, or leaves.
    fn close(&mut self, id: u64) {
        self.close_by(id, Some(Instant::now() + CLOSE_TIMEOUT));
    }

    fn close_by(&mut self, id: u64, deadline: Option<Instant>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if connection.keep {
                connection.expect_request(deadline);
                self.asking_again.insert(id);
            } else {
                connection.role = Role::Closing(deadline);
            }
            connection.flush();
        }
        self.keep_or_drop(id);
    }

    /// Moves what can be moved for a process, and sees whether it is complete.
    fn serve_process(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let mut moved = [Moved::All; 2];
        if let Some(client) = process.client {
            let connection = self.connections.get_mut(&client);
            moved = match connection {
                Some(connection) => {
                    let input = process.streams.move_input(connection);
                    // A process that does not read must not outlive the client that it was to end with.
                    let forsaken = connection.ended && process.ends_with_its_client();
                    let mut moved = [input, Moved::All];
                    if !forsaken {
                        moved[1] = process.streams.move_output(Some(connection), &mut self.buffer);
                    }
                    // The last that it was sent may have shown that it is gone.
                    if forsaken || connection.broken {
                        moved[0] = Moved::ClientGone;
                    }
                    moved
                }
                None => [Moved::ClientGone; 2],
            };
            if moved.contains(&Moved::ClientGone) {
                self.connections.remove(&client);
                process.client_gone();
                moved[0] = Moved::All;
            }
        }
        if process.client.is_none() {
            moved[1] = process.streams.move_output(None, &mut self.buffer);
        }
        let client = process.client;
        if !process.runs() && !process.complete && process.streams.are_drained() {
            self.complete(id);
        } else if moved.contains(&Moved::More) {
            self.again.insert(id);
        }
        if let Some(client) = client
            && self.watch_connection(client).is_err()
            && let Some(connection) = self.connections.get_mut(&client)
        {
            connection.broken = true;
            self.again.insert(id);
        }
    }

    /// A process has ended and all of its output was moved: whoever is interested is told.
    fn complete(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let Some(exit) = process.info.exit else { return };
        process.complete = true;
        let group = process.group.take();
        if let Some(client) = process.client.take() {
            self.send_exit(client, exit);
        }
        let waiting: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.role == Role::Waiting(id))
            .map(|(&client, _)| client)
            .collect();
        for client in waiting {
            self.reply(client, &Answer::Ok(Reply::Ended(exit)));
        }
        // What nobody waits for comes last.
        if let Some(group) = group {
            self.groups.give_back(group);
        }
        self.forget_old_processes();
    }

    fn send_exit(&mut self, client: u64, exit: vmm_protocol::Exit) {
        if let (Some(connection), Ok(json)) = (self.connections.get_mut(&client), serde_json::to_vec(&exit)) {
            connection.send_frame(FrameKind::Exit, &json);
        }
        // A person may read the last page for an hour; a client that is gone breaks the connection.
        self.close_by(client, None);
    }

    /// Answers, after which nothing more is said.
    fn reply(&mut self, client: u64, answer: &Answer) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.answer(answer);
        }
        self.close(client);
    }

    /// Forgets the processes that ended first. One whose outputs others still write to stays: they would be ended by
    /// a signal when nobody reads.
    fn forget_old_processes(&mut self) {
        let ended =
            self.processes.iter().filter(|(_, process)| process.complete && !process.streams.are_open());
        let ended: Vec<u64> = ended.map(|(&id, _)| id).collect();
        for id in &ended[..ended.len().saturating_sub(REMEMBERED)] {
            self.processes.remove(id);
        }
    }

    fn receive_signals(&mut self) {
        let mut child_ended = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match SystemSignal::try_from(number) {
                Ok(SystemSignal::SIGCHLD) => child_ended = true,
                Ok(signal) => self.asked_by_signal(signal),
                Err(_) => {}
            }
        }
        if child_ended {
            self.reap();
        }
    }

    /// Takes every child that has ended from the system's table: our processes, and, as process 1, orphans.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get();
                    self.workers.remove(pid);
                    let Some(id) = self.running.remove(&pid) else { continue };
                    let signal = status.terminating_signal().and_then(|signal| u8::try_from(signal).ok());
                    let outcome = match signal.and_then(|signal| Signal::try_from(signal).ok()) {
                        Some(signal) => Outcome::Signal(signal),
                        None => Outcome::Code(
                            status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(255),
                        ),
                    };
                    if let Some(process) = self.processes.get_mut(&id) {
                        process.ended(outcome);
                    }
                    self.serve_process(id);
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => return,
                // No children are left at all.
                Err(_) => return self.everybody_is_gone(),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let clients = self.connections.values().filter_map(Connection::deadline);
        let timers = self.processes.values().filter_map(|process| Some(process.timer?.0));
        let shutdown = self.shutting_down.as_ref().map(ShuttingDown::deadline);
        clients.chain(timers).chain(shutdown).chain(self.accept_from).min()
    }

    fn do_what_is_due(&mut self) {
        let Some(deadline) = self.next_deadline() else { return };
        let now = Instant::now();
        if deadline > now {
            return;
        }
        self.connections.retain(|_, connection| connection.deadline().is_none_or(|deadline| deadline > now));
        for process in self.processes.values_mut() {
            if process.timer.is_some_and(|(deadline, _)| deadline <= now) {
                process.timer_due();
            }
        }
        if self.accept_from.is_some_and(|from| from <= now) {
            self.accept_from = None;
            self.epoll.set_level(&self.listener, Token::Listener, true);
        }
        self.shutdown_due(now);
    }

    /// Waits for the streams of a new process.
    fn watch(&self, id: u64, process: &Process) -> io::Result<()> {
        for (stream, fd) in process.streams.descriptors() {
            let fd: &OwnedFd = fd;
            self.epoll.add_edge(fd, Token::Process(id, stream))?;
        }
        Ok(())
    }
}

fn refuse_header(error: &HeaderError) -> Answer {
    let refusal = match error {
        HeaderError::OtherVersion { theirs } => {
            let message = format!("this agent speaks version {VERSION} of the protocol, not {theirs}");
            Refusal::new(ErrorKind::Version, message)
        }
        HeaderError::Malformed { source } => {
            Refusal::system(ErrorKind::Malformed, "the header is no request of this version", source)
        }
        error => Refusal::new(ErrorKind::Malformed, error.to_string()),
    };
    refusal.into()
}
