//! What the device is made of, and what outlives its thread: the host's sockets, the connections and the queues.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use snafu::ResultExt;
use vmm_sys::{Interest, Poller, Ready};

use super::client::{Clients, Connect};
use super::connection::{Connection, Ports};
use super::host::HostListener;
use super::packet::Header;
use super::session::Session;
use super::stream::{HostStream, Vectors};
use super::table::ConnectionTable;
use super::{ConnectionLimit, GuestCid, ListenSnafu, PollSnafu, VsockError};
use crate::memory::Regions;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, QueueError, QueueState, Virtqueue};

/// The largest sizes of the queues (virtio 1.2, 5.10.2).
pub(super) const QUEUE_SIZES: [u16; 3] = [128, 128, 16];
/// Packets to the guest.
pub(super) const RECEIVE_QUEUE: usize = 0;
/// Packets from the guest.
pub(super) const TRANSMIT_QUEUE: usize = 1;
/// What happens to the device.
pub(super) const EVENT_QUEUE: usize = 2;

/// For how long no clients are accepted when the host has no descriptor for them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How late the driver may be told that its packets were taken. It only lets go of their memory then, and what interrupts it
/// for packets of ours has it look after its own: an interrupt costs an emulated guest as much as a small packet.
const TELL_WITHIN: Duration = Duration::from_millis(10);
/// With this part of the queue taken it is told at once: it may be waiting for room.
const UNTOLD_PART: u16 = 4;
/// More clients than this wait until the connections had their turn.
const MOST_ACCEPTED: usize = 64;

static BROKEN_QUEUE: LogLimit = LogLimit::new();
static ACCEPT_FAILED: LogLimit = LogLimit::new();
static NOT_POLLED: LogLimit = LogLimit::new();

/// What the poller's tokens stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Stop,
    Queue(usize),
    Listener,
    Client(u64),
    Session(usize),
}

/// The kind is in the topmost bits; there are fewer of each than the rest can tell apart.
const KIND: u32 = 60;

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        match token {
            Token::Stop => 0,
            Token::Queue(index) => 1 << KIND | index as u64,
            Token::Listener => 2 << KIND,
            Token::Client(number) => 3 << KIND | number,
            Token::Session(index) => 4 << KIND | index as u64,
        }
    }
}

impl From<u64> for Token {
    fn from(token: u64) -> Self {
        let rest = token & ((1 << KIND) - 1);
        let index = usize::try_from(rest).unwrap_or(usize::MAX);
        match token >> KIND {
            0 => Self::Stop,
            1 => Self::Queue(index),
            2 => Self::Listener,
            3 => Self::Client(rest),
            _ => Self::Session(index),
        }
    }
}

/// A queue that the driver made ready.
pub(super) struct ServedQueue {
    queue: Virtqueue,
    /// Chains may be available that were not looked at.
    pub is_pending: bool,
    /// So many chains were completed of which the driver was not told.
    untold: u16,
}

impl ServedQueue {
    /// The guest's memory as it is now.
    pub(super) fn memory(&self) -> crate::memory::Snapshot {
        self.queue.memory()
    }

    /// Takes the next chain, if there is one. With none, the driver kicks for the next and nothing is pending.
    pub(super) fn pop(&mut self, memory: &Regions, chain: &mut Chain) -> Result<bool, QueueError> {
        if !self.is_pending {
            return Ok(false);
        }
        loop {
            if self.queue.pop(memory, chain)? {
                return Ok(true);
            }
            if !self.queue.enable_kicks(memory)? {
                self.is_pending = false;
                return Ok(false);
            }
            self.queue.disable_kicks(memory)?;
        }
    }

    /// Gives back the chain that was popped last, untouched.
    pub(super) fn undo_pop(&mut self) {
        self.queue.undo_pop();
    }

    pub(super) fn complete(&mut self, memory: &Regions, head: u16, written: u32) -> Result<(), QueueError> {
        self.untold = self.untold.saturating_add(1);
        self.queue.complete(memory, head, written)
    }

