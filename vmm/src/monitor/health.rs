//! The health check of a VM: a thread that has the agent run its command, and what the attempts come to.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::event_loop::{Happening, Post};
use crate::agent::{AgentClient, AgentError, Collected, OutputLimits, ProcessSpec};
use crate::home::{HealthCheck, HealthReport, HealthStatus, Timestamp};
use crate::threads::{self, Role};

/// So much is kept of what an attempt wrote to each of its outputs.
const KEPT_OUTPUT: usize = 2048;

/// Beyond an attempt's own time: the agent ends it by itself, this is for an agent that hangs.
const AGENT_MARGIN: Duration = Duration::from_secs(5);

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    passed: bool,
    said: String,
}

/// The check of a guest that is ready.
pub(super) struct HealthWatch {
    check: HealthCheck,
    report: HealthReport,
    ready: Instant,
    gate: Arc<Gate>,
}

impl HealthWatch {
    /// Starts the thread that checks.
    pub(super) fn start(
        check: &HealthCheck,
        vsock_socket: PathBuf,
        post: &Post,
        now: Instant,
    ) -> io::Result<Self> {
        let watch = Self::new(check, now);
        let (gate, check, post) = (Arc::clone(&watch.gate), check.clone(), post.clone());
        // It ends with the monitor's process.
        let work = move || {
            let client = AgentClient::new(vsock_socket).with_answer_timeout(check.timeout + AGENT_MARGIN);
            loop {
                let opened = gate.wait_until_open();
                let attempt = attempt(&client, &check);
                // What stood still meanwhile says nothing.
                if gate.was_open_since(opened) {
                    post.send(Happening::Checked(attempt));
                }
                gate.wait(check.interval);
            }
        };
        threads::spawn(Role::Agent, "health", work)?;
        Ok(watch)
    }

    fn new(check: &HealthCheck, ready: Instant) -> Self {
        let report =
            HealthReport { status: HealthStatus::Starting, failures: 0, checked: None, said: String::new() };
        Self { check: check.clone(), report, ready, gate: Arc::default() }
    }

    /// What the attempts came to.
    pub(super) fn report(&self) -> &HealthReport {
        &self.report
    }

    /// The guest stands still, or goes on: no attempt is made meanwhile.
    pub(super) fn stand_still(&self, still: bool) {
        self.gate.close(still);
    }

    /// An attempt has ended. Says whether the VM is in another state of health by that.
    pub(super) fn take(&mut self, attempt: Attempt, now: Instant) -> bool {
        let before = self.report.status;
        let Attempt { passed, said } = attempt;
        self.report.said = said;
        self.report.checked = Some(Timestamp::now());
        if passed {
            self.report.failures = 0;
            self.report.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting
            || now.saturating_duration_since(self.ready) >= self.check.start_period
        {
            self.report.failures = self.report.failures.saturating_add(1);
            if self.report.failures >= self.check.retries {
                self.report.status = HealthStatus::Unhealthy;
            }
        }
        self.report.status != before
    }
}

/// Runs the command.
fn attempt(client: &AgentClient, check: &HealthCheck) -> Attempt {
    let run = || -> Result<Collected, AgentError> {
        let words = check.command.iter().map(String::as_str);
        let spec = ProcessSpec::command(words).timeout(check.timeout).kill_on_disconnect();
        let limits = OutputLimits { stdout: KEPT_OUTPUT, stderr: KEPT_OUTPUT };
        let deadline = Instant::now().checked_add(check.timeout + AGENT_MARGIN);
        client.start(&spec)?.collect(&[], limits, deadline, None)
    };
    match run() {
        Ok(collected) => {
            let output = [collected.stdout, collected.stderr].concat();
            let output = String::from_utf8_lossy(&output);
            let said = match output.trim_end() {
                "" => collected.exit.to_string(),
                output => format!("{}: {output}", collected.exit),
            };
            Attempt { passed: collected.exit.success(), said }
        }
        Err(error) => Attempt { passed: false, said: crate::engine::chain(&error) },
    }
}

/// Closed while the guest stands still.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    /// How often it was closed.
    closings: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, closed: bool) {
        let mut state = self.lock();
        state.closed = closed;
        state.closings += u64::from(closed);
        self.changed.notify_all();
    }

    /// Returns when it is open, with what tells later whether it was open all the time.
    fn wait_until_open(&self) -> u64 {
        let state = self.changed.wait_while(self.lock(), |state| state.closed);
        state.unwrap_or_else(PoisonError::into_inner).closings
    }

    fn was_open_since(&self, opened: u64) -> bool {
        self.lock().closings == opened
    }

    fn wait(&self, time: Duration) {
        let state = self.changed.wait_timeout_while(self.lock(), time, |_| true);
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(start_period: Duration) -> (Instant, HealthWatch) {
        let check = HealthCheck { retries: 2, start_period, ..HealthCheck::new(["true"]) };
        let now = Instant::now();
        (now, HealthWatch::new(&check, now))
    }

    fn attempt(passed: bool) -> Attempt {
        Attempt { passed, said: String::new() }
    }

    #[test]
    fn some_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let (now, mut watch) = watch(Duration::ZERO);
        let mut take = |passed| (watch.take(attempt(passed), now), watch.report().status);
        assert_eq!(take(false), (false, HealthStatus::Starting));
        assert_eq!(take(false), (true, HealthStatus::Unhealthy));
        assert_eq!(take(true), (true, HealthStatus::Healthy));
        assert_eq!(take(false), (false, HealthStatus::Healthy));
        assert_eq!(take(true), (false, HealthStatus::Healthy));
        assert_eq!(take(false), (false, HealthStatus::Healthy));
        assert_eq!(take(false), (true, HealthStatus::Unhealthy));
    }

    #[test]
    fn failures_at_the_start_do_not_count_until_something_succeeded() {
        let (now, mut watch) = watch(Duration::from_secs(60));
        for _ in 0..5 {
            assert!(!watch.take(attempt(false), now));
        }
        assert_eq!((watch.report().failures, watch.report().status), (0, HealthStatus::Starting));
        assert!(watch.take(attempt(true), now));
        watch.take(attempt(false), now);
        assert!(watch.take(attempt(false), now));
        let (now, mut late) = self::watch(Duration::from_secs(60));
        let later = now + Duration::from_secs(61);
        late.take(attempt(false), later);
        assert!(late.take(attempt(false), later));
        assert_eq!(late.report().status, HealthStatus::Unhealthy);
    }

    #[test]
    fn an_attempt_during_which_the_guest_stood_still_is_known() {
        let gate = Gate::default();
        let opened = gate.wait_until_open();
        assert!(gate.was_open_since(opened));
        gate.close(true);
        gate.close(false);
        assert!(!gate.was_open_since(opened));
    }
}
