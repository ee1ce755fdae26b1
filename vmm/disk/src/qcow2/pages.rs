//! A bounded cache of metadata pages, which knows the sectors that changed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::geometry::SECTOR;
use crate::bytes::index;
use crate::storage::{Storage, read_at, write_at};

/// Bytes that go to a place in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A piece of a table, as it lies in the file.
#[derive(Debug)]
struct Page {
    bytes: Box<[u8]>,
    /// Sectors that changed since they were last handed out to be written: one bit each.
    dirty: u8,
    /// Sectors that are being written.
    writing: u8,
    /// Used since the eviction last passed by.
    used: AtomicBool,
}

/// Pages by their offset in the file.
///
/// A page that changed stays until [`PageCache::take_dirty`] and [`PageCache::settle`] have seen it to the disk: who
/// changes pages must do so in time, or the cache outgrows its limit. Only the refcounts write pages back early.
#[derive(Debug)]
pub(crate) struct PageCache {
    pages: HashMap<u64, Page>,
    /// The pages in the order of their next chance to be evicted (second chance).
    order: VecDeque<u64>,
    dirty: BTreeSet<u64>,
    writing: Vec<u64>,
    page_size: u64,
    limit: usize,
    /// Pages that changed may be written at any time, for nothing depends on their order.
    write_back: bool,
    /// Something was written back since this was last asked.
    written_back: bool,
}

impl PageCache {
    /// A cache of at most `limit` pages. With `write_back`, changed pages may be written when room is needed.
    pub(crate) fn new(page_size: u64, limit: usize, write_back: bool) -> Self {
        Self {
            pages: HashMap::new(),
            order: VecDeque::new(),
            dirty: BTreeSet::new(),
            writing: Vec::new(),
            page_size,
            limit,
            write_back,
            written_back: false,
        }
    }

    /// The page at `offset`, if it is here.
    pub(crate) fn get(&self, offset: u64) -> Option<&[u8]> {
        let page = self.pages.get(&offset)?;
        page.used.store(true, Ordering::Relaxed);
        Some(&page.bytes)
    }

    /// The page at `offset`, read if need be.
    pub(crate) fn load(&mut self, storage: &dyn Storage, offset: u64) -> io::Result<&[u8]> {
        if !self.pages.contains_key(&offset) {
            self.make_room(storage)?;
            let mut bytes = vec![0; index(self.page_size)].into_boxed_slice();
            read_at(storage, &mut bytes, offset)?;
            self.pages.insert(offset, Page { bytes, dirty: 0, writing: 0, used: AtomicBool::new(true) });
            self.order.push_back(offset);
        }
        self.get(offset).ok_or_else(|| io::Error::other("a metadata page got lost"))
    }

    /// Changes the 1 to 8 bytes at `within` of the page at `offset`, which is read if need be.
    pub(crate) fn change(
        &mut self,
        storage: &dyn Storage,
        offset: u64,
        within: usize,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.load(storage, offset)?;
        let Some(page) = self.pages.get_mut(&offset) else {
            return Err(io::Error::other("a metadata page got lost"));
        };
        page.bytes[within..within + bytes.len()].copy_from_slice(bytes);
        // Entries are aligned to their size, so they lie in one sector.
        page.dirty |= 1 << (within / index(SECTOR));
        self.dirty.insert(offset);
        Ok(())
    }

    /// Whether so much has changed that it should be written soon.
    pub(crate) fn is_crowded(&self) -> bool {
        self.dirty.len() > self.limit / 2
    }

    /// Whether pages were written back since the last call.
    pub(crate) fn take_written_back(&mut self) -> bool {
        std::mem::take(&mut self.written_back)
    }

    /// Copies all changed sectors, to be written now. [`PageCache::settle`] must follow.
    pub(crate) fn take_dirty(&mut self) -> Vec<Extent> {
        let mut extents = Vec::new();
        for offset in std::mem::take(&mut self.dirty) {
            if let Some(page) = self.pages.get_mut(&offset) {
                page.extents(offset, &mut extents);
                page.writing = std::mem::take(&mut page.dirty);
                self.writing.push(offset);
            }
        }
        extents
    }

    /// Says how the writing went. What was not written has changed still.
    pub(crate) fn settle(&mut self, written: bool) {
        for offset in std::mem::take(&mut self.writing) {
            if let Some(page) = self.pages.get_mut(&offset) {
                let sectors = std::mem::take(&mut page.writing);
                if !written {
                    page.dirty |= sectors;
                    self.dirty.insert(offset);
                }
            }
        }
    }

    /// Drops the pages in a range of the file that holds no metadata any more.
    pub(crate) fn forget(&mut self, start: u64, end: u64) {
        let mut offset = start;
        while offset < end {
            if self.pages.remove(&offset).is_some() {
                self.dirty.remove(&offset);
                self.order.retain(|&other| other != offset);
            }
            offset += self.page_size;
        }
    }

