//! What a command finds in the laboratory: its variables and its folder.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use laboratory::{IMAGES, Order, PROGRAMS, Terminal};

/// The variable that tells a test that repeats itself for how long.
const SECONDS: &str = "VMM_TEST_SECONDS";

/// A command with pipes.
pub(super) fn with_pipes(command: &[&str]) -> Order {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Order {
        time: u64::try_from(time).unwrap_or(u64::MAX),
        terminal: None,
        arguments: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: environment(),
        directory: "/lab".to_owned(),
    }
}

/// A test that repeats itself for so long.
pub(super) fn repeated(command: &[&str], time: Duration) -> Order {
    let mut order = with_pipes(command);
    order.environment.retain(|(name, _)| name != SECONDS);
    order.environment.push((SECONDS.to_owned(), time.as_secs().to_string()));
    order
}

/// A command with a terminal.
pub(super) fn on_terminal(command: &[&str], size: Terminal) -> Order {
    Order { terminal: Some(size), ..with_pipes(command) }
}

fn environment() -> Vec<(String, String)> {
    let mut variables = vec![
        ("PATH", format!("{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        ("HOME", "/root".to_owned()),
        ("USER", "root".to_owned()),
        ("VMM_LABORATORY", "1".to_owned()),
        ("VMM_HOME", IMAGES.to_owned()),
        ("VMM_BIN", format!("{PROGRAMS}/vmm")),
        ("VMM_TEST_IMAGES", IMAGES.to_owned()),
        ("VMM_TEST_ENGINE", "kvm".to_owned()),
    ];
    // What the user says about logs, traces and the length of tests is meant for what runs inside.
    for name in ["RUST_BACKTRACE", "VMM_LOG", "TERM", "VMM_TEST_ROUNDS", SECONDS] {
        variables.extend(std::env::var(name).ok().map(|value| (name, value)));
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
