//! Names, locks and what is left of the dead, with processes that race and die.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{End, EndReason, Home, HomeError, StateRecord, Timestamp, Timings, VmName, VmState};
use crate::machine::RunExits;

fn home() -> (tempfile::TempDir, Home) {
    let base = tempfile::tempdir().unwrap();
    let home = Home::open(base.path()).unwrap();
    (base, home)
}

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

/// Runs this test binary again, as a process that works on a home.
fn process(home: &Home, role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["home::tests::a_process_of_its_own", "--exact", "--nocapture"])
        .env("VMM_TEST_ROLE", role)
        .env("VMM_HOME", home.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The body of such a process: it does what its role says when it is told to, then says how that went.
#[test]
fn a_process_of_its_own() {
    let Some(role) = std::env::var_os("VMM_TEST_ROLE") else { return };
    let home = Home::open_default().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let outcome = match role.to_str().unwrap() {
        "create" => home.create(Some(&name("box"))).map(Some),
        "clear" => home.clear_leftovers().map(|()| None),
        role => panic!("{role}"),
    };
    match &outcome {
        Ok(_) => println!("\ndone"),
        Err(error) => println!("\n{}", error.code()),
    }
    // Held until nobody listens any more, or until it is killed.
    let _ = std::io::stdin().read(&mut [0]);
    drop(outcome);
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
}

/// Reads how it went.
fn said(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let mut text = String::new();
    while !["done\n", "_use\n"].iter().any(|end| text.ends_with(end)) {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text.lines().last().unwrap().to_owned()
}

#[test]
fn of_processes_that_want_one_name_at_once_one_gets_it() {
    let (_base, home) = home();
    for _ in 0..5 {
        let mut children: Vec<Child> = (0..4).map(|_| process(&home, "create")).collect();
        children.iter_mut().for_each(go);
        let mut outcomes: Vec<String> = children.iter_mut().map(said).collect();
        outcomes.sort();
        assert_eq!(outcomes, ["done", "name_in_use", "name_in_use", "name_in_use"]);
        for mut child in children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // The winner died before its VM was complete: its name is free again.
    }
}

#[test]
fn what_a_process_left_that_died_early_is_cleared_away_and_what_lives_is_not() {
    let (_base, home) = home();
    let mut child = process(&home, "create");
    go(&mut child);
    assert_eq!(said(&mut child), "done");
    home.clear_leftovers().unwrap();
    assert!(matches!(home.create(Some(&name("box"))), Err(HomeError::NameInUse { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    home.clear_leftovers().unwrap();
    assert_eq!(fs::read_dir(home.names()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(home.vms()).unwrap().count(), 1);
}

#[test]
fn clearing_away_by_many_at_once_is_quiet() {
    let (_base, home) = home();
    for _ in 0..10 {
        drop(home.create(None).unwrap());
    }
    let mut children: Vec<Child> = (0..4).map(|_| process(&home, "clear")).collect();
    children.iter_mut().for_each(go);
    for mut child in children {
        assert_eq!(said(&mut child), "done");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    home.clear_leftovers().unwrap();
    assert_eq!(fs::read_dir(home.vms()).unwrap().count(), 1);
}

#[test]
fn a_lock_is_held_by_whoever_it_was_handed_to() {
    let (_base, home) = home();
    let held = home.create(None).unwrap();
    let folder = held.folder().clone();
    let handed = held.lock_file().try_clone().unwrap();
    held.hand_over();
    assert!(folder.is_held().unwrap());
    assert!(folder.try_hold().unwrap().is_none());
    let taken = super::HeldVm::from_lock_file(folder.clone(), handed).unwrap();
    assert!(folder.is_held().unwrap());
    drop(taken);
    assert!(!folder.is_held().unwrap());
    // Whoever only looks is not taken for one that has it.
    let path = folder.path().join("lock");
    let looker = vmm_sys::FileLock::try_shared(&path).unwrap().unwrap();
    assert!(!folder.is_held().unwrap());
    drop(looker);
    let other = fs::File::open(&path).unwrap();
    let _held = folder.hold().unwrap();
    assert!(matches!(super::HeldVm::from_lock_file(folder, other), Err(HomeError::Busy { .. })));
}

#[test]
fn a_vm_that_is_removed_cannot_be_held_by_who_opened_its_lock_before() {
    let (_base, home) = home();
    let held = home.create(None).unwrap();
    let folder = held.folder().clone();
    let open = fs::File::options().read(true).write(true).open(folder.path().join("lock")).unwrap();
    held.remove().unwrap();
    assert!(matches!(folder.hold(), Err(HomeError::NoSuchVm { .. })));
    assert!(super::HeldVm::from_lock_file(folder, open).is_err());
}

#[test]
fn a_vm_is_found_by_name_by_id_and_by_the_beginning_of_its_id() {
    let (_base, home) = home();
    let held = home.create(Some(&name("web-server"))).unwrap();
    fs::write(held.folder().path().join("spec.json"), "{}").unwrap();
    let id = held.folder().id().as_str();
    for wanted in ["web-server", id, &id[..4]] {
        assert_eq!(home.find(wanted).unwrap().id(), held.folder().id(), "{wanted}");
    }
    let error = home.find("web-sever").unwrap_err().to_string();
    assert_eq!(error, "there is no VM \"web-sever\": did you mean web-server?");
    // In a short name, too, two characters change places easily.
    assert_eq!(super::nearest_name("bxo", ["web", "box"]), Some("box"));
    assert_eq!(super::nearest_name("bxy", ["web", "box"]), None);
    for wanted in ["", "..", "../vms", "nothing-like-it", "/etc/passwd"] {
        let error = home.find(wanted).unwrap_err();
        assert!(matches!(error, HomeError::NoSuchVm { nearest: None, .. }), "{wanted}: {error}");
    }
}

#[test]
fn an_id_that_two_begin_with_is_ambiguous() {
    let (_base, home) = home();
    // Seventeen ids have two that begin with the same digit.
    let held: Vec<_> = (0..17).map(|_| home.create(None).unwrap()).collect();
    for held in &held {
        fs::write(held.folder().path().join("spec.json"), "{}").unwrap();
    }
    let digits = "0123456789abcdef".chars();
    let outcomes: Vec<_> = digits.map(|digit| home.find(&digit.to_string())).collect();
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(HomeError::Ambiguous { .. }))));
}

#[test]
fn a_name_that_leads_nowhere_is_free() {
    let (_base, home) = home();
    symlink("../vms/0123456789ab", home.names().join("box")).unwrap();
    assert!(matches!(home.find("box"), Err(HomeError::NoSuchVm { .. })));
    let held = home.create(Some(&name("box"))).unwrap();
    assert_eq!(home.find("box").unwrap().id(), held.folder().id());
    held.remove().unwrap();
    assert!(fs::symlink_metadata(home.names().join("box")).is_err());
}

#[test]
fn what_a_vm_owns_goes_with_it_and_nothing_else_does() {
    let (base, home) = home();
    let layers = home.root().join("layers");
    // Whoever made the second one was killed over it.
    let (mine, half) = (layers.join("mine"), layers.join("half-made.partial"));
    for folder in [&mine, &half, &layers.join("other"), &base.path().join("outside")] {
        fs::create_dir_all(folder).unwrap();
    }
    let held = home.create(None).unwrap();
    held.will_own(&mine).unwrap();
    held.will_own(&layers.join("half-made")).unwrap();
    held.will_own(&layers.join("never-made")).unwrap();
    for hostile in ["outside", "layers/../outside", "layers/..", "layers", "/"] {
        held.will_own(&home.root().join(hostile)).unwrap();
    }
    held.remove().unwrap();
    assert!(!mine.exists() && !half.exists());
    assert!(layers.join("other").exists() && base.path().join("outside").exists());
}

#[test]
fn a_removal_that_was_cut_short_is_finished() {
    let (_base, home) = home();
    let layer = home.root().join("layers/mine");
    fs::create_dir_all(&layer).unwrap();
    let held = home.create(None).unwrap();
    held.will_own(&layer).unwrap();
    // Given a remover that died when it had set the folder aside.
    let removed = home.vms().join(format!(".removed-{}", held.folder().id()));
    fs::rename(held.folder().path(), &removed).unwrap();
    drop(held);
    home.clear_leftovers().unwrap();
    assert!(!removed.exists() && !layer.exists());
}

#[test]
fn a_home_that_was_moved_still_knows_what_its_vms_own() {
    let (base, home) = home();
    let held = home.create(None).unwrap();
    held.will_own(&base.path().join("elsewhere/layers/mine")).unwrap();
    let layer = home.root().join("layers/mine");
    fs::create_dir_all(&layer).unwrap();
    held.remove().unwrap();
    assert!(!layer.exists());
}

#[test]
fn leftovers_that_cannot_be_cleared_away_stop_nobody() {
    let (_base, home) = home();
    let stubborn = home.create(None).unwrap().folder().clone();
    fs::remove_file(stubborn.path().join("lock")).unwrap();
    fs::create_dir(stubborn.path().join("lock")).unwrap();
    let other = home.create(None).unwrap().folder().clone();
    home.clear_leftovers().unwrap();
    assert!(!other.path().exists());
}

#[test]
fn a_vm_whose_record_of_what_it_owns_is_damaged_can_be_removed() {
    let (_base, home) = home();
    let held = home.create(None).unwrap();
    let path = held.folder().path();
    fs::write(path.join("owns.json"), "{").unwrap();
    held.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn the_sockets_of_an_earlier_session_are_removed_and_only_those() {
    let (base, home) = home();
    let held = home.create(None).unwrap();
    let id = held.folder().id().as_str();
    let earlier = base.path().join("run").join(id);
    let innocent = base.path().join("innocent");
    for folder in [&earlier, &innocent] {
        fs::create_dir_all(folder).unwrap();
    }
    let mut record = StateRecord {
        version: StateRecord::VERSION,
        state: VmState::Running,
        monitor_pid: 1,
        sockets: innocent.clone(),
        engine: None,
        started: Timestamp::now(),
        timings: Timings::default(),
        exits: RunExits::default(),
        end: None,
    };
    held.write_state(&record).unwrap();
    let sockets = held.make_sockets_folder().unwrap();
    assert!(innocent.exists());
    assert_eq!(fs::metadata(&sockets).unwrap().permissions().mode() & 0o777, 0o700);
    record.sockets = earlier.clone();
    held.write_state(&record).unwrap();
    held.remove_sockets_folder().unwrap();
    assert!(!earlier.exists() && !sockets.exists());
}

#[test]
fn a_home_that_cannot_be_made_is_named() {
    let (base, _home) = home();
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Home::open(&path).unwrap_err();
        assert_eq!(error.code(), "home_unusable");
        assert!(error.to_string().contains("file"), "{error}");
        assert!(error.hint().unwrap().contains("VMM_HOME"));
    }
    // A file system on which nobody makes folders.
    assert_eq!(Home::open(Path::new("/proc/vmm")).unwrap_err().code(), "home_unusable");
}

#[test]
fn an_end_of_a_newer_kind_is_read() {
    let text = r#"{"reason":"abducted","message":"x","at":7,"new":[]}"#;
    let end: End = serde_json::from_str(text).unwrap();
    assert_eq!((end.reason, end.at), (EndReason::Unknown, Timestamp(7)));
}

#[test]
fn a_layer_of_several_vms_goes_with_the_last() {
    let (_base, home) = home();
    let layer = |name: &str| home.root().join("layers").join(name);
    for name in ["shared", "first", "second"] {
        fs::create_dir_all(layer(name)).unwrap();
    }
    let first = home.create(None).unwrap();
    let second = home.create(None).unwrap();
    for (held, own) in [(&first, "first"), (&second, "second")] {
        held.will_own(&layer("shared")).unwrap();
        held.will_own(&layer(own)).unwrap();
    }
    second.disown(|path| path.ends_with("shared")).unwrap();
    assert!(!layer("second").exists() && layer("shared").exists());
    first.remove().unwrap();
    assert!(!layer("first").exists() && layer("shared").exists());
    second.disown(|_| false).unwrap();
    assert!(!layer("shared").exists());
}

#[test]
fn what_a_vm_gave_up_before_it_died_is_removed_with_the_next() {
    let (_base, home) = home();
    let layer = home.root().join("layers/given-up");
    fs::create_dir_all(&layer).unwrap();
    let held = home.create(None).unwrap();
    let dropped = held.folder().path().join("drops.json");
    fs::write(&dropped, serde_json::to_vec(&[&layer]).unwrap()).unwrap();
    held.disown(|_| true).unwrap();
    assert!(!layer.exists() && !dropped.exists());
}
