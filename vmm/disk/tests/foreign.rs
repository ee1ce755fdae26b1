//! Disks that other programs wrote, as they are read for an import: against QEMU's own tools, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod kit;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kit::{assert_same, has_tool, qemu_check, read, run};
use tempfile::TempDir;
use vmm_disk::testing::{MemoryStorage, Random};
use vmm_disk::{Error, ForeignFormat, Format, LayerSpec, copy_disk, open_chain, open_foreign};

/// A folder, and a disk in it with something in several places, as plain bytes.
struct Sample {
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let mut bytes = vec![0; 9 << 20];
        let mut random = Random::new(7);
        for _ in 0..40 {
            let at = random.below(bytes.len() as u64 - 70_000) as usize;
            let length = 1 + random.below(70_000) as usize;
            let seed = random.below(255) as u8;
            for (number, byte) in bytes[at..at + length].iter_mut().enumerate() {
                *byte = seed ^ (number / 100) as u8;
            }
        }
        let sample = Self { folder: tempfile::tempdir().unwrap(), bytes };
        std::fs::write(sample.path("plain.raw"), &sample.bytes).unwrap();
        sample
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Lets `qemu-img` convert the plain disk.
    fn convert(&self, options: &[&str], name: &str) -> PathBuf {
        let (from, to) = (self.text("plain.raw"), self.text(name));
        run("qemu-img", &[&["convert", "-f", "raw"], options, &[from.as_str(), to.as_str()]].concat());
        self.path(name)
    }

    /// Reads a disk, and a copy of it in our own format, which is sound.
    fn assert_reads(&self, path: &Path, format: ForeignFormat, bytes: &[u8], what: &str) {
        let foreign = open_foreign(path).unwrap_or_else(|error| panic!("{what}: {}", report(&error)));
        assert_eq!(foreign.format, format, "{what}");
        assert_same(bytes, &read(&*foreign.disk, 0, foreign.disk.size()), what);
        let copy = self.path("copy.qcow2");
        let _ = std::fs::remove_file(&copy);
        copy_disk(&*foreign.disk, &copy, u64::MAX, &mut |_| true).unwrap();
        let layers = [LayerSpec { path: copy.clone(), format: Format::Qcow2 }];
        let ours = open_chain(&layers, true).unwrap();
        assert_same(bytes, &read(&*ours, 0, ours.size()), what);
        assert_eq!(qemu_check(&copy), (0, 0), "{what}");
    }
}

