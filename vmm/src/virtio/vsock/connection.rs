//! The protocol's side of one connection: what the guest may send next, and what it has to be told.
//!
//! Pure: no queue, no descriptor. The bytes themselves pass by in [`Session`](super::session::Session).

use snafu::{ResultExt, Snafu, ensure};

use super::GuestCid;
use super::credit::{CreditError, ReceiveCredit, SendCredit};
use super::packet::{Directions, HOST_CID, Header, Operation, STREAM};

/// What tells one connection from another: all of them run between the same two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// How the guest broke the rules of a connection, which is reset for it.
#[derive(Debug, Snafu)]
pub(super) enum Violation {
    /// An operation that there is not, or not now.
    #[snafu(display("operation {operation} does not fit the connection's state"))]
    Unexpected { operation: u16 },
    /// Bytes after it said that none would follow.
    #[snafu(display("data came after the end of the stream"))]
    AfterEnd,
    /// Flow control.
    #[snafu(display("credit was not respected"))]
    Credit { source: CreditError },
}

/// What a packet from the guest means to the host's side of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing. What can be sent may have changed.
    Nothing,
    /// The guest accepts.
    Accepted,
    /// That many bytes of the stream follow, and there is room for them.
    Payload(u32),
    /// The guest will do less from now on.
    Ended(Directions),
    /// The guest is through with the connection, in both directions.
    Finished,
    /// The guest refuses or has dropped the connection. It gets no answer.
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A client of the host waits; the guest has not been asked yet.
    Wanted,
    /// The guest was asked.
    Requested,
    /// A client of the guest waits; it has not been answered yet.
    Accepted,
    /// Bytes flow.
    Open,
}

/// The state of a connection between a port of the host and one of the guest.
#[derive(Debug)]
pub(super) struct Connection {
    guest: GuestCid,
    ports: Ports,
    phase: Phase,
    send: SendCredit,
    receive: ReceiveCredit,
    /// The guest wants to know its credit.
    is_update_asked: bool,
    /// What the guest will no longer do.
    guest_ended: Directions,
    /// What the host will no longer do, and how much of that the guest was told.
    host_ended: Directions,
    told: Directions,
}

impl Connection {
    /// For a client of the host. `allocation` is the size of our buffer.
    pub(super) fn from_host(guest: GuestCid, ports: Ports, allocation: u32) -> Self {
        Self {
            guest,
            ports,
            phase: Phase::Wanted,
            send: SendCredit::default(),
            receive: ReceiveCredit::new(allocation),
            is_update_asked: false,
            guest_ended: Directions::NONE,
            host_ended: Directions::NONE,
            told: Directions::NONE,
        }
    }

