//! A span of time, as people write it.

use std::time::Duration;

/// Reads a span of time: `90`, `90s`, `1.5m`, `500ms`, `2h`.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(vmm::project::parse_duration("1.5m"), Ok(Duration::from_secs(90)));
/// assert!(vmm::project::parse_duration("soon").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("write a number with ms, s, m or h, such as 90s or 5m".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "write a number first, such as 90s or 5m".to_owned())?;
    let span = Duration::try_from_secs_f64(number * seconds).map_err(|_| "this is too long".to_owned())?;
    if span.is_zero() { Err("it must be more than nothing".to_owned()) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read_as_people_write_them() {
        for (text, milliseconds) in [("90", 90_000), ("1.5m", 90_000), ("500ms", 500), ("2h", 7_200_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "0", "-1s", "1x", "1e400", "99999999999999999999h", "."] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
