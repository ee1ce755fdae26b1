//! Having the machine's processors stand still, and letting them go on.

use std::collections::VecDeque;

use super::client::Client;
use super::event_loop::{Monitor, invalid, out_of_place};
use super::guest;
use super::machine::Order;
use crate::control::Answer;
use crate::home::VmState;

/// Whether the processors stand still.
#[derive(Default)]
pub(super) struct Standstill {
    /// What the machine was told last.
    wanted: bool,
    /// Orders that were not heard of yet, with whoever waits for each.
    ordered: VecDeque<Option<AskedBy>>,
}

/// Who waits for a standstill, or its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct AskedBy {
    client: u64,
    request: u64,
}

impl Monitor {
    /// Does what a client asks, which is answered when it is done.
    pub(super) fn stand_still(&mut self, client: &mut Client, token: u64, request: u64, still: bool) {
        let is = if still { VmState::Paused } else { VmState::Running };
        let refusal = match self.life.state() {
            state if state == is && self.standstill.ordered.is_empty() => {
                return client.answer(request, Answer::Status(self.status()));
            }
            VmState::Running | VmState::Paused => {
                return self.order(still, Some(AskedBy { client: token, request }));
            }
            VmState::Starting => "the VM is still starting",
            _ => "the VM is ending",
        };
        client.answer(request, Answer::Refused(out_of_place(refusal)));
    }

    /// Lets the processors go on, whoever had them stand still: a guest cannot shut down otherwise.
    pub(super) fn go_on(&mut self) {
        if self.standstill.wanted {
            self.order(false, None);
        }
    }

    fn order(&mut self, still: bool, asked_by: Option<AskedBy>) {
        self.standstill.wanted = still;
        if let Some(health) = &self.health {
            health.stand_still(still);
        }
        self.standstill.ordered.push_back(asked_by);
        if let Some(machine) = &self.machine {
            machine.order(if still { Order::Pause } else { Order::Resume });
        }
    }

    /// The machine obeyed, or could not.
    pub(super) fn stands_still(&mut self, outcome: Result<bool, String>) {
        // It obeys in order.
        let Some(asked_by) = self.standstill.ordered.pop_front() else { return };
        match outcome {
            Ok(still) => {
                if self.life.stands_still(still) {
                    self.changed(false);
                }
                if still || guest::set_clock(self.vsock_socket.clone(), asked_by, &self.post).is_err() {
                    self.answer_standstill(asked_by, Answer::Status(self.status()));
                }
            }
            Err(message) => {
                self.standstill.wanted = self.life.state() == VmState::Paused;
                if let Some(health) = &self.health {
                    health.stand_still(self.standstill.wanted);
                }
                self.answer_standstill(asked_by, Answer::Refused(invalid(message)));
            }
        }
    }

    /// The guest that goes on knows what time it is, or will not be told.
    pub(super) fn clock_set(&mut self, asked_by: Option<AskedBy>) {
        self.answer_standstill(asked_by, Answer::Status(self.status()));
    }

    fn answer_standstill(&mut self, asked_by: Option<AskedBy>, answer: Answer) {
        if let Some(AskedBy { client, request }) = asked_by
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.answer(request, answer);
        }
        self.update_interests();
    }
}
