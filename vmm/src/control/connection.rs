//! The client's end of a control connection. It blocks, but never longer than it is told.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use snafu::{ResultExt, Snafu, ensure};
use vmm_protocol::Version;
use vmm_sys::process::Process;

use super::line::{LineBuffer, to_line};
use super::{Answer, ClientLine, Hello, MonitorLine, Refusal, Request};

/// Why a monitor was not reached, or not understood.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum ControlError {
    /// Nobody listens at the control socket: the VM does not run.
    #[snafu(display("nobody listens at the VM's control socket"))]
    NotListening,
    /// The monitor does not answer in time.
    #[snafu(display("the VM's monitor process does not answer"))]
    Unresponsive,
    /// The monitor is gone, without a word.
    #[snafu(display("the VM's monitor process ended unexpectedly"))]
    Lost,
    /// The wait was given up.
    #[snafu(display("cancelled"))]
    Cancelled,
    /// The monitor speaks another MAJOR version.
    #[snafu(display(
        "the VM's monitor process is of another version of vmm ({program}, control {theirs}; ours is {})",
        super::VERSION
    ))]
    OtherVersion {
        /// Its version of the control language.
        theirs: Version,
        /// Its program's version.
        program: String,
    },
    /// The executable that was started for a VM is not of our version. It may not know all that the VM is to be.
    #[snafu(display(
        "the executable `vmm` that runs VMs is of version {program}, and what uses it of version {}",
        env!("CARGO_PKG_VERSION")
    ))]
    OtherProgram {
        /// Its version.
        program: String,
    },
    /// What comes is not the control language.
    #[snafu(display("the VM's monitor process does not speak the control language"))]
    Malformed,
    /// The monitor refused.
    #[snafu(display("{}", refusal.message))]
    Refused {
        /// What it said.
        refusal: Refusal,
    },
    /// The connection failed.
    #[snafu(display("cannot talk to the VM's monitor process"))]
    Transfer {
        /// How.
        source: io::Error,
    },
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Connection {
    stream: OwnedFd,
    /// The monitor, where the system lets us hold on to it.
    monitor: Option<Process>,
    buffer: LineBuffer,
    greeted: bool,
    /// The monitor must be of our very version.
    only_ours: bool,
    next_id: u64,
}

