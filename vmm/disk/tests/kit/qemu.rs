//! The same done by QEMU's tools and by ours.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::io::{IoSlice, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use vmm_disk::testing::Random;
use vmm_disk::{DiskImage, Format, LayerSpec, check_layer, open_chain};

use super::{qemu_check, read, run};

pub(crate) fn layer(path: &Path, format: Format) -> LayerSpec {
    LayerSpec { path: path.to_owned(), format }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Something that both sides can do to a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    ZeroUnmap(u64, u64),
    Flush,
}

impl Step {
    pub(crate) fn random(random: &mut Random, size: u64) -> Self {
        let longest = [512, 5000, 70_000, 300_000][random.below(4) as usize];
        let offset = random.below(size);
        let length = (1 + random.below(longest)).min(size - offset);
        match random.below(12) {
            0 => Self::Zero(offset, length),
            1 | 2 => Self::ZeroUnmap(offset, length),
            3 => Self::Flush,
            _ => Self::Write(offset, length, 1 + random.below(255) as u8),
        }
    }

    fn command(self) -> String {
        match self {
            Self::Write(offset, length, byte) => format!("write -q -P {byte} {offset} {length}"),
            Self::Zero(offset, length) => format!("write -q -z {offset} {length}"),
            Self::ZeroUnmap(offset, length) => format!("write -q -z -u {offset} {length}"),
            Self::Flush => "flush".to_owned(),
        }
    }

    pub(crate) fn apply(self, disk: &dyn DiskImage) {
        match self {
            Self::Write(offset, length, byte) => {
                disk.write(&[IoSlice::new(&vec![byte; length as usize])], offset)
            }
            Self::Zero(offset, length) => disk.write_zeroes(offset, length, false),
            Self::ZeroUnmap(offset, length) => disk.write_zeroes(offset, length, true),
            Self::Flush => disk.flush(),
        }
        .unwrap();
    }
}

/// Lets `qemu-io` do the steps.
pub(crate) fn qemu_io(path: &Path, format: &str, steps: &[Step]) {
    let mut child = Command::new("qemu-io")
        .args(["-f", format, "--cache", "writeback", "-d", "unmap"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut commands: String = steps.iter().map(|step| step.command() + "\n").collect();
    commands.push_str("quit\n");
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).replace("qemu-io> ", "");
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// The bytes of a disk, as `qemu-img` reads it.
pub(crate) fn qemu_bytes(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let raw = folder.join("converted.raw");
    run("qemu-img", &[&["convert", "-O", "raw"], arguments, &[text(&raw)]].concat());
    std::fs::read(&raw).unwrap()
}

pub(crate) fn our_bytes(layers: &[LayerSpec]) -> Vec<u8> {
    let disk = open_chain(layers, true).unwrap();
    read(&*disk, 0, disk.size())
}

pub(crate) fn assert_sound(path: &Path, what: &str) {
    assert_eq!(qemu_check(path), (0, 0), "{what}");
    let report = check_layer(path).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {:?}", report.findings);
}
