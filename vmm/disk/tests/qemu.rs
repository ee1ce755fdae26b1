//! Against QEMU's own tools: what they make reads right, what we make is sound to them, and both write the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod kit;

use std::io::IoSlice;
use std::path::PathBuf;

use kit::qemu::{Step, assert_sound, layer, our_bytes, qemu_bytes, qemu_io, text};
use kit::{assert_same, has_tool, qemu_check, read, run};
use vmm_disk::qcow2::Layout;
use vmm_disk::testing::{MemoryStorage, Random};
use vmm_disk::{Format, create_overlay, open_chain};

/// The kinds of images that `qemu-img` makes.
const KINDS: [&str; 9] = [
    "compat=0.10,cluster_size=65536",
    "compat=0.10,cluster_size=512",
    "compat=1.1,cluster_size=512,refcount_bits=1",
    "compat=1.1,cluster_size=4096,refcount_bits=64",
    "compat=1.1,cluster_size=65536",
    "compat=1.1,cluster_size=65536,preallocation=metadata",
    "compat=1.1,cluster_size=65536,lazy_refcounts=on",
    "compat=1.1,cluster_size=2097152",
    "compat=1.1,cluster_size=32768,refcount_bits=8",
];

#[test]
fn images_by_qemu_read_right_and_are_written_right() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let size = 3_000_320;
    let mut random = Random::new(3);
    for kind in KINDS {
        let path = folder.path().join("image.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", kind, text(&path), &size.to_string()]);
        let layers = [layer(&path, Format::Qcow2)];
        // By turns, so that each takes over what the other left.
        for round in 0..4 {
            let steps: Vec<_> = (0..40).map(|_| Step::random(&mut random, size)).collect();
            let expected = {
                let reference = folder.path().join("reference.raw");
                std::fs::write(&reference, our_bytes(&layers)).unwrap();
                qemu_io(&reference, "raw", &steps);
                std::fs::read(&reference).unwrap()
            };
            if round % 2 == 0 {
                qemu_io(&path, "qcow2", &steps);
            } else {
                let disk = open_chain(&layers, false).unwrap();
                steps.iter().for_each(|step| step.apply(&*disk));
            }
            assert_same(&expected, &our_bytes(&layers), kind);
            assert_same(&expected, &qemu_bytes(folder.path(), &["-f", "qcow2", text(&path)]), kind);
            assert_sound(&path, kind);
        }
    }
}

#[test]
fn compressed_images_read_right_and_are_written_over() {
    if !has_tool("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.raw");
    let bytes: Vec<u8> =
        (0..3_000_320_u32).map(|at| (at / 900).to_le_bytes()[0] ^ (at / 7000).to_le_bytes()[0]).collect();
    std::fs::write(&plain, &bytes).unwrap();
    let mut random = Random::new(5);
    for cluster_size in [
        "512",
        "4096",
        "65536",
        "2097152",
        "4096,compression_type=zstd",
        "65536,compression_type=zstd",
        "2097152,compression_type=zstd",
    ] {
        let path = folder.path().join("compressed.qcow2");
        let options = format!("cluster_size={cluster_size}");
        run(
            "qemu-img",
            &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, text(&plain), text(&path)],
        );
        let layers = [layer(&path, Format::Qcow2)];
        assert_same(&bytes, &our_bytes(&layers), cluster_size);

        let reference = folder.path().join("reference.raw");
        std::fs::write(&reference, &bytes).unwrap();
        let steps: Vec<_> = (0..60).map(|_| Step::random(&mut random, bytes.len() as u64)).collect();
        qemu_io(&reference, "raw", &steps);
        let disk = open_chain(&layers, false).unwrap();
        steps.iter().for_each(|step| step.apply(&*disk));
        drop(disk);
        assert_same(&std::fs::read(&reference).unwrap(), &our_bytes(&layers), cluster_size);
        assert_sound(&path, cluster_size);
    }
}

#[test]
fn internal_snapshots_survive_our_writes() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let size = 2 << 20;
    let mut random = Random::new(11);
    for cluster_size in [512, 4096, 65536] {
        let options = format!("cluster_size={cluster_size}");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), &size.to_string()]);
        let layers = [layer(&path, Format::Qcow2)];
        let mut snapshots = Vec::new();
        for name in ["first", "second", "third"] {
            let steps: Vec<_> = (0..30).map(|_| Step::random(&mut random, size)).collect();
            let disk = open_chain(&layers, false).unwrap();
            steps.iter().for_each(|step| step.apply(&*disk));
            disk.discard(size / 4, size / 4).unwrap();
            drop(disk);
            assert_sound(&path, name);
            snapshots.push((name, our_bytes(&layers)));
            run("qemu-img", &["snapshot", "-c", name, text(&path)]);
        }
        assert_sound(&path, "the last snapshot");
        for (name, bytes) in snapshots {
            let seen = qemu_bytes(folder.path(), &["-f", "qcow2", "-l", name, text(&path)]);
            assert_same(&bytes, &seen, name);
        }
    }
}

