use proptest::prelude::*;

use super::*;

/// An entry as the kernel's own reader (init/initramfs.c) would see it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    mode: u32,
    device: (u32, u32),
    contents: Vec<u8>,
}

/// Reads an archive back, and checks what every entry must have.
fn read(archive: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let header = &archive[at..at + 110];
        assert_eq!(&header[..6], b"070701");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        let (length, name_length) = (field(6) as usize, field(11) as usize);
        assert_eq!([field(2), field(3), field(5), field(12)], [0; 4], "owner, group, time and checksum");
        let name = &archive[at + 110..at + 110 + name_length];
        let (zero, name) = name.split_last().unwrap();
        assert_eq!(*zero, 0);
        let contents = (at + 110 + name_length).next_multiple_of(4);
        let entry = Entry {
            name: String::from_utf8(name.to_vec()).unwrap(),
            mode: field(1),
            device: (field(9), field(10)),
            contents: archive[contents..contents + length].to_vec(),
        };
        at = (contents + length).next_multiple_of(4);
        if entry.name == "TRAILER!!!" {
            assert!(archive[at..].iter().all(|byte| *byte == 0));
            assert_eq!(archive.len() % 4096, 1, "it leaves the end of its last page alone");
            return entries;
        }
        entries.push(entry);
    }
}

fn written(initramfs: &Initramfs<'_>) -> Vec<u8> {
    let mut archive = Vec::new();
    initramfs.write(&mut archive).unwrap();
    archive
}

#[test]
fn an_initramfs_holds_the_agent_the_console_and_the_modules_in_order() {
    let mut initramfs = Initramfs::new(b"agent");
    initramfs.add_module(Stage::Vsock, "vsock.ko", b"one".to_vec()).unwrap();
    initramfs.add_module(Stage::Root, "virtio_blk.ko", b"three".to_vec()).unwrap();
    let entries = read(&written(&initramfs));
    let find = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!((find("init").mode, find("init").contents.as_slice()), (0o100_755, &b"agent"[..]));
    assert_eq!((find("dev/console").mode, find("dev/console").device), (0o020_600, (5, 1)));
    assert_eq!(find("vmm/modules").contents, b"vsock vsock.ko\nroot virtio_blk.ko\n");
    assert_eq!(find("vmm/modules.d/virtio_blk.ko").contents, b"three");
    // And each lies in a folder that comes before it.
    for (index, entry) in entries.iter().enumerate() {
        if let Some((folder, _)) = entry.name.rsplit_once('/') {
            let above = entries[..index].iter().find(|entry| entry.name == folder).unwrap();
            assert_eq!(above.mode, 0o040_755, "{folder}");
        }
    }
}

#[test]
fn the_same_contents_give_the_same_bytes() {
    let mut initramfs = Initramfs::new(b"agent");
    initramfs.add_module(Stage::Late, "a.ko", vec![7; 4097]).unwrap();
    assert_eq!(written(&initramfs), written(&initramfs.clone()));
}

#[test]
fn a_module_name_that_could_not_be_read_back_is_refused() {
    let mut initramfs = Initramfs::new(b"");
    initramfs.add_module(Stage::Late, "a.ko", Vec::new()).unwrap();
    for name in ["", "a.ko", ".a.ko", "a b.ko", "a/b.ko", "a\n.ko"] {
        assert!(initramfs.add_module(Stage::Late, name, Vec::new()).is_err(), "{name:?}");
    }
}

proptest! {
    #[test]
    fn whatever_is_put_in_comes_out(
        agent in proptest::collection::vec(any::<u8>(), 0..600),
        modules in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..6),
    ) {
        let mut initramfs = Initramfs::new(&agent);
        for (index, contents) in modules.iter().enumerate() {
            initramfs.add_module(Stage::Root, &format!("m{index}.ko"), contents.clone()).unwrap();
        }
        let entries = read(&written(&initramfs));
        let contents = |name: &str| &entries.iter().find(|entry| entry.name == name).unwrap().contents;
        prop_assert_eq!(contents("init"), &agent);
        for (index, module) in modules.iter().enumerate() {
            prop_assert_eq!(contents(&format!("vmm/modules.d/m{index}.ko")), module);
        }
    }
}
