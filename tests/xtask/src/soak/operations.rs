//! Random operations on disks, beside `qemu-io`: ten thousand on every kind of image.

use super::Suite;
use crate::failure::Outcome;
use crate::verify::some;

/// How many operations each image gets.
const OPERATIONS: &str = "10000";

pub(super) struct Operations;

impl Suite for Operations {
    fn name(&self) -> &'static str {
        "operations"
    }

    fn purpose(&self) -> &'static str {
        "10,000 operations on qcow2 images of each of 104 kinds, with the same bytes as qemu-io"
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        Ok((9..=21).map(|bits| format!("clusters of 2^{bits}")).collect())
    }

    fn run(&self, piece: &str) -> Outcome<String> {
        let bits = piece.rsplit('^').next().unwrap_or_default();
        let arguments = ["--release", "--package", "vmm-disk", "--test", "operations"];
        let environment = [("VMM_DISK_OPERATIONS", OPERATIONS), ("VMM_DISK_CLUSTER_BITS", bits)];
        let ran = some::run(&arguments, &environment)?;
        let done = ran.said.lines().rev().find(|line| line.ends_with(" kinds of images")).unwrap_or_default();
        Ok(format!("{}, {done}", ran.closing))
    }
}
