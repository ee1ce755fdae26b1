//! The transmit queue: packets from the guest, each taken apart and answered.

use super::connection::{Connection, Ports};
use super::packet::{HEADER_LENGTH, HOST_CID, Header, Operation, STREAM};
use super::state::{State, TRANSMIT_QUEUE};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, ChainReader};

/// With so many resets waiting for the guest to have room for them, nothing more is taken from it.
const MOST_REPLIES: usize = 128;
/// More packets than this wait until everything else had its turn.
const MOST_PACKETS: usize = 128;

static GARBAGE: LogLimit = LogLimit::new();

impl State {
    /// Takes packets from the guest.
    pub(super) fn take_from_guest(&mut self) {
        let Some(mut served) = self.queues[TRANSMIT_QUEUE].take() else { return };
        let memory = served.memory();
        let mut chain = std::mem::take(&mut self.chain);
        for _ in 0..MOST_PACKETS {
            if self.replies.len() >= MOST_REPLIES {
                break;
            }
            let done = match served.pop(&memory, &mut chain) {
                Ok(false) => break,
                Ok(true) => {
                    self.take_chain(&chain, chain.reader(&memory));
                    served.complete(&memory, chain.head(), 0)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                served.broke(&error);
                break;
            }
        }
        self.chain = chain;
        self.queues[TRANSMIT_QUEUE] = Some(served);
    }

    /// Whether the guest has, as far as is known, sent something that can be taken now.
    pub(super) fn can_take_from_guest(&self) -> bool {
        self.queues[TRANSMIT_QUEUE].as_ref().is_some_and(|served| served.is_pending)
            && self.replies.len() < MOST_REPLIES
    }

    fn take_chain(&mut self, chain: &Chain, mut reader: ChainReader<'_>) {
        let mut bytes = [0; HEADER_LENGTH as usize];
        if reader.read(&mut bytes).is_err() {
            garbage(
                "it has no room for a header",
                &Header { length: chain.readable_length(), ..Header::default() },
            );
            return;
        }
        let answer = self.take_packet(&Header::parse(&bytes), reader);
        self.replies.extend(answer);
    }

    fn take_packet(&mut self, header: &Header, mut rest: ChainReader<'_>) -> Option<Header> {
        let operation = Operation::from_number(header.operation);
        // A reset is never answered by one.
        let refusal = (operation != Some(Operation::Reset)).then(|| header.refusal(self.guest));
        if header.source_cid != u64::from(self.guest) {
            garbage("it does not come from the guest's address", header);
            return None;
        }
        if header.destination_cid != HOST_CID || header.socket_type != STREAM {
            tracing::debug!(?header, "refused a packet that is not for a stream socket of the host");
            return refusal;
        }
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        let Some(index) = self.table.find(ports) else {
            return if operation == Some(Operation::Request) { self.open(header) } else { refusal };
        };
        let payload = if operation == Some(Operation::ReadWrite) { header.length } else { 0 };
        let payload = rest.take(payload);
        let session = self.table.get_mut(index)?;
        let answer = match payload {
            Ok(payload) => match session.take_packet(header, &payload, &mut self.vectors) {
                Ok(answer) => answer,
                Err(violation) => {
                    if let Some(left_out) = GARBAGE.permit() {
                        let error: &dyn std::error::Error = &violation;
                        tracing::warn!(error, ?header, left_out, "reset a vsock connection");
                    }
                    Some(session.abort())
                }
            },
            Err(_) => {
                garbage("it is shorter than its header says", header);
                Some(session.abort())
            }
        };
        self.table.touch(index);
        answer
    }

    /// A client in the guest wants a port of the host. The answer is a refusal.
    fn open(&mut self, request: &Header) -> Option<Header> {
        let refusal = request.refusal(self.guest);
        let port = request.destination_port;
        if self.table.is_full() {
            tracing::debug!(port, "refused a connection of the guest's: too many connections");
            return Some(refusal);
        }
        let Ok(connection) = Connection::from_guest(self.guest, request, self.table.next_allocation()) else {
            garbage("it begins with credit for bytes that were never sent", request);
            return Some(refusal);
        };
        match self.listener.connect(port) {
            Ok(socket) => self.add_session(connection, socket).is_none().then_some(refusal),
            Err(error) => {
                tracing::debug!(%error, port, "refused a connection of the guest's");
                Some(refusal)
            }
        }
    }
}

fn garbage(reason: &str, header: &Header) {
    if let Some(left_out) = GARBAGE.permit() {
        tracing::warn!(reason, ?header, left_out, "the guest sent a broken vsock packet");
    }
}
