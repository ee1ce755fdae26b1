//! A laboratory from its start to the end of its command.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use laboratory::{Message, Order};

use super::emulator::{Emulator, Parts, STATE_FILE, Start};
use crate::failure::{Failure, Outcome};
use crate::steps::seconds;

/// The lines of the console that are shown when something went wrong.
const SHOWN: usize = 30;

/// A laboratory that waits for its command.
pub(super) struct Session {
    emulator: Emulator,
}

impl Session {
    /// Waits until a laboratory that boots is up.
    pub(super) fn boot(emulator: Emulator, limit: Duration) -> Outcome<Self> {
        let mut session = Self { emulator };
        match session.next(Instant::now() + limit, "did not come up", limit)? {
            Message::Ready => Ok(session),
            Message::Failed(reason) => Err(session.failure(&format!("failed: {reason}"))),
            _ => Err(session.failure("did not say that it was ready")),
        }
    }

    /// Starts a laboratory where it was frozen.
    pub(super) fn thaw(parts: &Parts, folder: &Path) -> Outcome<Self> {
        let mut session = Self { emulator: Emulator::start(parts, &Start::Thaw { folder })? };
        // Why, QEMU itself has said in the log.
        let restored = session.emulator.monitor().and_then(|mut monitor| {
            session.emulator.let_timers_wait();
            monitor.restore(STATE_FILE)
        });
        match restored {
            Ok(()) => Ok(session),
            Err(_) => {
                Err(session
                    .failure(&format!("cannot be restored; without {} it is made anew", folder.display())))
            }
        }
    }

    /// Gives the machine away.
    pub(super) fn into_emulator(self) -> Emulator {
        self.emulator
    }

    /// Runs a command with our own standard streams, and gives its status.
    pub(super) fn run_as_ours(&mut self, order: &Order, limit: Duration) -> Outcome<i32> {
        self.send_order(order)?;
        let keyboard = self.emulator.channel.try_clone();
        let keyboard = keyboard.map_err(|error| Failure::new(format!("cannot share a socket: {error}")))?;
        // It stays behind in a read when the command ends first, and ends with us.
        std::thread::spawn(move || forward_input(keyboard));
        self.until_end(limit, |message| match message {
            Message::Error(bytes) => write_all(&mut io::stderr(), bytes),
            Message::Output(bytes) => write_all(&mut io::stdout(), bytes),
            _ => Ok(()),
        })
    }

    /// Runs a command that reads nothing. What it says is heard as it comes, both streams in one.
    pub(super) fn run_quietly(
        &mut self,
        order: &Order,
        limit: Duration,
        mut hear: impl FnMut(&[u8]),
    ) -> Outcome<i32> {
        self.send_order(order)?;
        // A laboratory that is gone already is noticed where its words are awaited.
        let _ = Message::EndOfInput.write(&mut self.emulator.channel);
        self.until_end(limit, |message| {
            if let Message::Output(bytes) | Message::Error(bytes) = message {
                hear(bytes);
            }
            Ok(())
        })
    }

    /// What the laboratory's console said.
    pub(super) fn console(&self) -> String {
        self.emulator.said()
    }

    fn send_order(&mut self, order: &Order) -> Outcome {
        let sent = Message::Run(order.clone()).write(&mut self.emulator.channel);
        sent.map_err(|error| self.failure(&format!("takes no order: {error}")))
    }

    /// Hands out what the command says, until it has ended.
    fn until_end(
        &mut self,
        limit: Duration,
        mut hear: impl FnMut(&Message) -> io::Result<()>,
    ) -> Outcome<i32> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline, "was killed: its command did not end", limit)? {
                Message::Ended(status) => return Ok(status),
                Message::Failed(reason) => return Err(self.failure(&format!("failed: {reason}"))),
                message => hear(&message)
                    .map_err(|error| Failure::new(format!("cannot hand on the output: {error}")))?,
            }
        }
    }

    fn next(&mut self, deadline: Instant, late: &str, limit: Duration) -> Outcome<Message> {
        let left = deadline.saturating_duration_since(Instant::now());
        let too_late = || self.failure(&format!("{late} within {}", seconds(limit)));
        if left.is_zero() {
            return Err(too_late());
        }
        let mut channel = &self.emulator.channel;
        let read = channel.set_read_timeout(Some(left)).and_then(|()| Message::read(&mut channel));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => too_late(),
            io::ErrorKind::UnexpectedEof => self.failure("ended by itself"),
            _ => self.failure(&format!("cannot be heard: {error}")),
        })
    }

    fn failure(&self, what: &str) -> Failure {
        let said = self.emulator.said();
        let lines: Vec<&str> = said.lines().collect();
        let shown = telling(&lines).join("\n  | ");
        Failure::new(format!("the laboratory {what}")).hint(format!("  | {shown}"))
    }
}

/// The lines that say why: from where its kernel first complains, or else the last ones.
fn telling<'a>(lines: &'a [&'a str]) -> &'a [&'a str] {
    const COMPLAINTS: [&str; 5] = ["BUG:", "kernel BUG", "Oops", "general protection", "invalid opcode"];
    let complains = |line: &&str| COMPLAINTS.iter().any(|words| line.contains(words));
    let first = lines.iter().position(complains).unwrap_or(lines.len().saturating_sub(SHOWN));
    let shown = lines.get(first..).unwrap_or_default();
    shown.get(..SHOWN).unwrap_or(shown)
}

fn forward_input(mut channel: impl Write) {
    let mut buffer = vec![0; 32 * 1024];
    let mut stdin = io::stdin();
    while let Ok(length @ 1..) = stdin.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        if Message::Input(bytes).write(&mut channel).is_err() {
            return;
        }
    }
    let _ = Message::EndOfInput.write(&mut channel);
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_begins_where_the_kernel_complains() {
        let calm: Vec<&str> = std::iter::repeat_n("all is well", 2 * SHOWN).collect();
        assert_eq!(telling(&calm).len(), SHOWN);
        assert_eq!(telling(&calm[..3]).len(), 3);
        let mut broken = calm.clone();
        broken[5] = "[   81.1] Oops: general protection fault";
        assert_eq!(telling(&broken).first(), Some(&broken[5]));
        assert_eq!(telling(&broken).len(), SHOWN);
    }
}
