//! What a VM does, and what follows from what happens to it. Knows no descriptor, no thread and no clock of its own:
//! everything is told to it, so that every course of a life can be tested.

use std::time::{Duration, Instant};

use super::launcher::LaunchFailure;
use crate::agent::boot::BootError;
use crate::engine::MachineEnd;
use crate::home::{End, EndReason, Timestamp, VmState};

/// Beyond the grace that processes in the guest get: the guest writes its disks back and unmounts.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(5);

/// How long the engine may take to end a machine whose plug was pulled.
const PLUG_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a guest may take to shut down when whoever started it is gone.
const STARTER_GONE_GRACE: Duration = Duration::from_secs(2);

/// How long a machine may take to end whose agent is gone: the console says why.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Ask the agent to shut the guest down; its processes have this long.
    ShutDown(Duration),
    /// End the machine at once.
    PullPlug,
    /// Everything has been tried: this is the end, whatever still runs.
    GiveUp,
}

/// Who wants a VM to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopper {
    /// A client.
    Client,
    /// A signal to the monitor.
    Signal,
    /// Whoever started it is gone.
    StarterGone,
}

/// How far a start has come, for whoever waits in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The engine runs the machine.
    pub(super) launched: bool,
    /// The guest wrote to its console.
    pub(super) console: bool,
    /// The agent opened its connection.
    pub(super) agent: bool,
}

impl Progress {
    fn describe(self) -> &'static str {
        match self {
            Self { agent: true, .. } => "its agent had called and was getting ready",
            Self { console: true, .. } => "its kernel was starting, its agent had not called yet",
            Self { launched: true, .. } => "it runs, but wrote nothing to its console",
            _ => "its engine had not started it yet",
        }
    }
}

/// A VM's life.
#[derive(Debug)]
pub(super) struct Life {
    state: VmState,
    deadline: Option<Instant>,
    ready_timeout: Duration,
    /// Nothing of it is to be kept, so it need not shut down in order when nobody is there any more.
    ephemeral: bool,
    /// How long its guest may take to shut down when nobody is there who could say.
    grace: Duration,
    /// Why it ends, once that is decided.
    verdict: Option<Verdict>,
    plug_pulled: bool,
    /// Its agent's connection ended before it was ready; what there is to say of that.
    agent_lost: Option<String>,
    /// It got ready once.
    was_ready: bool,
}

#[derive(Clone, Debug)]
struct Verdict {
    reason: EndReason,
    message: String,
    hint: Option<String>,
}

