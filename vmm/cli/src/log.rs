//! What is logged, and where to.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::Failure;

/// A command's log is what it writes to standard error.
pub(crate) fn start(level: &str) -> Result<(), Failure> {
    // A variable that is set to nothing is not set.
    let level = if level.is_empty() { "error" } else { level };
    let filter = filter(level).ok_or_else(|| {
        Failure::usage(format!("{level:?} is no log level"))
            .with_hint("use error, warn, info, debug, trace or a filter such as vmm::monitor=debug")
    })?;
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(log.with_filter(filter)).init();
    Ok(())
}

/// A monitor's standard error is its log, which lies in the VM's folder for as long as the VM does.
pub(crate) fn start_within_bounds() {
    let asked = std::env::var("VMM_LOG").ok().and_then(|asked| filter(&asked));
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| Bounded { log: io::stderr(), written: &WRITTEN })
        .log_internal_errors(false);
    tracing_subscriber::registry().with(log.with_filter(filter)).init();
}

/// Levels, for all or for the modules named before them. A word alone is a level: for [`Targets`] a misspelt one would be a
/// module that nobody has, and nothing would be logged.
fn filter(text: &str) -> Option<Targets> {
    let is_level = |part: &str| {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        level.parse::<LevelFilter>().is_ok()
    };
    text.split(',').all(is_level).then(|| text.parse().ok())?
}

/// How much this process has written to its log.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// What a guest can have logged is limited in its rate; this limits it for a VM that runs for years.
const LONGEST_LOG: usize = 1 << 20;

/// Drops what would go beyond [`LONGEST_LOG`], and what cannot be written: a full disk must not end a VM that runs.
struct Bounded<'a, W> {
    log: W,
    written: &'a AtomicUsize,
}

impl<W: Write> Write for Bounded<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.fetch_add(bytes.len(), Ordering::Relaxed) < LONGEST_LOG {
            let _ = self.log.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.log.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_levels_that_there_are() {
        for known in ["warn", "off", "DEBUG", "vmm::monitor=debug", "error,vmm=trace"] {
            assert!(filter(known).is_some(), "{known}");
        }
        for unknown in ["loud", "info=x", "warn,loud", "a b"] {
            assert!(filter(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_log_on_a_full_disk_fails_nobody() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut log = Bounded { log: full, written: &AtomicUsize::new(0) };
        log.write_all(b"a line\n").unwrap();
        log.flush().unwrap();
    }

    #[test]
    fn a_log_ends_at_its_bound() {
        let (written, mut log) = (AtomicUsize::new(0), Vec::new());
        let line = [b'x'; 1000];
        for _ in 0..2 * LONGEST_LOG / line.len() {
            Bounded { log: &mut log, written: &written }.write_all(&line).unwrap();
        }
        assert!((LONGEST_LOG..LONGEST_LOG + line.len()).contains(&log.len()), "{}", log.len());
    }
}
