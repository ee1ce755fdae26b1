//! A guest that does not keep to what it was asked for: its files stay out.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use vmm_archive::Owner;
use vmm_protocol::{Answer, PieceWriter, Reply, Request, Transfer, header};

use super::*;
use crate::agent::Connector;

/// An agent that answers one request by a script.
#[derive(Debug)]
struct Scripted(Mutex<Option<UnixStream>>);

impl Connector for Scripted {
    fn connect(&self, _port: u32, first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
        let mut stream = self.0.lock().unwrap().take().unwrap();
        stream.write_all(first).unwrap();
        Ok(stream)
    }
}

/// An agent that takes the request, says that it transfers, and then what the script says.
fn agent(script: impl FnOnce(UnixStream) + Send + 'static) -> (AgentClient, JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        assert!(matches!(header::read::<Request>(&mut theirs).unwrap(), Request::Transfer(_)));
        header::write(&mut theirs, &Answer::Ok(Reply::Transferring)).unwrap();
        script(theirs);
    });
    (AgentClient::with_connector(Arc::new(Scripted(Mutex::new(Some(ours))))), agent)
}

/// Sends an archive with these files in it.
fn sends(names: &'static [&'static str]) -> impl FnOnce(UnixStream) + Send + 'static {
    move |stream| {
        let mut pieces = PieceWriter::new(stream);
        let mut packer = Packer::new(&mut pieces, PackOptions::default());
        for name in names {
            packer.add_bytes(name.as_bytes(), 0o644, b"owned").unwrap();
        }
        packer.finish().unwrap();
        // A client that refuses is gone.
        let _ = pieces.finish(Totals::default());
    }
}

