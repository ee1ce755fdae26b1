use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::super::error::ImageError;
use super::super::files::death;
use super::super::testing::{Fake, RELEASE, root_file_system};
use super::*;
use crate::boot::testing::{bzimage, elf_kernel, gzip};

/// A store, and a folder with what is imported into it.
struct Fixture {
    home: Fake,
    files: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { home: Fake::new(), files: tempfile::tempdir().unwrap() };
        fixture.write("kernel", &bzimage(&gzip(&elf_kernel(RELEASE))));
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        fs::write(self.path(name), contents).unwrap();
        self.path(name)
    }

    /// A disk, with the kernel that is not on it.
    fn request(&self, name: &str, contents: &[u8]) -> Import {
        Import {
            file: self.write(name, contents),
            name: None,
            arch: Arch::X86_64,
            kernel: Some(self.path("kernel")),
            initrd: None,
            modules: None,
        }
    }

    fn import(&self, import: &Import) -> Result<Imported> {
        self.home.store().import(import, &())
    }

    fn refusal(&self, import: &Import) -> String {
        let error = self.import(import).unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(self.home.files(), [] as [PathBuf; 0], "{text}");
        text
    }
}

/// The root file system in the second partition of a disk, behind one that holds nothing.
fn partitioned() -> Vec<u8> {
    let root = root_file_system();
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (entry, start, length) in [(0, 8_u32, 8_u32), (1, 64, u32::try_from(root.len() / 512).unwrap())] {
        let entry = &mut disk[446 + entry * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&length.to_le_bytes());
    }
    disk[64 * 512..][..root.len()].copy_from_slice(&root);
    disk
}

#[test]
fn a_disk_becomes_an_image_that_boots() {
    let fixture = Fixture::new();
    let store = fixture.home.store();
    for (name, contents, device, format) in [
        ("my-disk.raw", root_file_system(), "/dev/vda", "raw"),
        ("parts.img", partitioned(), "/dev/vda2", "raw"),
        ("packed.img.gz", gzip(&partitioned()), "/dev/vda2", "raw in gzip"),
    ] {
        let Imported { image, found } = fixture.import(&fixture.request(name, &contents)).unwrap();
        assert_eq!(image.name().as_str(), name.split('.').next().unwrap());
        assert_eq!((found.root.as_str(), found.format.as_str()), (device, format));
        assert_eq!(image.profile().root.device, device);
        assert_eq!(image.kernel_release(), RELEASE);
        assert_eq!(fs::read(image.kernel()).unwrap(), elf_kernel(RELEASE));
        assert_eq!(store.find(&image.name().as_str().parse().unwrap(), Arch::X86_64).unwrap(), image);
        // The modules of few machines come from the partition.
        let extras = Extras { nested: true, balloon: true, ..Extras::default() };
        let files = store.prepare(&image, b"agent", extras).unwrap();
        let initramfs = fs::read(&files.initramfs).unwrap();
        for module in [&b"virtio_blk.ko"[..], b"kvm_amd.ko", b"virtio_balloon.ko"] {
            assert!(initramfs.windows(module.len()).any(|window| window == module));
        }
        store.verify(&image, Thoroughness::Full).unwrap();
        let partials = |path: &PathBuf| path.to_string_lossy().contains(files::PARTIAL);
        assert!(!fixture.home.files().iter().any(partials));
    }
}

#[test]
fn every_file_that_a_disk_is_made_of_is_told_and_recorded() {
    let fixture = Fixture::new();
    let base = fixture.request("base.raw", &root_file_system()).file;
    let top = fixture.request("top.qcow2", b"").file;
    fs::remove_file(&top).unwrap();
    vmm_disk::create_overlay(&top, root_file_system().len() as u64).unwrap();
    let mut bytes = fs::read(&top).unwrap();
    // The place and the length of the name of what it builds on.
    bytes[8..16].copy_from_slice(&1024_u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&8_u32.to_be_bytes());
    bytes[1024..1032].copy_from_slice(b"base.raw");
    fs::write(&top, bytes).unwrap();
    let request = Import { file: top.clone(), ..fixture.request("other.raw", b"") };
    let Imported { image, found } = fixture.import(&request).unwrap();
    assert_eq!(found.files, [top, base]);
    let details = fixture.home.store().details(&image).unwrap();
    assert_eq!(details.origin.len(), 2);
    assert_eq!(details.origin[1].name, "base.raw, which the disk builds on");
    assert_eq!(details.origin[1].sha256, Digest::of(&root_file_system()));
}

#[test]
fn a_damaged_import_is_told_as_such() {
    let fixture = Fixture::new();
    let image = fixture.import(&fixture.request("disk.raw", &root_file_system())).unwrap().image;
    fs::write(image.kernel(), b"something else").unwrap();
    let refusal = fixture.home.store().verify(&image, Thoroughness::Remembered).unwrap_err().to_string();
    assert!(refusal.contains("vmlinux is damaged") && refusal.ends_with("again"), "{refusal}");
}

