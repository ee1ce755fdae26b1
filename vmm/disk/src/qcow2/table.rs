//! A table that is kept in memory as a whole: the L1 table and the refcount table.

use std::collections::BTreeSet;
use std::io;

use super::geometry::SECTOR;
use super::pages::Extent;
use crate::bytes::index;
use crate::storage::{Storage, read_at};

/// Entries in a sector.
const ENTRIES: usize = 64;

/// A table of offsets.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    offset: u64,
    entries: Vec<u64>,
    /// Sectors that changed.
    dirty: BTreeSet<usize>,
    /// Sectors that are being written.
    writing: BTreeSet<usize>,
}

impl Table {
    /// A table that lies, or will lie, at `offset`.
    pub(crate) fn new(offset: u64, entries: Vec<u64>) -> Self {
        Self { offset, entries, dirty: BTreeSet::new(), writing: BTreeSet::new() }
    }

    /// Reads a table. The header's check has bounded its length.
    pub(crate) fn read(storage: &dyn Storage, offset: u64, entries: u64) -> io::Result<Self> {
        let mut bytes = vec![0; index(entries * 8)];
        read_at(storage, &mut bytes, offset)?;
        let entries = bytes.chunks_exact(8).map(number).collect();
        Ok(Self::new(offset, entries))
    }

    /// Where it lies in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// An entry; zero past the end.
    pub(crate) fn get(&self, position: u64) -> u64 {
        self.entries.get(index(position)).copied().unwrap_or(0)
    }

    /// Changes an entry, which must be there.
    pub(crate) fn set(&mut self, position: u64, value: u64) {
        let position = index(position);
        if let Some(entry) = self.entries.get_mut(position) {
            *entry = value;
            self.dirty.insert(position / ENTRIES);
        }
    }

    /// All of it, as it lies in the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
    }

    /// The same table, longer, and at another place.
    pub(crate) fn grown(&self, offset: u64, length: u64) -> Self {
        let mut entries = self.entries.clone();
        entries.resize(index(length), 0);
        Self::new(offset, entries)
    }

    /// Copies the changed sectors, to be written now. [`Table::settle`] must follow.
    pub(crate) fn take_dirty(&mut self) -> Vec<Extent> {
        self.writing = std::mem::take(&mut self.dirty);
        let sectors = self.writing.iter();
        sectors
            .map(|&sector| Extent {
                offset: self.offset + sector as u64 * SECTOR,
                bytes: self.entries[sector * ENTRIES..]
                    .iter()
                    .take(ENTRIES)
                    .flat_map(|entry| entry.to_be_bytes())
                    .collect(),
            })
            .collect()
    }

    /// Says how the writing went. What was not written has changed still.
    pub(crate) fn settle(&mut self, written: bool) {
        let mut sectors = std::mem::take(&mut self.writing);
        if !written {
            self.dirty.append(&mut sectors);
        }
    }
}

/// A big-endian number of up to 8 bytes.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_sectors_are_handed_out() {
        let mut table = Table::new(1024, vec![0; 100]);
        table.set(3, 7);
        table.set(64, 8);
        let extents = table.take_dirty();
        assert_eq!(extents.len(), 2);
        assert_eq!((extents[0].offset, extents[0].bytes.len()), (1024, 512));
        assert_eq!(number(&extents[0].bytes[24..32]), 7);
        assert_eq!((extents[1].offset, extents[1].bytes.len()), (1536, 36 * 8));
        table.settle(false);
        assert_eq!(table.take_dirty().len(), 2);
        table.settle(true);
        assert!(table.take_dirty().is_empty());
    }
}
