//! QEMU's control protocol (QMP): one JSON object per line, from a program that the guest may have taken over.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt, Snafu};

/// No line that QEMU sends us is longer: greetings and answers to our few commands.
const MAX_LINE: usize = 64 << 10;

/// QEMU answers our commands at once; one that does not has lost its main loop.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What QEMU tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// It is ready for `qmp_capabilities`.
    Greeting,
    /// Something happened.
    Event(Event),
    /// A command succeeded.
    Answer {
        /// The command's number.
        id: u64,
        /// What it gave.
        value: Value,
    },
    /// A command failed.
    Failure {
        /// The command's number.
        id: u64,
        /// What QEMU says about it.
        reason: String,
    },
}

/// The events that matter to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// QEMU is about to end.
    Shutdown {
        /// Who wanted it: `guest-shutdown`, `guest-reset`, `guest-panic`, `host-qmp-quit`, …
        reason: String,
    },
    /// The guest's kernel said that it panicked.
    Panicked,
    /// Any other.
    Other(String),
}

/// Why a command was not carried out.
#[derive(Debug, Snafu)]
pub enum QmpError {
    /// The connection is broken: QEMU is gone, or going.
    #[snafu(display("cannot tell QEMU to {command}"))]
    Send {
        /// The command.
        command: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// QEMU ended before it answered, or does not answer.
    #[snafu(display("QEMU did not answer the command to {command}"))]
    NoAnswer {
        /// The command.
        command: &'static str,
    },
    /// QEMU said no.
    #[snafu(display("QEMU refused to {command}: {reason}"))]
    Refused {
        /// The command.
        command: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Cuts what arrives into messages. Bounded: a line longer than any is an error, what is not understood is dropped.
#[derive(Default)]
pub(super) struct Parser {
    line: Vec<u8>,
}

impl Parser {
    /// Takes what arrived and gives the messages that are whole.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + part.len() > MAX_LINE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "QEMU sent a line longer than any is",
                ));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                messages.extend(parse(&self.line));
                self.line.clear();
            }
        }
        Ok(messages)
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    desc: String,
}

fn parse(line: &[u8]) -> Option<Message> {
    let line: Line = serde_json::from_slice(line).ok()?;
    if line.greeting.is_some() {
        return Some(Message::Greeting);
    }
    if let Some(name) = line.event {
        return Some(Message::Event(match name.as_str() {
            "SHUTDOWN" => {
                let reason = line.data.get("reason").and_then(Value::as_str).unwrap_or("unknown");
                Event::Shutdown { reason: reason.to_owned() }
            }
            "GUEST_PANICKED" => Event::Panicked,
            _ => Event::Other(name),
        }));
    }
    let id = line.id?;
    match (line.value, line.error) {
        (_, Some(failure)) => Some(Message::Failure { id, reason: failure.desc }),
        (Some(value), None) => Some(Message::Answer { id, value }),
        (None, None) => None,
    }
}

/// Sends commands and waits for their answers, which the engine's thread hands over.
pub(super) struct Commands {
    socket: UnixStream,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    closed: bool,
    /// Commands that came before QEMU was ready for any.
    early: Option<Vec<Vec<u8>>>,
    answers: HashMap<u64, SyncSender<Result<Value, String>>>,
}

impl Commands {
    /// `socket`: our end of the control connection.
    pub(super) fn new(socket: UnixStream) -> Self {
        let waiting = Waiting { next: 1, early: Some(Vec::new()), ..Waiting::default() };
        Self { socket, waiting: Mutex::new(waiting) }
    }

    /// Carries out a command (`name` is QMP's, `what` ours for messages) and waits for its answer.
    pub(super) fn execute(&self, name: &str, what: &'static str) -> Result<Value, QmpError> {
        let (id, answer) = self.send(name, &json!({}), what)?;
        let received = answer.recv_timeout(ANSWER_TIMEOUT);
        self.lock().answers.remove(&id);
        let result = received.ok().context(NoAnswerSnafu { command: what })?;
        result.map_err(|reason| QmpError::Refused { command: what, reason })
    }