    /// For a client in the guest, which sent `request` and is to be accepted.
    pub(super) fn from_guest(guest: GuestCid, request: &Header, allocation: u32) -> Result<Self, Violation> {
        let ports = Ports { host: request.destination_port, guest: request.source_port };
        let mut connection = Self::from_host(guest, ports, allocation);
        connection.phase = Phase::Accepted;
        connection.update_credit(request)?;
        Ok(connection)
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether the guest knows of the connection, and so has to be told when it is dropped.
    pub(super) fn is_known_to_guest(&self) -> bool {
        self.phase != Phase::Wanted
    }

    /// Whether the guest has not answered yet.
    pub(super) fn awaits_guest(&self) -> bool {
        matches!(self.phase, Phase::Wanted | Phase::Requested)
    }

    /// Takes a packet of this connection from the guest.
    pub(super) fn receive(&mut self, header: &Header) -> Result<Received, Violation> {
        let operation = header.operation;
        let known = Operation::from_number(operation);
        if known == Some(Operation::Reset) {
            return Ok(Received::Dropped);
        }
        self.update_credit(header)?;
        if self.phase == Phase::Requested && known == Some(Operation::Response) {
            self.phase = Phase::Open;
            return Ok(Received::Accepted);
        }
        ensure!(!self.awaits_guest(), UnexpectedSnafu { operation });
        match known {
            Some(Operation::ReadWrite) => {
                ensure!(!self.guest_ended.send, AfterEndSnafu);
                self.receive.receive(header.length).context(CreditSnafu)?;
                Ok(Received::Payload(header.length))
            }
            Some(Operation::Shutdown) => {
                let ended = Directions::from_flags(header.flags).without(self.guest_ended);
                self.guest_ended = self.guest_ended.and(ended);
                match self.guest_ended {
                    Directions::BOTH => Ok(Received::Finished),
                    _ if ended == Directions::NONE => Ok(Received::Nothing),
                    _ => Ok(Received::Ended(ended)),
                }
            }
            Some(Operation::CreditUpdate) => Ok(Received::Nothing),
            Some(Operation::CreditRequest) => {
                self.is_update_asked = true;
                Ok(Received::Nothing)
            }
            _ => UnexpectedSnafu { operation }.fail(),
        }
    }

    /// Bytes of the guest's left our buffer.
    pub(super) fn forward(&mut self, length: u32) {
        self.receive.forward(length);
    }

    /// The host will no longer do this. After the end of sending no data may be sent.
    pub(super) fn end(&mut self, directions: Directions) {
        self.host_ended = self.host_ended.and(directions);
    }

    /// How many bytes of data may be sent to the guest now.
    pub(super) fn sendable(&self) -> u32 {
        let is_open = self.phase == Phase::Open && !self.host_ended.send && !self.guest_ended.receive;
        if is_open { self.send.available() } else { 0 }
    }

    /// Whether there is a packet to send beside data.
    pub(super) fn has_control(&self) -> bool {
        match self.phase {
            Phase::Wanted | Phase::Accepted => true,
            Phase::Requested => false,
            Phase::Open => self.has_end_to_tell() || self.is_update_wanted(),
        }
    }

    /// The next packet that goes before data, if there is one. It must be sent then.
    pub(super) fn next_control(&mut self) -> Option<Header> {
        match self.phase {
            Phase::Wanted => {
                self.phase = Phase::Requested;
                Some(self.header(Operation::Request, 0))
            }
            Phase::Requested => None,
            Phase::Accepted => {
                self.phase = Phase::Open;
                Some(self.header(Operation::Response, 0))
            }
            Phase::Open if self.has_end_to_tell() => {
                self.told = self.host_ended;
                Some(self.header(Operation::Shutdown, self.told.flags()))
            }
            Phase::Open => None,
        }
    }

    /// The header of so many bytes of data, of which there are no more than [`Connection::sendable`]. It must be sent.
    pub(super) fn data(&mut self, length: u32) -> Header {
        self.send.spend(length);
        Header { length, ..self.header(Operation::ReadWrite, 0) }
    }

    /// The packet that tells the guest its credit, if it is time for it and no data carries the news. It must be sent.
    pub(super) fn credit_update(&mut self) -> Option<Header> {
        let is_wanted = self.phase == Phase::Open && self.is_update_wanted();
        is_wanted.then(|| self.header(Operation::CreditUpdate, 0))
    }

    /// The packet that drops the connection.
    pub(super) fn reset(&mut self) -> Header {
        self.header(Operation::Reset, 0)
    }

    fn has_end_to_tell(&self) -> bool {
        self.told != self.host_ended
    }

    /// A guest that will send nothing more needs no room, but may ask all the same.
    fn is_update_wanted(&self) -> bool {
        self.is_update_asked || (self.receive.is_update_due() && !self.guest_ended.send)
    }

    fn update_credit(&mut self, header: &Header) -> Result<(), Violation> {
        self.send.update(header.buffer_allocation, header.forward_count).context(CreditSnafu)
    }

    /// Every packet of a connection tells the credit (virtio 1.2, 5.10.6.3.1).
    fn header(&mut self, operation: Operation, flags: u32) -> Header {
        let (buffer_allocation, forward_count) = self.receive.announce();
        self.is_update_asked = false;
        Header {
            source_cid: HOST_CID,
            destination_cid: self.guest.into(),
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            length: 0,
            socket_type: STREAM,
            operation: operation as u16,
            flags,
            buffer_allocation,
            forward_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { host: 1 << 30, guest: 52 };

    fn guest() -> GuestCid {
        GuestCid::try_from(3).unwrap()
    }

    fn packet(operation: Operation) -> Header {
        Header {
            source_port: PORTS.guest,
            destination_port: PORTS.host,
            operation: operation as u16,
            buffer_allocation: 1000,
            ..Header::default()
        }
    }

    fn shutdown(directions: Directions) -> Header {
        Header { flags: directions.flags(), ..packet(Operation::Shutdown) }
    }

    fn operation(header: Option<Header>) -> Option<Operation> {
        header.and_then(|header| Operation::from_number(header.operation))
    }

    fn open() -> Connection {
        let mut connection = Connection::from_host(guest(), PORTS, 100);
        assert_eq!(operation(connection.next_control()), Some(Operation::Request));
        assert_eq!(connection.receive(&packet(Operation::Response)).unwrap(), Received::Accepted);
        connection
    }

    #[test]
    fn a_host_client_is_asked_for_once_and_sends_only_after_the_answer() {
        let mut connection = Connection::from_host(guest(), PORTS, 100);
        assert!(!connection.is_known_to_guest());
        let request = connection.next_control().unwrap();
        assert_eq!((request.buffer_allocation, request.socket_type), (100, STREAM));
        assert!(connection.next_control().is_none());
        assert_eq!(connection.sendable(), 0);
        connection.receive(&packet(Operation::Response)).unwrap();
        assert_eq!(connection.sendable(), 1000);
    }

    #[test]
    fn an_answer_to_no_question_is_a_violation() {
        let mut connection = Connection::from_host(guest(), PORTS, 100);
        assert!(connection.receive(&packet(Operation::Response)).is_err());
        assert!(open().receive(&packet(Operation::Response)).is_err());
    }

    #[test]
    fn a_guest_client_is_answered_before_anything_else_is_sent() {
        let mut connection = Connection::from_guest(guest(), &packet(Operation::Request), 100).unwrap();
        assert_eq!(connection.sendable(), 0);
        assert_eq!(operation(connection.next_control()), Some(Operation::Response));
        assert_eq!(connection.sendable(), 1000);
        assert!(connection.receive(&packet(Operation::Request)).is_err());
    }

    #[test]
    fn each_end_of_the_host_is_told_once_and_added_to_what_was_told() {
        let mut connection = open();
        connection.end(Directions::SEND);
        assert_eq!(connection.next_control().unwrap().flags, 2);
        assert!(!connection.has_control());
        assert_eq!(connection.sendable(), 0);
        connection.end(Directions::BOTH);
        assert_eq!(connection.next_control().unwrap().flags, 3);
        assert!(connection.next_control().is_none());
    }

    #[test]
    fn the_ends_of_the_guest_add_up_to_the_end_of_the_connection() {
        let mut connection = open();
        let ended = connection.receive(&shutdown(Directions::SEND)).unwrap();
        assert_eq!(ended, Received::Ended(Directions::SEND));
        let ended = connection.receive(&shutdown(Directions::SEND)).unwrap();
        assert_eq!(ended, Received::Nothing);
        assert!(connection.receive(&packet(Operation::ReadWrite)).is_err());
        assert_eq!(connection.sendable(), 1000);
        let ended = connection.receive(&shutdown(Directions::RECEIVE)).unwrap();
        assert_eq!(ended, Received::Finished);
    }

    #[test]
    fn a_question_for_credit_is_answered_by_whatever_is_sent_next() {
        let mut connection = open();
        connection.receive(&packet(Operation::CreditRequest)).unwrap();
        assert!(connection.has_control());
        assert_eq!(operation(connection.credit_update()), Some(Operation::CreditUpdate));
        connection.receive(&packet(Operation::CreditRequest)).unwrap();
        assert_eq!(connection.data(10).length, 10);
        assert!(connection.credit_update().is_none());
    }

    #[test]
    fn forwarded_bytes_are_announced_when_they_are_many() {
        let mut connection = open();
        connection.receive(&Header { length: 60, ..packet(Operation::ReadWrite) }).unwrap();
        assert!(!connection.has_control());
        connection.forward(60);
        assert_eq!(connection.credit_update().unwrap().forward_count, 60);
        assert!(!connection.has_control());
    }

    #[test]
    fn data_without_credit_is_a_violation() {
        let mut connection = open();
        assert!(connection.receive(&Header { length: 101, ..packet(Operation::ReadWrite) }).is_err());
    }

    #[test]
    fn operations_that_there_are_not_are_violations() {
        for number in [0, 8, 0x105, u16::MAX] {
            let header = Header { operation: number, ..packet(Operation::ReadWrite) };
            assert!(open().receive(&header).is_err(), "{number}");
        }
    }
}
