//! An agent that speaks the protocol wrongly, in every message of every request: it can neither crash nor hang the host,
//! nor fill its memory or its disk, nor make anything beside what was asked for.
//!
//! For each request there is what an honest agent says, which must be understood. Then it is cut at every byte, told with every
//! length changed, in another order, with words of other conversations in it, without end, or not to its end.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmm_archive::{PackOptions, Packer};
use vmm_protocol::transfer::Outcome;
use vmm_protocol::{
    Answer, Change, ChangeKind, FileInfo, FileKind, FolderEntry, FrameHeader, FrameKind, GuestProcess,
    Health, MAX_HEADER, PieceReader, PieceWriter, Reply, Request, Version, header,
};

use super::*;
use crate::agent::{
    AttachSpec, Connector, Exit, Outcome as ExitOutcome, OutputLimits, ProcessId, ProcessSpec, ShutdownMode,
    Signal, SignalTarget, TerminalSize,
};

/// How long an agent that says too little may take here: a test must not wait for half a minute.
const ANSWER: Duration = Duration::from_millis(60);

/// However wrongly it speaks, it is done with by then.
const BOUND: Duration = Duration::from_secs(20);

/// What the agent says after the request.
#[derive(Clone, Debug)]
enum Speech {
    /// This, and then it closes the connection.
    Closed(Vec<u8>),
    /// This, and then nothing more.
    Silent(Vec<u8>),
    /// The first, and then the second as long as somebody listens.
    Endless(Vec<u8>, Vec<u8>),
}

#[derive(Debug)]
struct Hostile(Speech);

impl Connector for Hostile {
    fn connect(&self, _port: u32, first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.write_all(first).unwrap();
        let speech = self.0.clone();
        thread::spawn(move || {
            let request = header::read::<Request>(&mut theirs).unwrap();
            let unpacks = matches!(request, Request::Transfer(vmm_protocol::Transfer::Unpack(_)));
            let (Speech::Closed(bytes) | Speech::Silent(bytes) | Speech::Endless(bytes, _)) = &speech;
            let mut bytes = &bytes[..];
            if let Some(rest) = bytes.strip_prefix(&say(Reply::Transferring)[..]).filter(|_| unpacks) {
                // What becomes of an archive is said when it has come.
                let _ = header::write(&mut theirs, &Answer::Ok(Reply::Transferring));
                let _ = io::copy(&mut PieceReader::new(&theirs), &mut io::sink());
                bytes = rest;
            }
            // What the client sends meanwhile must not hold anybody up.
            let mut listener = theirs.try_clone().unwrap();
            let listens = thread::spawn(move || drop(io::copy(&mut listener, &mut io::sink())));
            let mut said = theirs.write_all(bytes);
            match &speech {
                Speech::Closed(_) => drop(theirs.shutdown(std::net::Shutdown::Both)),
                Speech::Silent(_) => {}
                Speech::Endless(_, again) => {
                    let again = again.repeat((4096 / again.len().max(1)).max(1));
                    while said.is_ok() {
                        said = theirs.write_all(&again);
                    }
                }
            }
            let _ = listens.join();
        });
        Ok(ours)
    }
}

/// What is asked, to its end, with a folder to write to, and how long the agent may be silent. Whether it was done.
type Ask = fn(&AgentClient, &Path, Duration) -> bool;

struct Conversation {
    name: &'static str,
    ask: Ask,
    /// What an honest agent says, message by message.
    honest: Vec<Vec<u8>>,
}

fn say(reply: Reply) -> Vec<u8> {
    header::encode(&Answer::Ok(reply)).unwrap()
}

fn frame(kind: FrameKind, data: &[u8]) -> Vec<u8> {
    [&FrameHeader::new(kind, data.len()).to_bytes()[..], data].concat()
}

fn exit() -> Exit {
    Exit { outcome: ExitOutcome::Code(0), timed_out: false }
}

fn info() -> FileInfo {
    FileInfo {
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        length: 5,
        links: 1,
        modified: 1,
        modified_ns: 0,
        inode: 1,
        leads_to: None,
    }
}

