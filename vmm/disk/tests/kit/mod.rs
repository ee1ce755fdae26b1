//! What the tests of disks share: operations on a disk, a plain model of it, and the tools of QEMU.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

pub(crate) mod guest;
pub(crate) mod qemu;

use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use vmm_disk::DiskImage;

/// What a guest does to its disk. Offsets and lengths are brought into the disk when they are used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Write { offset: u64, length: u64, byte: u8 },
    Zero { offset: u64, length: u64, unmap: bool },
    Discard { offset: u64, length: u64 },
    Flush,
    Reopen,
}

impl Operation {
    /// Operations on a disk of `size` bytes, most of them shorter than a few `unit`s.
    pub(crate) fn strategy(size: u64, unit: u64) -> impl Strategy<Value = Self> {
        let range = (0..size, prop_oneof![4 => 1..unit, 3 => 1..unit * 4, 1 => 1..size], any::<[bool; 2]>());
        let range = range.prop_map(move |(offset, length, [align_start, align_end])| {
            let offset = if align_start { offset / unit * unit } else { offset };
            let length = if align_end { length.next_multiple_of(unit) } else { length };
            (offset, length.min(size - offset))
        });
        prop_oneof![
            6 => (range.clone(), 1..=255_u8)
                .prop_map(|((offset, length), byte)| Self::Write { offset, length, byte }),
            2 => (range.clone(), any::<bool>())
                .prop_map(|((offset, length), unmap)| Self::Zero { offset, length, unmap }),
            2 => range.prop_map(|(offset, length)| Self::Discard { offset, length }),
            1 => Just(Self::Flush),
            1 => Just(Self::Reopen),
        ]
    }

    /// The bytes that a write writes: different everywhere, so that a misplaced byte is seen.
    pub(crate) fn bytes(offset: u64, length: u64, byte: u8) -> Vec<u8> {
        (offset..offset + length).map(|at| byte.wrapping_add((at / 512).to_le_bytes()[0])).collect()
    }

    /// Does it to a disk.
    pub(crate) fn apply(self, disk: &dyn DiskImage) -> std::io::Result<()> {
        match self {
            Self::Write { offset, length, byte } => {
                let bytes = Self::bytes(offset, length, byte);
                // In three pieces, for buffers come scattered.
                let (first, rest) = bytes.split_at(bytes.len() / 3);
                let (second, third) = rest.split_at(rest.len() / 2);
                disk.write(&[first, second, third].map(IoSlice::new), offset)
            }
            Self::Zero { offset, length, unmap } => disk.write_zeroes(offset, length, unmap),
            Self::Discard { offset, length } => disk.discard(offset, length),
            Self::Flush => disk.flush(),
            Self::Reopen => Ok(()),
        }
    }

    /// Does it to a model. What is discarded may be anything that it was: the model takes what the disk shows now.
    pub(crate) fn apply_to_model(self, model: &mut [u8], disk: &dyn DiskImage) {
        let place = |offset: u64, length: u64| offset as usize..(offset + length) as usize;
        match self {
            Self::Write { offset, length, byte } => {
                model[place(offset, length)].copy_from_slice(&Self::bytes(offset, length, byte));
            }
            Self::Zero { offset, length, .. } => model[place(offset, length)].fill(0),
            Self::Discard { offset, length } => {
                let shown = read(disk, offset, length);
                for (old, new) in model[place(offset, length)].iter_mut().zip(shown) {
                    assert!(new == *old || new == 0, "a discarded byte is what it was, or zero");
                    *old = new;
                }
            }
            Self::Flush | Self::Reopen => {}
        }
    }
}

/// Reads a range, into two buffers.
pub(crate) fn read(disk: &dyn DiskImage, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; length as usize];
    let (first, second) = bytes.split_at_mut(length as usize / 2);
    disk.read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)], offset).unwrap();
    bytes
}

/// Fails where two disks differ, telling where.
pub(crate) fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: the sizes differ");
    if let Some(at) = left.iter().zip(right).position(|(left, right)| left != right) {
        panic!("{what}: byte {at:#x} is {:#x} and {:#x}", left[at], right[at]);
    }
}

/// A folder in memory, where the machine has a place for that: nobody waits for a disk.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Whether a tool of QEMU is there; says so if it is not.
pub(crate) fn has_tool(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

/// Runs a tool that must succeed. Returns what it printed.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?}: {text}");
    text
}

/// What `qemu-img check` says: the numbers of corruptions and of leaks.
pub(crate) fn qemu_check(path: &Path) -> (u64, u64) {
    let output =
        Command::new("qemu-img").args(["check", "--output=json", "-f", "qcow2"]).arg(path).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(report.get("check-errors").and_then(serde_json::Value::as_u64), Some(0), "{report}");
    let count = |name| report.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    (count("corruptions"), count("leaks"))
}