#[test]
fn the_name_and_the_version_are_those_that_are_asked_for() {
    let fixture = Fixture::new();
    let request = fixture.request("disk.raw", &root_file_system());
    let named = |name: &str| Import { name: Some(name.parse().unwrap()), ..request.clone() };
    let version = |name: &str| fixture.import(&named(name)).unwrap().image.version().to_string();
    assert_eq!(version("mine:1.2.3-20260102-abcdef0"), "1.2.3-20260102-abcdef0");
    assert!(version("mine:7.1").starts_with("7.1.0-20"));
    assert_eq!(version("mine"), version("mine"));
    let fixture = Fixture::new();
    let request = fixture.request("disk.raw", &root_file_system());
    let refusal = fixture.refusal(&Import { name: Some("fake".parse().unwrap()), ..request.clone() });
    assert!(refusal.contains("an image of the catalog") && refusal.contains("--name"), "{refusal}");
    let odd = fixture.request("My Disk.raw", &root_file_system());
    assert!(fixture.refusal(&odd).ends_with("give one with --name"));
}

#[test]
fn what_cannot_boot_is_refused_with_what_to_do() {
    let fixture = Fixture::new();
    let whole = fixture.request("disk.raw", &root_file_system());
    let refusal = fixture.refusal(&Import { kernel: None, ..whole.clone() });
    assert!(["--kernel", "--modules", "--initrd"].iter().all(|flag| refusal.contains(flag)), "{refusal}");
    let other = bzimage(&gzip(&elf_kernel("6.1.0-other")));
    let refusal = fixture.refusal(&Import { kernel: Some(fixture.write("other", &other)), ..whole.clone() });
    assert!(refusal.contains("no modules for the kernel 6.1.0-other"), "{refusal}");
    assert!(
        fixture.refusal(&Import { kernel: Some(fixture.path("none")), ..whole.clone() }).contains("none")
    );
    let mut btrfs = vec![0; 1 << 20];
    btrfs[65_600..65_608].copy_from_slice(b"_BHRfS_M");
    let refusal = fixture.refusal(&fixture.request("btrfs.raw", &btrfs));
    assert!(refusal.contains("holds btrfs; only ext4"), "{refusal}");
    let mut empty = partitioned();
    empty[64 * 512..].fill(0);
    let refusal = fixture.refusal(&fixture.request("empty.raw", &empty));
    assert!(refusal.contains("partition 2 holds nothing that is known"), "{refusal}");
    assert!(fixture.refusal(&fixture.request("none.raw", b"")).contains("empty"));
    let missing = Import { file: fixture.path("missing.raw"), ..whole.clone() };
    assert!(fixture.refusal(&missing).contains("missing.raw"));
    let folder = Import { file: fixture.files.path().to_owned(), name: Some("x".parse().unwrap()), ..whole };
    assert!(fixture.refusal(&folder).contains("neither a file nor a block device"));
    // Nothing is left of any of them: no folder of a name, no lock in one.
    let images = fixture.home.store().images.clone();
    let left = std::fs::read_dir(&images).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(left.map(|entry| entry.path()).collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_archive_with_one_disk_is_unpacked() {
    let fixture = Fixture::new();
    let zip = |members: &[(&str, &[u8])]| super::super::testing::wheel(members);
    let packed = gzip(&zip(&[("readme", b"hello"), ("a/disk.raw", &partitioned())]));
    let found = fixture.import(&fixture.request("all.zip.gz", &packed)).unwrap().found;
    assert_eq!(found.format, "raw in zip in gzip");
    let fixture = Fixture::new();
    let two = zip(&[("a.raw", b"1"), ("b.vmdk", b"2")]);
    assert!(fixture.refusal(&fixture.request("two.zip", &two)).contains("there are 2 disks"));
    let none = zip(&[("readme", b"1")]);
    assert!(fixture.refusal(&fixture.request("none.zip", &none)).contains("there is no disk"));
    let often = (0..5).fold(root_file_system(), |packed, _| gzip(&packed));
    assert!(fixture.refusal(&fixture.request("often.gz", &often)).contains("packed more than 4 times"));
}

/// Lays out modules for a kernel of another release, beneath `lib/modules`.
fn lay_out_modules(folder: &Path, release: &str) {
    let folder = folder.join("lib/modules").join(release);
    fs::create_dir_all(folder.join("kernel")).unwrap();
    let names = ["vmw_vsock_virtio_transport", "virtio_blk", "ext4", "virtio_rng"];
    let lines: String = names.iter().map(|name| format!("kernel/{name}.ko.gz:\n")).collect();
    fs::write(folder.join("modules.dep"), lines).unwrap();
    fs::write(folder.join("modules.builtin"), "").unwrap();
    for name in names {
        let module = format!("..\0vermagic={release} SMP \0{name}");
        fs::write(folder.join(format!("kernel/{name}.ko.gz")), gzip(module.as_bytes())).unwrap();
    }
}

#[test]
fn modules_come_from_a_folder_an_archive_or_an_initial_file_system() {
    let fixture = Fixture::new();
    let release = "6.1.0-own";
    let kernel = fixture.write("own", &bzimage(&gzip(&elf_kernel(release))));
    let request = Import { kernel: Some(kernel), ..fixture.request("disk.raw", &root_file_system()) };
    let folder = fixture.path("modules");
    lay_out_modules(&folder, release);
    let shell = |script: &str| {
        let ran = Command::new("/bin/sh").current_dir(&folder).args(["-c", script]).output();
        ran.is_ok_and(|output| output.status.success())
    };
    let check = |request: &Import| {
        let image = fixture.import(request).unwrap().image;
        assert_eq!(image.kernel_release(), release);
        let module = fs::read(image.folder().join("modules/virtio_blk.ko")).unwrap();
        assert!(module.ends_with(b"virtio_blk"));
        fixture
            .home
            .store()
            .prepare(&image, b"agent", Extras { nested: true, balloon: true, ..Extras::default() })
            .unwrap();
    };
    for place in ["", "lib/modules", "lib/modules/6.1.0-own"] {
        check(&Import { modules: Some(folder.join(place)), ..request.clone() });
    }
    if shell("tar -czf ../modules.tar.gz ./lib") {
        check(&Import { modules: Some(fixture.path("modules.tar.gz")), ..request.clone() });
    } else {
        println!("skipped: there is no tar");
    }
    // As distributions make them: firmware for the processor first, then the rest, packed.
    let early = "mkdir -p early && cd early && echo x >firmware && find . | cpio -o -H newc >../../initrd";
    let rest = "find lib | cpio -o -H newc | gzip >>../initrd";
    if shell(early) && shell(rest) {
        check(&Import { initrd: Some(fixture.path("initrd")), ..request.clone() });
    } else {
        println!("skipped: there is no cpio");
    }
    // A kernel that needs none.
    fs::create_dir(fixture.path("empty")).unwrap();
    let image = fixture.import(&Import { modules: Some(fixture.path("empty")), ..request.clone() });
    let image = image.unwrap().image;
    assert_eq!(fs::read(image.folder().join("modules/modules.dep")).unwrap(), b"");
    fixture.home.store().prepare(&image, b"agent", Extras::default()).unwrap();

    let fixture = Fixture::new();
    let request = fixture.request("disk.raw", &root_file_system());
    let wrong = Import { modules: Some(folder), ..request.clone() };
    assert!(fixture.refusal(&wrong).contains("no modules for the kernel 6.18.56-0-virt"));
    let wrong = Import { initrd: Some(fixture.write("wrong", b"no archive")), ..request };
    assert!(fixture.refusal(&wrong).contains("nor an initial file system"));
}

#[test]
fn an_import_stores_no_zeroes_and_shares_what_is_the_same() {
    let fixture = Fixture::new();
    let file = fixture.write("disk.raw", &partitioned());
    // A lot of nothing behind it.
    fs::File::options().write(true).open(&file).unwrap().set_len(8 << 30).unwrap();
    let request = Import { file, ..fixture.request("other.raw", b"") };
    let one = fixture.import(&request).unwrap().image;
    let other = Import { name: Some("another".parse().unwrap()), ..request };
    let other = fixture.import(&other).unwrap().image;
    assert_eq!(one.layer(), other.layer());
    let layer = fixture.home.store().layers().layer(one.layer()).unwrap();
    assert!(fs::metadata(layer.path).unwrap().blocks() * 512 < 2 << 20);
}

#[test]
fn a_death_at_any_step_of_an_import_leaves_a_store_that_works() {
    let mut fixture = Fixture::new();
    for steps in 0.. {
        fixture.home = fixture.home.emptied();
        let request = fixture.request("disk.img.gz", &gzip(&partitioned()));
        let store = fixture.home.store();
        let ended = death::after(steps, || store.import(&request, &())).is_some();
        if let Ok(image) = store.find(&"disk".parse().unwrap(), Arch::X86_64) {
            store.verify(&image, Thoroughness::Full).unwrap();
        }
        let image = fixture.import(&request).unwrap().image;
        store.verify(&image, Thoroughness::Full).unwrap();
        let remains = |path: &PathBuf| path.to_string_lossy().contains(files::PARTIAL);
        assert!(!fixture.home.files().iter().any(remains), "{:?}", fixture.home.files());
        if ended {
            assert!(steps > 20, "the death came after {steps} steps only");
            break;
        }
    }
}

struct Impatient;

impl Progress for Impatient {
    fn step(&self, _: Step<'_>) {}

    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn an_import_is_given_up_when_it_is_asked_to() {
    let fixture = Fixture::new();
    let request = fixture.request("disk.raw", &root_file_system());
    let given_up = fixture.home.store().import(&request, &Impatient);
    assert!(matches!(given_up, Err(ImageError::Cancelled { .. })));
    assert_eq!(fixture.home.files(), [] as [PathBuf; 0]);
}

#[test]
fn days_have_dates() {
    for (days, date) in [(0, 19_700_101), (11_016, 20_000_229), (11_017, 20_000_301), (20_778, 20_261_121)] {
        assert_eq!(crate::home::date_of(days), date);
    }
}