    /// The driver kicked.
    fn kicked(&mut self, ready: Ready) -> Result<(), QueueError> {
        // No event hangs up: it is something else, which the transport's peer has closed.
        let is_event = !ready.hangup && self.queue.kick().clear().is_ok();
        if !is_event {
            self.queue.break_down();
        }
        self.is_pending = true;
        let memory = self.queue.memory();
        self.queue.disable_kicks(&memory)
    }

    /// Tells the driver what was completed.
    fn notify(&mut self) -> Result<(), QueueError> {
        if std::mem::take(&mut self.untold) == 0 {
            return Ok(());
        }
        let memory = self.queue.memory();
        self.queue.notify(&memory)
    }

    /// Whether the driver may be told later. Without indirect descriptors, how much of the queue a chain takes is the driver's
    /// affair.
    fn can_wait(&self) -> bool {
        self.queue.has_indirect() && (1..self.queue.size() / UNTOLD_PART).contains(&self.untold)
    }

    /// Serves the queue no more, and tells the transport.
    pub(super) fn broke(&mut self, error: &QueueError) {
        if let Some(left_out) = BROKEN_QUEUE.permit() {
            let queue = self.queue.index();
            let error: &dyn std::error::Error = error;
            tracing::warn!(queue, error, left_out, "a vsock queue is broken");
        }
        self.is_pending = false;
        self.queue.break_down();
    }
}

/// All of the device but its thread.
pub(super) struct State {
    pub guest: GuestCid,
    pub poller: Poller,
    pub listener: HostListener,
    pub clients: Clients,
    pub table: ConnectionTable,
    /// Resets for what is no connection (any more).
    pub replies: VecDeque<Header>,
    pub queues: [Option<ServedQueue>; QUEUE_SIZES.len()],
    pub vectors: Vectors,
    pub chain: Chain,
    /// The driver has to hear of a transport reset.
    pub is_reset_due: bool,
    /// Until when no clients are accepted.
    accept_pause: Option<Instant>,
    /// When the driver is to be told that its packets were taken.
    tell_at: Option<Instant>,
}

impl State {
    pub(super) fn new(guest: GuestCid, socket: &Path, limit: ConnectionLimit) -> Result<Self, VsockError> {
        let listener = HostListener::bind(socket)?;
        let poller = Poller::new().context(PollSnafu)?;
        poller
            .add(listener.socket(), Token::Listener.into(), Interest::READ)
            .context(ListenSnafu { path: socket })?;
        Ok(Self {
            guest,
            poller,
            listener,
            clients: Clients::new(limit.get().into()),
            table: ConnectionTable::new(limit),
            replies: VecDeque::new(),
            queues: [const { None }; QUEUE_SIZES.len()],
            vectors: Vectors::default(),
            chain: Chain::new(),
            is_reset_due: false,
            accept_pause: None,
            tell_at: None,
        })
    }

    pub(super) fn serves_queues(&self) -> bool {
        self.queues.iter().any(Option::is_some)
    }

    pub(super) fn serves_queue(&self, index: u16) -> bool {
        self.queues.get(usize::from(index)).is_some_and(Option::is_some)
    }

    /// Serves a queue of the device, which it did not serve.
    pub(super) fn add_queue(&mut self, queue: Virtqueue) -> io::Result<()> {
        let index = usize::from(queue.index());
        self.poller.add(queue.kick(), Token::Queue(index).into(), Interest::READ)?;
        self.queues[index] = Some(ServedQueue { queue, is_pending: true, untold: 0 });
        Ok(())
    }

    pub(super) fn remove_queue(&mut self, index: u16) -> Option<QueueState> {
        let served = self.queues.get_mut(usize::from(index))?.take()?;
        if let Err(error) = self.poller.delete(served.queue.kick()) {
            tracing::debug!(%error, index, "a queue's kick was not in the poller");
        }
        Some(served.queue.into_state())
    }

    /// Nothing is served any more, and the driver is told.
    pub(super) fn break_down(&mut self) {
        for served in self.queues.iter_mut().flatten() {
            served.is_pending = false;
            served.queue.break_down();
        }
    }

