//! The receive queue and the event queue: packets to the guest, as many as it has buffers for.

use super::packet::{HEADER_LENGTH, Header};
use super::session::Filled;
use super::state::{EVENT_QUEUE, RECEIVE_QUEUE, ServedQueue, State};
use crate::memory::Regions;
use crate::virtio::{Chain, QueueError};

/// More packets than this wait until everything else had its turn.
const MOST_PACKETS: usize = 128;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (virtio 1.2, 5.10.6.7).
const TRANSPORT_RESET: u32 = 0;

/// Who has a packet for the guest.
enum Sender {
    Nobody(Header),
    Session(usize),
}

impl State {
    /// Sends to the guest what there is to send, until it has no buffer left; says whether there is more to do.
    pub(super) fn give_to_guest(&mut self) -> bool {
        let Some(mut served) = self.queues[RECEIVE_QUEUE].take() else { return false };
        let memory = served.memory();
        let mut chain = std::mem::take(&mut self.chain);
        let result = self.fill_buffers(&mut served, &memory, &mut chain);
        if let Err(error) = &result {
            served.broke(error);
        }
        self.chain = chain;
        self.queues[RECEIVE_QUEUE] = Some(served);
        result.unwrap_or(false)
    }

    fn fill_buffers(
        &mut self,
        served: &mut ServedQueue,
        memory: &Regions,
        chain: &mut Chain,
    ) -> Result<bool, QueueError> {
        let mut has_chain = false;
        let mut left = MOST_PACKETS;
        while left > 0 {
            let Some(sender) = self.next_sender() else { break };
            if !has_chain {
                has_chain = match served.pop(memory, chain) {
                    Ok(popped) => popped,
                    Err(error) => {
                        self.put_back(&sender);
                        return Err(error);
                    }
                };
            }
            if !has_chain {
                self.put_back(&sender);
                return Ok(false);
            }
            let filled = if chain.writable_length() < HEADER_LENGTH {
                self.put_back(&sender);
                Filled::TooSmall
            } else {
                self.fill(&sender, memory, chain)?
            };
            let written = match filled {
                Filled::Nothing => continue,
                Filled::Packet(length) => length,
                // The buffer is of no use; the driver may have better ones.
                Filled::TooSmall => 0,
            };
            served.complete(memory, chain.head(), written)?;
            has_chain = false;
            left -= 1;
        }
        if has_chain {
            served.undo_pop();
        }
        Ok(left == 0)
    }

    fn next_sender(&mut self) -> Option<Sender> {
        match self.replies.pop_front() {
            Some(reply) => Some(Sender::Nobody(reply)),
            None => self.table.next_sender().map(Sender::Session),
        }
    }

    fn put_back(&mut self, sender: &Sender) {
        match sender {
            Sender::Nobody(reply) => self.replies.push_front(*reply),
            Sender::Session(index) => self.table.put_back_sender(*index),
        }
    }

    fn fill(&mut self, sender: &Sender, memory: &Regions, chain: &Chain) -> Result<Filled, QueueError> {
        let mut target = chain.writer(memory);
        match sender {
            Sender::Nobody(reply) => {
                target.write(&reply.bytes())?;
                Ok(Filled::Packet(HEADER_LENGTH))
            }
            Sender::Session(index) => {
                let Some(session) = self.table.get_mut(*index) else { return Ok(Filled::Nothing) };
                let filled = session.fill(target, &mut self.vectors)?;
                self.table.touch(*index);
                Ok(filled)
            }
        }
    }

    /// Tells the driver of a transport reset, once it has a buffer for it.
    pub(super) fn give_event(&mut self) {
        let Some(mut served) = self.queues[EVENT_QUEUE].take() else { return };
        if self.is_reset_due {
            match put_reset(&mut served, &mut self.chain) {
                Ok(is_told) => self.is_reset_due = !is_told,
                Err(error) => served.broke(&error),
            }
        }
        self.queues[EVENT_QUEUE] = Some(served);
    }
}

fn put_reset(served: &mut ServedQueue, chain: &mut Chain) -> Result<bool, QueueError> {
    let memory = served.memory();
    if !served.pop(&memory, chain)? {
        return Ok(false);
    }
    let written = chain.writer(&memory).write(&TRANSPORT_RESET.to_le_bytes());
    // A buffer too small for an event is of no use, and there may be a better one at the next kick.
    let length = if written.is_ok() { size_of_val(&TRANSPORT_RESET) } else { 0 };
    served.complete(&memory, chain.head(), u32::try_from(length).unwrap_or(0))?;
    Ok(written.is_ok())
}