fn process() -> GuestProcess {
    GuestProcess {
        pid: 1,
        parent: 0,
        uid: 0,
        user: None,
        state: "S".to_owned(),
        cpu_ms: 0,
        cpu_permille: 0,
        memory: 0,
        started_ms: 0,
        name: "init".into(),
        argv: Vec::new(),
    }
}

/// An archive of one file, in pieces, apart.
fn archive() -> Vec<Vec<u8>> {
    let mut packer = Packer::new(Vec::new(), PackOptions::default());
    packer.add_bytes(b"file", 0o644, b"hello").unwrap();
    let bytes = packer.finish().unwrap().0;
    pieces(&bytes)
}

fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut writer = PieceWriter::new(Vec::new());
    writer.write_all(bytes).unwrap();
    let all = writer.finish(Totals { entries: 1, ..Totals::default() }).unwrap().0;
    let (piece, end) = all.split_at(4 + bytes.len());
    vec![piece.to_vec(), end.to_vec()]
}

/// Cancels a while later, for what has no other bound.
fn soon(patience: Duration) -> Arc<CancelToken> {
    let token = CancelToken::new().unwrap();
    let later = token.clone();
    #[expect(clippy::disallowed_methods, reason = "a user changes his mind")]
    thread::spawn(move || {
        thread::sleep(3 * patience);
        later.cancel();
    });
    Arc::new(token)
}

fn deadline(patience: Duration) -> Option<Instant> {
    Some(Instant::now() + 3 * patience)
}

/// A user's own limits.
fn options(patience: Duration) -> CopyOptions {
    CopyOptions::default().patience(patience).max_bytes(1 << 20).max_entries(100)
}

