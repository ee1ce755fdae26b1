//! The disk of a VM that runs gets another top layer.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vmm_disk::LayerSpec;

use super::fixture::{Script, TestHome};
use crate::control::{Answer, ControlError, Request};
use crate::home::VmSpec;
use crate::sandbox::{Error, Sandbox, prune_images};

fn spec(home: &TestHome, name: &str) -> VmSpec {
    home.home.find(name).unwrap().spec().unwrap().unwrap()
}

fn layers(home: &TestHome, name: &str) -> Vec<LayerSpec> {
    spec(home, name).machine.disks[0].layers.clone()
}

/// The layers in the store, but for its lock.
fn count(home: &TestHome) -> usize {
    fs::read_dir(home.home.root().join("layers")).unwrap().count() - 1
}

/// What a disk begins with.
fn begins_with(layers: &[LayerSpec]) -> u8 {
    let disk = vmm_disk::open_chain(layers, true).unwrap();
    let mut bytes = [0; 512];
    disk.read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    bytes[0]
}

fn owns(home: &TestHome, name: &str, layer: &LayerSpec) -> bool {
    let owned = home.home.find(name).unwrap().owned().unwrap();
    owned.iter().any(|owned| Some(owned.as_path()) == layer.path.parent())
}

#[test]
fn a_clone_of_a_vm_that_runs_has_the_moment_at_which_it_stood_still() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Disk).unwrap();
    let before = layers(&home, "box");
    let cloned = sandbox.clone_to("first").unwrap();
    assert_eq!(cloned.frozen, Some(Duration::from_micros(1500)));
    let after = layers(&home, "box");
    assert_eq!(after[..2], before[..]);
    assert_eq!(after.len(), 3);
    let clone = layers(&home, "first");
    assert_eq!(clone[..2], before[..]);
    assert_eq!(begins_with(&clone), 1);
    assert_eq!(spec(&home, "first").configuration.host_name.as_deref(), Some("first"));
    for layer in &before {
        assert!(owns(&home, "first", layer) && owns(&home, "box", layer));
    }
    sandbox.clone_to("second").unwrap();
    assert_eq!((begins_with(&layers(&home, "second")), begins_with(&clone)), (2, 1));
    // What the guest writes later is its own.
    sandbox.kill().unwrap();
    assert_eq!(begins_with(&layers(&home, "box")), 0xff);
    // What they share stays until the last of them is gone.
    sandbox.remove(true).unwrap();
    cloned.sandbox.remove(true).unwrap();
    assert_eq!(begins_with(&layers(&home, "second")), 2);
    Sandbox::attach(&home.home, "second").unwrap().remove(true).unwrap();
    assert_eq!(count(&home), 0);
}

#[test]
fn a_snapshot_of_a_vm_that_runs_is_gone_back_to_later() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Disk).unwrap();
    assert!(sandbox.create_snapshot("good").unwrap().is_some());
    let error = sandbox.create_snapshot("good").unwrap_err();
    assert_eq!(error.to_string(), "there is a snapshot good already");
    assert_eq!(sandbox.restore_snapshot("good").unwrap_err().code(), "running");
    sandbox.create_snapshot("better").unwrap();
    sandbox.kill().unwrap();
    let kept = spec(&home, "box").snapshots;
    assert_eq!(kept.iter().map(|kept| begins_with(&kept.layers)).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(begins_with(&layers(&home, "box")), 0xff);
    sandbox.restore_snapshot("good").unwrap();
    assert_eq!(begins_with(&layers(&home, "box")), 1);
}

#[test]
fn several_clones_at_once_and_a_prune_each_get_what_is_theirs() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Disk).unwrap();
    std::thread::scope(|scope| {
        let clones = ["a", "b", "c"].map(|name| scope.spawn(|| sandbox.clone_to(name).map(drop)));
        let home = &home.home;
        scope.spawn(move || {
            // It may find a VM that is being made, and then removes nothing.
            let _ = prune_images(home, false);
        });
        clones.into_iter().for_each(|clone| clone.join().unwrap().unwrap());
    });
    let mut found = ["a", "b", "c"].map(|name| begins_with(&layers(&home, name)));
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(layers(&home, "box").len(), 5);
    sandbox.kill().unwrap();
    assert_eq!(begins_with(&layers(&home, "box")), 0xff);
}

#[test]
fn a_vm_without_a_name_is_cloned_and_its_clone_stays() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Disk).unwrap();
    let error = sandbox.create_snapshot("good").unwrap_err();
    assert!(error.to_string().contains("snapshots go with it when it ends"), "{error}");
    sandbox.clone_to("kept").unwrap();
    drop(sandbox);
    assert_eq!(begins_with(&layers(&home, "kept")), 1);
}