fn copied_out(client: &AgentClient, sources: &[&str], target: &Path) -> Result<Copied, Failure> {
    let sources = sources.iter().map(|source| ByteString::from(*source)).collect();
    copy_out(client, sources, target, &CopyOptions::default())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_was_not_asked_for_does_not_come() {
    let hostile: [&[&str]; 5] =
        [&["file", ".bashrc"], &[".bashrc"], &["../file"], &["/tmp/file"], &["file", "file/../../x"]];
    for sent in hostile {
        let folder = tempfile::tempdir().unwrap();
        let (client, agent) = agent(sends(sent));
        let failure = copied_out(&client, &["/srv/file"], folder.path()).unwrap_err();
        assert!(
            matches!(&failure, Failure::Host(vmm_archive::Error::Refused { .. })),
            "{sent:?}: {failure:?}"
        );
        assert!(names(folder.path()).is_empty(), "{sent:?}");
        drop(client);
        agent.join().unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let (client, agent) = agent(sends(&["file"]));
    assert_eq!(copied_out(&client, &["/srv/file"], folder.path()).unwrap().entries, 1);
    assert_eq!(names(folder.path()), ["file"]);
    agent.join().unwrap();
}

#[test]
fn an_archive_that_is_cut_or_changed_leaves_the_target_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    fs::write(&target, "as it was").unwrap();
    let mut whole = Vec::new();
    {
        let mut pieces = PieceWriter::new(&mut whole);
        let mut packer = Packer::new(&mut pieces, PackOptions::default());
        packer.add_bytes(b"file", 0o644, b"new").unwrap();
        packer.finish().unwrap();
        pieces.finish(Totals::default()).unwrap();
    }
    let mut changed = whole.clone();
    // In the contents of the file: all that the archive itself checks is right.
    let contents = changed.windows(3).position(|bytes| bytes == b"new").unwrap();
    changed[contents] = b'N';
    for bytes in [whole[..whole.len() - 1].to_vec(), whole[..600].to_vec(), changed] {
        let (client, agent) = agent(move |mut stream| stream.write_all(&bytes).unwrap());
        assert!(matches!(copied_out(&client, &["/file"], &target), Err(Failure::Agent(_))));
        assert_eq!(fs::read_to_string(&target).unwrap(), "as it was");
        assert_eq!(names(folder.path()), ["file"]);
        agent.join().unwrap();
    }
}

#[test]
fn a_file_longer_than_it_may_be_is_not_read() {
    let (client, agent) = agent(sends(&["file"]));
    let failure = read_file(&client, &"/file".into(), 4).unwrap_err();
    assert!(matches!(failure, Failure::Agent(AgentError::Refusal { kind: ErrorKind::UnfitFile, .. })));
    drop(client);
    agent.join().unwrap();
    let (client, agent) = self::agent(sends(&["file"]));
    assert_eq!(read_file(&client, &"/file".into(), 5).unwrap(), b"owned");
    agent.join().unwrap();
}

#[test]
fn a_guest_that_takes_no_more_is_heard_at_once() {
    let (client, agent) = agent(|mut stream| {
        use vmm_protocol::transfer::Outcome;
        let message = "cannot write /srv/file: No space left on device\u{1b}[2J".to_owned();
        header::write(&mut stream, &Outcome::Failed { kind: ErrorKind::NoSpace, message }).unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let endless = io::repeat(0);
    let failure = unpack(&client, endless, "/srv".into(), &CopyOptions::default()).unwrap_err();
    let Failure::Agent(AgentError::Refusal { kind: ErrorKind::NoSpace, message, .. }) = failure else {
        panic!("{failure:?}")
    };
    assert!(message.contains("No space left") && !message.contains('\u{1b}'), "{message:?}");
    drop(client);
    agent.join().unwrap();
}

#[test]
fn a_copy_that_is_cancelled_ends_though_the_guest_says_nothing() {
    let token = CancelToken::new().unwrap();
    let options = CopyOptions::default().cancel(&token);
    let (client, agent) = agent(move |stream| {
        token.cancel();
        let _ = io::copy(&mut &stream, &mut io::sink());
    });
    let folder = tempfile::tempdir().unwrap();
    let sources = vec![ByteString::from("/file")];
    assert!(matches!(copy_out(&client, sources, folder.path(), &options), Err(Failure::Cancelled)));
    drop(client);
    agent.join().unwrap();
}

/// Sends an archive that is made so.
fn sends_archive(
    pack: impl FnOnce(&mut Packer<&mut PieceWriter<UnixStream>>) + Send + 'static,
) -> impl FnOnce(UnixStream) + Send + 'static {
    move |stream| {
        let mut pieces = PieceWriter::new(stream);
        let mut packer = Packer::new(&mut pieces, PackOptions { devices: true, follow: false });
        pack(&mut packer);
        let _ = packer.finish();
        let _ = pieces.finish(Totals::default());
    }
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_refused_and_leaves_nothing() {
    let bytes = |packer: &mut Packer<&mut PieceWriter<UnixStream>>| {
        let _ = packer.add_bytes(b"file", 0o644, &vec![7; 3 << 20]);
    };
    let entries = |packer: &mut Packer<&mut PieceWriter<UnixStream>>| {
        for number in 0..100 {
            let _ = packer.add_bytes(format!("file/{number}").as_bytes(), 0o644, b"");
        }
    };
    let copy = |script: Box<dyn FnOnce(UnixStream) + Send>, options: &CopyOptions, target: &Path| {
        let (client, agent) = agent(script);
        let copied = copy_out(&client, vec!["/file".into()], target, options);
        drop(client);
        agent.join().unwrap();
        copied
    };
    let folder = tempfile::tempdir().unwrap();
    let few = CopyOptions::default().max_bytes(2 << 20).max_entries(99);
    for script in [
        Box::new(sends_archive(bytes)) as Box<dyn FnOnce(UnixStream) + Send>,
        Box::new(sends_archive(entries)),
    ] {
        let failure = copy(script, &few, folder.path()).unwrap_err();
        assert!(
            matches!(&failure, Failure::TooMuch(message) if message.contains("more than")),
            "{failure:?}"
        );
        assert!(names(folder.path()).is_empty());
    }
    let enough = CopyOptions::default().max_bytes(4 << 20).max_entries(100);
    assert_eq!(copy(Box::new(sends_archive(entries)), &enough, folder.path()).unwrap().entries, 100);
    // What cannot be counted is not said to be limited.
    let (client, agent) = agent(|_| ());
    let packed = pack(&client, vec!["/file".into()], io::sink(), &enough);
    assert!(matches!(packed, Err(Failure::Invalid(_))));
    let sent = unpack(&client, io::empty(), "/srv".into(), &few);
    assert!(matches!(sent, Err(Failure::Invalid(_))));
    drop(client);
    drop(agent);
}

#[test]
fn a_special_file_is_made_only_if_it_was_asked_for() {
    use std::os::unix::fs::FileTypeExt;
    let guest = tempfile::tempdir().unwrap();
    let pipe = guest.path().join("file");
    vmm_sys::beneath::make_node(fs::File::open(guest.path()).unwrap(), b"file", vmm_sys::beneath::Node::Fifo)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for devices in [false, true] {
        let pipe = pipe.clone();
        let (client, agent) = agent(sends_archive(move |packer| drop(packer.add(&pipe, b"file"))));
        let options = CopyOptions::default().devices(devices);
        let copied = copy_out(&client, vec!["/file".into()], folder.path(), &options);
        assert_eq!(copied.is_ok(), devices, "{copied:?}");
        let made = fs::symlink_metadata(folder.path().join("file"));
        assert_eq!(made.is_ok_and(|made| made.file_type().is_fifo()), devices);
        assert_eq!(names(folder.path()).len(), usize::from(devices));
        drop(client);
        agent.join().unwrap();
    }
}

#[test]
fn a_guest_that_does_nothing_is_given_up() {
    let options = CopyOptions::default().patience(std::time::Duration::from_millis(50));
    let silent = || {
        agent(|mut stream| {
            let _ = io::copy(&mut stream, &mut io::sink());
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let (client, agent) = silent();
    let failure = copy_out(&client, vec!["/file".into()], folder.path(), &options).unwrap_err();
    assert!(matches!(&failure, Failure::Agent(error) if error.is_timeout()), "{failure:?}");
    assert!(names(folder.path()).is_empty());
    drop(client);
    agent.join().unwrap();
    // One that takes everything and never says what became of it.
    let (client, agent) = silent();
    let failure = unpack(&client, &[0; 1024][..], "/srv".into(), &options).unwrap_err();
    assert!(matches!(&failure, Failure::Agent(error) if error.is_timeout()), "{failure:?}");
    drop(client);
    agent.join().unwrap();
}

#[test]
fn an_agent_that_knows_nothing_of_files_is_too_old() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let request = header::read::<Request>(&mut theirs).unwrap();
        assert!(matches!(request, Request::Transfer(Transfer::Pack(_))));
        let message = "the header is no request of this version".to_owned();
        header::write(&mut theirs, &Answer::Error { kind: ErrorKind::Malformed, message }).unwrap();
    });
    let client = AgentClient::with_connector(Arc::new(Scripted(Mutex::new(Some(ours)))));
    let failure = read_file(&client, &"/file".into(), 1).unwrap_err();
    assert!(matches!(failure, Failure::Agent(AgentError::TooOld { .. })), "{failure:?}");
    agent.join().unwrap();
}

#[test]
fn an_owner_is_named_as_the_host_knows_it() {
    let owner = |name: &str| owner_here(&CopyOwner::Named(name.to_owned()));
    assert!(matches!(owner("root"), Ok(Owner::Given { uid: 0, gid: 0 })));
    assert!(matches!(owner("4711:12"), Ok(Owner::Given { uid: 4711, gid: 12 })));
    assert!(matches!(owner("4711"), Ok(Owner::Given { uid: 4711, gid: 4711 })));
    for name in ["nobody-at-all", "", "0:no-group", "-1"] {
        assert!(matches!(owner(name), Err(Failure::Invalid(_))), "{name}");
    }
}