    /// Drops all connections.
    pub(super) fn reset(&mut self) {
        self.table.clear();
        self.replies.clear();
        self.is_reset_due = false;
    }

    /// Drops all connections and has the driver told.
    pub(super) fn reset_transport(&mut self) {
        self.reset();
        self.is_reset_due = true;
    }

    pub(super) fn kicked(&mut self, index: usize, ready: Ready) {
        let Some(served) = self.queues.get_mut(index).and_then(Option::as_mut) else { return };
        if ready.hangup {
            self.poller.delete(served.queue.kick()).unwrap_or_else(|error| not_polled(&error));
        }
        if let Err(error) = served.kicked(ready) {
            served.broke(&error);
        }
    }

    /// Tells the driver what was completed, but for what it need not know yet.
    pub(super) fn notify(&mut self) {
        let now = Instant::now();
        let is_late = self.tell_at.is_some_and(|at| at <= now);
        let waits = self.tell(is_late);
        self.tell_at = if waits { self.tell_at.or_else(|| now.checked_add(TELL_WITHIN)) } else { None };
    }

    /// Tells the driver all that was completed.
    pub(super) fn tell_all(&mut self) {
        self.tell(true);
    }

    /// Tells it of all queues, or of all but its packets, if those can wait: then it says so.
    fn tell(&mut self, all: bool) -> bool {
        let mut waits = false;
        for (index, served) in self.queues.iter_mut().enumerate() {
            let Some(served) = served else { continue };
            if !all && index == TRANSMIT_QUEUE && served.can_wait() {
                waits = true;
            } else if let Err(error) = served.notify() {
                served.broke(&error);
            }
        }
        waits
    }

