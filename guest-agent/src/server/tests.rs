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
