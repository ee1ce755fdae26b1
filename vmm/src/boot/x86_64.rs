//! Booting an x86_64 kernel: where its segments, the initial file system and our tables go.

use std::fs::File;
use std::io;
use std::ops::Range;

use snafu::{OptionExt, ResultExt, Snafu, ensure};

use super::kernel::{KernelError, elf};
use super::load_plan::{EntryPoint, FilePiece, LoadPlan};
use crate::arch::x86_64::{
    BOOT_PARAMETERS, BootData, BootDataError, DeviceWindow, KERNEL_START, MAPPED, MemoryMap,
};

/// What a machine boots from.
#[derive(Clone, Copy, Debug)]
pub struct X86Boot<'a> {
    /// The kernel, an ELF file.
    pub kernel: &'a File,
    /// The initial file system.
    pub initramfs: &'a File,
    /// The whole command line.
    pub command_line: &'a str,
    /// The memory.
    pub memory: &'a MemoryMap,
    /// The number of processors.
    pub cpus: u8,
    /// The virtio-mmio devices.
    pub devices: &'a [DeviceWindow],
}

/// Why a machine cannot be booted.
#[derive(Debug, Snafu)]
#[non_exhaustive]
pub enum X86BootError {
    /// The kernel's file is none that can be loaded.
    #[snafu(display("cannot load the kernel"))]
    Kernel {
        /// Why not.
        source: KernelError,
    },
    /// The kernel wants to lie where nothing is mapped yet, or where our tables are.
    #[snafu(display(
        "cannot load the kernel: it wants to lie from {start:#x} to {end:#x}, and only {KERNEL_START:#x} to \
         {MAPPED:#x} is for kernels"
    ))]
    KernelPlace {
        /// Where a segment begins.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// Two parts of the kernel want to lie at the same place.
    #[snafu(display("cannot load the kernel: two of its segments overlap at {address:#x}"))]
    KernelOverlap {
        /// Where.
        address: u64,
    },
    /// The kernel ends behind the memory.
    #[snafu(display(
        "the kernel needs memory up to {} MiB, and the VM has {} MiB: give it more",
        end.div_ceil(1 << 20), memory >> 20
    ))]
    KernelTooLarge {
        /// Where the kernel ends.
        end: u64,
        /// Where the memory ends.
        memory: u64,
    },
    /// The initial file system's file cannot be examined.
    #[snafu(display("cannot examine the initial file system"))]
    Initramfs {
        /// Why not.
        source: io::Error,
    },
    /// The initial file system does not fit behind the kernel.
    #[snafu(display(
        "the initial file system of {length} bytes does not fit into the {room} bytes of memory behind the kernel: \
         give the VM more"
    ))]
    InitramfsTooLarge {
        /// Its length.
        length: u64,
        /// What there is for it.
        room: u64,
    },
    /// There is no such machine.
    #[snafu(display("cannot describe the machine to the kernel"))]
    Data {
        /// Why not.
        source: BootDataError,
    },
}

type Result<T, E = X86BootError> = std::result::Result<T, E>;

/// The initial file system begins at such an address, so that it takes as few large pages of the host as it can.
const INITRAMFS_ALIGNMENT: u64 = 2 << 20;

impl<'a> X86Boot<'a> {
    /// Finds a place for everything. Nothing is read but the kernel's headers.
    pub fn plan(&self) -> Result<LoadPlan<'a>> {
        let layout = elf::layout(self.kernel).context(KernelSnafu)?;
        let kernel_end = self.check_places(&layout.segments)?;
        let initramfs = self.initramfs_place(kernel_end)?;
        let file_pieces = layout.segments.iter().map(|segment| FilePiece {
            file: self.kernel,
            what: "kernel",
            offset: segment.offset,
            address: segment.address,
            length: segment.file_length,
            stays: true,
        });
        let initramfs_piece = FilePiece {
            file: self.initramfs,
            what: "initial file system",
            offset: 0,
            address: initramfs.start,
            length: initramfs.end - initramfs.start,
            stays: false,
        };
        let files = file_pieces.chain([initramfs_piece]).filter(|piece| piece.length > 0).collect();
        let data = BootData {
            memory: self.memory,
            cpus: self.cpus,
            devices: self.devices,
            command_line: self.command_line,
            initramfs,
        };
        let entry = EntryPoint { instruction: layout.entry, boot_data: BOOT_PARAMETERS };
        let plan = LoadPlan::new(files, data.place().context(DataSnafu)?, entry);
        // A kernel puts into its code what suits the processor it finds.
        Ok(plan.with_rewritten(layout.code))
    }

    /// Whether each segment has a place of its own, and where the last one ends.
    fn check_places(&self, segments: &[elf::Segment]) -> Result<u64> {
        let range = |segment: &elf::Segment| segment.address..segment.address + segment.memory_length;
        let mut ranges: Vec<Range<u64>> = segments.iter().map(range).collect();
        ranges.sort_by_key(|range| range.start);
        let mut end = KERNEL_START;
        for range in ranges {
            ensure!(
                range.start >= KERNEL_START && range.end <= MAPPED,
                KernelPlaceSnafu { start: range.start, end: range.end }
            );
            ensure!(range.start >= end, KernelOverlapSnafu { address: range.start });
            end = range.end;
        }
        let memory = self.memory.low_end();
        ensure!(end <= memory, KernelTooLargeSnafu { end, memory });
        Ok(end)
    }

    /// As far up in low memory as it goes, out of the way of what the kernel takes behind itself.
    fn initramfs_place(&self, kernel_end: u64) -> Result<Range<u64>> {
        let length = self.initramfs.metadata().context(InitramfsSnafu)?.len();
        let room = self.memory.low_end() - kernel_end;
        let too_large = || InitramfsTooLargeSnafu { length, room };
        let start = self.memory.low_end().checked_sub(length).with_context(too_large)?;
        let start = start - start % INITRAMFS_ALIGNMENT;
        ensure!(start >= kernel_end, InitramfsTooLargeSnafu { length, room });
        Ok(start..start + length)
    }
}

#[cfg(test)]
mod tests;