fn conversations() -> Vec<Conversation> {
    let of = |name, honest: Vec<Vec<u8>>, ask: Ask| Conversation { name, ask, honest };
    let transfer = |archive: Vec<Vec<u8>>| [vec![say(Reply::Transferring)], archive].concat();
    let done = vec![say(Reply::Done)];
    let started = say(Reply::Started { process: ProcessId(7), pid: 3 });
    let attached = say(Reply::Attached { terminal: false, stdin: false, stdout_from: 0, stderr_from: 0 });
    let output = [
        frame(FrameKind::Stdout, b"hello"),
        frame(FrameKind::Stderr, b"oh"),
        frame(FrameKind::Exit, &serde_json::to_vec(&exit()).unwrap()),
    ];
    let unpacked = Outcome::Done(Totals::default());
    vec![
        of("health", vec![say(Reply::Health(Health::default()))], |client, _, _| client.health().is_ok()),
        of("processes", vec![say(Reply::Processes(Vec::new()))], |client, _, _| client.processes().is_ok()),
        of("exec", [vec![started.clone()], output.to_vec()].concat(), |client, _, patience| {
            let started = client.start(&ProcessSpec::command(["x"]).stdin());
            let limits = OutputLimits { stdout: 1 << 16, stderr: 1 << 16 };
            started.and_then(|process| process.collect(b"input", limits, deadline(patience), None)).is_ok()
        }),
        of("exec, streamed", [vec![started.clone()], output.to_vec()].concat(), |client, _, patience| {
            let Ok(mut process) = client.start(&ProcessSpec::command(["x"])) else { return false };
            let closer = process.closer();
            #[expect(clippy::disallowed_methods, reason = "a user changes his mind")]
            thread::spawn(move || {
                thread::sleep(3 * patience);
                closer.close();
            });
            let streams = [process.take_stdout(), process.take_stderr()];
            let read = streams.map(|stream| {
                thread::spawn(move || stream.is_some_and(|mut s| io::copy(&mut s, &mut io::sink()).is_ok()))
            });
            let read = read.map(|thread| thread.join().unwrap());
            process.wait(deadline(patience)).is_ok() && read == [true; 2]
        }),
        of("exec, detached", vec![started], |client, _, _| {
            client.start_detached(&ProcessSpec::command(["x"])).is_ok()
        }),
        of("attach", [vec![attached], output.to_vec()].concat(), |client, _, patience| {
            let attached = client.attach(AttachSpec::to(ProcessId(7)));
            attached.and_then(|mut process| process.wait(deadline(patience))).is_ok()
        }),
        of("wait", vec![say(Reply::Ended(exit()))], |client, _, patience| {
            client.wait(ProcessId(7), deadline(patience)).is_ok()
        }),
        of("signal", done.clone(), |client, _, _| {
            client.signal(ProcessId(7), Signal::KILL, SignalTarget::All).is_ok()
        }),
        of("resize", done.clone(), |client, _, _| {
            client.resize(ProcessId(7), TerminalSize { rows: 1, columns: 1 }).is_ok()
        }),
        of("detach", done.clone(), |client, _, _| client.detach(ProcessId(7)).is_ok()),
        of(
            "freeze",
            vec![say(Reply::Frozen), say(Reply::Thawed { frozen_us: 1, expired: false })],
            |client, _, _| client.freeze().and_then(crate::agent::FrozenGuest::thaw).is_ok(),
        ),
        of("set the clock", done.clone(), |client, _, _| client.set_clock(1).is_ok()),
        of("shutdown", done.clone(), |client, _, _| {
            client.shutdown(ShutdownMode::PowerOff, Duration::ZERO).is_ok()
        }),
        of("copy out", transfer(archive()), |client, folder, patience| {
            copy_out(client, vec!["/file".into()], folder, &options(patience)).is_ok()
        }),
        of("copy out, as a name", transfer(archive()), |client, folder, patience| {
            copy_out(client, vec!["/file".into()], &folder.join("new"), &options(patience)).is_ok()
        }),
        of("pack", transfer(archive()), |client, _, patience| {
            let options = CopyOptions::default().patience(patience).max_bytes(1 << 20);
            pack(client, vec!["/file".into()], io::sink(), &options).is_ok()
        }),
        of(
            "copy in",
            vec![say(Reply::Transferring), header::encode(&unpacked).unwrap()],
            |client, _, patience| {
                let options = CopyOptions::default().patience(patience);
                unpack(client, &[0; 10_000][..], "/srv".into(), &options).is_ok()
            },
        ),
        of("stat", vec![say(Reply::File(info()))], |client, _, _| client.stat("/x".into(), true).is_ok()),
        of(
            "list",
            vec![
                say(Reply::Entries(vec![FolderEntry { name: "one".into(), info: info() }])),
                say(Reply::Entries(vec![FolderEntry { name: "two".into(), info: info() }])),
                say(Reply::Done),
            ],
            |client, _, _| {
                let Ok(mut listing) = client.list("/x".into(), None) else { return false };
                // Who lists decides when it is enough.
                for _ in 0..1000 {
                    match listing.next_page() {
                        Ok(Some(page)) => assert!(page.iter().all(FolderEntry::is_sound)),
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
                false
            },
        ),
        of("read", [vec![say(Reply::Contents(info()))], pieces(b"hello")].concat(), |client, _, _| {
            let read = client.read("/x".into(), 0, 10_000);
            read.is_ok_and(|(_, bytes)| bytes.len() <= 10_000)
        }),
        of("remove", vec![say(Reply::Going { entries: 1 }), say(Reply::Done)], |client, _, patience| {
            client.remove("/x".into(), true, Some(soon(patience))).is_ok()
        }),
        of("make a folder", done.clone(), |client, _, _| client.make_folder("/x".into(), true, None).is_ok()),
        of("rename", done, |client, _, _| client.rename("/x".into(), "/y".into()).is_ok()),
        of(
            "watch",
            vec![
                say(Reply::Watching),
                say(Reply::Changes(vec![Change { what: ChangeKind::Created, path: "a/b".into() }])),
                say(Reply::Done),
            ],
            |client, _, patience| {
                let Ok(mut watching) = client.watch("/x".into(), true, Some(soon(patience))) else {
                    return false;
                };
                loop {
                    match watching.next_page() {
                        Ok(Some(page)) => assert!(page.iter().all(Change::is_sound)),
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
            },
        ),
        of(
            "the guest's processes",
            vec![say(Reply::GuestProcesses(vec![process()])), say(Reply::Done)],
            |client, _, _| client.guest_processes(Duration::ZERO).is_ok(),
        ),
    ]
}

/// A folder with something in it and beside it, to see what becomes of that.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        fs::create_dir(scene.target()).unwrap();
        fs::write(scene.target().join("kept"), "kept").unwrap();
        fs::create_dir(scene.0.path().join("outside")).unwrap();
        fs::write(scene.0.path().join("outside/kept"), "kept").unwrap();
        std::os::unix::fs::symlink("../outside", scene.target().join("link")).unwrap();
        scene
    }

    fn target(&self) -> std::path::PathBuf {
        self.0.path().join("target")
    }

    /// Nothing may have come but the file that was asked for.
    fn check(&self, how: &dyn std::fmt::Debug) {
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.0.path()), ["outside", "target"], "{how:?}");
        assert_eq!(names(&self.0.path().join("outside")), ["kept"], "{how:?}");
        let mut target = names(&self.target());
        target.retain(|name| !["file", "new"].contains(&name.as_str()));
        assert_eq!(target, ["kept", "link"], "{how:?}");
        for kept in ["outside/kept", "target/kept"] {
            assert_eq!(fs::read_to_string(self.0.path().join(kept)).unwrap(), "kept", "{how:?}");
        }
    }

    fn clear(&self) {
        for name in ["file", "new"] {
            let _ = fs::remove_file(self.target().join(name));
        }
    }
}

