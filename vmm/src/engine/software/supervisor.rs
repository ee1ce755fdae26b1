//! The process between the monitor and QEMU: builds the jail, starts QEMU in it, and lets neither outlive the other.
//!
//! QEMU cannot be told to end with the process that started it, and the kernel's parent-death signal follows the
//! thread that forked. So a process with one thread forks it, and watches the monitor over a socket: when that closes,
//! by whatever death, QEMU is killed; and when this process dies, the kernel kills QEMU.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::jail::{self, Jail, Report as JailNotes};
use super::plan::{FIRST_DESCRIPTOR, Report, receive_plan, send_report};
use crate::engine::Bar;

/// How much of QEMU's error output is kept.
const MAX_ERRORS: usize = 4096;

/// What an executable does that was started with [`SUPERVISOR_ARGUMENT`](super::SUPERVISOR_ARGUMENT) as its first
/// argument: keeps a QEMU for the monitor that started it, in a jail, and ends when either is gone.
///
/// Call it before anything else in `main`: it needs a process with one thread and no open files of its own. Its
/// standard input is the socket to the monitor.
pub fn supervisor_main() -> ExitCode {
    let Ok(monitor) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let monitor = UnixStream::from(monitor);
    match supervise(&monitor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The monitor may be gone; then nobody is left to hear it.
            let _ = send_report(&monitor, &Report::Refused { reason: error.to_string() }, None);
            ExitCode::FAILURE
        }
    }
}

fn supervise(monitor: &UnixStream) -> io::Result<()> {
    // Whatever the monitor's other threads had open while it started us must not reach QEMU.
    vmm_sys::prepared_child::close_on_exec_from(3)?;
    // The folders of the jail are for QEMU's user, who is another than the monitor's.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // The terminal's signals are the monitor's business.
    let _ = rustix::process::setsid();
    let Some((plan, descriptors)) = receive_plan(monitor)? else { return Ok(()) };
    let nothing = File::open("/dev/null")?;
    let inherited = number_descriptors(&descriptors[plan.files.len().min(descriptors.len())..])?;
    let Jail { mut report, files, firmware_folder } = jail::enter(&plan, &descriptors)?;
    drop(descriptors);

    let (mut errors, errors_writer) = io::pipe()?;
    let mut command = Command::new(&plan.program);
    command.args(&plan.arguments).env_clear().current_dir("/").stdin(nothing);
    for (option, path) in plan.files.iter().zip(&files) {
        command.args([option, path]);
    }
    if let Some(folder) = firmware_folder {
        command.args(["-L", folder]);
    }
    command.stdout(Stdio::from(errors_writer.try_clone()?)).stderr(errors_writer);
    let child = start(&mut command, &mut report);
    // Our ends of its pipe would keep us from seeing the last of it, and our copies of its sockets the devices.
    drop(command);
    drop(inherited);
    let mut child =
        child.map_err(|error| io::Error::new(error.kind(), format!("cannot execute QEMU: {error}")))?;
    let handle = child_handle(&child)?;
    let started = Report::Started { process: child.id(), jail: report.finish() };
    send_report(monitor, &started, Some(handle.as_fd()))?;

    let (status, errors) = watch(monitor, &mut child, &handle, &mut errors)?;
    let errors = String::from_utf8_lossy(&errors).into_owned();
    // The monitor may be gone, which is why QEMU is.
    let _ =
        send_report(monitor, &Report::Ended { status: status.code(), signal: status.signal(), errors }, None);
    Ok(())
}

/// Gives each descriptor the number by which QEMU's arguments name it, and lets it be inherited.
fn number_descriptors(descriptors: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let mut inherited = Vec::new();
    for (number, descriptor) in (FIRST_DESCRIPTOR..).zip(descriptors) {
        let numbered = rustix::io::fcntl_dupfd_cloexec(descriptor, number)?;
        if numbered.as_raw_fd() != number {
            return Err(io::Error::other(format!("descriptor {number} is taken in the supervisor")));
        }
        rustix::io::fcntl_setfd(&numbered, rustix::io::FdFlags::empty())?;
        inherited.push(numbered);
    }
    Ok(inherited)
}

/// Starts QEMU so that it dies with us, and without the system calls that it does not need.
fn start(command: &mut Command, notes: &mut JailNotes) -> io::Result<Child> {
    let (alive, our_life) = io::pipe()?;
    let (mut outcome, outcome_writer) = io::pipe()?;
    let mut our_life = Some(our_life);
    let child = vmm_sys::prepared_child::spawn_prepared(command, move || {
        let deadly = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        // We may have died before the signal was asked for. This copy of the pipe's end closed, only ours is left.
        drop(our_life.take());
        if is_ready(&alive)? {
            return Err(io::Error::other("the supervisor is gone"));
        }
        let filtered = jail::refuse_calls();
        (&outcome_writer).write_all(&[u8::from(deadly.is_ok()), u8::from(filtered.is_ok())])
    })?;
    let mut held = [0u8; 2];
    outcome.read_exact(&mut held)?;
    let state = |held: u8, reason: &str| if held == 1 { Ok(()) } else { Err(reason.to_owned()) };
    notes.note(Bar::SystemCallFilter, state(held[1], "the kernel takes no filter"));
    notes.note(Bar::DiesWithMonitor, state(held[0], "the kernel gives no parent-death signal"));
    Ok(child)
}

/// Whether something can be read, or the other end is gone.
fn is_ready(fd: &impl AsFd) -> io::Result<bool> {
    let mut waited = [PollFd::new(fd, PollFlags::IN)];
    Ok(poll(&mut waited, Some(&rustix::event::Timespec::default()))? > 0)
}

fn child_handle(child: &Child) -> io::Result<OwnedFd> {
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| io::Error::other("QEMU has no process number"))?;
    Ok(pidfd_open(number, PidfdFlags::empty())?)
}

/// Waits until QEMU has ended, and kills it when the monitor is gone or wants no more. Gives the last of its errors.
fn watch(
    monitor: &UnixStream,
    child: &mut Child,
    handle: &OwnedFd,
    errors: &mut PipeReader,
) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut tail = Vec::new();
    let (mut errors_open, mut monitor_open) = (true, true);
    loop {
        let when = |open: bool| if open { PollFlags::IN } else { PollFlags::empty() };
        let mut waited = [
            PollFd::new(handle, PollFlags::IN),
            PollFd::new(monitor, when(monitor_open)),
            PollFd::new(errors, when(errors_open)),
        ];
        match poll(&mut waited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = waited.map(|fd| !fd.revents().is_empty());
        if errors_open && ready[2] {
            errors_open = keep_tail(errors, &mut tail)?;
        }
        if ready[0] {
            let status = child.wait()?;
            while errors_open && is_ready(errors)? {
                errors_open = keep_tail(errors, &mut tail)?;
            }
            return Ok((status, tail));
        }
        if monitor_open && ready[1] {
            // It says nothing after the plan: this is its end.
            monitor_open = false;
            pidfd_send_signal(handle, Signal::KILL)?;
        }
    }
}

/// Reads once and keeps the last bytes; says whether more can come.
fn keep_tail(errors: &mut PipeReader, tail: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0u8; MAX_ERRORS];
    let count = errors.read(&mut bytes)?;
    tail.extend_from_slice(&bytes[..count]);
    tail.drain(..tail.len().saturating_sub(MAX_ERRORS));
    Ok(count > 0)
}
