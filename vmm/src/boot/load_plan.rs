//! What is to lie in a guest's memory when it starts: parts of files and bytes of ours, as data. An engine maps what
//! can be mapped, and has the rest loaded.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::io::preadv;
use snafu::{ResultExt, Snafu};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::arch::x86_64::Placed;
use crate::memory::{ReadVectors, Regions};

/// A part of a file that belongs into memory.
#[derive(Clone, Copy, Debug)]
pub struct FilePiece<'a> {
    /// The file.
    pub file: &'a File,
    /// What the file is, for people.
    pub what: &'static str,
    /// Where the part begins in the file.
    pub offset: u64,
    /// Where it belongs in the guest's memory.
    pub address: u64,
    /// Its length.
    pub length: u64,
    /// Whether the guest leaves much of it as it is, so that machines share its pages. What a guest reads once, to write to
    /// the memory that it frees, would cost three faults of each page.
    pub stays: bool,
}

/// Where the first processor begins, and what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// The address of its first instruction.
    pub instruction: u64,
    /// The address of what describes the machine to the kernel.
    pub boot_data: u64,
}

/// All that is to lie in memory, none of it twice. What is not named is zero, as fresh memory is.
#[derive(Clone, Debug)]
pub struct LoadPlan<'a> {
    files: Vec<FilePiece<'a>>,
    bytes: Vec<Placed>,
    entry: EntryPoint,
    rewritten: Vec<Range<u64>>,
}

/// Why memory cannot be filled.
#[derive(Debug, Snafu)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[snafu(display("cannot read {length} bytes at {offset} of the {what} for the memory at {address:#x}"))]
    Read {
        /// What the file is.
        what: &'static str,
        /// The part's length.
        length: u64,
        /// Where it begins in the file.
        offset: u64,
        /// Where it belongs.
        address: u64,
        /// The cause.
        source: io::Error,
    },
    /// There is no such memory.
    #[snafu(display("cannot load what belongs at {address:#x} of the guest's memory"))]
    Memory {
        /// Where it belongs.
        address: u64,
        /// The cause.
        source: GuestMemoryError,
    },
}

impl<'a> LoadPlan<'a> {
    /// A plan, made where it is known that nothing overlaps.
    pub(super) fn new(files: Vec<FilePiece<'a>>, bytes: Vec<Placed>, entry: EntryPoint) -> Self {
        Self { files, bytes, entry, rewritten: Vec::new() }
    }

    /// With parts of memory that the guest writes to nearly everywhere as it boots.
    pub(super) fn with_rewritten(mut self, rewritten: Vec<Range<u64>>) -> Self {
        self.rewritten = rewritten;
        self
    }

    /// Parts of memory that the guest writes to nearly everywhere as it boots: of a page of a file it gets a copy each time.
    pub fn rewritten(&self) -> &[Range<u64>] {
        &self.rewritten
    }

    /// Where the first processor begins.
    pub fn entry(&self) -> EntryPoint {
        self.entry
    }

    /// Takes from the plan what is to be mapped from its file, and can be: whole pages that lie alike in the file and in
    /// memory.
    ///
    /// The caller maps them privately, so that machines share the pages that they do not change. Whoever makes such a
    /// file shorter kills the machine, so it must be one that is replaced and never changed.
    pub fn take_mappable(&mut self, page_size: u64) -> Vec<FilePiece<'a>> {
        let mut mappable = Vec::new();
        let mut rest = Vec::new();
        for piece in std::mem::take(&mut self.files) {
            let piece_end = piece.address + piece.length;
            let start = piece.address.next_multiple_of(page_size) - piece.address;
            let end = (piece_end - piece_end % page_size).saturating_sub(piece.address);
            let alike = piece.offset % page_size == piece.address % page_size;
            if piece.stays && alike && start < end {
                mappable.push(piece.part(start, end));
                rest.extend([piece.part(0, start), piece.part(end, piece.length)]);
            } else {
                rest.push(piece);
            }
        }
        rest.retain(|piece| piece.length > 0);
        self.files = rest;
        mappable
    }

    /// Where parts of files will be copied to.
    pub fn copied(&self) -> impl Iterator<Item = Range<u64>> {
        self.files.iter().map(|piece| piece.address..piece.address + piece.length)
    }

    /// Copies what is in the plan into memory, which is fresh, or has mapped what was taken from the plan.
    pub fn load(&self, memory: &Regions) -> Result<(), LoadError> {
        for Placed { address, bytes } in &self.bytes {
            let address = *address;
            memory.write_slice(bytes, GuestAddress(address)).context(MemorySnafu { address })?;
        }
        self.files.iter().try_for_each(|piece| piece.load(memory))
    }
}

impl FilePiece<'_> {
    /// From one place in it to another.
    fn part(self, start: u64, end: u64) -> Self {
        Self { offset: self.offset + start, address: self.address + start, length: end - start, ..self }
    }

    fn load(self, memory: &Regions) -> Result<(), LoadError> {
        let Self { what, length, offset, address, .. } = self;
        let mut vectors = ReadVectors::new();
        let mut done = 0;
        while done < length {
            let left = usize::try_from(length - done).unwrap_or(usize::MAX);
            let slices = memory.get_slices(GuestAddress(address + done), left);
            let slices: Vec<_> = slices.collect::<Result<_, _>>().context(MemorySnafu { address })?;
            let count = vectors.with(slices.into_iter(), |buffers| {
                rustix::io::retry_on_intr(|| preadv(self.file, buffers, offset + done))
            });
            let count = match count {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                count => count.map_err(io::Error::from),
            };
            done += count.context(ReadSnafu { what, length, offset, address })? as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
