//! Single files and folders through the real agent.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use vmm::agent::{
    AgentError, ByteString, ChangeKind, ErrorKind, FileKind, FolderEntry, GuestProcess, ProcessSpec, Signal,
    SignalTarget, Watching,
};

use crate::files::until;
use crate::{Agent, run};

fn bytes(path: &Path) -> ByteString {
    path.as_os_str().into()
}

fn kind<T: std::fmt::Debug>(told: Result<T, AgentError>) -> Option<ErrorKind> {
    told.unwrap_err().kind()
}

fn list(agent: &Agent, folder: &Path) -> Vec<FolderEntry> {
    let mut listing = agent.client().list(bytes(folder), None).unwrap();
    let mut entries = Vec::new();
    while let Some(page) = listing.next_page().unwrap() {
        entries.extend(page);
    }
    entries
}

#[test]
fn a_file_is_told_as_it_is() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "seven..").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("file", folder.path().join("link")).unwrap();
    let metadata = file.metadata().unwrap();
    let info = agent.client().stat(bytes(&folder.path().join("link")), true).unwrap();
    assert_eq!((info.kind, info.mode, info.length, info.links), (FileKind::File, 0o4751, 7, 1));
    assert_eq!((info.uid, info.gid, info.inode), (metadata.uid(), metadata.gid(), metadata.ino()));
    let modified = (info.modified, i64::from(info.modified_ns));
    assert_eq!(modified, (metadata.mtime(), metadata.mtime_nsec()));
    let link = agent.client().stat(bytes(&folder.path().join("link")), false).unwrap();
    assert_eq!((link.kind, link.leads_to), (FileKind::SymbolicLink, Some("file".into())));
    let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
    for (path, expected) in [
        (folder.path().to_owned(), FileKind::Folder),
        (folder.path().join("socket"), FileKind::Socket),
        ("/dev/null".into(), FileKind::CharacterDevice),
    ] {
        assert_eq!(agent.client().stat(bytes(&path), true).unwrap().kind, expected);
    }
}

#[test]
fn what_cannot_be_is_told_by_its_kind() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| bytes(&folder.path().join(name));
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir_all(folder.path().join("full/inner")).unwrap();
    let client = agent.client();
    assert_eq!(kind(client.stat(at("no"), true)), Some(ErrorKind::NoSuchFile));
    assert_eq!(kind(client.stat(at("file/no"), true)), Some(ErrorKind::NotFolder));
    assert_eq!(kind(client.stat(at(&"n".repeat(256)), true)), Some(ErrorKind::NameTooLong));
    assert_eq!(kind(client.list(at("file"), None)), Some(ErrorKind::NotFolder));
    assert_eq!(kind(client.read(at("full"), 0, 1)), Some(ErrorKind::IsFolder));
    assert_eq!(kind(client.read("/dev/zero".into(), 0, 1)), Some(ErrorKind::UnfitFile));
    assert_eq!(kind(client.remove(at("full"), false, None)), Some(ErrorKind::IsFolder));
    assert_eq!(kind(client.remove(at("no"), true, None)), Some(ErrorKind::NoSuchFile));
    assert_eq!(kind(client.make_folder(at("full"), false, None)), Some(ErrorKind::FileExists));
    assert_eq!(kind(client.make_folder(at("file"), true, None)), Some(ErrorKind::FileExists));
    assert_eq!(kind(client.rename(at("full"), at("file"))), Some(ErrorKind::NotFolder));
    assert_eq!(kind(client.watch(at("no"), false, None)), Some(ErrorKind::NoSuchFile));
    for path in ["full/.", "full/..", "full/inner/.."] {
        assert_eq!(kind(client.remove(at(path), true, None)), Some(ErrorKind::UnfitFile), "{path}");
    }
    assert!(folder.path().join("full/inner").is_dir(), "nothing of it was removed");
    assert_eq!(kind(client.remove("/".into(), true, None)), Some(ErrorKind::UnfitFile));
    let error = client.stat("/no\u{1b}[2J".into(), true).unwrap_err().to_string();
    assert!(error.contains("/no") && !error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn a_folder_is_listed_whatever_names_are_in_it_and_however_many() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let mut names: BTreeSet<Vec<u8>> = (0..5000).map(|number| format!("{number}").into_bytes()).collect();
    names.extend([b"-rf".to_vec(), b"new\nline".to_vec(), b"\xff\xfe".to_vec(), vec![b'n'; 255]]);
    for name in &names {
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("x".repeat(4000), folder.path().join("link")).unwrap();
    names.insert(b"link".to_vec());
    let entries = list(&agent, folder.path());
    assert_eq!(entries.len(), names.len());
    assert_eq!(entries.iter().map(|entry| entry.name.as_bytes().to_vec()).collect::<BTreeSet<_>>(), names);
    let link = entries.iter().find(|entry| entry.name.as_bytes() == b"link").unwrap();
    assert_eq!(link.info.leads_to.as_ref().unwrap().as_bytes().len(), 4000);
    assert!(list(&agent, tempfile::tempdir().unwrap().path()).is_empty());
}

#[test]
fn a_part_of_a_file_is_read() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let contents: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    fs::write(&file, &contents).unwrap();
    let read = |offset, length| agent.client().read(bytes(&file), offset, length).unwrap().1;
    assert!(read(0, usize::MAX) == contents);
    assert_eq!(read(999_990, 5), &contents[999_990..999_995]);
    assert_eq!(read(999_990, 50), &contents[999_990..]);
    assert!(read(0, 0).is_empty() && read(1 << 40, 10).is_empty());
    assert!(agent.client().read("/proc/self/stat".into(), 0, 10_000).unwrap().1.len() > 10);
}

