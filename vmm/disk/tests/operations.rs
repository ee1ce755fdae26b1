//! Random operations leave the same bytes as `qemu-io` does, whatever the image: every cluster size, both versions,
//! compressed clusters, and chains upon raw and qcow2 bases that `qemu-img` made.
//!
//! A few of each by default. `VMM_DISK_OPERATIONS=<number>` makes so many on every kind of image, and
//! `VMM_DISK_CLUSTER_BITS=<bits>` takes the images with clusters of one size only.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod kit;

use std::fs;
use std::path::{Path, PathBuf};

use kit::qemu::{Step, assert_sound, layer, our_bytes, qemu_io, text};
use kit::{assert_same, folder, has_tool, read, run};
use vmm_disk::testing::Random;
use vmm_disk::{DiskImage, Format, LayerSpec, grow, open_chain};

/// What the image holds at first, or stands on.
#[derive(Clone, Copy, Debug)]
enum Content {
    Nothing,
    /// Compressed clusters.
    Compressed,
    /// It is an overlay on a raw file, shorter than it is.
    OnRaw,
    /// It is an overlay on a compressed qcow2 image with other clusters, which is one on a raw file.
    OnQcow2,
}

const CONTENTS: [Content; 4] = [Content::Nothing, Content::Compressed, Content::OnRaw, Content::OnQcow2];

/// A kind of image.
#[derive(Clone, Copy, Debug)]
struct Kind {
    cluster_bits: u32,
    compat: &'static str,
    content: Content,
}

/// An image by `qemu-img`, and a raw file that shows the same.
struct Subject {
    kind: Kind,
    layers: Vec<LayerSpec>,
    reference: PathBuf,
    /// It has grown so often.
    grown: u32,
}

/// Bytes that compress well, with zeroes among them.
fn pattern(size: u64) -> Vec<u8> {
    (0..size).map(|at| if at / 40_000 % 3 == 2 { 0 } else { (at / 900).to_le_bytes()[0] | 1 }).collect()
}

