//! All connections: found by their ports or their place, and the order in which they get the guest's buffers.

use std::collections::{HashMap, VecDeque};

use super::ConnectionLimit;
use super::connection::Ports;
use super::session::Session;

/// The first port that is given to a client of the host. Those below are for services that a guest's client names.
const FIRST_CLIENT_PORT: u32 = 1 << 30;
/// One past the last of them.
const END_OF_CLIENT_PORTS: u32 = 1 << 31;

/// The buffer of a connection, which bounds what the host holds for a reader that is slow.
const WIDE_BUFFER: u32 = 256 << 10;
/// The same when there are many connections, so that all of them together stay within some 32 MiB.
const NARROW_BUFFER: u32 = 16 << 10;
/// How many connections have wide buffers.
const MOST_WIDE: usize = 64;

#[derive(Debug, Default)]
struct Slot {
    session: Option<Session>,
    has_wide_buffer: bool,
    is_queued: bool,
    is_touched: bool,
}

/// The connections that there are.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    limit: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_ports: HashMap<Ports, usize>,
    /// Who has something to send to the guest, in the order in which they get a buffer.
    queue: VecDeque<usize>,
    /// Who is to be looked at when a round of work is done.
    touched: Vec<usize>,
    next_port: u32,
    wide: usize,
}

impl ConnectionTable {
    pub(super) fn new(limit: ConnectionLimit) -> Self {
        Self {
            limit: limit.get().into(),
            slots: Vec::new(),
            free: Vec::new(),
            by_ports: HashMap::new(),
            queue: VecDeque::new(),
            touched: Vec::new(),
            next_port: FIRST_CLIENT_PORT,
            wide: 0,
        }
    }

    /// How many there are, with those whose rest is still written to the host.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// The size of the next connection's buffer.
    pub(super) fn next_allocation(&self) -> u32 {
        if self.wide < MOST_WIDE { WIDE_BUFFER } else { NARROW_BUFFER }
    }

