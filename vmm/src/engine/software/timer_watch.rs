//! Boots a guest anew that has lost its timer.
//!
//! The microvm board has one timer, that of each processor's local APIC. Linux counts for 100 ms how often it ticks
//! (`calibrate_APIC_clock`), and reads the counter in a loop to know when they are over. Where a busy host keeps the
//! processor's thread waiting for so long, all of them pass between two looks: the kernel counts nothing, does without
//! the timer, and stands still as soon as it waits for anything. Nothing that matters has happened in such a guest yet.
//!
//! From outside, the timer shows what was written to it last: before the measurement nothing, during it the highest
//! count that Linux gives it, with its interrupt masked, and that is also what stays there if it is given up.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::qmp::{Commands, QmpError};

/// Until then the kernel has hardly come to its timer.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// A measurement takes a tenth of it; two looks in a row that see one have seen the end of it.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A guest that has not come to its timer by then is none that would.
const MOST_LOOKS: u32 = 60;

/// A kernel that has found no timer that often finds none at all.
const MOST_BOOTS: u32 = 4;

/// What Linux counts down from while it measures: all that 32 bits hold, by `APIC_DIVISOR`.
const COUNT_IN_MEASUREMENT: u32 = u32::MAX / 16;

type Answer = Receiver<Result<Value, String>>;

/// Looks at the guest's timer now and then until the guest uses it.
pub(super) struct TimerWatch {
    next_look: Option<Instant>,
    looks: u32,
    boots: u32,
    answer: Option<Answer>,
    seen: Timer,
}

/// What a guest has done with its timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// Nothing, or it has stopped it for now.
    Idle,
    /// It measures it, or has given up on that.
    InMeasurement,
    /// It uses it.
    InUse,
}

impl TimerWatch {
    /// For a guest that starts now.
    pub(super) fn new() -> Self {
        Self {
            next_look: Some(Instant::now() + FIRST_LOOK),
            looks: 0,
            boots: 1,
            answer: None,
            seen: Timer::Idle,
        }
    }

    /// For a guest that has other timers.
    pub(super) const fn none() -> Self {
        Self { next_look: None, looks: 0, boots: 1, answer: None, seen: Timer::Idle }
    }

    /// How long until it wants to look.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.next_look.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Looks, if it is time to. What it asks for is there at the next look.
    pub(super) fn turn(&mut self, commands: &Commands) {
        let now = Instant::now();
        if self.next_look.is_none_or(|at| now < at) {
            return;
        }
        self.next_look = match self.look(commands) {
            Ok(true) => Some(now + BETWEEN_LOOKS),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "the guest's timer is watched no longer");
                None
            }
        };
    }

    /// Whether there is more to see.
    fn look(&mut self, commands: &Commands) -> Result<bool, QmpError> {
        self.looks += 1;
        let seen = match self.answer.as_ref().map(Receiver::try_recv) {
            None => Timer::Idle,
            Some(Ok(Ok(text))) => match text.as_str().and_then(timer) {
                Some(seen) => seen,
                None => return Ok(false),
            },
            Some(Err(TryRecvError::Empty)) => return Ok(self.looks < MOST_LOOKS),
            Some(Ok(Err(_)) | Err(TryRecvError::Disconnected)) => return Ok(false),
        };
        if seen == Timer::InUse || self.looks >= MOST_LOOKS {
            return Ok(false);
        }
        if seen == Timer::InMeasurement && self.seen == Timer::InMeasurement {
            if self.boots == MOST_BOOTS {
                tracing::warn!("the guest's kernel finds no timer");
                return Ok(false);
            }
            tracing::warn!(
                "the guest's kernel could not measure its timer on this busy host: it is booted anew"
            );
            boot_anew(commands)?;
            (self.looks, self.boots, self.seen) = (0, self.boots + 1, Timer::Idle);
        } else {
            self.seen = seen;
        }
        let line = json!({ "command-line": "info lapic" });
        self.answer = Some(commands.send("human-monitor-command", &line, "show the guest's timer")?.1);
        Ok(true)
    }
}

/// QEMU ends at a reset of the guest's, but not at this one.
fn boot_anew(commands: &Commands) -> Result<(), QmpError> {
    let what = "boot the guest anew";
    commands.send("set-action", &json!({ "reboot": "reset" }), what)?;
    commands.send("system_reset", &json!({}), what)?;
    commands.send("set-action", &json!({ "reboot": "shutdown" }), what)?;
    Ok(())
}

