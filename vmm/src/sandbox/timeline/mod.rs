//! When what happened, from the wish for a VM to its end: in the program that asks, in the VM's monitor, in its guest.

mod kernel;
mod plot;
mod trace;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::home::{End, Timings};

/// What may happen once in a VM's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// The timeline begins.
    Begun,
    /// The library was asked for the VM.
    Asked,
    /// The image is there, the VM described, its disk made: the monitor is started.
    Described,
    /// The monitor's process knows what to do.
    MonitorStarted,
    /// The machine is built: disks open, devices made.
    MachineBuilt,
    /// The engine runs the guest's first instruction.
    GuestEntered,
    /// The guest's first byte reached the console.
    ConsoleHeard,
    /// The monitor heard of the agent.
    AgentHeard,
    /// The monitor heard that the agent is ready.
    ReadyHeard,
    /// The clock of the guest's kernel began.
    KernelBegun,
    /// The kernel started the agent.
    AgentStarted,
    /// The agent's connection to the host stood.
    AgentConnected,
    /// The modules that the root needs were loaded.
    ModulesLoaded,
    /// The agent knew what to be.
    Configured,
    /// The root's device was there.
    RootFound,
    /// The root was mounted.
    RootMounted,
    /// The agent took requests.
    AgentReady,
    /// The library knows that the VM is ready.
    Ready,
    /// The agent has answered the first request: the command runs.
    CommandStarted,
    /// The command has ended, and all of its output is here.
    CommandDone,
    /// The guest has stopped, as its monitor tells: to a millisecond.
    Stopped,
    /// Everything of the VM is gone.
    Ended,
}

/// Where a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Track {
    Program,
    Monitor,
    Guest,
}

impl Track {
    const ALL: [Self; 3] = [Self::Program, Self::Monitor, Self::Guest];

    fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Monitor => "monitor",
            Self::Guest => "guest",
        }
    }
}

impl Step {
    fn track(self) -> Track {
        match self {
            Self::Begun | Self::Asked | Self::Described => Track::Program,
            Self::Ready | Self::CommandStarted | Self::CommandDone | Self::Ended => Track::Program,
            Self::MonitorStarted | Self::MachineBuilt | Self::GuestEntered => Track::Monitor,
            Self::ConsoleHeard | Self::AgentHeard | Self::ReadyHeard | Self::Stopped => Track::Monitor,
            Self::KernelBegun | Self::AgentStarted | Self::AgentConnected | Self::ModulesLoaded => {
                Track::Guest
            }
            Self::Configured | Self::RootFound | Self::RootMounted | Self::AgentReady => Track::Guest,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Begun => "begun",
            Self::Asked => "VM asked for",
            Self::Described => "image ready, disk made",
            Self::MonitorStarted => "monitor started",
            Self::MachineBuilt => "machine built",
            Self::GuestEntered => "engine runs the guest",
            Self::ConsoleHeard => "first byte on the console",
            Self::AgentHeard => "agent heard of",
            Self::ReadyHeard => "heard that it is ready",
            Self::KernelBegun => "kernel's clock begins",
            Self::AgentStarted => "agent's first instruction",
            Self::AgentConnected => "agent connected",
            Self::ModulesLoaded => "modules loaded",
            Self::Configured => "agent configured",
            Self::RootFound => "root's disk found",
            Self::RootMounted => "root mounted",
            Self::AgentReady => "agent ready",
            Self::Ready => "VM ready",
            Self::CommandStarted => "first answer, command started",
            Self::CommandDone => "command done",
            Self::Stopped => "guest stopped",
            Self::Ended => "all cleaned up",
        })
    }
}

/// A step, and when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The step.
    pub step: Step,
    /// Since the timeline's beginning.
    pub at: Duration,
}

/// When what happened of a VM, on one clock: the host's monotonic one. A clone is the same timeline.
///
/// ```no_run
/// use vmm::{Sandbox, Timeline};
///
/// let timeline = Timeline::begin();
/// Sandbox::builder("alpine").timeline(&timeline).start()?;
/// for moment in timeline.moments() {
///     println!("{:>8.1} ms  {}", moment.at.as_secs_f64() * 1000.0, moment.step);
/// }
/// # Ok::<(), vmm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Timeline {
    /// On the system's monotonic clock, in microseconds.
    origin_us: u64,
    moments: Arc<Mutex<Vec<Moment>>>,
}

impl Timeline {
    /// A timeline that begins now.
    pub fn begin() -> Self {
        Self::since(Instant::now())
    }

    /// A timeline that has begun already.
    pub fn since(begun: Instant) -> Self {
        let ago = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let origin_us = vmm_sys::clock::monotonic_us().saturating_sub(ago);
        let moments = vec![Moment { step: Step::Begun, at: Duration::ZERO }];
        Self { origin_us, moments: Arc::new(Mutex::new(moments)) }
    }

    /// Notes that a step was done just now.
    pub fn mark(&self, step: Step) {
        self.note(step, vmm_sys::clock::monotonic_us());
    }

