//! Commands in a machine: scripts and health checks. Their output is the guest's: as much of it is kept as a person
//! reads.

use std::collections::VecDeque;
use std::io::{self, Read};

use snafu::ResultExt;
use vmm_sys::{Event, Interest, Poller};

use super::ProjectError;
use super::error::{MachineSnafu, SystemSnafu};
use super::materials::ReadyScript;
use super::wait::Waiter;
use crate::sandbox::{Command, ExitStatus, ProcessControl, Sandbox, Signal, Stdin};

/// So much of the end of an output is kept.
const TAIL_BYTES: usize = 8 << 10;

/// So many lines of it are told.
const TAIL_LINES: usize = 20;

/// Keeps a script in a file of its own: what it reads from its standard input is then not its own text. Without `#!` it
/// is for the shell, which ends at the first command that fails.
const RUN_SCRIPT: &str = r#"exec 2>&1
umask 077
file=$(mktemp /tmp/vmm-provision.XXXXXX) || exit 125
trap 'rm -f "$file"' EXIT
cat > "$file" && chmod 700 "$file" || exit 125
umask 022
if [ "$1" = direct ]; then "$file"; else sh -e "$file"; fi"#;

/// Joins the outputs of a command.
const RUN_COMMAND: &str = r#"exec 2>&1; exec "$@""#;

/// How a command in a machine ended.
pub(super) struct GuestOutcome {
    pub(super) status: ExitStatus,
    /// The end of what it wrote.
    pub(super) output: String,
}

/// Runs a script. `seen` is told what it writes.
pub(super) fn run_script(
    sandbox: &Sandbox,
    machine: &str,
    script: &ReadyScript,
    waiter: &Waiter<'_>,
    seen: &dyn Fn(&[u8]),
) -> Result<GuestOutcome, ProjectError> {
    let how = if script.text.starts_with(b"#!") { "direct" } else { "shell" };
    let mut command = sandbox.command(["sh", "-c", RUN_SCRIPT, "vmm-provision", how]);
    if let Some(user) = &script.script.user {
        command = command.user(user);
    }
    if let Some(timeout) = script.script.timeout {
        command = command.timeout(timeout);
    }
    run(command.stdin(Stdin::Bytes(script.text.clone())), machine, waiter, seen)
}

/// Runs a command that says how the machine is.
pub(super) fn run_check(
    sandbox: &Sandbox,
    machine: &str,
    check: &super::HealthCheck,
    waiter: &Waiter<'_>,
) -> Result<GuestOutcome, ProjectError> {
    let words = ["sh", "-c", RUN_COMMAND, "vmm-health"].into_iter().map(str::to_owned);
    let command = sandbox.command(words.chain(check.command.iter().cloned())).timeout(check.timeout);
    run(command, machine, waiter, &|_| {})
}

fn run(
    command: Command<'_>,
    machine: &str,
    waiter: &Waiter<'_>,
    seen: &dyn Fn(&[u8]),
) -> Result<GuestOutcome, ProjectError> {
    waiter.check()?;
    let mut process = command.spawn().context(MachineSnafu { machine })?;
    let output = process.stdout.take();
    let control = process.control();
    let mut tail = Tail::default();
    let mut read = |output: Option<_>| match output {
        Some(output) => read_all(output, |bytes| {
            tail.add(bytes);
            seen(bytes);
        }),
        None => Ok(()),
    };
    let done = while_cancellable(waiter, &control, || read(output));
    // An output that breaks off is told by how the process ended.
    done.context(SystemSnafu { what: "watch a command in the VM" })?;
    let status = process.wait();
    waiter.check()?;
    let status = status.context(MachineSnafu { machine })?;
    Ok(GuestOutcome { status, output: tail.text() })
}

/// Does something that ends when a process ends, and ends the process when it is cancelled.
fn while_cancellable(
    waiter: &Waiter<'_>,
    control: &ProcessControl,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let done = Event::new()?;
    let mut poller = Poller::new()?;
    poller.add(waiter.token(), 0, Interest::READ)?;
    poller.add(&done, 1, Interest::READ)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("vmm-cancel".to_owned());
        thread.spawn_scoped(scope, || {
            // Whether it is done or cancelled, one of them woke us.
            let _ = poller.wait(None).map(drop);
            if waiter.token().is_cancelled() {
                // One that has just ended needs no signal.
                let _ = control.signal(Signal::KILL);
            }
        })?;
        let outcome = work();
        done.notify().and(outcome)
    })
}

fn read_all(mut from: impl Read, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => seen(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}

/// The end of an output.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..surplus);
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_output_the_end_is_kept() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.add(format!("line {number}\n").as_bytes());
        }
        let text = tail.text();
        assert_eq!(text.lines().count(), TAIL_LINES);
        assert!(text.ends_with("line 9999"), "{text}");
        tail.add(&vec![b'x'; 1 << 20]);
        assert_eq!(tail.text().len(), TAIL_BYTES);
    }
}
