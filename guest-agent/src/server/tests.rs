//! The server driven turn by turn, with clients that the tests hold still.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::sockopt::set_socket_send_buffer_size;
use tempfile::TempDir;
use vmm_protocol::{ProcessId, Request, Start, header};

use super::*;

/// A server takes every child of the process that has ended: one of them at a time.
static CHILDREN: Mutex<()> = Mutex::new(());

struct Fixture {
    folder: TempDir,
    server: Server,
    _children: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listening = UnixListener::bind(folder.path().join("socket")).unwrap();
        let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { folder, server: server(listening.into()), _children: children }
    }

    fn connect(&mut self) -> UnixStream {
        let client = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        self.turn();
        client
    }

    /// Serves what is ready, or becomes ready very soon.
    fn turn(&mut self) {
        self.server.turn(Some(Instant::now() + Duration::from_millis(5))).unwrap();
        // No signal is blocked here: whoever has ended is asked for.
        if !self.server.running.is_empty() {
            self.server.reap();
        }
    }
}

fn server(listening: OwnedFd) -> Server {
    let listener = Listener::unix(listening).unwrap();
    Server::new(Place::Alone, listener, Launcher::new(Vec::new()).unwrap(), Groups::default()).unwrap()
}

#[test]
fn a_slow_reader_gets_the_end_of_the_output_whenever_it_comes() {
    const SIZE: usize = 150_000;
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    for connection in fixture.server.connections.values() {
        set_socket_send_buffer_size(connection.stream(), 4096).unwrap();
    }
    let argv = ["head", "-c", &SIZE.to_string(), "/dev/zero"].map(Into::into).to_vec();
    header::write(&mut client, &Request::Start(Start { argv, attach: true, ..Start::default() })).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut received = 0;
    let mut piece = [0; 512];
    fixture.turn();
    while !fixture.server.processes.values().all(|process| process.complete) {
        fixture.turn();
        received += client.read(&mut piece).unwrap_or(0);
    }
    assert!(fixture.server.connections.values().all(Connection::is_congested));
    assert_eq!(fixture.server.next_deadline(), None);
    while !fixture.server.connections.is_empty() {
        fixture.turn();
        received += client.read(&mut piece).unwrap_or(0);
    }
    client.set_nonblocking(false).unwrap();
    received += client.read_to_end(&mut Vec::new()).unwrap();
    assert!(received > SIZE, "{received}");
}

#[test]
fn whoever_waits_and_is_gone_is_forgotten_though_it_went_before_it_was_heard() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    let start = Start { argv: ["sleep", "1000"].map(Into::into).to_vec(), ..Start::default() };
    header::write(&mut client, &Request::Start(start)).unwrap();
    fixture.turn();
    let id = *fixture.server.processes.keys().next().unwrap();
    drop(client);
    let mut client = fixture.connect();
    header::write(&mut client, &Request::Wait { process: ProcessId(id) }).unwrap();
    drop(client);
    for _ in 0..3 {
        fixture.turn();
    }
    let left = fixture.server.connections.len();
    fixture.server.asked_by_signal(SystemSignal::SIGTERM);
    assert_eq!(left, 0);
}

#[test]
fn a_client_that_cannot_be_taken_does_not_keep_us_busy() {
    // What cannot be accepted from is as good as a system without descriptors.
    let (listening, mut client) = UnixStream::pair().unwrap();
    client.write_all(b"knock").unwrap();
    let mut server = server(listening.into());
    let woken = |server: &mut Server| !server.epoll.wait(Some(Instant::now())).unwrap().is_empty();
    assert!(woken(&mut server));
    server.turn(Some(Instant::now())).unwrap();
    assert!(!woken(&mut server));
    // And is asked for again in a while.
    while server.accept_from.is_some() {
        let deadline = server.next_deadline();
        server.turn(deadline).unwrap();
    }
    assert!(woken(&mut server));
}

#[test]
fn an_answer_that_is_too_long_is_an_error_that_says_so() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(ours.into(), Instant::now() + REQUEST_TIMEOUT);
    let health = vmm_protocol::Health { agent: "x".repeat(vmm_protocol::MAX_HEADER), ..Default::default() };
    connection.answer(&Answer::Ok(Reply::Health(health)));
    let answer: Answer = header::read(&mut &theirs).unwrap();
    assert!(matches!(answer, Answer::Error { kind: ErrorKind::Internal, .. }), "{answer:?}");
}