impl Subject {
    fn new(folder: &Path, kind: Kind) -> Self {
        let file = |name: &str| folder.join(name);
        // Several clusters, of which the last is not whole.
        let size = (3 << kind.cluster_bits).max(1_500_000_u64).next_multiple_of(512) + 3 * 512;
        let (raw, middle, top) = (file("base.raw"), file("middle.qcow2"), file("top.qcow2"));
        let options = format!("cluster_size={},compat={}", 1 << kind.cluster_bits, kind.compat);
        let create = |upon: &[&str]| {
            let arguments = ["create", "-q", "-f", "qcow2", "-o", &options];
            run("qemu-img", &[&arguments, upon, &[text(&top), &size.to_string()]].concat());
        };
        let base_size = size / 3 * 2 / 512 * 512;
        fs::write(&raw, pattern(base_size)).unwrap();
        let mut layers = Vec::new();
        match kind.content {
            Content::Nothing => create(&[]),
            Content::Compressed => {
                fs::write(&raw, pattern(size)).unwrap();
                let arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
                run("qemu-img", &[&arguments[..], &[text(&raw), text(&top)]].concat());
            }
            Content::OnRaw => {
                create(&["-b", text(&raw), "-F", "raw"]);
                layers.push(layer(&raw, Format::Raw));
            }
            Content::OnQcow2 => {
                let other = if kind.cluster_bits > 14 { "4096" } else { "131072" };
                let arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o"];
                let options = format!("cluster_size={other}");
                run("qemu-img", &[&arguments[..], &[&options, text(&raw), text(&middle)]].concat());
                create(&["-b", text(&middle), "-F", "qcow2"]);
                layers.push(layer(&middle, Format::Qcow2));
            }
        }
        layers.push(layer(&top, Format::Qcow2));
        let reference = file("reference.raw");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&top), text(&reference)]);
        Self { kind, layers, reference, grown: 0 }
    }

    fn top(&self) -> &Path {
        &self.layers.last().unwrap().path
    }

    fn open(&self) -> std::sync::Arc<dyn DiskImage> {
        open_chain(&self.layers, false).unwrap()
    }

    /// Fails unless the disk shows what the reference does.
    fn compare(&self) {
        let what = format!("{:?}", self.kind);
        assert_same(&fs::read(&self.reference).unwrap(), &our_bytes(&self.layers), &what);
    }

    /// A round: the same on both, by our code or by QEMU's upon what ours has left.
    fn act(&mut self, random: &mut Random, count: u64, by_qemu: bool) {
        let size = fs::metadata(&self.reference).unwrap().len();
        let steps: Vec<Step> = (0..count).map(|_| Step::random(random, size)).collect();
        qemu_io(&self.reference, "raw", &steps);
        if by_qemu {
            qemu_io(self.top(), "qcow2", &steps);
        } else {
            self.act_ourselves(random, &steps);
        }
        self.compare();
    }

    /// Does the steps, and reads and discards among them. What is discarded may be what it was, or zero, until it is
    /// written again.
    fn act_ourselves(&self, random: &mut Random, steps: &[Step]) {
        let disk = self.open();
        for step in steps {
            if let (Step::Write(offset, length, _) | Step::Zero(offset, length), true) =
                (*step, random.chance(1, 3))
            {
                let before = read(&*disk, offset, length);
                disk.discard(offset, length).unwrap();
                let after = read(&*disk, offset, length);
                let given_up =
                    before.iter().zip(&after).all(|(before, after)| after == before || *after == 0);
                assert!(given_up, "{:?}: a discard of {length} bytes at {offset}", self.kind);
            }
            step.apply(&*disk);
            match *step {
                Step::Write(offset, length, byte) => {
                    let shown = read(&*disk, offset, length);
                    assert!(shown.iter().all(|&shown| shown == byte), "{:?}: {step:?}", self.kind);
                }
                Step::Zero(offset, length) | Step::ZeroUnmap(offset, length) => {
                    let shown = read(&*disk, offset, length);
                    assert!(shown.iter().all(|&shown| shown == 0), "{:?}: {step:?}", self.kind);
                }
                Step::Flush => {}
            }
        }
    }

    /// Makes both larger.
    fn grow(&mut self, random: &mut Random) {
        let size = fs::metadata(&self.reference).unwrap().len() + 512 * (1 + random.below(1000));
        fs::File::options().write(true).open(&self.reference).unwrap().set_len(size).unwrap();
        grow(self.top(), Format::Qcow2, size).unwrap();
        self.grown += 1;
        self.compare();
    }
}

/// How many operations are done between two looks at all of the disk.
const ROUND: u64 = 250;

fn exercise(kind: Kind, operations: u64, seed: u64) {
    let folder = folder();
    let mut subject = Subject::new(folder.path(), kind);
    subject.compare();
    let mut random = Random::new(seed);
    let (mut left, mut round) = (operations, 0);
    while left > 0 {
        let now = left.min(ROUND);
        subject.act(&mut random, now, round % 4 == 3);
        assert_sound(subject.top(), &format!("{kind:?}"));
        if round % 5 == 1 && subject.grown < 6 {
            subject.grow(&mut random);
        }
        left -= now;
        round += 1;
    }
}

#[test]
fn random_operations_leave_the_same_bytes_as_qemu_io() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let all = number("VMM_DISK_OPERATIONS");
    let only = number("VMM_DISK_CLUSTER_BITS");
    let mut random = Random::new(17);
    let (mut kinds, mut operations) = (0, 0);
    for cluster_bits in (9..=21).filter(|bits| only.is_none_or(|only| only == u64::from(*bits))) {
        for compat in ["0.10", "1.1"] {
            for content in CONTENTS {
                // Of the eight kinds with clusters of one size, one or two.
                if all.is_none() && !random.chance(1, 5) {
                    continue;
                }
                let kind = Kind { cluster_bits, compat, content };
                let count = all.unwrap_or(120);
                exercise(kind, count, 1000 * u64::from(cluster_bits) + kinds);
                kinds += 1;
                operations += count;
            }
        }
    }
    println!("{operations} operations on {kinds} kinds of images");
    assert!(kinds > 0);
}
