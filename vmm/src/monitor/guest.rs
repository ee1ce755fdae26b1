//! Talking to the guest's agent: it calls after a boot and is told what to be; later it is asked to shut down. Each
//! in a thread of its own, for a guest may take its time.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use vmm_protocol::{BOOT_PORT, Configuration, ShutdownMode};

use super::event_loop::{Happening, Post};
use super::pause::AskedBy;
use crate::agent::{AgentClient, boot};
use crate::threads::{self, Role};

/// Fresh entropy for the guest, in bytes: what its kernel's generator is seeded with (32) and some more.
const ENTROPY: usize = 64;

/// How long an agent may take to answer that it begins to shut down.
const SHUTDOWN_ANSWER: Duration = Duration::from_secs(5);

/// How long an agent may take to set the clock.
const CLOCK_ANSWER: Duration = Duration::from_secs(5);

/// Where the guest's connection to the boot port arrives.
pub(super) fn boot_socket(vsock_socket: &Path) -> PathBuf {
    let mut path = vsock_socket.as_os_str().to_owned();
    path.push(format!("_{BOOT_PORT}"));
    path.into()
}

/// Answers an agent that called.
pub(super) fn configure(
    stream: UnixStream,
    mut configuration: Configuration,
    deadline: Instant,
    post: &Post,
) -> io::Result<()> {
    let post = post.clone();
    configuration.time_ns = now();
    configuration.entropy = entropy();
    let work = move || {
        let outcome = boot::configure(&stream, &configuration, deadline);
        post.send(Happening::Boot(outcome.map(|report| (stream, report))));
    };
    threads::spawn(Role::Agent, "boot", work).map(drop)
}

/// Asks the agent to shut the guest down.
pub(super) fn shut_down(vsock_socket: PathBuf, grace: Duration, post: &Post) -> io::Result<()> {
    let post = post.clone();
    let work = move || {
        let client = AgentClient::new(vsock_socket).with_answer_timeout(SHUTDOWN_ANSWER);
        if let Err(error) = client.shutdown(ShutdownMode::PowerOff, grace) {
            post.send(Happening::ShutdownFailed(crate::engine::chain(&error)));
        }
    };
    threads::spawn(Role::Agent, "shutdown", work).map(drop)
}

/// Tells the guest what time it is, after it stood still.
pub(super) fn set_clock(vsock_socket: PathBuf, asked_by: Option<AskedBy>, post: &Post) -> io::Result<()> {
    let post = post.clone();
    let work = move || {
        let client = AgentClient::new(vsock_socket).with_answer_timeout(CLOCK_ANSWER);
        if let Some(Err(error)) = now().map(|now| client.set_clock(now)) {
            tracing::warn!("cannot set the guest's clock: {}", crate::engine::chain(&error));
        }
        post.send(Happening::ClockSet(asked_by));
    };
    threads::spawn(Role::Agent, "clock", work).map(drop)
}

fn now() -> Option<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

fn entropy() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    // Up to 256 bytes come whole once the host's generator is seeded (getrandom(2)).
    bytes.truncate(filled.unwrap_or(0));
    bytes
}
