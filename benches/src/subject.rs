//! A subject of the comparison: a program that starts a machine, and says how long things took.

use std::error::Error;
use std::process::{Command, Stdio};

/// What a subject measured of itself in one round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// From the beginning to a machine that is ready.
    pub(crate) ready_ms: f64,
    /// Each command.
    pub(crate) exec_ms: Vec<f64>,
    /// What our monitor has for itself; the peer has none.
    pub(crate) monitor_kib: Option<f64>,
    /// What our engine's processes have for themselves.
    pub(crate) engine_kib: Option<f64>,
}

/// Runs a subject to its end.
pub(crate) fn run(command: &mut Command) -> Result<Round, Box<dyn Error>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", output.status).into());
    }
    read(&String::from_utf8_lossy(&output.stdout))
}

fn read(text: &str) -> Result<Round, Box<dyn Error>> {
    let mut round = Round::default();
    let mut ready = false;
    for line in text.lines() {
        // The peer may say other things, too.
        let Some((name, value)) = line.split_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        match name {
            "ready_ms" => (round.ready_ms, ready) = (value, true),
            "exec_ms" => round.exec_ms.push(value),
            "monitor_kib" => round.monitor_kib = Some(value),
            "engine_kib" => round.engine_kib = Some(value),
            _ => {}
        }
    }
    if ready { Ok(round) } else { Err("the subject never said that it was ready".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subjects_words_are_read() {
        let round = read("hello\nready_ms 1200.5\nexec_ms 4.5\nexec_ms 5\nmonitor_kib 9000\n").unwrap();
        assert_eq!((round.ready_ms, round.exec_ms.as_slice()), (1200.5, &[4.5, 5.0][..]));
        assert_eq!((round.monitor_kib, round.engine_kib), (Some(9000.0), None));
        assert!(read("exec_ms 4.5\n").is_err());
    }
}
