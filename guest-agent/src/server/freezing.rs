//! A client that holds the guest's file systems still: they go on when it leaves.

use std::time::Duration;

use vmm_protocol::{Answer, ErrorKind, Reply};

use super::connection::Role;
use super::epoll::Token;
use super::{Place, Server};
use crate::freeze::{self, FileSystem, Freeze, News};
use crate::refusal::Refusal;

/// A freeze, and who asked for it.
pub(super) struct Freezing {
    client: u64,
    freeze: Freeze,
}

type FileSystems = Vec<Box<dyn FileSystem>>;

/// What there is to freeze, and for how long at most.
pub(super) struct Freezable {
    pub(super) find: Box<dyn Fn() -> std::io::Result<FileSystems>>,
    pub(super) limit: Duration,
}

impl Freezable {
    /// What an agent may freeze that is this in its system: a program on a system that is not its own has nothing there.
    pub(super) fn of(place: Place) -> Option<Self> {
        (place != Place::Alone).then(|| Self { find: Box::new(freeze::mounted), limit: freeze::LIMIT })
    }
}

impl Freezing {
    /// Has everything go on.
    pub(super) fn thaw(&self) {
        self.freeze.thaw();
    }
}

impl Server {
    /// Begins to freeze. The answer comes when it is done.
    pub(super) fn freeze_for(&mut self, client: u64) {
        match self.begin_to_freeze(client) {
            Ok(freezing) => {
                self.freezing = Some(freezing);
                if let Some(connection) = self.connections.get_mut(&client) {
                    connection.role = Role::Freezing;
                }
            }
            Err(refusal) => self.reply(client, &refusal.into()),
        }
    }

    fn begin_to_freeze(&self, client: u64) -> Result<Freezing, Refusal> {
        let Some(freezable) = &self.freezable else {
            return Err(Refusal::new(ErrorKind::Internal, "this agent is not part of a machine"));
        };
        if self.shutting_down.is_some() {
            return Err(Refusal::new(ErrorKind::ShuttingDown, "the guest is shutting down"));
        }
        if self.freezing.is_some() {
            return Err(Refusal::new(ErrorKind::Busy, "the guest is being frozen for somebody else"));
        }
        let begun = (freezable.find)().and_then(|found| {
            let freeze = Freeze::begin(found, freezable.limit)?;
            self.epoll.add_level(freeze.event(), Token::Freeze)?;
            Ok(freeze)
        });
        let freeze =
            begun.map_err(|error| Refusal::system(ErrorKind::Resources, "freeze file systems", error))?;
        Ok(Freezing { client, freeze })
    }

    /// Tells the client what has become of its freeze, and ends that when the client has left.
    pub(super) fn serve_freeze(&mut self) {
        let Some(Freezing { client, freeze }) = &self.freezing else { return };
        let client = *client;
        for news in freeze.news() {
            let answer = match news {
                News::Frozen => {
                    if let Some(connection) = self.connections.get_mut(&client) {
                        connection.answer(&Answer::Ok(Reply::Frozen));
                    }
                    continue;
                }
                News::Refused(refusal) => refusal.into(),
                News::Thawed { frozen, expired } => {
                    let frozen_us = u64::try_from(frozen.as_micros()).unwrap_or(u64::MAX);
                    Answer::Ok(Reply::Thawed { frozen_us, expired })
                }
            };
            self.freezing = None;
            return self.reply(client, &answer);
        }
        let left =
            self.connections.get(&client).is_none_or(|connection| connection.ended || connection.broken);
        if left {
            freeze.thaw();
        }
        // It may not have taken all that was said.
        self.keep_or_drop(client);
    }
}
