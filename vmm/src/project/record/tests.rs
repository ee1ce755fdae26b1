use super::*;
use crate::sandbox::CancelToken;

struct Fixture {
    base: tempfile::TempDir,
    home: Home,
    token: CancelToken,
}

fn fixture() -> Fixture {
    let base = tempfile::tempdir().unwrap();
    let home = Home::open(base.path().join("home")).unwrap();
    Fixture { base, home, token: CancelToken::new().unwrap() }
}

impl Fixture {
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.base.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn hold(&self, folder: &Path) -> HeldRecord {
        HeldRecord::hold(&self.home, folder, &Waiter::new(&self.token), &|| {}).unwrap()
    }

    /// Remembers a machine of a folder's project.
    fn remember(&self, folder: &Path) -> String {
        let mut held = self.hold(folder);
        let vm = held.record.vm_name(ONLY_MACHINE);
        let machine = MachineRecord { vm: vm.clone(), ..MachineRecord::default() };
        held.record.machines.insert(ONLY_MACHINE.to_owned(), machine);
        held.save().unwrap();
        vm
    }

    fn remembered(&self, folder: &Path) -> Option<String> {
        let (_, record) = find(&self.home, folder).unwrap()?;
        Some(record.machines[ONLY_MACHINE].vm.clone())
    }
}

#[test]
fn each_folder_has_vms_of_its_own() {
    let fixture = fixture();
    let (one, other) = (fixture.folder("a/web"), fixture.folder("b/web"));
    let vm = fixture.remember(&one);
    assert!(vm.starts_with("web-"), "{vm}");
    assert_eq!(fixture.remembered(&one), Some(vm.clone()));
    assert_eq!(fixture.remembered(&other), None);
    assert_ne!(fixture.remember(&other), vm);
}

#[test]
fn a_folder_that_is_moved_keeps_its_vms_and_one_in_its_place_has_new_ones() {
    let fixture = fixture();
    let old = fixture.folder("old");
    if FolderIdentity::of(&old).is_none() {
        println!("skipped: this file system does not know when a folder was made");
        return;
    }
    let vm = fixture.remember(&old);
    let new = fixture.base.path().join("new");
    fs::rename(&old, &new).unwrap();
    assert_eq!(fixture.remembered(&new), Some(vm.clone()));
    let held = fixture.hold(&new);
    assert_eq!(held.moved_from, Some(old));
    held.save().unwrap();
    drop(held);
    let old = fixture.folder("old");
    assert_eq!(fixture.remembered(&old), None);
    assert_ne!(fixture.remember(&old), vm);
    assert_eq!(fixture.remembered(&new), Some(vm));
}

#[test]
fn a_copy_of_a_folder_has_vms_of_its_own() {
    let fixture = fixture();
    let original = fixture.folder("original");
    fixture.remember(&original);
    let copy = fixture.base.path().join("copy");
    let status = std::process::Command::new("cp").arg("-a").arg(&original).arg(&copy).status().unwrap();
    assert!(status.success());
    assert_eq!(fixture.remembered(&copy), None);
}

#[test]
fn nothing_stays_of_a_project_of_which_nothing_is_remembered() {
    let fixture = fixture();
    let folder = fixture.folder("web");
    drop(fixture.hold(&folder));
    assert!(!place(&fixture.home, &folder).exists());
    fixture.remember(&folder);
    fixture.hold(&folder).forget().unwrap();
    assert!(!place(&fixture.home, &folder).exists());
}

#[test]
fn of_two_commands_one_waits_until_the_other_is_done_or_it_is_cancelled() {
    let fixture = fixture();
    let folder = fixture.folder("web");
    let held = fixture.hold(&folder);
    let cancelled = CancelToken::new().unwrap();
    let error = HeldRecord::hold(&fixture.home, &folder, &Waiter::new(&cancelled), &|| cancelled.cancel());
    assert!(matches!(error, Err(ProjectError::Cancelled)));
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (fixture, folder) = (&fixture, &folder);
        let waiter = scope.spawn(move || {
            let waiting = || send.send(()).unwrap();
            HeldRecord::hold(&fixture.home, folder, &Waiter::new(&fixture.token), &waiting).unwrap()
        });
        receive.recv().unwrap();
        drop(held);
        waiter.join().unwrap().save().unwrap();
    });
    assert!(place(&fixture.home, &folder).exists());
}

#[test]
fn a_newer_or_damaged_record_is_refused_by_its_name() {
    let fixture = fixture();
    let folder = fixture.folder("web");
    fixture.remember(&folder);
    let path = place(&fixture.home, &folder).join(RECORD);
    for (text, words) in
        [("{\"version\": 2}", "newer vmm"), ("{", "damaged"), ("{\"version\": 1}", "damaged")]
    {
        fs::write(&path, text).unwrap();
        let error = find(&fixture.home, &folder).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(RECORD), "{error}");
    }
}

#[test]
fn what_is_remembered_of_scripts_is_bounded() {
    let mut machine = MachineRecord::default();
    for number in 0..1000 {
        machine.has_run(&number.to_string(), true);
    }
    assert_eq!(machine.done.len(), MOST_SCRIPTS);
    assert_eq!(machine.done.last().map(String::as_str), Some("999"));
    assert!(machine.run_done.is_empty());
}

#[test]
fn the_name_of_a_vm_is_one_whatever_the_folder_is_called() {
    for name in ["web", "Größe & Co", "...", "-x-", &"long".repeat(60), "/"] {
        let mut record = ProjectRecord::new(Path::new("/tmp").join(name).as_path());
        let machine = "m".repeat(30);
        for machine in [ONLY_MACHINE, &machine] {
            record.vm_name(machine).parse::<home::VmName>().unwrap();
        }
        record.folder = "/".into();
        assert!(record.vm_name(ONLY_MACHINE).starts_with("project-"));
    }
}