/// An error with its causes, as people read it.
fn report(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Opens something that is refused, and says with which words.
fn refusal(path: &Path) -> String {
    let text = report(&open_foreign(path).unwrap_err());
    assert!(!text.contains('\n'), "{text}");
    text
}

fn assert_refused(path: &Path, word: &str) {
    let text = refusal(path);
    assert!(text.contains(word), "{word} is not in: {text}");
}

/// Changes bytes of a file.
fn patch(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn each_format_reads_as_qemu_reads_it() {
    if !has_tool("qemu-img") {
        return;
    }
    let sample = Sample::new();
    sample.assert_reads(&sample.path("plain.raw"), ForeignFormat::Raw, &sample.bytes, "raw");
    for (options, format) in [
        (&["-O", "vpc", "-o", "subformat=dynamic,force_size=on"][..], ForeignFormat::Vhd),
        (&["-O", "vpc", "-o", "subformat=fixed,force_size=on"], ForeignFormat::Vhd),
        (&["-O", "vmdk", "-o", "subformat=monolithicSparse"], ForeignFormat::Vmdk),
        (&["-O", "vmdk", "-o", "subformat=monolithicSparse,zeroed_grain=on"], ForeignFormat::Vmdk),
        (&["-O", "vmdk", "-o", "subformat=streamOptimized"], ForeignFormat::Vmdk),
        (&["-O", "qcow2", "-o", "compat=0.10"], ForeignFormat::Qcow2),
        (&["-O", "qcow2", "-o", "compat=0.10,cluster_size=512"], ForeignFormat::Qcow2),
        (&["-c", "-O", "qcow2", "-o", "compat=1.1,cluster_size=2097152"], ForeignFormat::Qcow2),
        (&["-c", "-O", "qcow2", "-o", "compat=1.1,cluster_size=4096"], ForeignFormat::Qcow2),
        (&["-c", "-O", "qcow2", "-o", "compat=1.1,compression_type=zstd"], ForeignFormat::Qcow2),
    ] {
        let path = sample.convert(options, "disk");
        sample.assert_reads(&path, format, &sample.bytes, &options.join(" "));
    }
    // A size by geometry, which Virtual PC would use: a little more than was asked for.
    let path = sample.convert(&["-O", "vpc"], "disk");
    let (from, to) = (sample.text("disk"), sample.text("expected.raw"));
    run("qemu-img", &["convert", "-f", "vpc", "-O", "raw", &from, &to]);
    let expected = std::fs::read(&to).unwrap();
    sample.assert_reads(&path, ForeignFormat::Vhd, &expected, "a VHD with a geometry");
}

#[test]
fn a_chain_of_backing_files_reads_as_one_disk() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let sample = Sample::new();
    std::fs::create_dir(sample.path("bases")).unwrap();
    std::fs::rename(sample.path("plain.raw"), sample.path("bases/plain.raw")).unwrap();
    let create = |backing: &str, format: &str, name: &str, options: &str| {
        let name = sample.text(name);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "-b", backing, "-F", format, &name]);
    };
    // By a name from its own folder, and by one from the root.
    create("plain.raw", "raw", "bases/middle.qcow2", "compat=0.10,cluster_size=4096");
    run("qemu-io", &["-c", "write -P 9 1m 70k", &sample.text("bases/middle.qcow2")]);
    create(&sample.text("bases/middle.qcow2"), "qcow2", "top.qcow2", "compat=1.1,cluster_size=65536");
    run("qemu-io", &["-c", "write -P 7 3m 1m", "-c", "write -z 1030k 8k", &sample.text("top.qcow2")]);
    let (top, expected) = (sample.text("top.qcow2"), sample.text("expected.raw"));
    run("qemu-img", &["convert", "-O", "raw", &top, &expected]);
    let expected = std::fs::read(&expected).unwrap();
    assert!(expected != sample.bytes);
    let path = sample.path("top.qcow2");
    sample.assert_reads(&path, ForeignFormat::Qcow2, &expected, "a chain");
    let names: Vec<_> = open_foreign(&path).unwrap().files;
    let ends = ["top.qcow2", "bases/middle.qcow2", "bases/plain.raw"];
    assert!(names.len() == 3 && names.iter().zip(ends).all(|(name, end)| name.ends_with(end)), "{names:?}");

    // The same from the folder below leads out of it.
    create("../top.qcow2", "qcow2", "bases/out.qcow2", "compat=1.1");
    assert_refused(&sample.path("bases/out.qcow2"), "in the folder of the file that you named");
    // A link is not followed, wherever it leads.
    std::fs::rename(sample.path("bases"), sample.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(sample.path("elsewhere"), sample.path("bases")).unwrap();
    assert_refused(&path, "cannot be opened");
}

