//! How long work on images tells how far it is.

/// What a pull is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Another process pulls the same image; we wait for it.
    Waiting,
    /// Bytes come over the network.
    Downloading,
    /// What came is compared with what was promised.
    Verifying,
    /// What came is brought into the form from which machines start.
    Unpacking,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What it is doing.
    pub stage: Stage,
    /// With what: `kernel`, `modules`, the name of a file.
    pub subject: &'a str,
    /// How many bytes of it are done.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
}

/// Whoever wants to know how far a pull is. The library itself prints nothing.
///
/// `()` does not want to know.
pub trait Progress: Sync {
    /// The pull has come so far. Called often, from the thread that pulls.
    fn step(&self, step: Step<'_>);

    /// Whether the pull should give up. It then stops its children, removes what it had begun, and fails.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {
    fn step(&self, _: Step<'_>) {}
}