#[test]
fn a_guest_that_cannot_stand_still_goes_on_with_the_disk_that_it_has() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::OldAgent).unwrap();
    let before = layers(&home, "box");
    let there = count(&home);
    for error in [sandbox.clone_to("copy").unwrap_err(), sandbox.create_snapshot("good").unwrap_err()] {
        assert_eq!(
            error.to_string(),
            "the disk of box stays as it is: hold the guest's file systems still: the guest's agent is of an older vmm, \
             which cannot do that; start the machine again to give it this program's agent"
        );
    }
    assert_eq!((layers(&home, "box"), count(&home)), (before, there), "and nothing of it is left");
    assert_eq!(home.home.find("copy").unwrap_err().code(), "no_such_vm");
    assert_eq!(sandbox.health().unwrap().agent, "scripted");
}

/// Asks a monitor for a layer by hand, with these files.
fn ask(home: &TestHome, layer: &LayerSpec, files: &[&File]) -> Result<Answer, ControlError> {
    let mut connection = home.connect(&home.home.find("box").unwrap());
    let request = Request::AddLayer { layer: layer.clone(), snapshot: None };
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let asked = connection.request_with(request, &files)?;
    connection.answer(asked, Some(Instant::now() + Duration::from_secs(60)), None)
}

#[test]
fn a_monitor_takes_no_other_files_than_those_of_the_layers() {
    let home = TestHome::new();
    let _sandbox = home.run(Some("box"), Script::Disk).unwrap();
    let before = layers(&home, "box");
    let store = crate::image::ImageStore::open(home.home.root()).unwrap();
    let folder = store.layers().folder_of(&store.layers().draw_id().unwrap());
    let layer = LayerSpec { path: folder.join("disk.qcow2"), format: vmm_disk::Format::Qcow2 };
    let open = |path: &Path, writable| File::options().read(true).write(writable).open(path).unwrap();
    fs::create_dir(&folder).unwrap();
    vmm_disk::create_overlay(&layer.path, 1 << 20).unwrap();
    let (new, top) = (open(&layer.path, true), open(&before[1].path, false));
    let refused = |outcome: Result<Answer, ControlError>| outcome.unwrap_err().to_string();
    assert_eq!(refused(ask(&home, &layer, &[&new, &top])), "the new layer is none of the VM's own");
    let own = || {
        let mut connection = home.connect(&home.home.find("box").unwrap());
        let request = Request::OwnLayer { folder: folder.clone() };
        let deadline = Some(Instant::now() + Duration::from_secs(60));
        assert_eq!(connection.ask(request, deadline, None).unwrap(), Answer::Owned);
    };
    own();
    assert_eq!(refused(ask(&home, &layer, &[&new])), "a new layer comes with two open files");
    let other = open(&before[0].path, false);
    let message = refused(ask(&home, &layer, &[&new, &other]));
    assert!(message.contains("is another one"), "{message}");
    // By that it is given up, and removed.
    assert!(!folder.exists());
    assert_eq!(layers(&home, "box"), before);
    fs::create_dir(&folder).unwrap();
    vmm_disk::create_overlay(&layer.path, 2 << 20).unwrap();
    own();
    let message = refused(ask(&home, &layer, &[&open(&layer.path, true), &top]));
    assert!(message.contains("is no empty layer for this disk"), "{message}");
    // What is as it should be is taken.
    fs::create_dir(&folder).unwrap();
    vmm_disk::create_overlay(&layer.path, 1 << 20).unwrap();
    own();
    let added = ask(&home, &layer, &[&open(&layer.path, true), &top]).unwrap();
    assert_eq!(added, Answer::LayerAdded { frozen_us: 1500 });
    assert_eq!(layers(&home, "box").last(), Some(&layer));
}

#[test]
fn a_vm_that_is_killed_after_a_clone_starts_with_what_it_wrote() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Disk).unwrap();
    sandbox.clone_to("copy").unwrap();
    home.kill_monitor(&sandbox);
    assert_eq!(begins_with(&layers(&home, "copy")), 1);
    // Nothing of what came after was flushed, so either will do; the chain is whole.
    assert!([1, 0xff].contains(&begins_with(&layers(&home, "box"))));
    let error = sandbox.clone_to("copy").unwrap_err();
    assert!(matches!(error, Error::Home { .. }), "{error}");
}