#[test]
fn backing_names_that_are_no_files_beneath_are_refused() {
    if !has_tool("qemu-img") {
        return;
    }
    let sample = Sample::new();
    let path = sample.path("top.qcow2");
    for (name, format, word) in [
        ("/etc/passwd", "raw", "in the folder of the file that you named"),
        ("../../../../../../etc/passwd", "raw", "in the folder of the file that you named"),
        ("nbd://127.0.0.1/x", "raw", "only the name of a file"),
        ("json:{\"driver\":\"raw\"}", "raw", "json:"),
        ("missing.raw", "raw", "cannot be opened"),
        ("plain.raw", "vmdk", "only raw and qcow2"),
        ("plain.raw", "qcow2", "magic"),
        ("top.qcow2", "qcow2", "back to where it came from"),
    ] {
        let text = sample.text("top.qcow2");
        run("qemu-img", &["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", format, &text, "1M"]);
        assert_refused(&path, word);
    }
    // Something that would wait for ever when it is opened.
    rustix::fs::mkfifoat(rustix::fs::CWD, sample.path("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let text = sample.text("top.qcow2");
    run("qemu-img", &["create", "-q", "-u", "-f", "qcow2", "-b", "pipe", "-F", "raw", &text, "1M"]);
    assert_refused(&path, "neither a file");
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    if !has_tool("qemu-img") {
        return;
    }
    let sample = Sample::new();
    for (options, name, word) in [
        (&["-O", "vmdk", "-o", "subformat=monolithicFlat"][..], "disk", "(monolithicFlat)"),
        (&["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"], "disk.vmdk", "(twoGbMaxExtentSparse)"),
        (&["-O", "vdi"], "disk", "VDI"),
        (&["-O", "vhdx"], "disk", "VHDX"),
        (&["-O", "qed"], "disk", "QED"),
        (&["-O", "qcow2", "-o", "extended_l2=on,cluster_size=65536"], "disk", "extended L2"),
    ] {
        let path = sample.convert(options, name);
        assert_refused(&path, word);
    }
    assert_refused(&sample.path("disk-s001.vmdk"), "one file of a VMDK disk in several files");
    let data = format!("data_file={}", sample.text("data"));
    let path = sample.convert(&["-O", "qcow2", "-o", &data], "disk");
    assert_refused(&path, "external file");
    let options = ["create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o"];
    let encrypted = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    run("qemu-img", &[&options[..], &[encrypted, &sample.text("disk"), "1M"]].concat());
    assert_refused(&sample.path("disk"), "encrypted");
    std::fs::write(sample.path("disk"), "").unwrap();
    assert_refused(&sample.path("disk"), "empty");
    assert_refused(sample.folder.path(), "neither a file");
}

#[test]
fn a_vhd_whose_numbers_are_wrong_is_refused() {
    if !has_tool("qemu-img") {
        return;
    }
    let sample = Sample::new();
    let fresh = || sample.convert(&["-O", "vpc", "-o", "subformat=dynamic,force_size=on"], "disk");
    let length = std::fs::metadata(fresh()).unwrap().len();
    // One footer of two is enough.
    let path = fresh();
    patch(&path, 40, &[9]);
    sample.assert_reads(&path, ForeignFormat::Vhd, &sample.bytes, "a damaged copy of the footer");
    let path = fresh();
    patch(&path, length - 500, &[9; 4]);
    sample.assert_reads(&path, ForeignFormat::Vhd, &sample.bytes, "a damaged footer");
    patch(&path, 40, &[9]);
    assert_refused(&path, "the checksum of its footer is wrong");
    let path = fresh();
    patch(&path, 512 + 30, &[0xff]);
    assert_refused(&path, "the checksum of its header is wrong");
    // A block beyond the end of the file is no error before it is read.
    let path = fresh();
    patch(&path, 1536, &[0x7f; 4]);
    let disk = open_foreign(&path).unwrap().disk;
    let mut buffer = [0; 512];
    let error = disk.read(&mut [std::io::IoSliceMut::new(&mut buffer)], 0).unwrap_err().to_string();
    assert!(error.contains("past the end of the file"), "{error}");
    // Numbers with the right checksum.
    for (at, bytes, word) in [
        (48, vec![0x7f; 8], "larger than the 16 TiB"),
        (48, vec![0; 8], "empty"),
        (48, vec![0, 0, 1, 0, 0, 0, 0, 0], "wrong length"),
        (16, vec![0x7f; 8], "past the end"),
        (60, vec![0, 0, 0, 4], "differencing"),
        (60, vec![0, 0, 0, 9], "unknown type 9"),
        (60, vec![0, 0, 0, 2, 0xff], "promises more"),
    ] {
        let path = fresh();
        let bytes = if bytes.len() == 5 {
            patch_summed(&path, length - 512, 512, 64, 48, &(length * 2).to_be_bytes());
            bytes[..4].to_vec()
        } else {
            bytes
        };
        patch_summed(&path, length - 512, 512, 64, at, &bytes);
        assert_refused(&path, word);
    }
    for (at, bytes, word) in [
        (28, vec![0; 4], "wrong length"),
        (32, vec![0, 0, 3, 0], "impossible size"),
        (32, vec![0; 4], "impossible size"),
        (16, vec![0x7f; 8], "past the end"),
    ] {
        let path = fresh();
        patch_summed(&path, 512, 1024, 36, at, &bytes);
        assert_refused(&path, word);
    }
}

/// Changes bytes of a structure and makes its checksum right again.
fn patch_summed(path: &Path, start: u64, length: usize, sum_at: usize, at: usize, bytes: &[u8]) {
    let mut all = std::fs::read(path).unwrap();
    let part = &mut all[start as usize..start as usize + length];
    part[at..at + bytes.len()].copy_from_slice(bytes);
    part[sum_at..sum_at + 4].fill(0);
    let sum = !part.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    part[sum_at..sum_at + 4].copy_from_slice(&sum.to_be_bytes());
    std::fs::write(path, all).unwrap();
}

/// Ends a compressed disk of QEMU's as VMware's tools end it: the place of the directory is told behind it.
fn end_as_stream(path: &Path) {
    let mut all = std::fs::read(path).unwrap();
    let header = all[..512].to_vec();
    let mut mark = [0; 512];
    mark[12] = 3;
    all.extend(mark);
    all.extend(header);
    all.extend([0; 512]);
    all[56..64].fill(0xff);
    std::fs::write(path, all).unwrap();
}

#[test]
fn a_vmdk_whose_numbers_are_wrong_is_refused() {
    if !has_tool("qemu-img") {
        return;
    }
    let sample = Sample::new();
    for (kind, as_stream) in
        [("monolithicSparse", false), ("streamOptimized", false), ("streamOptimized", true)]
    {
        let option = format!("subformat={kind}");
        let fresh = || {
            let path = sample.convert(&["-O", "vmdk", "-o", &option], "disk");
            if as_stream {
                end_as_stream(&path);
            }
            path
        };
        sample.assert_reads(&fresh(), ForeignFormat::Vmdk, &sample.bytes, kind);
        let length = std::fs::metadata(fresh()).unwrap().len();
        // The header that counts: of a stream, the copy at the end.
        let header = if as_stream { length - 1024 } else { 0 };
        for (at, bytes, word) in [
            (4, vec![9, 0, 0, 0], "version 9"),
            (12, vec![0xff; 8], "larger than the 16 TiB"),
            (12, vec![0; 8], "empty"),
            (20, vec![0; 8], "impossible size"),
            (20, vec![3, 0, 0, 0, 0, 0, 0, 0], "impossible size"),
            (20, vec![0, 0, 0, 1, 0, 0, 0, 0], "impossible size"),
            (44, vec![0; 4], "impossible size"),
            (44, vec![0xff; 4], "impossible size"),
            (56, vec![0x7f; 8], "past the end"),
        ] {
            let path = fresh();
            patch(&path, header + at, &bytes);
            assert_refused(&path, word);
        }
        let path = fresh();
        patch(
            &path,
            0x200,
            b"# Disk DescriptorFile\nparentCID=12345678\ncreateType=\"monolithicSparse\"\n\0",
        );
        assert_refused(&path, "builds on another");
        let path = fresh();
        patch(&path, 0x200, b"# Disk DescriptorFile\ncreateType=\"custom\"\n\0");
        assert_refused(&path, "of the kind custom");
    }
    let path = sample.convert(&["-O", "vmdk", "-o", "subformat=streamOptimized"], "disk");
    end_as_stream(&path);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 512]).unwrap();
    assert_refused(&path, "its end is missing");
}

