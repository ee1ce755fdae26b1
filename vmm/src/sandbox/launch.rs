//! Starting the monitor of a VM that is in hand, and waiting until the guest is ready.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::link::end_from;
use super::program::{MonitorProgram, last_line};
use super::start::milliseconds;
use super::{CancelToken, Error, Progress, StartOptions};
use crate::control::{Answer, Connection, ControlError, MonitorLine, Request, StartRequest};
use crate::home::{HeldVm, Timings};

/// How long a VM that is given up may take to be cleared away.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a monitor that told the end may take to end itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Beyond the guest's own time: the monitor notices by itself, this is for one that hangs.
const MONITOR_MARGIN: Duration = Duration::from_secs(30);

/// Starts a VM and waits until its agent answers. `asked_at_us` is when that was asked for; `fresh`: the VM was made
/// for this, so nothing of it is to stay if this is given up.
///
/// The connection that is returned is the VM's lifeline, unless it is detached. When this fails everything of the VM
/// has ended.
pub(crate) fn launch(
    program: &MonitorProgram,
    held: HeldVm,
    fresh: bool,
    asked_at_us: u64,
    options: &StartOptions,
) -> Result<Connection, Error> {
    options.check_cancelled()?;
    options.observer.tell(&Progress::StartingMonitor);
    let described_at_us = vmm_sys::clock::monotonic_us();
    let folder = held.folder().clone();
    let log = folder.monitor_log();
    let lost = || Error::MonitorLost { said: last_line(&log) };
    let mut connection = program.start(&log).map_err(|error| match error {
        // So soon that it was gone before it could be greeted.
        Error::MonitorLost { .. } => lost(),
        error => error,
    })?;
    let request = StartRequest {
        home: folder.home().root().to_owned(),
        id: folder.id().clone(),
        detached: options.detached,
        fresh,
        ready_timeout_ms: milliseconds(options.ready_timeout),
        seccomp: options.seccomp,
        asked_at_us,
        described_at_us: Some(described_at_us),
    };
    let sent = connection.request_with(Request::Start(request), &[held.lock_file().as_fd()]);
    let asked = match sent {
        Ok(asked) => asked,
        Err(ControlError::Lost) => {
            connection.wait_for_exit(EXIT_TIMEOUT);
            return Err(lost());
        }
        Err(error) => return Err(error.into()),
    };
    held.hand_over();
    options.observer.tell(&Progress::Booting);
    let deadline = Instant::now().checked_add(options.ready_timeout.saturating_add(MONITOR_MARGIN));
    match wait_until_ready(&mut connection, asked, deadline, options.cancel.as_ref()) {
        Ok(timings) => {
            if let Some(timeline) = &options.timeline {
                timeline.started(asked_at_us, &timings);
            }
            options.observer.tell(&Progress::Ready);
            Ok(connection)
        }
        Err(error) => Err(give_up(connection, error, &log)),
    }
}

fn wait_until_ready(
    connection: &mut Connection,
    asked: u64,
    deadline: Option<Instant>,
    cancel: Option<&CancelToken>,
) -> Result<Timings, Error> {
    loop {
        match connection.next(deadline, cancel.map(AsFd::as_fd))? {
            MonitorLine::Answer { id, what: Answer::Ready(status) } if id == asked => {
                return Ok(status.timings);
            }
            MonitorLine::Answer { id, what: Answer::Ended(end) } if id == asked => {
                return Err(Error::Ended { end: Box::new(end) });
            }
            _ => {}
        }
    }
}

/// Lets go of a VM that did not get ready, and waits until nothing of it is left.
fn give_up(mut connection: Connection, error: Error, log: &Path) -> Error {
    match error {
        Error::Ended { .. } => {
            connection.wait_for_exit(EXIT_TIMEOUT);
            return error;
        }
        Error::MonitorLost { .. } => {
            connection.wait_for_exit(EXIT_TIMEOUT);
            return Error::MonitorLost { said: last_line(log) };
        }
        _ => {}
    }
    // It may have got ready at this very moment: a detached VM then takes no hint any more, and must be told.
    let _ = connection.request(Request::Stop { grace_ms: 0 });
    connection.finish();
    let _ = end_from(&mut connection, Some(Instant::now() + GIVE_UP_TIMEOUT), None);
    error
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_vm_that_is_given_up_is_told_to_stop() {
        let (ours, mut monitor) = UnixStream::pair().unwrap();
        let connection = Connection::over(ours, None).unwrap();
        let told = std::thread::spawn(move || {
            let mut text = String::new();
            monitor.read_to_string(&mut text).unwrap();
            // One that is gone, too, ends the wait.
            let _ = monitor.write_all(b"\n");
            text
        });
        let error = give_up(connection, Error::Cancelled, Path::new("/nowhere"));
        assert!(matches!(error, Error::Cancelled));
        assert!(told.join().unwrap().contains(r#"{"stop":{"grace_ms":0}}"#));
    }
}