/// What of a process's end is on a connection, in answer to a request that asks for it to be kept.
fn run_keeping(fixture: &mut Fixture, client: &mut UnixStream, word: &str) -> Vec<u8> {
    let start = Start { argv: ["echo", word].map(Into::into).to_vec(), attach: true, ..Start::default() };
    client.write_all(&header::encode_keeping(&Request::Start(start), true).unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut received = Vec::new();
    while !received.ends_with(br#"{"outcome":{"code":0}}"#) {
        fixture.turn();
        let _ = client.read_to_end(&mut received);
    }
    client.set_nonblocking(false).unwrap();
    received
}

#[test]
fn a_connection_that_is_to_be_kept_takes_one_request_after_the_other() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    for word in ["one", "another"] {
        let received = run_keeping(&mut fixture, &mut client, word);
        assert!(received.windows(11).any(|bytes| bytes == b"\"keep\":true"), "{}", received.escape_ascii());
        assert!(received.windows(word.len()).any(|bytes| bytes == word.as_bytes()));
    }
    // Errors are answers, too; and whoever asks before it is answered is answered in turn.
    let signal = Request::Signal { process: ProcessId(99), signal: Signal::KILL, target: Default::default() };
    for request in [&signal, &Request::Processes, &Request::Health] {
        client.write_all(&header::encode_keeping(request, true).unwrap()).unwrap();
    }
    assert!(matches!(answer_to(&mut fixture, &client), Answer::Error { kind: ErrorKind::NoSuchProcess, .. }));
    assert!(matches!(answer_to(&mut fixture, &client), Answer::Ok(Reply::Processes(all)) if all.len() == 2));
    assert!(matches!(answer_to(&mut fixture, &client), Answer::Ok(Reply::Health(_))));
    assert_eq!(fixture.server.connections.len(), 1);
    // It has a time limit, and ends when the client leaves.
    assert!(fixture.server.next_deadline().unwrap() > Instant::now() + REQUEST_TIMEOUT);
    drop(client);
    while !fixture.server.connections.is_empty() {
        fixture.turn();
    }
}

#[test]
fn a_connection_is_kept_only_where_nothing_is_sent_between_two_requests() {
    let mut fixture = Fixture::new();
    let start = |stdin, terminal| {
        let argv = ["cat"].map(Into::into).to_vec();
        Request::Start(Start { argv, attach: true, stdin, terminal, ..Start::default() })
    };
    let size = vmm_protocol::TerminalSize { rows: 24, columns: 80 };
    let shutdown = Request::Shutdown(vmm_protocol::Shutdown { mode: ShutdownMode::PowerOff, grace_ms: 0 });
    for request in [start(true, None), start(false, Some(size)), shutdown] {
        let mut client = fixture.connect();
        client.write_all(&header::encode_keeping(&request, true).unwrap()).unwrap();
        fixture.turn();
        let mut bytes = vec![0; 4096];
        let length = client.read(&mut bytes).unwrap();
        let (answer, _) = header::decode::<Answer>(&bytes[..length]).unwrap().unwrap();
        assert!(!answer.keep, "{request:?}");
    }
    // Nor for one that speaks no request of this version.
    let mut client = fixture.connect();
    client.write_all(&header::encode_keeping(&"levitate", true).unwrap()).unwrap();
    assert!(matches!(answer_to(&mut fixture, &client), Answer::Error { kind: ErrorKind::Malformed, .. }));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_asks_and_never_reads_is_answered_no_further_than_it_takes() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.set_nonblocking(true).unwrap();
    for connection in fixture.server.connections.values() {
        set_socket_send_buffer_size(connection.stream(), 4096).unwrap();
    }
    let question = header::encode_keeping(&Request::Health, true).unwrap();
    let congested = |fixture: &Fixture| fixture.server.connections.values().any(Connection::is_congested);
    let mut asked = 0;
    while !congested(&fixture) {
        asked += usize::from(client.write_all(&question).is_ok());
        fixture.turn();
    }
    // It asks for more; nothing is done for it, and it has as long to read as any other.
    while client.write_all(&question).is_ok() {
        asked += 1;
    }
    fixture.turn();
    assert!(fixture.server.next_deadline().unwrap() <= Instant::now() + CLOSE_TIMEOUT);
    let mut answered = 0;
    while answered < asked {
        answer_to(&mut fixture, &client);
        client.set_nonblocking(true).unwrap();
        answered += 1;
    }
    // Then it has its time for the next request, and wakes nobody by taking packets.
    fixture.turn();
    assert!(fixture.server.next_deadline().unwrap() > Instant::now() + CLOSE_TIMEOUT);
    assert!(fixture.server.connections.values().all(|connection| !connection.wants_room));
}

