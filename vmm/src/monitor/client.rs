//! The monitor's side of a control connection. Never blocks, keeps little: a client that does not read is dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::SendFlags;

use crate::control::{
    Answer, ClientLine, Event, Goal, Hello, LineBuffer, MonitorLine, Refusal, RefusalCode, Request, VERSION,
    to_line,
};
use crate::home::End;

use crate::control::Status;

/// More than this is not kept for a client that does not read.
const OUTPUT_LIMIT: usize = 256 << 10;

/// More open files than this are not kept for a request that is still to come.
const FILE_LIMIT: usize = vmm_sys::fd_passing::MAX_DESCRIPTORS;

/// A request, and what came with it.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its number, which the answer repeats.
    pub(super) id: u64,
    /// What is asked.
    pub(super) what: Request,
    /// The files that travelled with it.
    pub(super) files: Vec<OwnedFd>,
}

/// A request that awaits what it is answered with.
#[derive(Debug)]
struct Waiting {
    id: u64,
    goal: Goal,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    input: LineBuffer,
    files: Vec<OwnedFd>,
    output: Vec<u8>,
    greeted: bool,
    subscribed: bool,
    waiting: Vec<Waiting>,
    /// It will say no more (end of file), or is to be heard no more.
    deaf: bool,
    /// Nothing reaches it any more.
    broken: bool,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: LineBuffer::default(),
            files: Vec::new(),
            output: Vec::new(),
            greeted: false,
            subscribed: false,
            waiting: Vec::new(),
            deaf: false,
            broken: false,
        })
    }

    /// The connection on which the request to start came: greeted already, waiting for the guest to be ready.
    pub(super) fn starter(stream: UnixStream, request_id: u64) -> io::Result<Self> {
        let mut client = Self::new(stream)?;
        client.greeted = true;
        client.subscribed = true;
        client.waiting.push(Waiting { id: request_id, goal: Goal::Ready });
        Ok(client)
    }

    /// Whether it has ended its side, or failed.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf || self.broken
    }

    /// Whether there is nothing left to do for it.
    pub(super) fn is_done(&self) -> bool {
        self.broken || (self.deaf && self.output.is_empty() && self.waiting.is_empty())
    }

    /// Whether it has not read everything yet.
    pub(super) fn has_output(&self) -> bool {
        !self.broken && !self.output.is_empty()
    }

    /// Reads what is there and gives the requests in it.
    pub(super) fn read(&mut self) -> Vec<Asked> {
        let mut requests = Vec::new();
        let mut bytes = [0; 4096];
        match vmm_sys::fd_passing::receive(&self.stream, &mut bytes) {
            Ok((0, _)) => self.deaf = true,
            Ok((length, files)) => {
                self.input.push(&bytes[..length]);
                self.files.extend(files);
                self.files.truncate(FILE_LIMIT);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.broken = true,
        }
        while !self.deaf && !self.broken {
            match self.input.next_line() {
                Ok(Some(line)) => requests.extend(self.understand(&line)),
                Ok(None) => break,
                Err(error) => self.refuse(RefusalCode::Malformed, &error.to_string()),
            }
        }
        requests
    }

    fn understand(&mut self, line: &[u8]) -> Option<Asked> {
        match serde_json::from_slice(line) {
            Ok(ClientLine::Hello(hello)) => {
                self.say(&MonitorLine::Hello(Hello::ours()));
                if VERSION.understands(hello.control) {
                    self.greeted = true;
                } else {
                    let message = format!("this monitor speaks control {VERSION}, not {}", hello.control);
                    self.refuse(RefusalCode::Version, &message);
                }
                None
            }
            Ok(ClientLine::Request { id, what }) if self.greeted => {
                Some(Asked { id, what, files: std::mem::take(&mut self.files) })
            }
            Ok(ClientLine::Request { .. }) => {
                self.refuse(RefusalCode::OutOfPlace, "the first line is a greeting with the version");
                None
            }
            Err(error) => {
                self.refuse(RefusalCode::Malformed, &format!("this is no request: {error}"));
                None
            }
        }
    }

    /// Answers that the connection ends here, for what came is not the language.
    fn refuse(&mut self, code: RefusalCode, message: &str) {
        self.say(&MonitorLine::Refused(Refusal { code, message: message.to_owned() }));
        self.deaf = true;
        self.waiting.clear();
    }

    /// Remembers a request that is answered later.
    pub(super) fn wait(&mut self, id: u64, goal: Goal) {
        // More would be kept for nothing.
        if self.waiting.len() < 64 {
            self.waiting.push(Waiting { id, goal });
        } else {
            self.refuse(RefusalCode::OutOfPlace, "too many requests are waiting on this connection");
        }
    }

    /// Tells it of changes from now on.
    pub(super) fn subscribe(&mut self) {
        self.subscribed = true;
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, id: u64, what: Answer) {
        self.say(&MonitorLine::Answer { id, what });
    }

    /// The VM does something else now; `ready` says that its agent answers.
    pub(super) fn tell(&mut self, status: &Status, ready: bool) {
        if ready {
            for waiting in
                self.waiting.extract_if(.., |waiting| waiting.goal == Goal::Ready).collect::<Vec<_>>()
            {
                self.answer(waiting.id, Answer::Ready(status.clone()));
            }
        }
        if self.subscribed {
            self.say(&MonitorLine::Event(Event::State(status.clone())));
        }
    }

    /// The VM has ended.
    pub(super) fn tell_end(&mut self, end: &End) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.answer(waiting.id, Answer::Ended(end.clone()));
        }
        if self.subscribed {
            self.say(&MonitorLine::Event(Event::Ended(end.clone())));
        }
    }

    fn say(&mut self, line: &MonitorLine) {
        let Ok(bytes) = to_line(line) else { return };
        if self.output.len() + bytes.len() > OUTPUT_LIMIT {
            self.broken = true;
            return;
        }
        self.output.extend_from_slice(&bytes);
        self.flush();
    }

    /// Sends what it will take.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() && !self.broken {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &self.output, flags) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.broken = true,
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
