//! Requests that wait for disks: a process of its own gets the client's connection.

use std::collections::BTreeMap;

use vmm_protocol::{ErrorKind, FileRequest, Request};
use vmm_sys::kill::kill;

use super::Server;
use crate::refusal::Refusal;

/// More of either kind do not run at once.
const MAX_LONG: usize = 64;
const MAX_SHORT: usize = 128;

/// How long a request takes. Those that may go on for hours leave room for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Short,
    Long,
}

/// The processes that do such requests, by their number in the system.
#[derive(Debug, Default)]
pub(super) struct Workers(BTreeMap<i32, Length>);

impl Workers {
    /// One has ended, if it was one.
    pub(super) fn remove(&mut self, pid: i32) {
        self.0.remove(&pid);
    }

    /// Ends them: they remove what they have half done.
    pub(super) fn end(&self) {
        for &pid in self.0.keys() {
            let _ = kill(pid, i32::from(vmm_protocol::Signal::TERMINATE.number()));
        }
    }

    fn check_room(&self, length: Length) -> Result<(), Refusal> {
        let (most, what) = match length {
            Length::Short => (MAX_SHORT, "requests for files"),
            Length::Long => (MAX_LONG, "transfers and watches"),
        };
        if self.0.values().filter(|other| **other == length).count() < most {
            return Ok(());
        }
        Err(Refusal::new(ErrorKind::Resources, format!("{most} {what} run already")))
    }
}

fn length(request: &Request) -> Length {
    match request {
        Request::Transfer(_) | Request::File(FileRequest::Watch { .. }) => Length::Long,
        _ => Length::Short,
    }
}

impl Server {
    /// Hands a client's connection to a process that does what it asks, and forgets the client.
    pub(super) fn hand_over(&mut self, client: u64, request: &Request) {
        match self.start_worker(client, request) {
            Ok(pid) => {
                self.workers.0.insert(pid, length(request));
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

    fn start_worker(&mut self, client: u64, request: &Request) -> Result<i32, Refusal> {
        if self.shutting_down.is_some() {
            return Err(Refusal::new(ErrorKind::ShuttingDown, "the guest is shutting down"));
        }
        self.workers.check_room(length(request))?;
        let Some(connection) = self.connections.get(&client) else {
            return Err(Refusal::new(ErrorKind::Internal, "the client is gone"));
        };
        if connection.has_more_input() {
            let message = "a client of files sends nothing before it is answered";
            return Err(Refusal::new(ErrorKind::Malformed, message));
        }
        let pid = self.launcher.launch_worker(request, connection.stream())?;
        Ok(i32::try_from(pid).unwrap_or(i32::MAX))
    }
}