/// A server with file systems that stand still for the tests only.
fn frozen_fixture(limit: Duration) -> (Fixture, std::sync::Arc<crate::freeze::testing::Script>) {
    use crate::freeze::testing::{Behaviour, Script, file_systems};
    let mut fixture = Fixture::new();
    let script = std::sync::Arc::new(Script::default());
    let its = script.clone();
    let find = move || Ok(file_systems(&its, &[("/", Behaviour::Good)]));
    fixture.server.freezable = Some(Freezable { find: Box::new(find), limit });
    (fixture, script)
}

/// Serves until the client has an answer.
fn answer_to(fixture: &mut Fixture, client: &UnixStream) -> Answer {
    client.set_nonblocking(true).unwrap();
    let mut byte = [0];
    while rustix::net::recv(client, &mut byte, rustix::net::RecvFlags::PEEK).is_err() {
        fixture.turn();
    }
    client.set_nonblocking(false).unwrap();
    header::read(&mut &*client).unwrap()
}

#[test]
fn a_guest_is_frozen_until_its_client_leaves() {
    let (mut fixture, script) = frozen_fixture(Duration::from_secs(600));
    let mut client = fixture.connect();
    header::write(&mut client, &Request::Freeze).unwrap();
    assert_eq!(answer_to(&mut fixture, &client), Answer::Ok(Reply::Frozen));
    // Nobody else can have it meanwhile, and all else is answered.
    let mut other = fixture.connect();
    header::write(&mut other, &Request::Freeze).unwrap();
    let refused = answer_to(&mut fixture, &other);
    assert!(matches!(refused, Answer::Error { kind: ErrorKind::Busy, .. }), "{refused:?}");
    let mut other = fixture.connect();
    header::write(&mut other, &Request::Processes).unwrap();
    assert_eq!(answer_to(&mut fixture, &other), Answer::Ok(Reply::Processes(vec![])));
    assert!(!script.events().contains(&"thaw /".to_owned()));
    // Who ends its half of the connection hears how long it was.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let thawed = answer_to(&mut fixture, &client);
    assert!(matches!(thawed, Answer::Ok(Reply::Thawed { expired: false, .. })), "{thawed:?}");
    assert_eq!(script.events().last().unwrap(), "thaw /");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    // And it can be frozen again.
    let mut client = fixture.connect();
    header::write(&mut client, &Request::Freeze).unwrap();
    assert_eq!(answer_to(&mut fixture, &client), Answer::Ok(Reply::Frozen));
    // One whose client is gone goes on, too.
    drop(client);
    while fixture.server.freezing.is_some() {
        fixture.turn();
    }
    assert_eq!(script.events().iter().filter(|event| *event == "thaw /").count(), 2);
}

#[test]
fn a_frozen_guest_thaws_when_its_time_is_up_or_it_is_told_to() {
    let (mut fixture, script) = frozen_fixture(Duration::from_millis(20));
    let mut client = fixture.connect();
    header::write(&mut client, &Request::Freeze).unwrap();
    assert_eq!(answer_to(&mut fixture, &client), Answer::Ok(Reply::Frozen));
    let thawed = answer_to(&mut fixture, &client);
    assert!(matches!(thawed, Answer::Ok(Reply::Thawed { expired: true, .. })), "{thawed:?}");
    script.wait_for("thaw /");

    let (mut fixture, script) = {
        drop(fixture);
        frozen_fixture(Duration::from_secs(600))
    };
    let mut client = fixture.connect();
    header::write(&mut client, &Request::Freeze).unwrap();
    assert_eq!(answer_to(&mut fixture, &client), Answer::Ok(Reply::Frozen));
    if let Some(freezing) = &fixture.server.freezing {
        freezing.thaw();
    }
    script.wait_for("thaw /");
    let thawed = answer_to(&mut fixture, &client);
    assert!(matches!(thawed, Answer::Ok(Reply::Thawed { expired: false, .. })), "{thawed:?}");
}

#[test]
fn an_agent_alone_freezes_nothing() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    header::write(&mut client, &Request::Freeze).unwrap();
    let refused = answer_to(&mut fixture, &client);
    assert!(matches!(refused, Answer::Error { kind: ErrorKind::Internal, .. }), "{refused:?}");
}
