//! Archives through the real agent: every process that it starts for one ends, and clears up after a client that is gone.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use vmm::agent::{AgentError, ErrorKind, PATIENCE, ProcessSpec};
use vmm_archive::{PackOptions, Packer};
use vmm_protocol::{Answer, Holds, Pack, PieceReader, Request, Totals, Transfer, Unpack, header};

use crate::{Agent, run};

fn unpack_to(path: &Path, holds: Holds) -> Unpack {
    Unpack {
        path: path.to_str().unwrap().into(),
        holds,
        owner: Some("0:0".into()),
        set_id: false,
        devices: false,
    }
}

/// As the user of this test: only root gives files away.
fn as_us(mut request: Unpack) -> Unpack {
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    request.owner = Some(format!("{user}:{group}"));
    request
}

fn archive(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new(), PackOptions::default());
    packer.add_bytes(name.as_bytes(), 0o640, contents).unwrap();
    packer.finish().unwrap().0
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[expect(clippy::disallowed_methods, reason = "another process does it, which nobody tells us of")]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_file_goes_through_and_comes_back() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let contents = vec![7; 3_000_000];
    let mut upload = agent
        .client()
        .unpack(as_us(unpack_to(&folder.path().join("file"), Holds::One)), PATIENCE, None)
        .unwrap();
    upload.write_all(&archive("other", &contents)).unwrap();
    assert_eq!(names(folder.path()).iter().filter(|name| *name == "file").count(), 0, "not before its end");
    let totals = upload.finish(Totals::default()).unwrap();
    assert_eq!(totals.entries, 1);
    assert_eq!(names(folder.path()), ["file"]);
    assert!(fs::read(folder.path().join("file")).unwrap() == contents);
    let paths = vec![folder.path().join("file").to_str().unwrap().into()];
    let mut download =
        agent.client().pack(Pack { paths, follow: false, devices: false }, PATIENCE, None).unwrap();
    let mut bytes = Vec::new();
    download.read_to_end(&mut bytes).unwrap();
    assert_eq!(download.totals().unwrap().bytes, bytes.len() as u64);
    assert!(bytes.windows(1000).any(|window| window == &contents[..1000]));
}

#[test]
fn what_is_wrong_is_told_before_or_while_it_goes() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let kind = |error: AgentError| error.kind();
    let missing = unpack_to(&folder.path().join("no/file"), Holds::One);
    assert_eq!(
        kind(agent.client().unpack(missing, PATIENCE, None).unwrap_err()),
        Some(ErrorKind::NoSuchFile)
    );
    let nobody = Unpack { owner: Some("nobody-at-all".into()), ..unpack_to(folder.path(), Holds::One) };
    assert_eq!(kind(agent.client().unpack(nobody, PATIENCE, None).unwrap_err()), Some(ErrorKind::NoSuchUser));
    let paths = vec!["/surely/missing".into()];
    let missing = Pack { paths, follow: false, devices: false };
    assert_eq!(kind(agent.client().pack(missing, PATIENCE, None).unwrap_err()), Some(ErrorKind::NoSuchFile));
    // In the middle: the agent says why, while the client still sends.
    let mut upload =
        agent.client().unpack(as_us(unpack_to(folder.path(), Holds::Anything)), PATIENCE, None).unwrap();
    let mut failed = upload.write_all(&archive("../outside", b"owned"));
    let noise = vec![0x55; 1 << 20];
    while failed.is_ok() {
        failed = upload.write_all(&noise);
    }
    assert_eq!(kind(upload.refusal()), Some(ErrorKind::BadArchive));
    assert!(names(folder.path()).is_empty());
    let upload =
        agent.client().unpack(as_us(unpack_to(folder.path(), Holds::Anything)), PATIENCE, None).unwrap();
    assert_eq!(
        kind(upload.finish(Totals::default()).unwrap_err()),
        Some(ErrorKind::BadArchive),
        "it has no end mark"
    );
}

#[test]
fn a_client_that_is_gone_leaves_nothing_and_an_agent_that_ends_takes_its_transfers_along() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let half = |agent: &Agent| {
        let bytes = archive("file", &vec![7; 1 << 20]);
        let mut upload =
            agent.client().unpack(as_us(unpack_to(folder.path(), Holds::Anything)), PATIENCE, None).unwrap();
        upload.write_all(&bytes[..bytes.len() / 2]).unwrap();
        until("the beginning of it", || names(folder.path()).iter().any(|name| name.ends_with(".partial")));
        upload
    };
    drop(half(&agent));
    until("the end of it", || names(folder.path()).is_empty());
    let upload = half(&agent);
    drop(agent);
    until("the end of it", || names(folder.path()).is_empty());
    drop(upload);
}

#[test]
fn the_agent_serves_others_meanwhile_and_so_many_transfers_at_once() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let begin = || agent.client().unpack(as_us(unpack_to(folder.path(), Holds::Anything)), PATIENCE, None);
    let open: Vec<_> = (0..64).map(|_| begin().unwrap()).collect();
    assert_eq!(begin().unwrap_err().kind(), Some(ErrorKind::Resources));
    assert!(run(&agent.client(), &ProcessSpec::command(["true"])).exit.success());
    drop(open);
    until("room for another", || begin().is_ok());
}

#[test]
fn a_client_that_does_not_wait_for_its_answer_is_refused() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let request = Request::Transfer(Transfer::Unpack(unpack_to(folder.path(), Holds::Anything)));
    let mut stream = agent.connect();
    stream.write_all(&[header::encode(&request).unwrap(), b"more".to_vec()].concat()).unwrap();
    assert!(matches!(
        header::read::<Answer>(&mut stream).unwrap(),
        Answer::Error { kind: ErrorKind::Malformed, .. }
    ));
    // Whoever asks for nothing gets nothing.
    let request = Request::Transfer(Transfer::Pack(Pack { paths: vec![], follow: false, devices: false }));
    let mut stream = agent.connect();
    header::write(&mut stream, &request).unwrap();
    assert!(matches!(header::read::<Answer>(&mut stream).unwrap(), Answer::Ok(_)));
    let mut archive = Vec::new();
    PieceReader::new(stream).read_to_end(&mut archive).unwrap();
    assert_eq!(archive, [0; 1024], "an archive of nothing");
}
