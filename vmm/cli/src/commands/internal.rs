//! The processes of a VM that are this same executable: its monitor, its keeper, the supervisor of its QEMU, a trial of
//! the host's virtualization. Not for people.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::EnvFilter;

/// Becomes such a process where the first argument asks for it.
pub(crate) fn run() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1)?;
    if first == vmm::engine::software::SUPERVISOR_ARGUMENT {
        Some(vmm::engine::software::supervisor_main())
    } else if first == vmm::engine::native::TRIAL_ARGUMENT {
        Some(vmm::engine::native::trial_main())
    } else if first == vmm::monitor::ARGUMENT {
        log_within_bounds();
        Some(vmm::monitor::main())
    } else if first == vmm::sandbox::keeper::ARGUMENT {
        log_within_bounds();
        Some(vmm::sandbox::keeper::main())
    } else {
        None
    }
}

/// A monitor's standard error is its log, which lies in the VM's folder for as long as the VM does.
fn log_within_bounds() {
    let asked = std::env::var("VMM_LOG").ok().and_then(|filter| filter.parse().ok());
    let filter = asked.unwrap_or_else(|| EnvFilter::new("info"));
    let log = || Bounded { log: io::stderr(), written: &WRITTEN };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(log)
        .log_internal_errors(false)
        .init();
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