#[test]
fn a_huge_and_empty_disk_is_copied_at_once() {
    if !has_tool("qemu-img") {
        return;
    }
    let sample = Sample::new();
    for (options, size) in [
        (&["-f", "qcow2"][..], "10T"),
        (&["-f", "vmdk"], "1T"),
        (&["-f", "vpc", "-o", "force_size=on"], "1T"),
        (&["-f", "raw"], "1T"),
    ] {
        let (path, text) = (sample.path("disk"), sample.text("disk"));
        let _ = std::fs::remove_file(&path);
        run("qemu-img", &[&["create", "-q"], options, &[text.as_str(), size]].concat());
        let disk = open_foreign(&path).unwrap().disk;
        let copy = sample.path("copy.qcow2");
        let _ = std::fs::remove_file(&copy);
        let mut steps = 0;
        let copied = copy_disk(&*disk, &copy, u64::MAX, &mut |_| {
            steps += 1;
            true
        });
        let copied = copied.unwrap();
        assert_eq!((copied.size, copied.stored), (disk.size(), 0));
        // One for each table of the format, at most.
        assert!(steps <= 1 + (disk.size() >> 29), "{options:?}: {steps}");
    }
    let text = sample.text("disk");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &text, "20T"]);
    assert_refused(&sample.path("disk"), "larger than the 16 TiB");
}

#[test]
fn a_foreign_disk_is_never_written() {
    let storage = Arc::new(MemoryStorage::new(vec![1; 4096]));
    let disk = vmm_disk::open_foreign_storage(storage, ForeignFormat::Raw).unwrap();
    assert!(disk.read_only());
    assert!(disk.write(&[std::io::IoSlice::new(&[2])], 0).is_err());
}