impl Verdict {
    fn new(reason: EndReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: None }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Life {
    pub(super) fn new(now: Instant, ready_timeout: Duration, ephemeral: bool, grace: Duration) -> Self {
        Self {
            state: VmState::Starting,
            deadline: now.checked_add(ready_timeout),
            ready_timeout,
            ephemeral,
            grace,
            verdict: None,
            plug_pulled: false,
            agent_lost: None,
            was_ready: false,
        }
    }

    pub(super) fn state(&self) -> VmState {
        self.state
    }

    /// When [`Life::deadline_passed`] is to be told.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether its agent ever answered.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// The agent takes requests. Says whether that is news.
    pub(super) fn ready(&mut self) -> bool {
        if self.state != VmState::Starting {
            return false;
        }
        self.state = VmState::Running;
        self.deadline = None;
        self.was_ready = true;
        true
    }

    /// The agent will not get ready.
    pub(super) fn boot_failed(&mut self, now: Instant, error: &BootError) -> Action {
        if self.state != VmState::Starting {
            return Action::None;
        }
        let message = crate::engine::chain(error);
        let verdict = match error {
            BootError::OtherVersion { .. } => Verdict::new(EndReason::AgentVersion, message)
                .with_hint("create the VM anew, so that it gets this program's agent"),
            BootError::Deadline { .. } => return Action::None,
            // An agent that dies takes the machine with it, and the connection ends where the machine ended: that says
            // more, and is waited for.
            BootError::Lost => {
                self.agent_lost = Some(message);
                self.deadline = [now.checked_add(LAST_WORDS), self.deadline].into_iter().flatten().min();
                return Action::None;
            }
            _ => Verdict::new(EndReason::AgentFailed, message),
        };
        self.pull_plug(now, verdict)
    }

    /// The engine could not start it.
    pub(super) fn launch_failed(&mut self, failure: LaunchFailure) -> End {
        let mut verdict = Verdict::new(EndReason::StartFailed, failure.message);
        verdict.hint = failure.hint;
        self.end_with(self.verdict.clone().unwrap_or(verdict), String::new())
    }

    /// Its processors stand still, or go on. Says whether that is news: one that ends meanwhile is not held up.
    pub(super) fn stands_still(&mut self, still: bool) -> bool {
        let (from, to) =
            if still { (VmState::Running, VmState::Paused) } else { (VmState::Paused, VmState::Running) };
        let news = self.state == from;
        if news {
            self.state = to;
        }
        news
    }

    /// Somebody wants it to stop.
    pub(super) fn stop(&mut self, now: Instant, stopper: Stopper, grace: Option<Duration>) -> Action {
        let grace = match (stopper, grace) {
            (Stopper::StarterGone, _) if self.ephemeral => Duration::ZERO,
            (Stopper::StarterGone, _) => STARTER_GONE_GRACE,
            (_, grace) => grace.unwrap_or(self.grace),
        };
        let (reason, message) = match stopper {
            Stopper::Client if self.state == VmState::Starting => {
                (EndReason::Killed, "it was stopped before it was ready")
            }
            Stopper::Client if grace.is_zero() => (EndReason::Killed, "it was killed, as asked"),
            Stopper::Client => (EndReason::Stopped, "it was stopped, as asked"),
            Stopper::Signal => {
                (EndReason::Stopped, "it was stopped: its monitor was told to end by a signal")
            }
            Stopper::StarterGone => (EndReason::StarterGone, "it was stopped: whoever started it is gone"),
        };
        match self.state {
            VmState::Running | VmState::Paused if !grace.is_zero() => {
                self.verdict.get_or_insert(Verdict::new(reason, message));
                self.state = VmState::Stopping;
                self.deadline = now.checked_add(grace + SHUTDOWN_MARGIN);
                Action::ShutDown(grace)
            }
            // Whoever is less patient than those before sets the pace.
            VmState::Stopping if !grace.is_zero() => {
                let deadline = now.checked_add(grace + SHUTDOWN_MARGIN);
                if !self.plug_pulled && deadline < self.deadline {
                    self.deadline = deadline;
                }
                Action::None
            }
            _ => self.pull_plug(now, Verdict::new(reason, message)),
        }
    }

    /// The agent could not be asked to shut down.
    pub(super) fn shutdown_failed(&mut self, now: Instant, why: &str) -> Action {
        if self.state != VmState::Stopping || self.plug_pulled {
            return Action::None;
        }
        let message = format!("it was stopped hard: its agent could not be asked to shut down ({why})");
        self.stopped_hard(now, message)
    }

    /// [`Life::deadline`] has passed.
    pub(super) fn deadline_passed(&mut self, now: Instant, progress: Progress) -> Action {
        match self.state {
            _ if self.plug_pulled => Action::GiveUp,
            VmState::Starting => {
                if let Some(message) = self.agent_lost.take() {
                    return self.pull_plug(now, Verdict::new(EndReason::AgentFailed, message));
                }
                let seconds = self.ready_timeout.as_secs_f64();
                let message = format!("it was not ready within {seconds} s: {}", progress.describe());
                let verdict = Verdict::new(EndReason::NeverReady, message)
                    .with_hint("where the host is busy, give it more time; else its console says more");
                self.pull_plug(now, verdict)
            }
            VmState::Stopping => {
                self.stopped_hard(now, "it was stopped hard: it did not shut down in time".to_owned())
            }
            _ => Action::None,
        }
    }

    fn stopped_hard(&mut self, now: Instant, message: String) -> Action {
        // Whoever is gone is still the reason; how it ended is the news otherwise.
        if self.verdict.as_ref().is_none_or(|verdict| verdict.reason == EndReason::Stopped) {
            self.verdict = Some(Verdict::new(EndReason::Killed, message));
        }
        self.pull_plug(now, Verdict::new(EndReason::Killed, String::new()))
    }

    /// The first verdict stands.
    fn pull_plug(&mut self, now: Instant, verdict: Verdict) -> Action {
        self.verdict.get_or_insert(verdict);
        self.state = VmState::Stopping;
        if std::mem::replace(&mut self.plug_pulled, true) {
            return Action::None;
        }
        self.deadline = now.checked_add(PLUG_TIMEOUT);
        Action::PullPlug
    }

    /// The machine has ended, or is given up (`None`). `panicked`: its console told of the kernel's death;
    /// `console_tail` is what it said last.
    pub(super) fn machine_ended(
        &mut self,
        end: Option<MachineEnd>,
        panicked: bool,
        console_tail: String,
    ) -> End {
        let unready = if self.was_ready { "" } else { " before it was ready" };
        let own = match end {
            Some(MachineEnd::Panicked) => {
                Verdict::new(EndReason::GuestPanic, format!("the guest's kernel panicked{unready}"))
            }
            Some(MachineEnd::Reset) if panicked => {
                Verdict::new(EndReason::GuestPanic, format!("the guest's kernel panicked{unready}"))
            }
            Some(MachineEnd::PowerOff) => {
                Verdict::new(EndReason::PowerOff, format!("the guest powered itself off{unready}"))
            }
            Some(MachineEnd::Reset) => {
                Verdict::new(EndReason::Reset, format!("the guest reset itself{unready}"))
            }
            Some(MachineEnd::Stopped) => Verdict::new(EndReason::Killed, "it was stopped"),
            Some(MachineEnd::Failed(why)) => Verdict::new(EndReason::EngineFailed, why),
            None => Verdict::new(EndReason::EngineFailed, "its engine did not end it in time"),
        };
        let verdict = self.verdict.clone().unwrap_or(own);
        self.end_with(verdict, console_tail)
    }

    fn end_with(&mut self, verdict: Verdict, console_tail: String) -> End {
        let Verdict { reason, message, hint } = verdict;
        let telling = reason.is_crash() || !self.was_ready;
        self.state = if reason.is_crash() { VmState::Crashed } else { VmState::Stopped };
        self.deadline = None;
        let console_tail = if telling { console_tail } else { String::new() };
        End { reason, message, hint, console_tail, at: Timestamp::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> (Instant, Life) {
        let now = Instant::now();
        (now, Life::new(now, Duration::from_secs(60), false, Duration::from_secs(10)))
    }

    fn running() -> (Instant, Life) {
        let (now, mut life) = life();
        assert!(life.ready());
        (now, life)
    }

    const GRACE: Option<Duration> = Some(Duration::from_secs(3));

    #[test]
    fn a_guest_that_is_ready_runs_without_deadline() {
        let (_, mut life) = life();
        assert_eq!((life.state(), life.deadline().is_some()), (VmState::Starting, true));
        assert!(life.ready());
        assert!(!life.ready());
        assert_eq!((life.state(), life.deadline()), (VmState::Running, None));
        let end = life.machine_ended(Some(MachineEnd::PowerOff), false, "secret".to_owned());
        assert_eq!(
            (end.reason, end.console_tail.as_str(), life.state()),
            (EndReason::PowerOff, "", VmState::Stopped)
        );
    }

    #[test]
    fn a_guest_that_never_gets_ready_is_ended_and_says_how_far_it_came() {
        let (now, mut life) = life();
        let progress = Progress { launched: true, console: true, agent: false };
        assert_eq!(life.deadline_passed(now, progress), Action::PullPlug);
        let end = life.machine_ended(Some(MachineEnd::Stopped), false, "booting".to_owned());
        assert_eq!(
            (end.reason, end.console_tail.as_str(), life.state()),
            (EndReason::NeverReady, "booting", VmState::Crashed)
        );
        assert_eq!(
            end.message,
            "it was not ready within 60 s: its kernel was starting, its agent had not called yet"
        );
    }

    #[test]
    fn a_guest_is_asked_to_stop_and_then_made_to() {
        let (now, mut life) = running();
        assert_eq!(life.stop(now, Stopper::Client, GRACE), Action::ShutDown(Duration::from_secs(3)));
        assert_eq!(life.deadline(), Some(now + Duration::from_secs(8)));
        assert_eq!(life.deadline_passed(now, Progress::default()), Action::PullPlug);
        assert_eq!(life.deadline_passed(now, Progress::default()), Action::GiveUp);
        let end = life.machine_ended(Some(MachineEnd::Stopped), false, String::new());
        assert_eq!(end.reason, EndReason::Killed);
        assert!(end.message.contains("did not shut down in time"), "{}", end.message);
    }

    #[test]
    fn a_guest_that_stands_still_is_asked_to_stop_like_any_other() {
        let (now, mut life) = running();
        assert!(life.stands_still(true));
        assert!(!life.stands_still(true));
        assert_eq!(life.state(), VmState::Paused);
        assert_eq!(life.stop(now, Stopper::Client, GRACE), Action::ShutDown(Duration::from_secs(3)));
        assert!(!life.stands_still(false));
        assert_eq!(life.state(), VmState::Stopping);
    }

    #[test]
    fn a_guest_that_shuts_down_as_asked_was_stopped() {
        let (now, mut life) = running();
        life.stop(now, Stopper::Client, GRACE);
        let end = life.machine_ended(Some(MachineEnd::PowerOff), false, String::new());
        assert_eq!((end.reason, life.state()), (EndReason::Stopped, VmState::Stopped));
    }

    #[test]
    fn an_agent_that_cannot_be_asked_costs_no_time() {
        let (now, mut life) = running();
        life.stop(now, Stopper::Client, GRACE);
        assert_eq!(life.shutdown_failed(now, "refused"), Action::PullPlug);
        assert_eq!(life.shutdown_failed(now, "refused"), Action::None);
        let end = life.machine_ended(Some(MachineEnd::Stopped), false, String::new());
        assert_eq!(end.reason, EndReason::Killed);
    }

    #[test]
    fn the_less_patient_of_two_sets_the_pace() {
        let (now, mut life) = running();
        life.stop(now, Stopper::Client, Some(Duration::from_secs(100)));
        assert_eq!(life.stop(now, Stopper::Signal, GRACE), Action::None);
        assert_eq!(life.deadline(), Some(now + Duration::from_secs(8)));
        assert_eq!(life.stop(now, Stopper::Client, Some(Duration::ZERO)), Action::PullPlug);
        assert_eq!(
            life.machine_ended(Some(MachineEnd::Stopped), false, String::new()).reason,
            EndReason::Stopped
        );
    }

    #[test]
    fn without_its_starter_an_ephemeral_vm_goes_at_once_and_a_named_one_in_order() {
        let now = Instant::now();
        let mut ephemeral = Life::new(now, Duration::from_secs(60), true, Duration::from_secs(10));
        ephemeral.ready();
        assert_eq!(ephemeral.stop(now, Stopper::StarterGone, None), Action::PullPlug);
        let (now, mut named) = running();
        assert_eq!(named.stop(now, Stopper::StarterGone, None), Action::ShutDown(STARTER_GONE_GRACE));
        assert_eq!(
            named.machine_ended(Some(MachineEnd::PowerOff), false, String::new()).reason,
            EndReason::StarterGone
        );
    }

    #[test]
    fn a_vm_that_boots_has_nobody_to_ask() {
        let (now, mut life) = life();
        assert_eq!(life.stop(now, Stopper::Client, GRACE), Action::PullPlug);
        assert!(!life.ready());
        let end = life.machine_ended(Some(MachineEnd::Stopped), false, String::new());
        assert_eq!(end.message, "it was stopped before it was ready");
        assert!(!life.was_ready());
    }

    #[test]
    fn a_panic_is_told_by_the_engine_or_by_the_console() {
        for (end, panicked) in [(MachineEnd::Panicked, false), (MachineEnd::Reset, true)] {
            let (_, mut life) = running();
            let end = life.machine_ended(Some(end), panicked, String::new());
            assert_eq!(end.reason, EndReason::GuestPanic);
            assert_eq!(life.state(), VmState::Crashed);
        }
        let (_, mut life) = running();
        assert_eq!(
            life.machine_ended(Some(MachineEnd::Reset), false, String::new()).reason,
            EndReason::Reset
        );
    }

    #[test]
    fn a_machine_whose_agent_is_gone_may_say_why_before_it_ends() {
        let (now, mut life) = life();
        assert_eq!(life.boot_failed(now, &BootError::Lost), Action::None);
        assert_eq!(life.deadline(), Some(now + LAST_WORDS));
        let progress = Progress { launched: true, console: true, agent: true };
        assert_eq!(life.deadline_passed(now + LAST_WORDS, progress), Action::PullPlug);
        let end = life.machine_ended(Some(MachineEnd::Stopped), false, "init: no host".to_owned());
        assert_eq!((end.reason, end.console_tail.as_str()), (EndReason::AgentFailed, "init: no host"));
    }

    #[test]
    fn how_the_machine_ended_says_more_than_that_its_agent_is_gone() {
        let (now, mut life) = life();
        life.boot_failed(now, &BootError::Lost);
        let end = life.machine_ended(Some(MachineEnd::Reset), false, String::new());
        assert_eq!(
            (end.reason, end.message.as_str()),
            (EndReason::Reset, "the guest reset itself before it was ready")
        );
    }

    #[test]
    fn what_the_agent_said_stands_before_how_the_machine_ended() {
        let (now, mut life) = life();
        let error = BootError::Failed { what: "mount the root".to_owned(), why: "no disk".to_owned() };
        assert_eq!(life.boot_failed(now, &error), Action::PullPlug);
        let end = life.machine_ended(Some(MachineEnd::PowerOff), false, String::new());
        assert_eq!(end.reason, EndReason::AgentFailed);
        assert!(end.message.contains("no disk"), "{}", end.message);
    }

    #[test]
    fn an_engine_that_fails_says_why() {
        let (_, mut life) = running();
        let end =
            life.machine_ended(Some(MachineEnd::Failed("QEMU was killed".to_owned())), false, String::new());
        assert_eq!((end.reason, end.message.as_str()), (EndReason::EngineFailed, "QEMU was killed"));
        let (_, mut life) = self::life();
        let failure = LaunchFailure { message: "no QEMU".to_owned(), hint: Some("install it".to_owned()) };
        let end = life.launch_failed(failure);
        assert_eq!((end.reason, end.hint.as_deref()), (EndReason::StartFailed, Some("install it")));
    }
}
