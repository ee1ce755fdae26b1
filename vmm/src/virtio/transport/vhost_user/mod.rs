//! Devices served to another process that runs the guest: vhost-user, the back end's side.
//!
//! One thread per device reads the front end's messages and starts and stops the device's queues, each of which has
//! threads of its own. The front end (QEMU) is given the other end of a socket pair as an open descriptor. It is not
//! trusted: what breaks the protocol ends the session with an error that says what it was.
//!
//! The message layer is our own. The crate `vhost` has one, but its back end cannot tell the front end that the
//! configuration changed, and it keeps the descriptors of half a message.

mod error;
mod interrupt;
mod message;
mod session;

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use vmm_sys::Event;

pub use error::VhostUserError;

use self::message::Connection;
use self::session::Session;
use super::super::VirtioDevice;
use crate::threads::{self, Role};

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// [`VhostUserServer::stop`] was called.
    Stopped,
    /// The front end closed the connection.
    Disconnected,
    /// It broke the protocol, or the host lacked something.
    Failed(VhostUserError),
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Disconnected => f.write_str("the front end closed the connection"),
            Self::Failed(error) => {
                let chain = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
                chain.fold(write!(f, "{error}"), |written, cause| {
                    written.and_then(|()| write!(f, ": {cause}"))
                })
            }
        }
    }
}

/// A device that is served to a front end. Dropping it stops it.
pub struct VhostUserServer {
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
    outcome: Arc<Outcome>,
}

struct Outcome {
    end: OnceLock<SessionEnd>,
    event: Event,
}

impl Outcome {
    /// Records how the session ended; what is said first counts.
    fn record(&self, end: SessionEnd) {
        let _said_before = self.end.set(end);
    }
}

/// Raises the event when the thread ends, however it does.
struct RaiseAtTheEnd(Arc<Outcome>);

impl Drop for RaiseAtTheEnd {
    fn drop(&mut self) {
        self.0.record(SessionEnd::Failed(VhostUserError::Panicked));
        if let Err(error) = self.0.event.notify() {
            tracing::error!(%error, "cannot tell that a vhost-user session ended");
        }
    }
}

impl VhostUserServer {
    /// Serves a device to the front end at the other end of a connected socket. The name is the thread's: of 15
    /// bytes at most, or the kernel cuts it.
    pub fn start(device: Box<dyn VirtioDevice>, socket: UnixStream, name: &str) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let outcome = Arc::new(Outcome { end: OnceLock::new(), event: Event::new()? });
        let connection = Connection::new(socket.try_clone()?);
        let at_the_end = RaiseAtTheEnd(Arc::clone(&outcome));
        let run = move || {
            let mut session = Session::new(device);
            let end = match session.run(&connection) {
                Ok(()) => SessionEnd::Disconnected,
                Err(error) => SessionEnd::Failed(error),
            };
            session.stop_queues();
            at_the_end.0.record(end);
            // The front end learns of the end as soon as the queues have stopped.
            connection.close();
        };
        let thread = threads::spawn(Role::Session, name, run)?;
        Ok(Self { socket, thread: Some(thread), outcome })
    }

    /// Raised once the session has ended and its queues have stopped: for a poller.
    pub fn ended(&self) -> &Event {
        &self.outcome.event
    }

    /// How the session ended; `None` while it goes on.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.outcome.end.get()
    }

    /// Ends the session: returns when every queue has stopped and the device is gone.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.outcome.record(SessionEnd::Stopped);
        // The thread sees the end of the stream, wherever it waits.
        if let Err(error) = self.socket.shutdown(Shutdown::Both)
            && error.kind() != io::ErrorKind::NotConnected
        {
            tracing::warn!(%error, "cannot shut a vhost-user socket down");
        }
        if thread.join().is_err() {
            tracing::error!("a vhost-user session's thread failed");
        }
    }
}

impl Drop for VhostUserServer {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod qemu_tests;
#[cfg(test)]
mod tests;