/// Asks an agent that speaks so. Whether it was done.
fn ask(conversation: &Conversation, speech: Speech, scene: &Scene) -> bool {
    ask_within(ANSWER, conversation, speech, scene)
}

/// The same, where the agent may take so long for an answer.
fn ask_within(answer: Duration, conversation: &Conversation, speech: Speech, scene: &Scene) -> bool {
    let client = AgentClient::with_connector(Arc::new(Hostile(speech.clone()))).with_answer_timeout(answer);
    let began = Instant::now();
    let done = (conversation.ask)(&client, &scene.target(), answer);
    let how = (conversation.name, done, speech);
    assert!(began.elapsed() < BOUND, "it took {:?}: {how:?}", began.elapsed());
    scene.check(&how);
    scene.clear();
    done
}

/// Runs a test for each conversation, side by side.
fn for_each(test: impl Fn(&Conversation, &Scene) + Sync) {
    thread::scope(|scope| {
        for conversation in conversations() {
            let test = &test;
            scope.spawn(move || test(&conversation, &Scene::new()));
        }
    });
}

#[test]
fn what_an_honest_agent_says_is_understood() {
    for_each(|conversation, scene| {
        let said = Speech::Closed(conversation.honest.concat());
        // On a busy machine it may not get to speak for a while.
        assert!(ask_within(BOUND, conversation, said, scene), "{}", conversation.name);
    });
}

#[test]
fn what_is_cut_at_any_byte_is_not_done() {
    for_each(|conversation, scene| {
        let whole = conversation.honest.concat();
        for length in 0..whole.len() {
            let said = Speech::Closed(whole[..length].to_vec());
            assert!(!ask(conversation, said, scene), "{} at {length}", conversation.name);
        }
    });
}

#[test]
fn a_wrong_length_is_not_believed() {
    for_each(|conversation, scene| {
        for (at, message) in conversation.honest.iter().enumerate() {
            // Of a frame the length is behind the kind, which is followed by zeros; a header is no shorter than this.
            let place = if message[0] < 7 && message[1..4] == [0; 3] { 4 } else { 0 };
            let told = u32::from_le_bytes(message[place..place + 4].try_into().unwrap());
            let most = u32::try_from(MAX_HEADER).unwrap();
            for length in [0, 1, told.wrapping_sub(1), told + 1, told + 4096, most, most + 1, u32::MAX] {
                let mut messages = conversation.honest.clone();
                messages[at][place..place + 4].copy_from_slice(&length.to_le_bytes());
                if messages[at] == *message {
                    continue;
                }
                for said in [Speech::Closed(messages.concat()), Speech::Silent(messages.concat())] {
                    assert!(!ask(conversation, said, scene), "{} at {at}: {length}", conversation.name);
                }
            }
        }
    });
}

