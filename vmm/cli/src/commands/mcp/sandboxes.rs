//! The sandboxes of one server, and the limits that they are held to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm::{CancelToken, EngineChoice, Home, MemorySize, Sandbox};

use super::arguments::Create;

/// What whoever asks cannot go beyond.
pub(super) struct Limits {
    /// The first one is for those who ask for none.
    pub(super) images: Vec<String>,
    pub(super) sandboxes: usize,
    pub(super) memory: MemorySize,
    pub(super) cpus: u8,
    pub(super) timeout: Duration,
    pub(super) output: usize,
    pub(super) engine: EngineChoice,
    pub(super) require_hardware: bool,
}

/// Why a tool failed, for whoever asked.
#[derive(Debug)]
pub(super) enum ToolError {
    /// Nobody waits for the answer.
    Cancelled,
    /// What went wrong, and what to do.
    Failed(String),
}

impl ToolError {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

impl From<vmm::Error> for ToolError {
    fn from(error: vmm::Error) -> Self {
        if error.is_cancelled() {
            return Self::Cancelled;
        }
        // Hints speak of the command line, which an agent does not have.
        Self::Failed(format!("{} ({})", vmm::error_line(&error), error.code()))
    }
}

/// One sandbox, and what was asked for.
pub(super) struct Entry {
    pub(super) sandbox: Sandbox,
    pub(super) image: String,
    pub(super) memory: MemorySize,
    pub(super) cpus: u8,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Arc<Entry>>,
    /// Those that are being made have their place already.
    starting: usize,
    /// The server ends: nothing new is kept.
    closed: bool,
}

/// The sandboxes of one server.
pub(super) struct Sandboxes {
    home: Home,
    executable: PathBuf,
    limits: Limits,
    state: Mutex<State>,
}

impl Sandboxes {
    pub(super) fn new(home: Home, executable: PathBuf, limits: Limits) -> Self {
        Self { home, executable, limits, state: Mutex::default() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one.
    pub(super) fn create(&self, wanted: Create, cancel: &CancelToken) -> Result<Arc<Entry>, ToolError> {
        let limits = &self.limits;
        let image = wanted.image.unwrap_or_else(|| limits.images[0].clone());
        if !limits.images.contains(&image) {
            let known = limits.images.join(", ");
            return Err(ToolError::failed(format!(
                "the image {image:?} is not to be had: use one of {known}"
            )));
        }
        let memory = match wanted.memory {
            None => MemorySize::default().min(limits.memory),
            Some(text) => text.parse().map_err(|error| ToolError::failed(format!("memory: {error}")))?,
        };
        if memory > limits.memory {
            return Err(ToolError::failed(format!("a sandbox has at most {} of memory", limits.memory)));
        }
        let cpus = wanted.cpus.unwrap_or(1);
        if !(1..=limits.cpus).contains(&cpus) {
            return Err(ToolError::failed(format!("a sandbox has 1 to {} processors", limits.cpus)));
        }
        self.take_place()?;
        let started = Sandbox::builder(&image)
            .home(&self.home)
            .executable(&self.executable)
            .engine(limits.engine)
            .require_hardware(limits.require_hardware)
            .memory(memory)
            .cpus(cpus)
            .cancel_token(cancel)
            .start();
        let mut state = self.state();
        state.starting -= 1;
        let entry = Arc::new(Entry { sandbox: started?, image, memory, cpus });
        if state.closed || cancel.is_cancelled() {
            // It goes when it is dropped, which may take a moment.
            drop(state);
            return Err(ToolError::Cancelled);
        }
        state.entries.insert(entry.sandbox.name().to_owned(), Arc::clone(&entry));
        Ok(entry)
    }

    fn take_place(&self) -> Result<(), ToolError> {
        let mut state = self.state();
        if !self.has_room(&state) {
            drop(state);
            // One that has ended by itself needs no place any more.
            self.list();
            state = self.state();
        }
        if !self.has_room(&state) {
            let message =
                format!("there are {} sandboxes, which is all that there can be", self.limits.sandboxes);
            return Err(ToolError::failed(format!("{message}: stop one first")));
        }
        state.starting += 1;
        Ok(())
    }

    fn has_room(&self, state: &State) -> bool {
        state.entries.len() + state.starting < self.limits.sandboxes
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Entry>, ToolError> {
        let found = self.state().entries.get(name).cloned();
        found.ok_or_else(|| {
            ToolError::failed(format!("there is no sandbox {name:?}: `list` says which there are"))
        })
    }

    /// Those that run.
    pub(super) fn list(&self) -> Vec<(String, Arc<Entry>)> {
        let entries: Vec<_> =
            self.state().entries.iter().map(|(name, entry)| (name.clone(), Arc::clone(entry))).collect();
        let (running, ended): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|(_, entry)| entry.sandbox.info().is_ok_and(|info| info.end.is_none()));
        for (name, _) in ended {
            self.forget(&name);
        }
        running
    }

    /// Ends one.
    pub(super) fn stop(&self, name: &str) -> Result<(), ToolError> {
        let entry = self.find(name)?;
        let killed = entry.sandbox.kill();
        self.forget(name);
        match killed {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_running() || error.is_no_such_vm() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn forget(&self, name: &str) {
        // It may be dropped here, which waits for its end: not while others want to know of theirs.
        let forgotten = self.state().entries.remove(name);
        drop(forgotten);
    }

    /// Ends all of them at once, and keeps none from now on.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let entries = std::mem::take(&mut state.entries);
        drop(state);
        std::thread::scope(|scope| {
            for entry in entries.values() {
                // What cannot be killed now ends when our process does: it is ours.
                scope.spawn(|| drop(entry.sandbox.kill()));
            }
        });
    }
}