/// What QEMU's text about a local APIC says of its timer.
fn timer(text: &str) -> Option<Timer> {
    let line = |name| text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let masked = line("LVTT")?.split_whitespace().any(|word| word == "masked");
    let count: u32 =
        line("Timer")?.split_once("initial_count = ")?.1.split_whitespace().next()?.parse().ok()?;
    Some(match (masked, count) {
        (false, _) => Timer::InUse,
        (true, COUNT_IN_MEASUREMENT) => Timer::InMeasurement,
        (true, _) => Timer::Idle,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;

    const IN_MEASUREMENT: (&str, u32) = ("masked        ", COUNT_IN_MEASUREMENT);
    const IDLE: (&str, u32) = ("masked        ", 0);
    const IN_USE: (&str, u32) = ("              ", 57280);

    fn text((masked, count): (&str, u32)) -> String {
        format!(
            "dumping local APIC state for CPU 0 \r\n\r\n\
             LVTTHMR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)\r\n\
             LVTT\t 0x000100ec active-hi edge  {masked} one-shot     Fixed  (vec 236)\r\n\
             Timer\t DCR=0x3 (divide by 16) initial_count = {count} current_count = 0\r\n\
             SPIV\t 0x000001ff APIC enabled, focus=off, spurious vec 255\r\n"
        )
    }

    /// A watch, and what it says to QEMU.
    struct Desk {
        watch: TimerWatch,
        commands: Commands,
        lines: std::io::Lines<BufReader<UnixStream>>,
        asked: u64,
    }

    impl Desk {
        fn new() -> Self {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let commands = Commands::new(ours);
            commands.greeted().unwrap();
            let mut desk =
                Self { watch: TimerWatch::new(), commands, lines: BufReader::new(theirs).lines(), asked: 0 };
            desk.said();
            desk
        }

        /// Its next look. Gives the commands of it.
        fn look(&mut self) -> Vec<String> {
            self.watch.next_look = self.watch.next_look.map(|_| Instant::now());
            self.watch.turn(&self.commands);
            self.commands.send("stop", &json!({}), "mark the end").unwrap();
            let mut said = Vec::new();
            loop {
                let command = self.said();
                self.asked += 1;
                match command["execute"].as_str().unwrap() {
                    "stop" => return said,
                    name => said.push(name.to_owned()),
                }
            }
        }

        fn said(&mut self) -> Value {
            serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
        }

        /// QEMU's answer to the last question, which stood before the mark.
        fn answer(&self, answer: Result<&str, &str>) {
            self.commands.answered(self.asked - 1, answer.map(Value::from).map_err(str::to_owned));
        }
    }

    const QUESTION: &str = "human-monitor-command";

    #[test]
    fn a_timer_is_read_from_qemus_text() {
        assert_eq!(timer(&text(IN_MEASUREMENT)), Some(Timer::InMeasurement));
        assert_eq!(timer(&text(IDLE)), Some(Timer::Idle));
        assert_eq!(timer(&text(IN_USE)), Some(Timer::InUse));
        assert_eq!(timer("unknown command: 'info lapic'\r\n"), None);
        assert_eq!(timer("LVTT\nTimer initial_count = 99999999999"), None);
    }

    #[test]
    fn a_guest_that_lost_its_timer_is_booted_anew_and_watched_again() {
        let mut desk = Desk::new();
        assert_eq!(desk.look(), [QUESTION]);
        desk.answer(Ok(&text(IDLE)));
        assert_eq!(desk.look(), [QUESTION]);
        desk.answer(Ok(&text(IN_MEASUREMENT)));
        assert_eq!(desk.look(), [QUESTION]);
        desk.answer(Ok(&text(IN_MEASUREMENT)));
        assert_eq!(desk.look(), ["set-action", "system_reset", "set-action", QUESTION]);
        desk.answer(Ok(&text(IN_USE)));
        assert!(desk.look().is_empty());
        assert_eq!(desk.watch.timeout(), None);
    }

    #[test]
    fn a_guest_that_measures_for_a_moment_is_left_alone() {
        let mut desk = Desk::new();
        desk.look();
        for state in [IN_MEASUREMENT, IDLE, IN_MEASUREMENT, IDLE] {
            desk.answer(Ok(&text(state)));
            assert_eq!(desk.look(), [QUESTION]);
        }
    }

    #[test]
    fn a_guest_that_never_finds_a_timer_is_left_alone_in_the_end() {
        let mut desk = Desk::new();
        let mut resets = 0;
        while desk.watch.timeout().is_some() {
            resets += desk.look().iter().filter(|command| *command == "system_reset").count();
            desk.answer(Ok(&text(IN_MEASUREMENT)));
        }
        assert_eq!(resets, 3);
    }

    #[test]
    fn a_qemu_that_says_nothing_or_no_is_asked_no_more() {
        let mut desk = Desk::new();
        assert_eq!(desk.look(), [QUESTION]);
        let silent = (0..MOST_LOOKS).map(|_| desk.look().len()).sum::<usize>();
        assert_eq!((silent, desk.watch.timeout()), (0, None));
        for answer in [Err("no such command"), Ok("unknown command")] {
            let mut desk = Desk::new();
            desk.look();
            desk.answer(answer);
            assert!(desk.look().is_empty());
            assert_eq!(desk.watch.timeout(), None);
        }
    }
}
