//! The signals that a person or a supervisor sends to the client, and what becomes of them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use vmm::{CancelToken, ProcessControl, Signal, TerminalSize};

use crate::terminal;

/// So many Ctrl-C end a command that ignores them.
const PATIENCE: u32 = 3;

/// What a signal acts on at the moment.
enum Target {
    /// The client itself waits for something that this token ends.
    Wait(CancelToken),
    /// A command runs in the guest and gets the signals.
    Command(ProcessControl),
    /// A command runs in the guest that is only looked at: whoever ends the client leaves it.
    Visited(ProcessControl),
}

struct State {
    target: Target,
    received: Option<Signal>,
    /// The window got another size before there was a command to tell it to.
    resized: bool,
    count: u32,
}

/// Passes signals on from a thread of its own.
pub(crate) struct SignalForwarder {
    state: Arc<Mutex<State>>,
}

impl SignalForwarder {
    /// Takes the signals over; until a command runs they cancel `token`.
    pub(crate) fn install(token: &CancelToken) -> io::Result<Self> {
        let state = State { target: Target::Wait(token.clone()), received: None, resized: false, count: 0 };
        let state = Arc::new(Mutex::new(state));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH])?;
        let shared = Arc::clone(&state);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                deliver(&mut lock(&shared), signal);
            }
        })?;
        Ok(Self { state })
    }

    /// From now on a command in the guest gets the signals.
    pub(crate) fn forward_to(&self, control: ProcessControl) {
        let mut state = lock(&self.state);
        // One that came while the command was being started is for the command.
        if let Some(signal) = state.received {
            let _ = control.signal(signal);
        }
        state.catch_up_on_size(&control);
        state.target = Target::Command(control);
        state.count = 0;
    }

    /// From now on signals leave a command in the guest, which goes on.
    pub(crate) fn leave(&self, control: ProcessControl) {
        let mut state = lock(&self.state);
        if state.received.is_some() {
            let _ = control.detach();
        }
        state.catch_up_on_size(&control);
        state.target = Target::Visited(control);
    }

    /// The command has ended: from now on signals cut short whatever the token belongs to.
    pub(crate) fn cancel(&self, token: &CancelToken) {
        lock(&self.state).target = Target::Wait(token.clone());
    }

    /// The last signal that asked us to end.
    pub(crate) fn received(&self) -> Option<Signal> {
        lock(&self.state).received
    }
}

impl State {
    /// A command was given the size that the window had before it was started.
    fn catch_up_on_size(&mut self, control: &ProcessControl) {
        if std::mem::take(&mut self.resized) {
            resize(control);
        }
    }
}

fn resize(control: &ProcessControl) {
    if let Some((rows, columns)) = terminal::size() {
        // A process that has just ended has no terminal to resize, nor has one that was started without.
        let _ = control.resize(TerminalSize { rows, columns });
    }
}

fn deliver(state: &mut State, signal: i32) {
    if signal == SIGWINCH {
        match &state.target {
            Target::Wait(_) => state.resized = true,
            Target::Command(control) | Target::Visited(control) => resize(control),
        }
        return;
    }
    // Those that we registered are all known to the guest's kernel.
    let Some(signal) = u8::try_from(signal).ok().and_then(|number| Signal::try_from(number).ok()) else {
        return;
    };
    state.received = Some(signal);
    match &state.target {
        Target::Wait(token) => token.cancel(),
        Target::Visited(control) => {
            // One that has just ended cannot be left.
            let _ = control.detach();
        }
        Target::Command(control) => {
            state.count += u32::from(signal == Signal::INTERRUPT);
            let signal = if state.count >= PATIENCE { Signal::KILL } else { signal };
            let _ = control.signal(signal);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
