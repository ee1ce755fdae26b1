//! File systems that stand still for the tests only.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use super::FileSystem;

/// What happens to the file systems of a test, in order, and what is to happen.
#[derive(Default)]
pub(crate) struct Script {
    events: Mutex<Vec<String>>,
    happened: Condvar,
}

impl Script {
    pub(crate) fn tell(&self, event: String) {
        self.events.lock().unwrap().push(event);
        self.happened.notify_all();
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    /// Waits until something has happened.
    pub(crate) fn wait_for(&self, event: &str) {
        let events = self.events.lock().unwrap();
        drop(self.happened.wait_while(events, |events| !events.iter().any(|known| known == event)).unwrap());
    }
}

/// How one behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Good,
    /// It cannot be frozen, for this reason.
    Fails(i32),
    /// It stands still only once the one of this name goes on, as one in a file of that does.
    Stuck(&'static str),
}

pub(crate) struct Fake {
    pub(crate) script: Arc<Script>,
    pub(crate) name: &'static str,
    pub(crate) behaviour: Behaviour,
}

impl FileSystem for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn is_needed(&self) -> bool {
        self.name == "/"
    }

    fn sync(&self) -> io::Result<()> {
        self.script.tell(format!("sync {}", self.name));
        Ok(())
    }

    fn freeze(&self) -> io::Result<()> {
        match self.behaviour {
            Behaviour::Good => {}
            Behaviour::Fails(reason) => return Err(io::Error::from_raw_os_error(reason)),
            Behaviour::Stuck(other) => self.script.wait_for(&format!("thaw {other}")),
        }
        self.script.tell(format!("freeze {}", self.name));
        Ok(())
    }

    fn thaw(&self) -> io::Result<()> {
        self.script.tell(format!("thaw {}", self.name));
        Ok(())
    }
}

/// File systems in the order of their mounts.
pub(crate) fn file_systems(
    script: &Arc<Script>,
    which: &[(&'static str, Behaviour)],
) -> Vec<Box<dyn FileSystem>> {
    let fake = |&(name, behaviour)| -> Box<dyn FileSystem> {
        Box::new(Fake { script: Arc::clone(script), name, behaviour })
    };
    which.iter().map(fake).collect()
}
