//! Values on the command line that clap does not know.

use std::str::FromStr;
use std::time::Duration;

use vmm::EngineChoice;
use vmm::home::Timestamp;
use vmm::image::Format;

/// The name of a disk's format.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => Err(format!("{text:?} is no format of a disk: use raw or qcow2")),
    }
}

/// An engine as it is asked for by option or by `VMM_ENGINE`, which counts as not set where it is empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine(Option<EngineChoice>);

impl Engine {
    /// What is asked for, if something is.
    pub(crate) fn of(engine: Option<Self>) -> Option<EngineChoice> {
        engine.and_then(|Self(engine)| engine)
    }
}

impl FromStr for Engine {
    type Err = <EngineChoice as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|engine| Self(Some(engine))) }
    }
}

/// Reads a span of time: `90`, `90s`, `1.5m`, `500ms`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    vmm::project::parse_duration(text)
}

/// Reads a moment: a span of time ago, `@` and seconds since 1970, or a time such as `2026-01-31T12:00:00Z`.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let moment = match text.strip_prefix('@') {
        Some(seconds) => seconds.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000)),
        None if text.contains('-') => time_of_day(text),
        None => {
            let ago = u64::try_from(duration(text)?.as_millis()).unwrap_or(u64::MAX);
            Some(Timestamp::now().0.saturating_sub(ago))
        }
    };
    let wrong = || format!("{text:?} is no time: use 10m for ten minutes ago, or 2026-01-31T12:00:00Z");
    moment.map(Timestamp).ok_or_else(wrong)
}

/// A time as RFC 3339 writes it, in milliseconds since 1970; where only the day is said, its beginning in UTC.
fn time_of_day(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00:00Z"));
    let number = |text: &str, digits: usize| -> Option<i64> {
        let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok())?
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let (clock, zone) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (hours, minutes) = time[at + 1..].split_once(':')?;
            let minutes = number(hours, 2)? * 60 + number(minutes, 2)?;
            (&time[..at], if time[at..].starts_with('-') { -minutes } else { minutes })
        }
    };
    let clock = clock.split_once('.').map_or(clock, |(clock, _)| clock);
    let mut clock = clock.split(':');
    let (hour, minute) = (number(clock.next()?, 2)?, number(clock.next()?, 2)?);
    let second = clock.next().map_or(Some(0), |second| number(second, 2))?;
    let sound =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !sound || parts.next().is_some() || clock.next().is_some() {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - zone) * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

/// Reads an amount of memory, which may be 0.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    vmm::machine::parse_bytes(text).map_err(|error| error.to_string())
}

/// A span of time as people and programs are told it: in milliseconds, of which three digits behind the point mean
/// something.
pub(crate) fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// Reads `KEY=VALUE`; a bare `KEY` takes the value that the variable has here, as Docker does.
pub(crate) fn environment(text: &str) -> Result<(String, String), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            Err(_) => return Err(format!("{text} is not set here: write {text}=VALUE")),
        },
    };
    if key.is_empty() || key.contains('\0') || value.contains('\0') {
        return Err("write KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_span_ago_or_a_time() {
        let seconds = |text| moment(text).map(|moment| moment.0 / 1000);
        // As `date -u -d … +%s` says.
        assert_eq!(seconds("2026-01-31T12:00:00Z"), Ok(1_769_860_800));
        assert_eq!(seconds("2024-02-29T23:59:59+01:00"), Ok(1_709_247_599));
        assert_eq!(seconds("2000-03-01"), Ok(951_868_800));
        assert_eq!(seconds("1970-01-01T00:00Z"), Ok(0));
        assert_eq!(seconds("@1769860800"), Ok(1_769_860_800));
        let ago = Timestamp::now().0 / 1000 - seconds("10m").unwrap();
        assert!((599..=601).contains(&ago), "{ago}");
        for wrong in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-01-31T12:00:00",
            "2026-1-1",
            "1960-01-01",
            "@",
            "2026-01-31T25:00Z",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_variable_has_a_name_and_perhaps_an_empty_value() {
        assert_eq!(environment("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(environment("A="), Ok(("A".to_owned(), String::new())));
        assert!(environment("=b").is_err());
        assert!(environment("SURELY_NOT_SET_ANYWHERE").is_err());
    }
}