#[test]
fn a_chain_of_foreign_layers_reads_right_though_its_names_are_not_followed() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut random = Random::new(17);
    let mut steps = |size: u64| (0..30).map(|_| Step::random(&mut random, size)).collect::<Vec<_>>();
    let (base, middle, top) = (file("base.raw"), file("middle.qcow2"), file("top.qcow2"));
    std::fs::write(&base, vec![0; 1_000_448]).unwrap();
    qemu_io(&base, "raw", &steps(1_000_448));
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", text(&base), text(&middle), "1500160"],
    );
    qemu_io(&middle, "qcow2", &steps(1_500_160));
    let options = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-F", "qcow2", "-b"];
    run("qemu-img", &[&options[..], &[text(&middle), text(&top), "1200128"]].concat());
    qemu_io(&top, "qcow2", &steps(1_200_128));
    let layers = [layer(&base, Format::Raw), layer(&middle, Format::Qcow2), layer(&top, Format::Qcow2)];
    for count in 2..=3 {
        let expected = qemu_bytes(folder.path(), &["-f", "qcow2", text(&layers[count - 1].path)]);
        assert_same(&expected, &our_bytes(&layers[..count]), "a foreign chain");
    }

    // And one of ours on top of it, which QEMU is told the chain of.
    let ours = file("ours.qcow2");
    create_overlay(&ours, 2_000_384).unwrap();
    let layers = [&layers[..], &[layer(&ours, Format::Qcow2)]].concat();
    let before: Vec<_> = layers[..3].iter().map(|layer| std::fs::read(&layer.path).unwrap()).collect();
    let disk = open_chain(&layers, false).unwrap();
    steps(2_000_384).iter().for_each(|step| step.apply(&*disk));
    drop(disk);
    assert_sound(&ours, "our overlay");
    let options = format!(
        "driver=qcow2,file.driver=file,file.filename={},backing.driver=qcow2,backing.file.driver=file,\
         backing.file.filename={}",
        text(&ours),
        text(&top)
    );
    let expected = qemu_bytes(folder.path(), &["--image-opts", &options]);
    assert_same(&expected, &our_bytes(&layers), "our overlay");
    for (layer, bytes) in layers.iter().zip(before) {
        assert_same(&bytes, &std::fs::read(&layer.path).unwrap(), "a layer below is never written");
    }
}

#[test]
fn images_of_every_layout_that_we_make_are_sound_to_qemu() {
    if !has_tool("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("image.qcow2");
    for (cluster_bits, refcount_order, version) in
        [(9, 0, 3), (9, 3, 3), (9, 6, 3), (12, 1, 3), (16, 4, 3), (21, 2, 3), (16, 4, 2), (9, 4, 2)]
    {
        let storage = MemoryStorage::default();
        let layout = Layout { virtual_size: 9 << 20, cluster_bits, refcount_order, version };
        layout.write(&storage).unwrap();
        std::fs::write(&path, storage.bytes()).unwrap();
        assert_sound(&path, "empty");
        let disk = open_chain(&[layer(&path, Format::Qcow2)], false).unwrap();
        disk.write(&[IoSlice::new(&vec![7; 8 << 20])], 1 << 19).unwrap();
        disk.discard(1 << 20, 1 << 20).unwrap();
        drop(disk);
        assert_sound(&path, "written");
    }
}

#[test]
fn a_disk_that_grew_is_sound_to_qemu_and_keeps_what_it_had() {
    if !has_tool("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The first needs no longer table, the others do; small clusters make tables of several clusters.
    for (cluster_size, before, after) in
        [("64k", 1 << 20, 100 << 20), ("64k", 1 << 30, 600 << 30), ("512", 1 << 20, 64 << 20)]
    {
        let path = folder.path().join(format!("{cluster_size}-{after}.qcow2"));
        let options = format!("cluster_size={cluster_size}");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), &before.to_string()]);
        let chain = [layer(&path, Format::Qcow2)];
        let disk = open_chain(&chain, false).unwrap();
        disk.write(&[IoSlice::new(&[7; 4096])], before - 4096).unwrap();
        disk.flush().unwrap();
        drop(disk);
        vmm_disk::grow(&path, Format::Qcow2, after).unwrap();
        qemu_check(&path);
        let disk = open_chain(&chain, false).unwrap();
        assert_eq!(disk.size(), after);
        assert_eq!(read(&*disk, before - 4096, 8192), [[7; 4096], [0; 4096]].concat());
        disk.write(&[IoSlice::new(&[8; 4096])], after - 4096).unwrap();
        drop(disk);
        qemu_check(&path);
        assert!(vmm_disk::grow(&path, Format::Qcow2, before).is_err());
    }
}