    /// A port of the host for a connection to a port of the guest, such that no other has the same two.
    pub(super) fn free_port(&mut self, guest: u32) -> u32 {
        // There are more ports than connections, so this ends.
        loop {
            let host = self.next_port;
            self.next_port = if host + 1 < END_OF_CLIENT_PORTS { host + 1 } else { FIRST_CLIENT_PORT };
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// The place that the next connection will have.
    pub(super) fn next_index(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    /// Puts a connection, for which there is room and whose ports are free, at [`ConnectionTable::next_index`].
    pub(super) fn insert(&mut self, session: Session) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let has_wide_buffer = self.wide < MOST_WIDE;
        self.wide += usize::from(has_wide_buffer);
        self.by_ports.insert(session.ports(), index);
        self.slots[index].has_wide_buffer = has_wide_buffer;
        self.slots[index].session = Some(session);
        index
    }

    pub(super) fn find(&self, ports: Ports) -> Option<usize> {
        self.by_ports.get(&ports).copied()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Session> {
        self.slots.get_mut(index)?.session.as_mut()
    }

    /// Notes that something changed for a connection: it gets its turn if it has something to send, its ports are
    /// free if the guest is through with it, and it is looked at when the round is done.
    pub(super) fn touch(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(session) = &slot.session else { return };
        if session.is_released() {
            let ports = session.ports();
            if self.by_ports.get(&ports) == Some(&index) {
                self.by_ports.remove(&ports);
            }
        }
        if session.has_packet() && !slot.is_queued {
            slot.is_queued = true;
            self.queue.push_back(index);
        }
        if !slot.is_touched {
            slot.is_touched = true;
            self.touched.push(index);
        }
    }

    /// The next connection that has something to send to the guest.
    pub(super) fn next_sender(&mut self) -> Option<usize> {
        while let Some(index) = self.queue.pop_front() {
            let slot = &mut self.slots[index];
            slot.is_queued = false;
            if slot.session.as_ref().is_some_and(Session::has_packet) {
                return Some(index);
            }
        }
        None
    }

    /// The connection could not send: it is the next again.
    pub(super) fn put_back_sender(&mut self, index: usize) {
        if !std::mem::replace(&mut self.slots[index].is_queued, true) {
            self.queue.push_front(index);
        }
    }

    /// One of the connections that changed since it was last returned.
    pub(super) fn next_touched(&mut self) -> Option<usize> {
        let index = self.touched.pop()?;
        self.slots[index].is_touched = false;
        Some(index)
    }

    /// Forgets a connection, whatever its state.
    pub(super) fn remove(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(session) = slot.session.take() else { return };
        self.wide -= usize::from(slot.has_wide_buffer);
        self.free.push(index);
        let ports = session.ports();
        if self.by_ports.get(&ports) == Some(&index) {
            self.by_ports.remove(&ports);
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
        self.by_ports.clear();
        self.queue.clear();
        self.touched.clear();
        self.wide = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::GuestCid;
    use super::super::connection::Connection;
    use super::super::stream::HostStream;
    use super::*;

    fn table() -> ConnectionTable {
        ConnectionTable::new(ConnectionLimit::default())
    }

    fn session(ports: Ports) -> Session {
        let (socket, _) = UnixStream::pair().unwrap();
        let connection = Connection::from_host(GuestCid::try_from(3).unwrap(), ports, 1000);
        Session::new(connection, HostStream::new(socket, 0))
    }

    #[test]
    fn ports_in_use_are_not_given_out_again() {
        let mut table = table();
        table.next_port = END_OF_CLIENT_PORTS - 1;
        let mut given = Vec::new();
        for _ in 0..3 {
            let host = table.free_port(52);
            table.insert(session(Ports { host, guest: 52 }));
            given.push(host);
        }
        assert_eq!(given, [END_OF_CLIENT_PORTS - 1, FIRST_CLIENT_PORT, FIRST_CLIENT_PORT + 1]);
        table.next_port = END_OF_CLIENT_PORTS - 1;
        assert_eq!(table.free_port(52), FIRST_CLIENT_PORT + 2);
        table.next_port = END_OF_CLIENT_PORTS - 1;
        assert_eq!(table.free_port(53), END_OF_CLIENT_PORTS - 1);
    }

    #[test]
    fn senders_take_turns_and_each_waits_once() {
        let mut table = table();
        let first = table.insert(session(Ports { host: 1, guest: 1 }));
        let second = table.insert(session(Ports { host: 2, guest: 1 }));
        for _ in 0..3 {
            table.touch(first);
            table.touch(second);
        }
        assert_eq!(table.next_sender(), Some(first));
        table.touch(first);
        assert_eq!(table.next_sender(), Some(second));
        assert_eq!(table.next_sender(), Some(first));
        assert_eq!(table.next_sender(), None);
    }

    #[test]
    fn a_place_that_is_used_again_does_not_inherit_a_turn_twice() {
        let mut table = table();
        for host in 0..100 {
            let index = table.insert(session(Ports { host, guest: 1 }));
            table.touch(index);
            table.remove(index);
        }
        assert_eq!((table.len(), table.queue.len(), table.touched.len()), (0, 1, 1));
    }

    #[test]
    fn buffers_are_narrow_when_there_are_many_connections() {
        let mut table = table();
        for host in 0..64 {
            assert_eq!(table.next_allocation(), WIDE_BUFFER);
            table.insert(session(Ports { host, guest: 1 }));
        }
        assert_eq!(table.next_allocation(), NARROW_BUFFER);
        table.insert(session(Ports { host: 64, guest: 1 }));
        table.remove(64);
        assert_eq!(table.next_allocation(), NARROW_BUFFER);
        table.remove(0);
        assert_eq!(table.next_allocation(), WIDE_BUFFER);
    }
}
