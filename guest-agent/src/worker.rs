//! Requests that wait for disks: the work of a process of its own, so that the agent's one thread never does.
//!
//! The process is the agent's program once more. It reads its request from its standard input, a file in memory; its
//! standard output is the client's connection, which nobody else has any more.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::Shutdown;
use vmm_protocol::{Answer, ByteString, ErrorKind, Reply, Request, header};

use crate::refusal::Refusal;
use crate::{files, guest_processes, kernel_log, transfer, users};

/// The argument by which the agent's program becomes this process.
pub const ARGUMENT: &CStr = c"work";

/// Does what the request on the standard input says, with the client at the standard output.
#[must_use]
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The client is gone, or was told: nobody else is to know.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut json = Vec::new();
    io::stdin().read_to_end(&mut json)?;
    let request: Request = serde_json::from_slice(&json)?;
    let client = io::stdout().as_fd().try_clone_to_owned()?;
    // The agent's own loop must not wait; we may.
    let flags = fcntl_getfl(&client)?;
    fcntl_setfl(&client, flags - OFlags::NONBLOCK)?;
    end_by_signals(&client)?;
    let client = File::from(client);
    match request {
        Request::Transfer(transfer) => transfer::serve(&client, &transfer),
        Request::File(request) => finish(&client, files::serve(&client, &request)),
        Request::GuestProcesses { over_ms } => finish(&client, guest_processes::serve(&client, over_ms)),
        Request::KernelLog => finish(&client, kernel_log::serve(&client)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Whoever asks us to end breaks the connection, so that what is half done is removed as for any client that is gone.
fn end_by_signals(client: &OwnedFd) -> io::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    let client = client.try_clone()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.wait().is_ok() {
            let _ = rustix::net::shutdown(&client, Shutdown::Both);
        }
    })?;
    Ok(())
}

/// Why a request was not done to its end.
pub(crate) enum Stop {
    /// The client is to be told.
    Refused(Refusal),
    /// The client is gone.
    Client(io::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Tells how a request ended.
fn finish(client: &File, outcome: Result<Option<Reply>, Stop>) -> io::Result<()> {
    match outcome {
        Ok(Some(reply)) => answer(client, &Answer::Ok(reply)),
        // All is said.
        Ok(None) => Ok(()),
        Err(Stop::Refused(refusal)) => answer(client, &refusal.into()),
        Err(Stop::Client(error)) => Err(error),
    }
}

/// Tells the client something before the end.
pub(crate) fn tell(client: &File, reply: Reply) -> Result<(), Stop> {
    answer(client, &Answer::Ok(reply)).map_err(Stop::Client)
}

/// Sends an answer.
pub(crate) fn answer(mut client: &File, answer: &Answer) -> io::Result<()> {
    header::write(&mut client, answer).map_err(io::Error::other)
}

/// A path of a request's: one that is relative begins in root's home.
pub(crate) fn path_of(path: &ByteString) -> Result<PathBuf, Refusal> {
    let bytes = path.as_bytes();
    if bytes.contains(&0) {
        return Err(Refusal::new(ErrorKind::Malformed, "a path has a zero byte"));
    }
    if bytes.starts_with(b"/") {
        return Ok(Path::new(OsStr::from_bytes(bytes)).to_owned());
    }
    let home = users::find(None)?.home;
    let joined = if bytes.is_empty() { home } else { [&home[..], b"/", bytes].concat() };
    Ok(Path::new(OsStr::from_bytes(&joined)).to_owned())
}

/// Things that are told in answers of bounded length: more than this of their text begins another.
pub(crate) const PAGE: usize = 64 << 10;
