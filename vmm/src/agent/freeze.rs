//! A guest whose file systems stand still, as long as this is held.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};
use vmm_protocol::{Answer, Reply, header};

use super::AgentError;
use super::connect::Timed;
use super::error::{RefusalSnafu, UnexpectedSnafu, printable};

const WHAT: &str = "let the guest's file systems go on";

/// File systems that stand still. Dropping this lets them go on; the guest does so by itself after 10 s.
#[derive(Debug)]
pub struct FrozenGuest {
    stream: UnixStream,
    answer_timeout: Duration,
}

/// How a guest stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thawed {
    /// How long, as its agent says.
    pub frozen: Duration,
    /// It went on by itself, before it was told to.
    pub expired: bool,
}

impl FrozenGuest {
    pub(super) fn new(stream: UnixStream, answer_timeout: Duration) -> Self {
        Self { stream, answer_timeout }
    }

    /// Lets them go on, and returns when they do.
    pub fn thaw(self) -> Result<Thawed, AgentError> {
        // It fails where the agent has told the end already, or is gone: both are read below.
        let _ = shutdown(&self.stream, Shutdown::Write);
        let deadline = Instant::now().checked_add(self.answer_timeout);
        let mut stream = Timed::new(&self.stream, deadline);
        let answer = header::read(&mut stream).map_err(|source| AgentError::from_header(WHAT, source))?;
        match answer {
            Answer::Ok(Reply::Thawed { frozen_us, expired }) => {
                // The end, so that the device has nothing left of the connection.
                let _ = stream.read(&mut [0]);
                Ok(Thawed { frozen: Duration::from_micros(frozen_us), expired })
            }
            Answer::Error { kind, message } => {
                RefusalSnafu { what: WHAT, kind, message: printable(&message) }.fail()
            }
            Answer::Ok(_) => UnexpectedSnafu { what: WHAT }.fail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::AgentClient;
    use super::super::connect::Connector;
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::thread::{self, JoinHandle};
    use vmm_protocol::{ErrorKind, Request};

    /// An agent that answers one request by a script.
    #[derive(Debug)]
    struct Scripted(Mutex<Option<UnixStream>>);

    impl Connector for Scripted {
        fn connect(&self, _port: u32, first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
            let stream = self.0.lock().unwrap().take().unwrap();
            std::io::Write::write_all(&mut &stream, first).unwrap();
            Ok(stream)
        }
    }

    fn agent(script: impl FnOnce(&mut UnixStream) + Send + 'static) -> (AgentClient, JoinHandle<UnixStream>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            assert_eq!(header::read::<Request>(&mut theirs).unwrap(), Request::Freeze);
            script(&mut theirs);
            theirs
        });
        (AgentClient::with_connector(Arc::new(Scripted(Mutex::new(Some(ours))))), agent)
    }

    fn say(stream: &mut UnixStream, answer: &Answer) {
        header::write(stream, answer).unwrap();
    }

    #[test]
    fn a_guest_stands_still_until_it_is_told_to_go_on() {
        let (client, agent) = agent(|stream| {
            say(stream, &Answer::Ok(Reply::Frozen));
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the client's end of it");
            say(stream, &Answer::Ok(Reply::Thawed { frozen_us: 1500, expired: false }));
        });
        let frozen = client.freeze().unwrap();
        let join = thread::spawn(move || drop(agent.join().unwrap()));
        let thawed = Thawed { frozen: Duration::from_micros(1500), expired: false };
        assert_eq!(frozen.thaw().unwrap(), thawed);
        join.join().unwrap();
    }

    #[test]
    fn an_agent_that_knows_nothing_of_it_is_too_old() {
        let (client, agent) = agent(|stream| {
            let message = "the header is no request of this version".to_owned();
            say(stream, &Answer::Error { kind: ErrorKind::Malformed, message });
        });
        let error = client.freeze().unwrap_err();
        assert!(matches!(error, AgentError::TooOld { .. }), "{error}");
        assert!(error.to_string().contains("start the machine again"), "{error}");
        agent.join().unwrap();
    }

    #[test]
    fn an_agent_that_answers_nonsense_has_frozen_nothing() {
        let (client, agent) = agent(|stream| say(stream, &Answer::Ok(Reply::Done)));
        assert!(matches!(client.freeze(), Err(AgentError::Unexpected { .. })));
        agent.join().unwrap();
    }
}
