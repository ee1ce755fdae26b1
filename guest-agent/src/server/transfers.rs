//! Requests that bring files in or out: a process of its own gets the client's connection.

use vmm_protocol::{ErrorKind, Transfer};
use vmm_sys::kill::kill;

use super::Server;
use crate::refusal::Refusal;

/// More of these processes do not run at once.
const MAX_TRANSFERS: usize = 64;

impl Server {
    /// Hands a client's connection to a process that does what it asks, and forgets the client.
    pub(super) fn transfer(&mut self, client: u64, transfer: &Transfer) {
        match self.start_transfer(client, transfer) {
            Ok(pid) => {
                self.transfers.insert(pid);
                if let Some(connection) = self.connections.remove(&client)
                    && connection.watched
                {
                    // The process has it open still: closing it here would not end our waiting for it.
                    self.epoll.remove(connection.stream());
                }
            }
            Err(refusal) => self.reply(client, &refusal.into()),
        }
    }

    fn start_transfer(&mut self, client: u64, transfer: &Transfer) -> Result<i32, Refusal> {
        if self.shutting_down.is_some() {
            return Err(Refusal::new(ErrorKind::ShuttingDown, "the guest is shutting down"));
        }
        if self.transfers.len() >= MAX_TRANSFERS {
            let message = format!("{MAX_TRANSFERS} transfers run already");
            return Err(Refusal::new(ErrorKind::Resources, message));
        }
        let Some(connection) = self.connections.get(&client) else {
            return Err(Refusal::new(ErrorKind::Internal, "the client is gone"));
        };
        if connection.has_more_input() {
            let message = "a transfer's client sends nothing before it is answered";
            return Err(Refusal::new(ErrorKind::Malformed, message));
        }
        let pid = self.launcher.launch_transfer(transfer, connection.stream())?;
        Ok(i32::try_from(pid).unwrap_or(i32::MAX))
    }

    /// Ends the transfers, which remove what they have half done.
    pub(super) fn end_transfers(&self) {
        for &pid in &self.transfers {
            let _ = kill(pid, i32::from(vmm_protocol::Signal::TERMINATE.number()));
        }
    }
}
