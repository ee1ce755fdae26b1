//! Clients that do not keep to the protocol, against the real agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use vmm::agent::{ErrorKind, ProcessSpec, ShutdownMode};
use vmm_protocol::{Answer, FrameHeader, FrameKind, Request, Start, VERSION, Version, header};

use crate::{Agent, run};

fn answer_to(agent: &Agent, bytes: &[u8]) -> Answer {
    let mut stream = agent.connect();
    stream.write_all(bytes).unwrap();
    let answer = header::read(&mut stream).unwrap();
    // Nothing comes after a refusal.
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).unwrap_or(0), 0);
    answer
}

fn kind(answer: &Answer) -> Option<ErrorKind> {
    match answer {
        Answer::Error { kind, .. } => Some(*kind),
        Answer::Ok(_) => None,
    }
}

#[test]
fn another_major_version_is_refused_with_both_versions() {
    let agent = Agent::start();
    let theirs = Version { major: VERSION.major + 1, minor: 3 };
    let answer = answer_to(&agent, &header::encode_as(theirs, &"anything").unwrap());
    assert_eq!(kind(&answer), Some(ErrorKind::Version));
    let Answer::Error { message, .. } = answer else { unreachable!() };
    assert!(message.contains(&theirs.to_string()) && message.contains(&VERSION.to_string()), "{message}");
    let newer = Version { minor: VERSION.minor + 7, ..VERSION };
    assert_eq!(kind(&answer_to(&agent, &header::encode_as(newer, &Request::Health).unwrap())), None);
}

#[test]
fn garbage_is_refused_and_others_are_served() {
    let agent = Agent::start();
    let garbage: [&[u8]; 5] = [
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 0],
        &[2, 0, 0, 0, b'{', b'}'],
        &header::encode(&"levitate").unwrap(),
    ];
    for bytes in garbage {
        assert_eq!(kind(&answer_to(&agent, bytes)), Some(ErrorKind::Malformed), "{bytes:?}");
    }
    // One that says nothing, one that stops in the middle, one that is gone at once.
    let silent = agent.connect();
    let mut stopped = agent.connect();
    stopped.write_all(&[9, 0, 0, 0, b'{']).unwrap();
    drop(agent.connect());
    assert!(run(&agent.client(), &ProcessSpec::command(["true"])).exit.success());
    drop((silent, stopped));
}

fn attached(agent: &Agent) -> UnixStream {
    let mut stream = agent.connect();
    let start = Start { argv: vec!["cat".into()], stdin: true, attach: true, ..Start::default() };
    header::write(&mut stream, &Request::Start(start)).unwrap();
    let answer: Answer = header::read(&mut stream).unwrap();
    assert_eq!(kind(&answer), None);
    stream
}

#[test]
fn a_frame_that_a_client_may_not_send_ends_its_connection() {
    let agent = Agent::start();
    let frames: [[u8; 8]; 4] = [
        [0; 8],
        [1, 0, 0, 0, 1, 0, 1, 0],
        [1, 9, 0, 0, 0, 0, 0, 0],
        FrameHeader::new(FrameKind::Stdout, 3).to_bytes(),
    ];
    for frame in frames {
        let mut stream = attached(&agent);
        stream.write_all(&frame).unwrap();
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).unwrap_or(0), 0, "{frame:?}");
    }
    agent.client().health().unwrap();
}

#[test]
fn frames_may_come_in_pieces_and_right_behind_the_request() {
    let agent = Agent::start();
    let mut stream = agent.connect();
    let start = Start { argv: vec!["cat".into()], stdin: true, attach: true, ..Start::default() };
    let mut bytes = header::encode(&Request::Start(start)).unwrap();
    bytes.extend(FrameHeader::new(FrameKind::Stdin, 5).to_bytes());
    bytes.extend(b"hello");
    bytes.extend(FrameHeader::new(FrameKind::Stdin, 0).to_bytes());
    bytes.extend(FrameHeader::new(FrameKind::StdinEnd, 0).to_bytes());
    for byte in bytes {
        stream.write_all(&[byte]).unwrap();
    }
    let _: Answer = header::read(&mut stream).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(&FrameHeader::new(FrameKind::Stdout, 5).to_bytes()));
    assert_eq!(&rest[8..13], b"hello");
    assert_eq!(rest[13], FrameKind::Exit as u8);
}

#[test]
fn many_clients_at_once_are_served_and_too_many_are_turned_away() {
    let agent = Agent::start();
    let idle: Vec<_> = (0..600).map(|_| agent.connect()).collect();
    // Those beyond the limit are closed without a word.
    let closed = idle.iter().rev().take(80).filter(|stream| {
        let mut byte = [0];
        matches!((&mut &**stream).read(&mut byte), Ok(0))
    });
    assert_eq!(closed.count(), 80);
    // Whoever was served before still is.
    let mut first = &idle[0];
    header::write(&mut first, &Request::Health).unwrap();
    let answer: Answer = header::read(&mut first).unwrap();
    assert_eq!(kind(&answer), None);
}

#[test]
fn an_agent_takes_the_descriptors_that_it_may_have() {
    // As the kernel starts process 1: with a soft limit far below what the agent promises, and a hard one above it.
    let agent = Agent::start_by("ulimit -S -n 64; exec \"$0\" \"$@\"");
    // Each of them has four of the agent's.
    let spec = ProcessSpec::command(["cat"]).stdin().kill_on_disconnect();
    let running: Vec<_> = (0..40).map(|_| agent.client().start(&spec).unwrap()).collect();
    // A process has what programs expect.
    let ran = run(&agent.client(), &ProcessSpec::command(["sh", "-c", "ulimit -S -n"]));
    assert_eq!(ran.stdout, b"1024\n");
    drop(running);
}

#[test]
fn an_agent_without_a_machine_shuts_nothing_down() {
    let agent = Agent::start();
    let error = agent.client().shutdown(ShutdownMode::PowerOff, std::time::Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Internal));
    let health = agent.client().health().unwrap();
    assert!(health.memory.total > 0 && health.uptime_ms > 0 && !health.agent.is_empty());
}