    fn make_room(&mut self, storage: &dyn Storage) -> io::Result<()> {
        // Two rounds: the first takes the second chances away.
        let mut tries = self.order.len() * 2;
        while self.pages.len() >= self.limit && tries > 0 {
            tries -= 1;
            let Some(offset) = self.order.pop_front() else { break };
            let Some(page) = self.pages.get_mut(&offset) else { continue };
            let used = std::mem::take(page.used.get_mut());
            if used || page.writing != 0 || (page.dirty != 0 && !self.write_back) {
                self.order.push_back(offset);
                continue;
            }
            if page.dirty != 0 {
                let mut extents = Vec::new();
                page.extents(offset, &mut extents);
                if let Err(error) = write_extents(storage, &extents) {
                    self.order.push_back(offset);
                    return Err(error);
                }
                self.written_back = true;
                self.dirty.remove(&offset);
            }
            self.pages.remove(&offset);
        }
        Ok(())
    }
}

impl Page {
    /// Adds the runs of changed sectors.
    fn extents(&self, offset: u64, extents: &mut Vec<Extent>) {
        let sector = index(SECTOR);
        let count = self.bytes.len() / sector;
        let mut first = 0;
        while first < count {
            if self.dirty & (1 << first) == 0 {
                first += 1;
                continue;
            }
            let mut end = first + 1;
            while end < count && self.dirty & (1 << end) != 0 {
                end += 1;
            }
            extents.push(Extent {
                offset: offset + (first * sector) as u64,
                bytes: self.bytes[first * sector..end * sector].to_vec(),
            });
            first = end;
        }
    }
}

/// Writes extents, those that touch as one.
pub(crate) fn write_extents(storage: &dyn Storage, extents: &[Extent]) -> io::Result<()> {
    let touch = |left: &Extent, right: &Extent| left.offset + left.bytes.len() as u64 == right.offset;
    for run in extents.chunk_by(touch) {
        match run {
            [one] => write_at(storage, &one.bytes, one.offset)?,
            run => {
                let buffers: Vec<_> = run.iter().map(|extent| io::IoSlice::new(&extent.bytes)).collect();
                storage.write(&buffers, run[0].offset)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStorage;

    fn storage() -> MemoryStorage {
        MemoryStorage::new((0..64 * 1024_u32).map(|n| (n / 4096).to_le_bytes()[0]).collect())
    }

    #[test]
    fn changed_sectors_are_handed_out_and_nothing_else() {
        let storage = storage();
        let mut cache = PageCache::new(4096, 4, false);
        cache.change(&storage, 4096, 8, &[9; 8]).unwrap();
        cache.change(&storage, 4096, 512, &[9; 8]).unwrap();
        cache.change(&storage, 8192, 4088, &[9; 8]).unwrap();
        let extents = cache.take_dirty();
        let places: Vec<_> = extents.iter().map(|extent| (extent.offset, extent.bytes.len())).collect();
        assert_eq!(places, [(4096, 1024), (8192 + 3584, 512)]);
        cache.settle(true);
        assert_eq!(cache.take_dirty(), []);
    }

    #[test]
    fn what_was_not_written_has_changed_still() {
        let storage = storage();
        let mut cache = PageCache::new(4096, 4, false);
        cache.change(&storage, 4096, 8, &[9; 8]).unwrap();
        cache.take_dirty();
        cache.change(&storage, 4096, 1024, &[9; 8]).unwrap();
        cache.settle(false);
        assert_eq!(cache.take_dirty().len(), 2);
    }

    #[test]
    fn a_changed_page_is_never_evicted() {
        let storage = storage();
        let mut cache = PageCache::new(4096, 2, false);
        cache.change(&storage, 0, 0, &[9]).unwrap();
        for page in 1..16 {
            cache.load(&storage, page * 4096).unwrap();
        }
        assert_eq!(cache.pages.len(), 2);
        assert_eq!(cache.get(0).unwrap()[0], 9);
        cache.take_dirty();
        for page in 1..16 {
            cache.load(&storage, page * 4096).unwrap();
        }
        assert_eq!(cache.get(0).unwrap()[0], 9, "a page that is being written stays too");
    }

    #[test]
    fn a_page_written_back_is_told() {
        let storage = storage();
        let mut cache = PageCache::new(4096, 2, true);
        cache.change(&storage, 0, 0, &[9]).unwrap();
        assert!(!cache.take_written_back());
        for page in 1..16 {
            cache.load(&storage, page * 4096).unwrap();
        }
        assert!(cache.take_written_back());
        assert_eq!(storage.bytes()[0], 9);
    }

    #[test]
    fn a_forgotten_page_is_read_again() {
        let storage = storage();
        let mut cache = PageCache::new(4096, 4, false);
        cache.change(&storage, 4096, 0, &[9]).unwrap();
        cache.forget(0, 16384);
        assert_eq!(cache.take_dirty(), []);
        assert_eq!(cache.load(&storage, 4096).unwrap()[0], 1);
    }
}