    /// Asks for a command, and gives its number and where its answer will be.
    pub(super) fn send(
        &self,
        name: &str,
        arguments: &Value,
        what: &'static str,
    ) -> Result<(u64, Receiver<Result<Value, String>>), QmpError> {
        let (sender, receiver) = sync_channel(1);
        let mut waiting = self.lock();
        snafu::ensure!(!waiting.closed, NoAnswerSnafu { command: what });
        let id = waiting.next;
        waiting.next += 1;
        waiting.answers.insert(id, sender);
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments, "id": id })).into_bytes();
        if let Some(early) = &mut waiting.early {
            early.push(line);
        } else {
            // Held over the write, so that lines do not mix; they are short enough for any socket's buffer.
            (&self.socket).write_all(&line).context(SendSnafu { command: what })?;
        }
        Ok((id, receiver))
    }

    /// QEMU greeted: leaves its negotiation, then sends what was asked for meanwhile.
    pub(super) fn greeted(&self) -> io::Result<()> {
        let mut waiting = self.lock();
        (&self.socket).write_all(b"{\"execute\":\"qmp_capabilities\",\"id\":0}\n")?;
        for line in waiting.early.take().unwrap_or_default() {
            (&self.socket).write_all(&line)?;
        }
        Ok(())
    }

    /// Hands an answer to who waits for it. An answer that nobody asked for is dropped.
    pub(super) fn answered(&self, id: u64, result: Result<Value, String>) {
        if let Some(sender) = self.lock().answers.remove(&id) {
            let _ = sender.try_send(result);
        }
    }

    /// QEMU is gone: nobody waits any longer.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.answers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing is left half done under the lock, so a panic elsewhere changes nothing.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufRead, BufReader};

    fn parse_all(text: &str) -> Vec<Message> {
        Parser::default().push(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_qemu_says_is_understood() {
        let text = concat!(
            r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}"#,
            "\r\n",
            r#"{"return": {}, "id": 0}"#,
            "\r\n",
            r#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
            "\r\n",
            r#"{"id": 3, "error": {"class": "GenericError", "desc": "no"}}"#,
            "\r\n",
            r#"{"event": "STOP"}"#,
            "\r\n",
        );
        assert_eq!(
            parse_all(text),
            [
                Message::Greeting,
                Message::Answer { id: 0, value: json!({}) },
                Message::Event(Event::Shutdown { reason: "guest-reset".to_owned() }),
                Message::Failure { id: 3, reason: "no".to_owned() },
                Message::Event(Event::Other("STOP".to_owned())),
            ]
        );
    }

    #[test]
    fn a_message_may_arrive_byte_by_byte() {
        let mut parser = Parser::default();
        let mut messages = Vec::new();
        for byte in b"{\"event\":\"GUEST_PANICKED\",\"data\":{\"action\":\"run\"}}\n" {
            messages.extend(parser.push(&[*byte]).unwrap());
        }
        assert_eq!(messages, [Message::Event(Event::Panicked)]);
    }

    #[test]
    fn a_line_without_end_is_an_error_and_not_memory() {
        let mut parser = Parser::default();
        let chunk = [b'{'; 4096];
        let refused = (0..=MAX_LINE / chunk.len()).any(|_| parser.push(&chunk).is_err());
        assert!(refused);
    }

    #[test]
    fn deep_nesting_is_dropped() {
        let text = format!("{{\"id\":1,\"return\":{}{}}}\n", "[".repeat(20_000), "]".repeat(20_000));
        assert_eq!(parse_all(&text), []);
    }

    proptest! {
        #[test]
        fn garbage_is_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Parser::default().push(&bytes);
        }

        #[test]
        fn damaged_messages_are_dropped(at in 0usize..70, byte in any::<u8>()) {
            let mut text = br#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#.to_vec();
            text[at] = byte;
            text.push(b'\n');
            let _ = Parser::default().push(&text);
        }
    }

    #[test]
    fn a_command_sent_before_the_greeting_waits_for_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let commands = std::sync::Arc::new(Commands::new(ours));
        let (id, answer) = commands.send("stop", &json!({}), "pause").unwrap();
        let mut lines = BufReader::new(theirs).lines();
        commands.greeted().unwrap();
        assert!(lines.next().unwrap().unwrap().contains("qmp_capabilities"));
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"arguments":{},"execute":"stop","id":1}"#);
        commands.answered(99, Ok(Value::Null));
        commands.answered(id, Err("not now".to_owned()));
        assert_eq!(answer.recv().unwrap(), Err("not now".to_owned()));
    }

    #[test]
    fn nobody_waits_for_a_qemu_that_is_gone() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let commands = Commands::new(ours);
        commands.close();
        let error = commands.execute("stop", "pause the machine").unwrap_err();
        assert_eq!(error.to_string(), "QEMU did not answer the command to pause the machine");
    }
}