#[test]
fn an_agent_that_falls_silent_is_not_waited_for() {
    for_each(|conversation, scene| {
        let whole = conversation.honest.concat();
        let mut ends: Vec<usize> = vec![0, 1, 3, 5, whole.len() - 1];
        ends.extend(conversation.honest.iter().scan(0, |end, message| {
            *end += message.len();
            Some(*end)
        }));
        for end in ends.into_iter().filter(|end| *end < whole.len()) {
            let said = Speech::Silent(whole[..end].to_vec());
            assert!(!ask(conversation, said, scene), "{} at {end}", conversation.name);
        }
    });
}

/// Words of all conversations, and of none.
fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> =
        conversations().into_iter().flat_map(|conversation| conversation.honest).collect();
    words.sort();
    words.dedup();
    let novel = "\u{1b}]0;owned\u{7}".repeat(50_000);
    let odd = |name: &str| say(Reply::Entries(vec![FolderEntry { name: name.into(), info: info() }]));
    words.extend([
        header::encode(&Answer::Error { kind: ErrorKind::Internal, message: novel }).unwrap(),
        header::encode(&Answer::Error { kind: ErrorKind::NoSuchFile, message: String::new() }).unwrap(),
        header::encode(&Outcome::Failed { kind: ErrorKind::NoSpace, message: String::new() }).unwrap(),
        header::encode_as(Version { major: 9, minor: 0 }, &"x").unwrap(),
        header::encode(&"levitate").unwrap(),
        odd("../up"),
        odd("/etc/passwd"),
        odd(".."),
        odd("zero\0"),
        say(Reply::Entries(Vec::new())),
        say(Reply::Changes(Vec::new())),
        say(Reply::Changes(vec![Change { what: ChangeKind::Created, path: "../../x".into() }])),
        say(Reply::GuestProcesses(Vec::new())),
        say(Reply::GuestProcesses(vec![GuestProcess { name: "n".repeat(10_000).into(), ..process() }])),
        say(Reply::File(FileInfo { mode: u32::MAX, ..info() })),
        frame(FrameKind::Detached, b""),
        frame(FrameKind::Stdin, b"from the wrong side"),
        frame(FrameKind::StdinEnd, b""),
        frame(FrameKind::Exit, b"{}"),
        frame(FrameKind::Stdout, &[0; 65536]),
        vec![0; 4],
        vec![0; 4096],
        vec![0xff; 4096],
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
    ]);
    words
}

#[test]
fn words_of_other_conversations_and_other_orders_do_no_harm() {
    let words = words();
    for_each(|conversation, scene| {
        let honest = &conversation.honest;
        for at in 0..honest.len() {
            for word in &words {
                let replaced =
                    [&honest[..at], std::slice::from_ref(word), &honest[at + 1..]].concat().concat();
                ask(conversation, Speech::Closed(replaced), scene);
                let inserted = [&honest[..at], std::slice::from_ref(word), &honest[at..]].concat().concat();
                ask(conversation, Speech::Closed(inserted), scene);
            }
            let dropped = [&honest[..at], &honest[at + 1..]].concat().concat();
            assert!(!ask(conversation, Speech::Closed(dropped), scene) || may_miss(conversation.name, at));
            for other in 0..at {
                let mut swapped = honest.clone();
                swapped.swap(at, other);
                ask(conversation, Speech::Closed(swapped.concat()), scene);
            }
        }
    });
}

/// Whether a message of a conversation may be missing: a page of several, a part of what is written.
fn may_miss(name: &str, at: usize) -> bool {
    match name {
        "list" | "remove" | "the guest's processes" => at < 2,
        "watch" => at == 1,
        "exec" | "exec, streamed" | "attach" => at == 1 || at == 2,
        _ => false,
    }
}

#[test]
fn what_never_ends_is_ended() {
    let before = memory();
    let words = words();
    for_each(|conversation, scene| {
        let honest = &conversation.honest;
        for at in 0..=honest.len() {
            let said = honest[..at].concat();
            for again in honest.iter().chain(&words[words.len() - 3..]) {
                ask(conversation, Speech::Endless(said.clone(), again.clone()), scene);
            }
        }
    });
    let grown = memory().saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB more than before", grown >> 20);
}

/// The memory of this process that is really there.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
