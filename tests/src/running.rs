//! A program that runs: what it says is waited for, and it can be signalled.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use rustix::process::Signal;

use crate::PATIENCE;
use crate::invocation::wait;
use crate::processes::Process;

/// A program that runs. One that still does when this is dropped is killed.
pub struct Running {
    child: Child,
    what: String,
    stdin: Option<ChildStdin>,
    stdout: Heard,
    stderr: Heard,
}

impl Running {
    pub(crate) fn new(mut child: Child, what: String) -> Self {
        let stdin = child.stdin.take();
        let stdout = Heard::from(child.stdout.take().expect("a pipe"));
        let stderr = Heard::from(child.stderr.take().expect("a pipe"));
        Self { child, what, stdin, stdout, stderr }
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process::open(self.child.id())
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads its input");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has said this on its standard output; returns all it said there so far.
    #[track_caller]
    pub fn expect(&mut self, words: &str) -> String {
        self.stdout.expect(words, &self.what)
    }

    /// Waits until there is what is looked for in all that it has said so far.
    #[track_caller]
    pub fn find<T>(&mut self, words: &str, look: impl Fn(&str) -> Option<T>) -> T {
        self.stdout.find(words, look, &self.what)
    }

    /// Waits until it has said this on its standard output after what was waited for so before.
    #[track_caller]
    pub fn expect_next(&mut self, words: &str) {
        self.stdout.expect_next(words, &self.what);
    }

    /// The same as [`Running::expect`] for its standard error.
    #[track_caller]
    pub fn expect_error(&mut self, words: &str) -> String {
        self.stderr.expect(words, &self.what)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits for its end; its status as a shell gives it, and all that it said on its standard error.
    pub fn end(mut self) -> (i32, String) {
        self.stdin = None;
        let status = wait(&mut self.child, &self.what);
        let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        (status, self.stderr.rest())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was heard from a stream so far.
pub(crate) struct Heard {
    arrives: Receiver<Vec<u8>>,
    text: Vec<u8>,
}

impl Heard {
    /// Listens to a stream until it ends.
    pub(crate) fn from(mut stream: impl Read + Send + 'static) -> Self {
        let (says, arrives) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose other side is closed reports an error where a pipe reports the end.
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if says.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { arrives, text: Vec::new() }
    }

    /// Waits until the text has these words, and forgets it up to their end.
    #[track_caller]
    pub(crate) fn expect_next(&mut self, words: &str, what: &str) {
        self.expect(words, what);
        let found = self.text.windows(words.len()).position(|part| part == words.as_bytes());
        let end = found.map_or(self.text.len(), |start| start + words.len());
        self.text.drain(..end);
    }

    /// Waits until the text has these words; returns all of it.
    #[track_caller]
    pub(crate) fn expect(&mut self, words: &str, what: &str) -> String {
        self.find(words, |text| text.contains(words).then(|| text.to_owned()), what)
    }

    /// Waits until there is what is looked for in the text.
    #[track_caller]
    pub(crate) fn find<T>(&mut self, words: &str, look: impl Fn(&str) -> Option<T>, what: &str) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8_lossy(&self.text).into_owned();
            if let Some(found) = look(&text) {
                return found;
            }
            match self.arrives.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.extend(bytes),
                Err(RecvTimeoutError::Timeout) => panic!("{what} never said {words:?}, only:\n{text}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{what} ended without {words:?}:\n{text}"),
            }
        }
    }

    /// Forgets what was heard so far.
    pub(crate) fn forget(&mut self) {
        self.text.extend(self.arrives.try_iter().flatten());
        self.text.clear();
    }

    /// Everything until the end of the stream.
    pub(crate) fn rest(&mut self) -> String {
        self.text.extend(self.arrives.iter().flatten());
        String::from_utf8_lossy(&self.text).into_owned()
    }
}