impl Connection {
    /// Connects to a control socket, without waiting: a monitor that hangs keeps its socket, and at some time its
    /// queue is full.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        match vmm_sys::unix_socket::connect_now(path) {
            Ok(stream) => {
                let process = vmm_sys::peer::process(&stream).ok().flatten();
                // A process of another namespace has no number here, and a kernel may know no such handles.
                let monitor = process.and_then(|number| Process::open(number).ok().flatten());
                Self::new(stream.into(), monitor)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => UnresponsiveSnafu.fail(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => NotListeningSnafu.fail(),
                _ => Err(error).context(TransferSnafu),
            },
        }
    }

    /// Speaks over a stream that is connected already, as the client of this monitor.
    pub fn over(stream: UnixStream, monitor: Option<Process>) -> Result<Self, ControlError> {
        stream.set_nonblocking(true).context(TransferSnafu)?;
        Self::new(stream.into(), monitor)
    }

    /// Refuses a monitor of another version than ours, even where it speaks as we do. For those that we start.
    pub fn of_our_version(mut self) -> Self {
        self.only_ours = true;
        self
    }

    fn new(stream: OwnedFd, monitor: Option<Process>) -> Result<Self, ControlError> {
        let buffer = LineBuffer::default();
        let connection = Self { stream, monitor, buffer, greeted: false, only_ours: false, next_id: 0 };
        connection.send(&ClientLine::Hello(Hello::ours()), &[])?;
        Ok(connection)
    }

    /// The process at the other end, as the system vouches for it.
    pub fn peer_process(&self) -> Option<u32> {
        vmm_sys::peer::process(&self.stream).ok().flatten()
    }

    /// Waits, once the end is told or the monitor has hung up, until its process is gone, or for as long as that may take. Where
    /// the system lets nobody hold on to the process, what is waited for is that it hangs up.
    pub fn wait_for_exit(&mut self, timeout: Duration) {
        match &self.monitor {
            // How it ended was told; that it did not in time is no news to anyone.
            Some(process) => drop(process.wait(timeout)),
            None => {
                let deadline = Instant::now() + timeout;
                while self.next(Some(deadline), None).is_ok() {}
            }
        }
    }

    /// Sends a request; its number is returned.
    pub fn request(&mut self, what: Request) -> Result<u64, ControlError> {
        self.request_with(what, &[])
    }

    /// Sends a request with open files.
    pub fn request_with(&mut self, what: Request, files: &[BorrowedFd<'_>]) -> Result<u64, ControlError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&ClientLine::Request { id, what }, files)?;
        Ok(id)
    }

    /// Sends a request and waits for its answer. Events that come meanwhile are dropped.
    pub fn ask(
        &mut self,
        what: Request,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, ControlError> {
        let asked = self.request(what)?;
        self.answer(asked, deadline, cancel)
    }

    /// Waits for the answer to a request. Events that come meanwhile are dropped.
    pub fn answer(
        &mut self,
        asked: u64,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, ControlError> {
        loop {
            match self.next(deadline, cancel)? {
                MonitorLine::Answer { id, what: Answer::Refused(refusal) } if id == asked => {
                    return RefusedSnafu { refusal }.fail();
                }
                MonitorLine::Answer { id, what } if id == asked => return Ok(what),
                _ => {}
            }
        }
    }

    /// Waits for the next line, the greeting apart. `cancel` being readable gives up.
    pub fn next(
        &mut self,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<MonitorLine, ControlError> {
        loop {
            while let Some(line) = self.buffer.next_line().map_err(|_| ControlError::Malformed)? {
                if let Some(message) = self.understand(&line)? {
                    return Ok(message);
                }
            }
            let mut bytes = [0; 4096];
            match rustix::net::recv(&self.stream, &mut bytes[..], RecvFlags::empty()) {
                Ok((0, _)) => return LostSnafu.fail(),
                Ok((length, _)) => self.buffer.push(&bytes[..length]),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::IN, deadline, cancel)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return LostSnafu.fail(),
                Err(errno) => return Err(io::Error::from(errno)).context(TransferSnafu),
            }
        }
    }

    /// Says that nothing more will be asked. Answers still come.
    pub fn finish(&self) {
        // A monitor that is gone needs no word of it.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }

    fn understand(&mut self, line: &[u8]) -> Result<Option<MonitorLine>, ControlError> {
        match serde_json::from_slice(line) {
            Ok(MonitorLine::Hello(hello)) => {
                self.greeted = true;
                if super::VERSION.understands(hello.control) {
                    ensure!(
                        !self.only_ours || hello.program == Hello::ours().program,
                        OtherProgramSnafu { program: hello.program }
                    );
                    return Ok(None);
                }
                OtherVersionSnafu { theirs: hello.control, program: hello.program }.fail()
            }
            Ok(MonitorLine::Refused(refusal)) => RefusedSnafu { refusal }.fail(),
            Ok(message) if self.greeted => Ok(Some(message)),
            // A newer MINOR may tell what we do not know; who has not greeted is no monitor.
            Err(_) if self.greeted => Ok(None),
            _ => MalformedSnafu.fail(),
        }
    }

    fn send(&self, line: &ClientLine, files: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let bytes = to_line(line).map_err(io::Error::from).context(TransferSnafu)?;
        let mut sent = match vmm_sys::fd_passing::send(&self.stream, &bytes, files) {
            Ok(sent) => sent,
            Err(error) => return lost_or(error),
        };
        // A line is far shorter than a socket's buffer: what does not fit is for a monitor that reads nothing.
        while sent < bytes.len() {
            match rustix::net::send(&self.stream, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(more) => sent += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return lost_or(errno.into()),
            }
        }
        Ok(())
    }

    fn wait(
        &self,
        flags: PollFlags,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<(), ControlError> {
        let mut waited = vec![PollFd::from_borrowed_fd(self.stream.as_fd(), flags)];
        waited.extend(cancel.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut waited, left.as_ref()) {
                Ok(0) => return UnresponsiveSnafu.fail(),
                Ok(_) if waited.get(1).is_some_and(|fd| !fd.revents().is_empty()) => {
                    return CancelledSnafu.fail();
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno)).context(TransferSnafu),
            }
        }
    }
}

fn lost_or(error: io::Error) -> Result<(), ControlError> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LostSnafu.fail(),
        io::ErrorKind::WouldBlock => UnresponsiveSnafu.fail(),
        _ => Err(error).context(TransferSnafu),
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Duration;
    use vmm_sys::Event;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::over(ours, None).unwrap(), theirs)
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(60))
    }

    const HELLO: &[u8] = b"{\"hello\":{\"control\":\"1.9\",\"program\":\"x\",\"new\":1}}\n";

    #[test]
    fn answers_find_their_requests_and_what_is_unknown_is_passed_over() {
        let (mut connection, mut monitor) = pair();
        let first = connection.request(Request::Subscribe).unwrap();
        let second = connection.request(Request::Wait { goal: Goal::Ended }).unwrap();
        monitor.write_all(HELLO).unwrap();
        monitor
            .write_all(b"{\"event\":{\"comet\":7}}\n{\"answer\":{\"id\":0,\"what\":{\"later\":1}}}\n")
            .unwrap();
        let refusal = "{\"refused\":{\"code\":\"out_of_place\",\"message\":\"no\"}}";
        writeln!(monitor, "{{\"answer\":{{\"id\":{second},\"what\":{refusal}}}}}").unwrap();
        assert_ne!(first, second);
        let error = connection.answer(second, soon(), None).unwrap_err();
        assert_eq!(error.to_string(), "no");
    }

    #[test]
    fn a_monitor_of_another_major_version_is_named() {
        let (mut connection, mut monitor) = pair();
        monitor.write_all(b"{\"hello\":{\"control\":\"2.0\",\"program\":\"9.9\"}}\n").unwrap();
        let error = connection.next(soon(), None).unwrap_err();
        assert!(matches!(error, ControlError::OtherVersion { .. }));
        assert!(error.to_string().contains("9.9"), "{error}");
    }

    #[test]
    fn a_monitor_that_we_start_is_of_our_version() {
        let (connection, mut monitor) = pair();
        let mut connection = connection.of_our_version();
        monitor.write_all(HELLO).unwrap();
        let error = connection.next(soon(), None).unwrap_err();
        assert!(matches!(error, ControlError::OtherProgram { .. }));
        assert!(error.to_string().contains("version x"), "{error}");
    }

    #[test]
    fn garbage_is_no_monitor() {
        for garbage in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"\n", b"{}\n", &[0xff; 70_000]] {
            let (mut connection, mut monitor) = pair();
            monitor.set_nonblocking(true).unwrap();
            monitor.write_all(garbage).unwrap();
            assert!(matches!(connection.next(soon(), None), Err(ControlError::Malformed)));
        }
    }

    #[test]
    fn a_wait_ends_by_its_deadline_by_cancelling_and_by_the_end_of_the_monitor() {
        let (mut connection, monitor) = pair();
        let error = connection.next(Some(Instant::now()), None).unwrap_err();
        assert!(matches!(error, ControlError::Unresponsive));
        let cancel = Event::new().unwrap();
        cancel.notify().unwrap();
        let error = connection.next(soon(), Some(cancel.as_fd())).unwrap_err();
        assert!(matches!(error, ControlError::Cancelled));
        drop(monitor);
        assert!(matches!(connection.next(soon(), None), Err(ControlError::Lost)));
        assert!(matches!(connection.request(Request::Status), Err(ControlError::Lost)));
    }

    #[test]
    fn files_travel_with_their_request() {
        let (mut connection, monitor) = pair();
        let (near, far) = UnixStream::pair().unwrap();
        connection.request_with(Request::Status, &[far.as_fd()]).unwrap();
        drop(far);
        let mut bytes = [0; 4096];
        let mut files = Vec::new();
        while files.is_empty() {
            files = vmm_sys::fd_passing::receive(&monitor, &mut bytes).unwrap().1;
        }
        drop(files);
        assert_eq!((&near).read(&mut bytes).unwrap(), 0);
    }

    use super::super::Goal;
}
