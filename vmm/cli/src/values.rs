//! Values on the command line that clap does not know.

use std::time::Duration;

use vmm::image::Format;

/// The name of a disk's format.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => Err(format!("{text:?} is no format of a disk: use raw or qcow2")),
    }
}

/// Reads a span of time: `90`, `90s`, `1.5m`, `500ms`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    vmm::project::parse_duration(text)
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
    fn a_variable_has_a_name_and_perhaps_an_empty_value() {
        assert_eq!(environment("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(environment("A="), Ok(("A".to_owned(), String::new())));
        assert!(environment("=b").is_err());
        assert!(environment("SURELY_NOT_SET_ANYWHERE").is_err());
    }
}
