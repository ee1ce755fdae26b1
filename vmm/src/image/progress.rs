//! How long work on images tells how far it is.

/// What a pull is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Another process pulls the same image; we wait for it.
    Waiting,
    /// It is here already.
    Cached,
    /// Bytes come over the network.
    Downloading,
    /// What came is compared with what was promised.
    Verifying,
    /// What came is brought into the form from which machines start.
    Unpacking,
    /// A script runs in a machine of the image's own.
    Customising,
    /// An image's disk is copied out of the store.
    Exporting,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What it is doing.
    pub stage: Stage,
    /// With what: `kernel`, `rootfs`, the name of a file.
    pub subject: &'a str,
    /// How many bytes of it are done.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
}

impl Step<'_> {
    /// The step in words: `alpine 3.23: downloading rootfs`.
    pub fn describe(&self, image: &str) -> String {
        let doing = match self.stage {
            Stage::Waiting => return format!("waiting for another pull of {}", self.subject),
            Stage::Cached => return format!("{}: cache hit", self.subject),
            Stage::Downloading => "downloading",
            Stage::Verifying => "verifying",
            Stage::Unpacking => "unpacking",
            Stage::Customising => {
                let image = if image.is_empty() { self.subject } else { image };
                return format!("{image}: customising");
            }
            Stage::Exporting => return format!("exporting {}", self.subject),
        };
        let of = if image.is_empty() { String::new() } else { format!("{image}: ") };
        format!("{of}{doing} {}", self.subject)
    }
}

/// Whoever wants to know how far a pull is. The library itself prints nothing.
///
/// `()` does not want to know.
pub trait Progress: Sync {
    /// The pull has come so far. Called often, from the thread that pulls.
    fn step(&self, step: Step<'_>);

    /// What follows is about this image, as in `alpine 3.23`.
    fn image(&self, _image: &str) {}

    /// Whether the pull should give up. It then stops its children, removes what it had begun, and fails.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {
    fn step(&self, _: Step<'_>) {}
}

/// Tells somebody else, with a name of its own for what is at work.
pub(super) struct Named<'a> {
    pub(super) progress: &'a dyn Progress,
    pub(super) subject: &'a str,
}

impl Progress for Named<'_> {
    fn step(&self, step: Step<'_>) {
        let subject = if step.stage == Stage::Waiting { step.subject } else { self.subject };
        self.progress.step(Step { subject, ..step });
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_with_the_image_that_it_is_about() {
        let step = |stage, subject| Step { stage, subject, done: 0, total: None };
        let of = |stage, subject| step(stage, subject).describe("alpine 3.23");
        assert_eq!(of(Stage::Downloading, "rootfs"), "alpine 3.23: downloading rootfs");
        assert_eq!(of(Stage::Cached, "alpine 3.23"), "alpine 3.23: cache hit");
        assert_eq!(of(Stage::Waiting, "alpine:3.23.6"), "waiting for another pull of alpine:3.23.6");
        assert_eq!(step(Stage::Unpacking, "kernel").describe(""), "unpacking kernel");
    }
}
