//! What the machine's processors are to do, and how they are made to do it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::MachineEnd;
use crate::hypervisor::Kicker;

/// Shared by the processors' threads and whoever pauses, resumes or ends the machine.
#[derive(Default)]
pub(super) struct Control {
    /// A copy of `State::wanted`, to be read without the lock.
    wanted: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: Wanted,
    kickers: Vec<Box<dyn Kicker>>,
    /// How many processors stand still because they were told to.
    paused: usize,
    end: Option<MachineEnd>,
}

/// What processors are to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Wanted {
    /// Wait until all are there.
    #[default]
    Assemble,
    Run,
    Pause,
    Stop,
}

impl Control {
    /// A processor is there, and can be kicked.
    pub(super) fn add(&self, kicker: Box<dyn Kicker>) {
        self.lock().kickers.push(kicker);
    }

    /// Lets the processors go, for the first time or after a pause. A machine that ends is not resumed.
    pub(super) fn resume(&self) {
        let mut state = self.lock();
        if state.wanted != Wanted::Stop {
            self.want(&mut state, Wanted::Run);
        }
    }

    /// Returns when no processor is in the guest. A machine that ends has none soon.
    pub(super) fn pause(&self) {
        let mut state = self.lock();
        if state.wanted != Wanted::Run {
            return;
        }
        self.want(&mut state, Wanted::Pause);
        state.kick();
        while state.wanted == Wanted::Pause && state.paused < state.kickers.len() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the machine: the first to say how is believed.
    pub(super) fn end(&self, end: MachineEnd) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.want(&mut state, Wanted::Stop);
        state.kick();
    }

    /// Whether the machine is to end, or has.
    pub(super) fn is_ending(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) == Wanted::Stop as u8
    }

    /// How the machine ended. Asked when every processor has come home.
    pub(super) fn how_it_ended(&self) -> MachineEnd {
        let lost = || MachineEnd::Failed("its processors stopped, and nobody says why".to_owned());
        self.lock().end.take().unwrap_or_else(lost)
    }

    /// Called by a processor's thread before it enters the guest for the first time and whenever it was kicked: returns
    /// when it may (again), and says whether it is to.
    pub(super) fn may_run(&self) -> bool {
        if self.wanted.load(Ordering::SeqCst) == Wanted::Run as u8 {
            return true;
        }
        let mut state = self.lock();
        while matches!(state.wanted, Wanted::Assemble | Wanted::Pause) {
            let pausing = state.wanted == Wanted::Pause;
            if pausing {
                state.paused += 1;
                self.changed.notify_all();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            if pausing {
                state.paused -= 1;
            }
        }
        state.wanted == Wanted::Run
    }

    fn want(&self, state: &mut State, wanted: Wanted) {
        state.wanted = wanted;
        self.wanted.store(wanted as u8, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kick(&self) {
        for kicker in &self.kickers {
            if let Err(error) = kicker.kick() {
                tracing::error!(%error, "cannot kick a processor out of the guest");
            }
        }
    }
}
