//! The command that a laboratory runs: its input comes and its output goes over the channel.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use laboratory::{Message, Order, PROGRAMS, PROGRAMS_DISK, Terminal};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::failure::{Context, Result};
use crate::system;

/// As much as the channel's driver takes at once.
const CHUNK: usize = 32 * 1024;

/// How long the end of its output is awaited after a command's own end: what it left running may hold it open.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the command to its end; gives its status, as a shell does.
pub(crate) fn run(order: &Order, channel: &File) -> Result<i32> {
    set_time(order.time)?;
    mount(PROGRAMS_DISK, PROGRAMS, "ext4", MountFlags::RDONLY, None::<&CStr>)
        .context("mount the disk with the programs")?;
    system::link_libraries(PROGRAMS)?;
    let output = Arc::new(Mutex::new(channel.try_clone().context("share the channel")?));
    let input = channel.try_clone().context("share the channel")?;
    let (done, all_done) = mpsc::channel();
    let started = match order.terminal {
        None => start_with_pipes(order, &output, &done),
        Some(size) => start_on_terminal(order, size, &output, &done)?,
    };
    drop(done);
    let (child, stdin) = match started {
        Ok(started) => started,
        Err(error) => {
            let program = order.arguments.first().map_or("", String::as_str);
            let said = format!("cannot start {program} in the laboratory: {error}\n");
            send(&output, &Message::Error(said.into_bytes()));
            return Ok(127);
        }
    };
    std::thread::spawn(move || feed(input, stdin));
    let status = wait_for(&child);
    wait_for_output(&all_done);
    Ok(status)
}

/// Waits for the end of orphans, as process 1 must.
pub(crate) fn reap_for_ever() -> ! {
    loop {
        if wait(WaitOptions::empty()).is_err() {
            std::thread::park();
        }
    }
}

type Started = std::io::Result<(Child, Option<File>)>;

fn command(order: &Order) -> Command {
    let mut command = Command::new(order.arguments.first().map_or("", String::as_str));
    command.args(order.arguments.get(1..).unwrap_or_default());
    command.env_clear().envs(order.environment.iter().map(|(name, value)| (name, value)));
    command.current_dir(&order.directory);
    command
}

fn start_with_pipes(order: &Order, output: &Arc<Mutex<File>>, done: &Sender<()>) -> Started {
    let mut command = command(order);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
    if let Some(stdout) = child.stdout.take() {
        bring(File::from(OwnedFd::from(stdout)), Message::Output, output, done);
    }
    if let Some(stderr) = child.stderr.take() {
        bring(File::from(OwnedFd::from(stderr)), Message::Error, output, done);
    }
    Ok((child, stdin))
}

fn start_on_terminal(
    order: &Order,
    size: Terminal,
    output: &Arc<Mutex<File>>,
    done: &Sender<()>,
) -> Result<Started> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open a terminal")?;
    grantpt(&master).and_then(|()| unlockpt(&master)).context("unlock a terminal")?;
    let path = ptsname(&master, Vec::new()).context("name a terminal")?;
    let path = path.to_string_lossy().into_owned();
    let slave =
        File::options().read(true).write(true).open(path).context("open the other side of a terminal")?;
    let size =
        rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).context("set the size of a terminal")?;
    let master = File::from(master);
    let keyboard = master.try_clone().context("share a terminal")?;
    // A session of its own, with its input as the controlling terminal.
    let in_session = ["setsid", "-c"].map(str::to_owned).into_iter().chain(order.arguments.iter().cloned());
    let mut command = command(&Order { arguments: in_session.collect(), ..order.clone() });
    let share = || slave.try_clone().context("share a terminal");
    command.stdin(share()?).stdout(share()?).stderr(share()?);
    let started = command.spawn().map(|child| (child, Some(keyboard)));
    bring(master, Message::Output, output, done);
    Ok(started)
}

/// Sends what is read from a stream, until its end.
fn bring(
    mut from: File,
    as_message: impl Fn(Vec<u8>) -> Message + Send + 'static,
    output: &Arc<Mutex<File>>,
    done: &Sender<()>,
) {
    let (output, done) = (Arc::clone(output), done.clone());
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        // A terminal whose other side is closed reports an error where a pipe reports the end.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            send(&output, &as_message(buffer.get(..length).unwrap_or_default().to_vec()));
        }
        drop(done);
    });
}

/// When nobody listens any more, the laboratory is about to end.
fn send(output: &Mutex<File>, message: &Message) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = message.write(&mut *output);
}

/// Hands on what comes over the channel. A command that does not read all of it has its reasons.
fn feed(mut channel: File, mut stdin: Option<File>) {
    while let Ok(message) = Message::read(&mut channel) {
        let goes_on = match (message, &mut stdin) {
            (Message::Input(bytes), Some(open)) => open.write_all(&bytes).is_ok(),
            (Message::EndOfInput, _) => false,
            _ => true,
        };
        if !goes_on {
            stdin = None;
        }
    }
}

/// Waits for a child, and for all orphans that end before it.
fn wait_for(child: &Child) -> i32 {
    let ours = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    loop {
        if let Ok(Some((pid, status))) = wait(WaitOptions::empty())
            && Some(pid) == ours
        {
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            return status.exit_status().or(signal).unwrap_or(-1);
        }
    }
}

/// The channel of threads is closed when the last of them has ended.
fn wait_for_output(all_done: &Receiver<()>) {
    let _ = all_done.recv_timeout(GRACE);
}

fn set_time(nanoseconds: u64) -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let now = Timespec {
        tv_sec: i64::try_from(nanoseconds / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanoseconds % SECOND).unwrap_or(0),
    };
    clock_settime(ClockId::Realtime, now).context("set the time")
}
