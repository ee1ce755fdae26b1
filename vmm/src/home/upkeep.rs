//! How a VM is looked after while nobody looks: whether it does what it is for, and what follows from its end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snafu::Snafu;

use super::{End, EndReason, Timestamp};

/// A command in the guest that says by its status whether the VM does what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// How long to wait between two attempts.
    pub interval: Duration,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// How many attempts in a row fail before the VM is unhealthy.
    pub retries: u32,
    /// For so long after the guest got ready, failures do not count.
    pub start_period: Duration,
}

impl HealthCheck {
    /// A check by this command: every 30 seconds, each attempt within 30 seconds, unhealthy after three that failed.
    pub fn new<A: Into<String>>(command: impl IntoIterator<Item = A>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
        }
    }

    /// Whether there can be such a check; why not.
    pub fn check(&self) -> Result<(), InvalidHealthCheck> {
        if self.command.first().is_none_or(String::is_empty) {
            return NoCommandSnafu.fail();
        }
        if self.interval.is_zero() || self.timeout.is_zero() {
            return NoTimeSnafu.fail();
        }
        if self.retries == 0 {
            return NoRetriesSnafu.fail();
        }
        Ok(())
    }
}

/// Why there cannot be such a health check.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub enum InvalidHealthCheck {
    /// It has no command.
    #[snafu(display("a health check needs a command"))]
    NoCommand,
    /// It would run without a pause, or could never succeed.
    #[snafu(display("the interval and the timeout of a health check are more than nothing"))]
    NoTime,
    /// The VM would be unhealthy from the start.
    #[snafu(display("a health check is tried at least once"))]
    NoRetries,
}

/// Whether a VM does what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No attempt has said it yet.
    Starting,
    /// The last attempt succeeded, or too few failed since.
    Healthy,
    /// Too many attempts failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the attempts came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// In a word.
    pub status: HealthStatus,
    /// How many attempts have failed in a row.
    pub failures: u32,
    /// When the last attempt ended.
    pub checked: Option<Timestamp>,
    /// How it ended and the end of what it wrote. The guest's words: not fit for a terminal as they are.
    pub said: String,
}

/// What follows from the end of a VM that nobody asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again when it crashed; `None`: however often.
    OnFailure {
        /// How many times in a row at most.
        retries: Option<u32>,
    },
    /// It is started again, also when its guest powered itself off or reset itself.
    Always,
}

impl RestartPolicy {
    /// Whether a VM that ended so is started again, after so many times in a row.
    pub fn wants(self, end: &End, times: u32) -> bool {
        match (self, end.reason) {
            // Somebody asked for it.
            (_, EndReason::Stopped | EndReason::Killed | EndReason::StarterGone) | (Self::No, _) => false,
            // It would be the same again.
            (_, EndReason::AgentVersion) => false,
            (Self::OnFailure { retries }, reason) => {
                reason.is_crash() && retries.is_none_or(|retries| times < retries)
            }
            (Self::Always, _) => true,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { retries: None } => f.write_str("on-failure"),
            Self::OnFailure { retries: Some(retries) } => write!(f, "on-failure:{retries}"),
            Self::Always => f.write_str("always"),
        }
    }
}

/// The name of no policy.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("{name:?} is no restart policy: use no, on-failure, on-failure:N or always"))]
pub struct UnknownRestartPolicy {
    /// What was written.
    name: String,
}

impl FromStr for RestartPolicy {
    type Err = UnknownRestartPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownRestartPolicy> {
        let (word, number) = match name.split_once(':') {
            Some((word, number)) => (word, Some(number)),
            None => (name, None),
        };
        match (word, number.map(str::parse)) {
            ("no", None) => Ok(Self::No),
            ("on-failure", None) => Ok(Self::OnFailure { retries: None }),
            ("on-failure", Some(Ok(retries))) if retries > 0 => {
                Ok(Self::OnFailure { retries: Some(retries) })
            }
            // Nothing but its user stops a VM here, so Docker's two words mean the same.
            ("always" | "unless-stopped", None) => Ok(Self::Always),
            _ => UnknownRestartPolicySnafu { name }.fail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reason: EndReason) -> End {
        End { reason, message: String::new(), hint: None, console_tail: String::new(), at: Timestamp::now() }
    }

    #[test]
    fn what_was_asked_for_is_never_undone() {
        for reason in [EndReason::Stopped, EndReason::Killed, EndReason::StarterGone] {
            assert!(!RestartPolicy::Always.wants(&end(reason), 0), "{reason:?}");
        }
        assert!(RestartPolicy::Always.wants(&end(EndReason::PowerOff), 1000));
        assert!(!RestartPolicy::No.wants(&end(EndReason::GuestPanic), 0));
    }

    #[test]
    fn a_failure_is_mended_so_many_times() {
        let twice = RestartPolicy::OnFailure { retries: Some(2) };
        let wants = |times| twice.wants(&end(EndReason::GuestPanic), times);
        assert_eq!([wants(0), wants(1), wants(2)], [true, true, false]);
        assert!(!twice.wants(&end(EndReason::PowerOff), 0));
        assert!(RestartPolicy::OnFailure { retries: None }.wants(&end(EndReason::MonitorKilled), 9999));
    }

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for text in ["no", "on-failure", "on-failure:3", "always"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        assert_eq!("unless-stopped".parse(), Ok(RestartPolicy::Always));
        for text in ["", "on-failure:0", "on-failure:x", "always:3", "sometimes"] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_check_that_cannot_be_is_refused() {
        let good = HealthCheck::new(["true"]);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(HealthCheck::new([""]).check(), Err(InvalidHealthCheck::NoCommand));
        let bad = HealthCheck { interval: Duration::ZERO, ..good.clone() };
        assert_eq!(bad.check(), Err(InvalidHealthCheck::NoTime));
        assert_eq!(HealthCheck { retries: 0, ..good }.check(), Err(InvalidHealthCheck::NoRetries));
    }
}