#[test]
fn folders_are_made_files_renamed_and_trees_removed() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| bytes(&folder.path().join(name));
    let client = agent.client();
    client.make_folder(at("a"), false, None).unwrap();
    client.make_folder(at("a/b/c"), true, Some(0o1777)).unwrap();
    client.make_folder(at("a/b/c"), true, None).unwrap();
    let mode = |name: &str| folder.path().join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b/c")), (0o755, 0o1777));
    fs::write(folder.path().join("a/one"), "one").unwrap();
    fs::write(folder.path().join("a/two"), "two").unwrap();
    client.rename(at("a/one"), at("a/two")).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("a/two")).unwrap(), "one");
    // A tree with what trees have: what links lead to stays.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "").unwrap();
    symlink(outside.path(), folder.path().join("a/b/outside")).unwrap();
    symlink("/nowhere", folder.path().join("a/b/dangling")).unwrap();
    fs::create_dir(folder.path().join("a/b/locked")).unwrap();
    fs::write(folder.path().join("a/b/locked/file"), "").unwrap();
    for number in 0..300 {
        fs::create_dir_all(folder.path().join(format!("a/wide/{number}/x"))).unwrap();
        fs::write(folder.path().join(format!("a/wide/{number}/x/file")), "").unwrap();
    }
    client.remove(at("a/two"), false, None).unwrap();
    client.remove(at("a"), true, None).unwrap();
    assert!(!folder.path().join("a").exists() && outside.path().join("kept").exists());
    symlink(outside.path(), folder.path().join("link")).unwrap();
    client.remove(at("link"), true, None).unwrap();
    assert!(outside.path().join("kept").exists(), "a link is removed, not what it leads to");
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let script = "mkdir deep; cd deep; \
        for i in $(seq 60); do mkdir -p $(seq -s / 100); cd -P $(seq -s / 100); done; touch file";
    let spec = ProcessSpec::command(["sh", "-c", script]).working_directory(folder.path().as_os_str());
    let made = run(&agent.client(), &spec);
    assert!(made.exit.success(), "{}", String::from_utf8_lossy(&made.stderr));
    agent.client().remove(bytes(&folder.path().join("deep")), true, None).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What is told, up to something.
fn until_told(watching: &mut Watching, last: (ChangeKind, &str)) -> Vec<(ChangeKind, String)> {
    let mut told = Vec::new();
    loop {
        for change in watching.next_page().unwrap().unwrap() {
            told.push((change.what, change.path.to_string_lossy().into_owned()));
        }
        if told.iter().any(|(what, path)| (*what, path.as_str()) == last) {
            return told;
        }
    }
}

