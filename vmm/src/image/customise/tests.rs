use std::fs;

use super::super::files::death;
use super::super::testing::{Fake, VERSION, fake};
use super::*;
use crate::arch::Arch;
use crate::image::{ImageError, PullMode, Pulled};

const SCRIPT: &str = "rm -f /etc/foreign";

/// A store with an image that is yet to be customised.
fn pending() -> (Fake, ImageStore, Image) {
    let home = Fake::customised_by(SCRIPT);
    let store = home.store();
    let Pulled { image, .. } = store.pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap();
    (home, store, image)
}

fn due(store: &ImageStore, image: &Image) -> Box<Customising> {
    match store.customise(image, &()).unwrap() {
        Customisation::Due(work) => work,
        Customisation::Done(image) => panic!("{image} is not pending"),
    }
}

/// Puts a layer into the store that is what the script would have made.
fn made_before(store: &ImageStore, image: &Image) -> Layer {
    let work = due(store, image);
    let data = work.data();
    let file = fs::File::open(&data).unwrap();
    let content = Digest::of_reader(file, |_| ()).unwrap();
    let base = image.layer().clone();
    store.layers.adopt_upon(&data, Format::Qcow2, content, (base, work.key())).unwrap()
}

#[test]
fn a_pull_leaves_an_image_whose_script_is_yet_to_run() {
    let (_home, store, image) = pending();
    assert!(image.is_pending());
    let work = due(&store, &image);
    let (script, [version]) = work.script();
    assert!(script.starts_with(SCRIPT) && script.contains(VERSION_FILE), "{script}");
    assert_eq!(version, VERSION.to_string());
    let disk = work.disk().unwrap();
    assert_eq!(disk.len(), 2);
    assert_eq!(disk[0].path, store.layers.layer(image.layer()).unwrap().path);
    assert!(vmm_disk::open_chain(&disk, false).is_ok());
    // Whoever gives it up leaves nothing, and the image is as it was.
    drop(work);
    assert!(!disk[1].path.exists());
    assert!(store.find(&fake(), Arch::X86_64).unwrap().is_pending());
    store.verify(&image, Thoroughness::Full).unwrap();
}

#[test]
fn a_disk_on_which_the_script_did_not_run_to_its_end_is_no_image() {
    let (_home, store, image) = pending();
    let error = due(&store, &image).publish().unwrap_err();
    assert!(matches!(error, ImageError::Customise { .. }), "{error}");
    assert!(store.find(&fake(), Arch::X86_64).unwrap().is_pending());
    assert_eq!(store.layers.list().unwrap().len(), 1);
}

#[test]
fn what_the_same_script_made_of_the_same_disk_is_taken_again() {
    let (_home, store, image) = pending();
    let layer = made_before(&store, &image);
    let Customisation::Done(done) = store.customise(&image, &()).unwrap() else {
        panic!("it was made before")
    };
    assert!(!done.is_pending());
    assert_eq!(*done.layer(), layer.id);
    assert_eq!(done.metadata.system, Some(VERSION));
    let chain = store.layers.chain(done.layer()).unwrap();
    assert_eq!(chain.iter().map(|layer| &layer.id).collect::<Vec<_>>(), [image.layer(), &layer.id]);
    assert_eq!(store.prepare(&done, b"agent", Default::default()).unwrap().layers.len(), 2);
    // Whoever still has the image as it was gets the new one.
    let Customisation::Done(again) = store.customise(&image, &()).unwrap() else { panic!("it is done") };
    assert_eq!(again, done);
    // One that is damaged is not taken.
    let (_home, store, image) = pending();
    let layer = made_before(&store, &image);
    fs::remove_file(&layer.path).unwrap();
    fs::write(&layer.path, b"damaged").unwrap();
    due(&store, &image);
}

#[test]
fn a_death_at_any_step_leaves_an_image_pending_or_done() {
    for steps in 0.. {
        let (_home, store, image) = pending();
        made_before(&store, &image);
        let ended = death::after(steps, || store.customise(&image, &()));
        let found = store.find(&fake(), Arch::X86_64).unwrap();
        store.verify(&found, Thoroughness::Full).unwrap();
        assert_eq!(store.layers.chain(found.layer()).unwrap().len(), if found.is_pending() { 1 } else { 2 });
        let Customisation::Done(done) = store.customise(&found, &()).unwrap() else { panic!("it goes on") };
        assert!(!done.is_pending());
        if ended.is_some() {
            break;
        }
    }
}

#[test]
fn a_disk_of_another_release_is_refused_and_of_another_patch_taken() {
    let version = |text: &str| text.parse::<ImageVersion>().unwrap();
    let wanted = version("3.23.6-20261122-0000001");
    let check = |found: &str| check_system(wanted, version(found), Path::new("disk"));
    assert_eq!(check("3.23.6-20261122-0000001").unwrap(), Compatibility::Same);
    assert_eq!(check("3.23.7-20261122-0000001").unwrap(), Compatibility::Near);
    let error = check("3.24.0-20261122-0000001").unwrap_err();
    assert!(matches!(error, ImageError::IncompatibleSystem { .. }), "{error}");
}

#[test]
fn the_scripts_of_the_catalog_are_for_any_shell() {
    for spec in super::super::catalog::Catalog::managed().images {
        let Some(script) = spec.customise else { continue };
        let checked = std::process::Command::new("/bin/sh").args(["-n", "-c", script]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}
