//! Our own terminal, when it is a window into the laboratory.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::{Failure, Outcome};

/// A terminal that hands on every key as it is typed. Dropping it makes it what it was.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    pub(super) fn new() -> Outcome<Self> {
        let before = tcgetattr(std::io::stdin())
            .map_err(|_| Failure::new("cargo lab shell needs a terminal").hint("cargo lab run does not."))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)
            .map_err(|error| Failure::new(format!("cannot prepare the terminal: {error}")))?;
        Ok(Self { before })
    }

    /// Its size.
    pub(super) fn size() -> laboratory::Terminal {
        let size = tcgetwinsize(std::io::stdin()).ok().filter(|size| size.ws_col > 0);
        size.map_or(laboratory::Terminal { columns: 80, rows: 25 }, |size| laboratory::Terminal {
            columns: size.ws_col,
            rows: size.ws_row,
        })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
