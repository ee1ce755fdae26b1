//! One command in a guest, with its streams joined to ours.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use vmm::{Process, ProcessControl, ProcessOutput, Signal, TerminalSize};

use crate::error::Failure;
use crate::sanitise::{Sanitiser, say};
use crate::signals::SignalForwarder;
use crate::terminal::{self, RawTerminal};

/// How a command is joined to our streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Streams {
    /// Our standard input goes to the command.
    pub(crate) interactive: bool,
    /// The command gets a terminal, and ours follows it.
    pub(crate) terminal: bool,
}

impl Streams {
    /// The size to start with, where the command gets a terminal.
    pub(crate) fn terminal_size(self) -> Option<TerminalSize> {
        let (rows, columns) = terminal::size().unwrap_or((24, 80));
        self.terminal.then_some(TerminalSize { rows, columns })
    }

    /// Refuses a terminal where we have none to join to it.
    pub(crate) fn check(self) -> Result<Self, Failure> {
        if self.terminal && self.interactive && !io::stdin().is_terminal() {
            return Err(Failure::usage("standard input is not a terminal: leave out -t"));
        }
        Ok(self)
    }
}

/// What leaves a command on a terminal running, or a console: Ctrl-].
pub(crate) const DETACH_KEY: u8 = 0x1d;

/// Runs until the command has ended; the status is the command's. Where `detachable`, a key on the terminal leaves it
/// running, and so does every signal; otherwise the command gets them.
pub(crate) fn join(
    mut process: Process,
    streams: Streams,
    signals: &SignalForwarder,
    detachable: bool,
) -> Result<ExitCode, Failure> {
    let control = process.control();
    if detachable {
        signals.leave(control.clone());
    } else {
        signals.forward_to(control.clone());
    }
    let raw = if streams.terminal && streams.interactive { Some(RawTerminal::enter()?) } else { None };
    if streams.interactive
        && let Some(mut stdin) = process.stdin.take()
    {
        let control = control.clone();
        // It is never joined: a read of our standard input cannot be called back, and ends with the process.
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let key = (detachable && streams.terminal).then_some(DETACH_KEY);
            let mut keys = UntilKey::new(io::stdin().lock(), key);
            // A command that no longer reads, or has just ended, is its own affair.
            let _ = copy(&mut keys, &mut stdin);
            if keys.seen {
                let _ = control.detach();
            }
        })?;
    }
    let errors = match process.stderr.take() {
        Some(stderr) => {
            let control = control.clone();
            let thread = std::thread::Builder::new().name("stderr".to_owned());
            Some(thread.spawn(move || pump(stderr, io::stderr(), streams, &control))?)
        }
        None => None,
    };
    let mut written = match process.stdout.take() {
        Some(stdout) => pump(stdout, io::stdout(), streams, &control),
        None => Ok(()),
    };
    if let Some(errors) = errors {
        // The thread does not panic; if it did, its output is lost and the status still counts.
        written = written.and(errors.join().unwrap_or(Ok(())));
    }
    let status = process.wait();
    drop(raw);
    if let Err(error) = written {
        return Err(Failure::usage(format!("cannot write what the command says: {error}")));
    }
    match status {
        Err(error) if error.is_detached() => {
            say(&format!("vmm: command {} goes on", process.id()));
            Ok(ExitCode::SUCCESS)
        }
        status => Ok(ExitCode::from(status?.shell_status())),
    }
}

/// An input that ends at a key.
pub(crate) struct UntilKey<R> {
    from: R,
    key: Option<u8>,
    seen: bool,
}

impl<R> UntilKey<R> {
    pub(crate) fn new(from: R, key: Option<u8>) -> Self {
        Self { from, key, seen: false }
    }

    /// Whether the key has come.
    pub(crate) fn seen(&self) -> bool {
        self.seen
    }
}

impl<R: Read> Read for UntilKey<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.seen {
            return Ok(0);
        }
        let count = self.from.read(buffer)?;
        let before = buffer[..count].iter().position(|&byte| Some(byte) == self.key);
        self.seen = before.is_some();
        Ok(before.unwrap_or(count))
    }
}

/// Copies an output of the command to ours. When ours is closed, the command learns of it as from a broken pipe, and that
/// is all; an output that is lost for another reason, such as a full disk, is a failure.
fn pump<W: Write + IsTerminal>(
    mut from: ProcessOutput,
    to: W,
    streams: Streams,
    control: &ProcessControl,
) -> io::Result<()> {
    let harmless = streams.terminal || !to.is_terminal();
    let mut to = Sanitiser::new(to, !harmless);
    let Err(error) = copy(&mut from, &mut to) else { return Ok(()) };
    // One that has ended already needs no signal.
    let _ = control.signal(Signal::PIPE);
    let _ = io::copy(&mut from, &mut io::sink());
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

/// Copies until the end, passing on at once what has come: a person may be reading. Only a failed write is an error:
/// an output that breaks off is told by the command's status.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(()),
        };
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until_key(input: &[u8], key: Option<u8>) -> (Vec<u8>, bool) {
        let mut keys = UntilKey::new(input, key);
        let mut read = Vec::new();
        keys.read_to_end(&mut read).unwrap();
        (read, keys.seen)
    }

    #[test]
    fn keys_end_at_the_one_that_detaches() {
        assert_eq!(until_key(b"ls\n\x1dexit\n", Some(DETACH_KEY)), (b"ls\n".to_vec(), true));
        assert_eq!(until_key(b"\x1d", Some(DETACH_KEY)), (Vec::new(), true));
        assert_eq!(until_key(b"ls\n", Some(DETACH_KEY)), (b"ls\n".to_vec(), false));
        assert_eq!(until_key(b"a\x1db", None), (b"a\x1db".to_vec(), false));
    }
}