    /// Accepts clients that have connected.
    pub(super) fn accept(&mut self) {
        for _ in 0..MOST_ACCEPTED {
            match self.listener.accept() {
                Ok(socket) => {
                    let token = |number| Token::Client(number).into();
                    match self.clients.admit(socket, &self.poller, token) {
                        Ok(Some(connect)) => self.connect(connect),
                        Ok(None) => {}
                        Err(error) => not_polled(&error),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // No descriptor is left, most likely. The listener would stay ready, and we would spin.
                    if let Some(left_out) = ACCEPT_FAILED.permit() {
                        tracing::warn!(%error, left_out, "cannot accept a vsock client");
                    }
                    self.watch_listener(Interest::NONE);
                    self.accept_pause = Some(Instant::now() + ACCEPT_PAUSE);
                    break;
                }
            }
        }
    }

    /// For how long there is nothing to do unless something happens.
    pub(super) fn idle_time(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.accept_pause.is_some_and(|until| until <= now) {
            self.accept_pause = None;
            self.watch_listener(Interest::READ);
        }
        let next = self.accept_pause.into_iter().chain(self.tell_at).min()?;
        Some(next.saturating_duration_since(now))
    }

    pub(super) fn client_ready(&mut self, number: u64) {
        match self.clients.ready(number, &self.poller) {
            Ok(Some(connect)) => self.connect(connect),
            Ok(None) => {}
            Err(error) => not_polled(&error),
        }
    }

    pub(super) fn session_ready(&mut self, index: usize, ready: Ready) {
        let Some(session) = self.table.get_mut(index) else { return };
        let answer = session.host_ready(ready, &self.poller);
        self.replies.extend(answer);
        self.table.touch(index);
    }

    /// Adds a connection, if there is room for it.
    pub(super) fn add_session(
        &mut self,
        connection: Connection,
        socket: std::os::unix::net::UnixStream,
    ) -> Option<usize> {
        let token = Token::Session(self.table.next_index()).into();
        if let Err(error) = self.poller.add(&socket, token, Interest::NONE) {
            not_polled(&error);
            return None;
        }
        let index = self.table.insert(Session::new(connection, HostStream::new(socket, token)));
        self.table.touch(index);
        Some(index)
    }

    /// Looks at the connections that changed in a round of work: those that are over go, the poller watches for what
    /// the others can work on.
    pub(super) fn settle(&mut self) {
        while let Some(index) = self.table.next_touched() {
            let Some(session) = self.table.get_mut(index) else { continue };
            if session.is_over() {
                self.table.remove(index);
            } else if let Err(error) = session.watch(&self.poller) {
                not_polled(&error);
                let reset = session.abort();
                self.table.remove(index);
                self.replies.push_back(reset);
            }
        }
    }

    /// A client wants a port of the guest. If there are too many connections, it sees its own closed.
    fn connect(&mut self, client: Connect) {
        if self.table.is_full() {
            tracing::debug!(port = client.port, "turned a vsock client away: too many connections");
            return;
        }
        let ports = Ports { host: self.table.free_port(client.port), guest: client.port };
        let connection = Connection::from_host(self.guest, ports, self.table.next_allocation());
        self.add_session(connection, client.socket);
    }

    fn watch_listener(&self, interest: Interest) {
        let watched = self.poller.modify(self.listener.socket(), Token::Listener.into(), interest);
        watched.unwrap_or_else(|error| not_polled(&error));
    }
}

fn not_polled(error: &io::Error) {
    if let Some(left_out) = NOT_POLLED.permit() {
        tracing::error!(%error, left_out, "cannot change what the vsock thread waits for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::RING_INDIRECT_DESCRIPTORS;
    use crate::virtio::testing::{Buffer, GuestQueue, TestMemory};

    /// A device without a thread, and its driver's transmit queue of 128.
    fn device() -> (tempfile::TempDir, TestMemory, GuestQueue, State) {
        let folder = tempfile::tempdir().unwrap();
        let guest = GuestCid::try_from(3).unwrap();
        let mut state = State::new(guest, &folder.path().join("vsock"), ConnectionLimit::default()).unwrap();
        let mut memory = TestMemory::new(1 << 20);
        let transmit = GuestQueue::new(&mut memory, QUEUE_SIZES[TRANSMIT_QUEUE]);
        let index = u16::try_from(TRANSMIT_QUEUE).unwrap();
        state
            .add_queue(Virtqueue::new(index, transmit.resources(), RING_INDIRECT_DESCRIPTORS, None).unwrap())
            .unwrap();
        (folder, memory, transmit, state)
    }

    /// The guest sends packets that mean nothing, and the device takes them.
    fn send(count: usize, memory: &mut TestMemory, transmit: &mut GuestQueue, state: &mut State) {
        let packet = memory.allocate(8);
        for _ in 0..count {
            transmit.add(&[Buffer::readable(packet, 8)]);
        }
        if let Some(served) = &mut state.queues[TRANSMIT_QUEUE] {
            served.is_pending = true;
        }
        state.take_from_guest();
        state.notify();
    }

    #[test]
    fn a_driver_is_told_late_that_a_few_packets_were_taken() {
        let (_folder, mut memory, mut transmit, mut state) = device();
        send(3, &mut memory, &mut transmit, &mut state);
        assert_eq!((transmit.used_index(), transmit.interrupt().queue_count()), (3, 0));
        assert!(state.idle_time().unwrap() <= TELL_WITHIN);
        let told_at = state.tell_at.unwrap();
        // More of them come no later for that.
        send(1, &mut memory, &mut transmit, &mut state);
        assert_eq!((state.tell_at, transmit.interrupt().queue_count()), (Some(told_at), 0));
        state.tell_at = told_at.checked_sub(TELL_WITHIN);
        state.notify();
        assert_eq!((state.tell_at, transmit.interrupt().queue_count()), (None, 1));
        assert_eq!(state.idle_time(), None);
        // And is told when the device stops.
        send(1, &mut memory, &mut transmit, &mut state);
        state.tell_all();
        assert_eq!(transmit.interrupt().queue_count(), 2);
    }

    #[test]
    fn a_driver_whose_queue_fills_is_told_at_once() {
        let (_folder, mut memory, mut transmit, mut state) = device();
        send(usize::from(QUEUE_SIZES[TRANSMIT_QUEUE] / UNTOLD_PART), &mut memory, &mut transmit, &mut state);
        assert_eq!((state.tell_at, transmit.interrupt().queue_count()), (None, 1));
    }
}