    /// Notes when the guest of a VM that has ended stopped.
    pub fn stopped(&self, end: &End) {
        let at = self.since_beginning(vmm_sys::clock::monotonic_us()).saturating_sub(end.at.elapsed());
        // What was noted before came before: an end is told in milliseconds.
        let last = self.moments().last().map_or(Duration::ZERO, |moment| moment.at);
        self.put(Moment { step: Step::Stopped, at: at.max(last) });
    }

    /// All that is known, in the order in which it came.
    pub fn moments(&self) -> Vec<Moment> {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner).clone();
        moments.sort_by_key(|moment| moment.at);
        moments
    }

    /// Notes the steps of a start.
    pub(super) fn started(&self, asked_at_us: u64, timings: &Timings) {
        self.note(Step::Asked, asked_at_us);
        let monitor = [
            (Step::Described, timings.described),
            (Step::MonitorStarted, timings.monitor),
            (Step::MachineBuilt, timings.built),
            (Step::GuestEntered, timings.launched),
            (Step::ConsoleHeard, timings.console),
            (Step::AgentHeard, timings.agent),
            (Step::ReadyHeard, timings.ready),
        ];
        let guest = [
            Step::KernelBegun,
            Step::AgentStarted,
            Step::AgentConnected,
            Step::ModulesLoaded,
            Step::Configured,
            Step::RootFound,
            Step::RootMounted,
            Step::AgentReady,
        ];
        let guest_moments = timings.guest.as_ref().map(|guest| guest.moments()).into_iter().flatten();
        let known = monitor.into_iter().filter_map(|(step, at)| Some((step, at?)));
        for (step, at) in known.chain(guest.into_iter().zip(guest_moments)) {
            self.note(step, asked_at_us.saturating_add(at));
        }
        self.mark(Step::Ready);
    }

    fn note(&self, step: Step, at_us: u64) {
        self.put(Moment { step, at: self.since_beginning(at_us) });
    }

    fn since_beginning(&self, at_us: u64) -> Duration {
        Duration::from_micros(at_us.saturating_sub(self.origin_us))
    }

    fn put(&self, new: Moment) {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.retain(|moment| moment.step != new.step);
        moments.push(new);
    }

    fn at(&self, step: Step) -> Option<Duration> {
        self.moments().iter().find(|moment| moment.step == step).map(|moment| moment.at)
    }

    /// What was done from one step of a place to its next.
    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        let moments = self.moments();
        for track in Track::ALL {
            let here: Vec<_> = moments.iter().filter(|moment| moment.step.track() == track).collect();
            spans.extend(here.windows(2).map(|pair| Span {
                track,
                name: pair[1].step.to_string(),
                from: pair[0].at,
                to: pair[1].at,
            }));
        }
        spans
    }
}

/// What took its time, called after the step that it led to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    track: Track,
    name: String,
    from: Duration,
    to: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::GuestTimings;

    /// A start whose steps are known.
    pub(super) fn example() -> Timeline {
        let timeline = Timeline { origin_us: 1000, moments: Arc::default() };
        timeline.note(Step::Begun, 1000);
        let guest = GuestTimings {
            kernel: 20_000,
            agent: 60_000,
            connected: 70_000,
            modules: 80_000,
            configured: 80_500,
            root_device: 81_000,
            root_mounted: 90_000,
            ready: 95_000,
        };
        let timings = Timings {
            described: Some(3_000),
            monitor: Some(5_000),
            launched: Some(15_000),
            ready: Some(95_200),
            guest: Some(Box::new(guest)),
            ..Timings::default()
        };
        timeline.started(2_000, &timings);
        timeline.note(Step::Ready, 98_000);
        timeline
    }

    #[test]
    fn the_steps_of_all_places_come_in_order_on_one_clock() {
        let moments = example().moments();
        assert!(moments.is_sorted_by_key(|moment| moment.at));
        let at = |step| moments.iter().find(|moment| moment.step == step).map(|moment| moment.at.as_micros());
        assert_eq!(at(Step::Asked), Some(1_000));
        assert_eq!(at(Step::MonitorStarted), Some(6_000));
        assert_eq!(at(Step::KernelBegun), Some(21_000));
        assert_eq!(at(Step::AgentReady), Some(96_000));
        assert_eq!(at(Step::ConsoleHeard), None);
        assert_eq!(moments.last().map(|moment| moment.step), Some(Step::Ready));
    }

    #[test]
    fn a_span_reaches_from_one_step_of_a_place_to_its_next() {
        let spans = example().spans();
        let mounted = spans.iter().find(|span| span.name == "root mounted").unwrap();
        let (from, to) = (Duration::from_micros(82_000), Duration::from_micros(91_000));
        assert_eq!((mounted.track, mounted.from, mounted.to), (Track::Guest, from, to));
    }

    #[test]
    fn a_step_that_is_noted_again_moves() {
        let timeline = example();
        timeline.note(Step::Ready, 99_000);
        assert_eq!(timeline.at(Step::Ready), Some(Duration::from_micros(98_000)));
        assert_eq!(timeline.moments().iter().filter(|moment| moment.step == Step::Ready).count(), 1);
    }
}