#[test]
fn changes_are_told_as_they_come() {
    use ChangeKind::{Attributes, Closed, Created, Modified, Removed};
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("old")).unwrap();
    let mut watching = agent.client().watch(bytes(folder.path()), false, None).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&file, folder.path().join("other")).unwrap();
    fs::write(folder.path().join("old/not-told"), "").unwrap();
    fs::remove_file(folder.path().join("other")).unwrap();
    let told = until_told(&mut watching, (Removed, "other"));
    let expected = [
        (Created, "file"),
        (Modified, "file"),
        (Closed, "file"),
        (Attributes, "file"),
        (Removed, "file"),
        (Created, "other"),
        (Removed, "other"),
    ];
    assert_eq!(told, expected.map(|(what, path)| (what, path.to_owned())));
    // What is watched goes: that is the end of it.
    folder.close().unwrap();
    let told = until_told(&mut watching, (Removed, ""));
    assert_eq!(told.last().unwrap(), &(Removed, String::new()));
    assert!(watching.next_page().unwrap().is_none());
}

#[test]
fn a_watch_of_a_tree_follows_what_comes_and_goes() {
    use ChangeKind::{Created, Removed};
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in(folder.path().parent().unwrap()).unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("there/already")).unwrap();
    let mut watching = agent.client().watch(bytes(folder.path()), true, None).unwrap();
    fs::write(at("there/already/a"), "").unwrap();
    until_told(&mut watching, (Created, "there/already/a"));
    // Made quicker than anybody could watch: what is in it is told all the same.
    fs::create_dir_all(at("new/x/y/z")).unwrap();
    fs::write(at("new/x/y/z/b"), "").unwrap();
    until_told(&mut watching, (Created, "new/x/y/z/b"));
    fs::rename(at("new/x"), at("there/x")).unwrap();
    let told = until_told(&mut watching, (Created, "there/x/y/z/b"));
    assert!(told.contains(&(Removed, "new/x".to_owned())) && told.contains(&(Created, "there/x".to_owned())));
    fs::write(at("there/x/y/z/c"), "").unwrap();
    until_told(&mut watching, (Created, "there/x/y/z/c"));
    // What went elsewhere is not told of any more.
    fs::rename(at("there/x"), elsewhere.path().join("x")).unwrap();
    until_told(&mut watching, (Removed, "there/x"));
    fs::write(elsewhere.path().join("x/y/z/d"), "").unwrap();
    fs::write(at("end"), "").unwrap();
    let told = until_told(&mut watching, (Created, "end"));
    assert!(told.iter().all(|(_, path)| path == "end"), "{told:?}");
}

#[test]
fn a_watch_ends_with_its_client_and_others_are_served_meanwhile() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let begin = || agent.client().watch(bytes(folder.path()), true, None);
    let watches: Vec<_> = (0..64).map(|_| begin().unwrap()).collect();
    assert_eq!(kind(begin()), Some(ErrorKind::Resources));
    agent.client().stat(bytes(folder.path()), true).unwrap();
    drop(watches);
    until("room for another", || begin().is_ok());
}

#[test]
fn all_processes_of_the_guest_are_listed() {
    let agent = Agent::start();
    let client = agent.client();
    let busy = client.start(&ProcessSpec::command(["sh", "-c", "while :; do :; done"])).unwrap();
    let processes = client.guest_processes(Duration::from_millis(300)).unwrap();
    let ours = processes.iter().find(|process| process.pid == std::process::id()).unwrap();
    assert!(ours.memory > 0 && !ours.argv.is_empty() && ours.uid == rustix::process::getuid().as_raw());
    let busy_one = processes.iter().find(|process| Some(process.pid) == busy.pid()).unwrap();
    assert!(busy_one.cpu_permille > 0 && busy_one.argv[0] == "sh".into(), "{busy_one:?}");
    // Those of other agents on this machine are processes as any.
    let of_this_agent = |process: &&GuestProcess| process.parent == agent.program.id();
    assert!(
        !processes.iter().filter(of_this_agent).any(|process| process.argv.get(1) == Some(&"work".into())),
        "not the one that looks"
    );
    busy.signal(Signal::KILL, SignalTarget::All).unwrap();
}
