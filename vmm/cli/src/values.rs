//! Values on the command line that clap does not know.

use std::time::Duration;

/// Reads a span of time: `90`, `90s`, `1.5m`, `500ms`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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

/// Reads an amount of memory, which may be 0.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    vmm::machine::parse_bytes(text).map_err(|error| error.to_string())
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
    fn spans_of_time_are_read_as_people_write_them() {
        for (text, milliseconds) in [("90", 90_000), ("1.5m", 90_000), ("500ms", 500), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "0", "-1s", "1x", "1e400", "99999999999999999999h", "."] {
            assert!(duration(text).is_err(), "{text}");
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
