//! Microsoft's virtual hard disks, fixed and dynamic (Virtual Hard Disk Image Format Specification, October 2006).
//!
//! A fixed disk is raw, with a footer of 512 bytes behind it. A dynamic one has a copy of the footer at its start and a
//! table of blocks, each with a bitmap before it. A block that is there is taken as a whole, as QEMU does: what its
//! bitmap leaves out holds zeroes.

use std::io;
use std::sync::Arc;

use snafu::{ResultExt, ensure};

use super::blocks::{BlockDisk, BlockMap, Place};
use super::numbers::{be32, be64};
use super::{DamagedSnafu, ForeignError, ForeignFormat, ReadForeignSnafu, UnsupportedSnafu, check_size};
use crate::bytes::index;
use crate::storage::read_at;
use crate::{DiskImage, Storage};

/// The length of the footer.
const FOOTER: u64 = 512;
const COOKIE: &[u8] = b"conectix";
const DYNAMIC_HEADER: u64 = 1024;
const DYNAMIC_COOKIE: &[u8] = b"cxsparse";
/// An entry of the table for a block that is not there.
const UNUSED: u32 = u32::MAX;
/// No table is longer: 64 MiB, where the format's own 2 TiB need 4 MiB.
const MOST_BLOCKS: u64 = 1 << 24;
/// No block is larger, and none is smaller than a sector.
const LARGEST_BLOCK: u64 = 256 << 20;

/// Whether a file has a footer at its end, or the copy of one at its start.
pub(super) fn has_footer(storage: &dyn Storage, length: u64) -> io::Result<bool> {
    let mut cookie = [0; COOKIE.len()];
    for at in [length.checked_sub(FOOTER), Some(0)].into_iter().flatten() {
        read_at(storage, &mut cookie, at)?;
        if cookie == COOKIE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens a disk.
pub(super) fn open(storage: Arc<dyn Storage>) -> Result<Arc<dyn DiskImage>, ForeignError> {
    let length = storage.length().context(ReadForeignSnafu)?;
    let footer = Footer::find(&*storage, length)?;
    check_size(footer.size)?;
    match footer.kind {
        2 => {
            let fits = footer.size <= length.saturating_sub(FOOTER);
            ensure!(fits, damaged("its footer promises more than there is before it"));
            let map = Fixed { block_size: LARGEST_BLOCK };
            let size = footer.size;
            Ok(Arc::new(BlockDisk { storage, map, block_size: LARGEST_BLOCK, size }))
        }
        3 => open_dynamic(storage, length, &footer),
        4 => UnsupportedSnafu { what: "a differencing VHD disk, which needs its parent" }.fail(),
        kind => UnsupportedSnafu { what: format!("a VHD disk of the unknown type {kind}") }.fail(),
    }
}

fn damaged(what: &'static str) -> DamagedSnafu<ForeignFormat, &'static str> {
    DamagedSnafu { format: ForeignFormat::Vhd, what }
}

struct Footer {
    size: u64,
    kind: u32,
    /// Where the header of a dynamic disk is.
    header: u64,
}

impl Footer {
    /// The footer at the end, or, where that is damaged, its copy at the start.
    fn find(storage: &dyn Storage, length: u64) -> Result<Self, ForeignError> {
        for at in [length.checked_sub(FOOTER), Some(0)].into_iter().flatten() {
            let mut bytes = vec![0; index(FOOTER)];
            read_at(storage, &mut bytes, at).context(ReadForeignSnafu)?;
            if bytes.starts_with(COOKIE) && be32(&bytes, 64) == checksum(&bytes, 64) {
                return Ok(Self { size: be64(&bytes, 48), kind: be32(&bytes, 60), header: be64(&bytes, 16) });
            }
        }
        damaged("the checksum of its footer is wrong").fail()
    }
}

/// The complement of the sum of all bytes but those of the checksum itself.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let others = bytes.iter().enumerate().filter(|(position, _)| !(at..at + 4).contains(position));
    !others.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

fn open_dynamic(
    storage: Arc<dyn Storage>,
    length: u64,
    footer: &Footer,
) -> Result<Arc<dyn DiskImage>, ForeignError> {
    let inside = |offset: u64, count: u64| offset.checked_add(count).is_some_and(|end| end <= length);
    ensure!(inside(footer.header, DYNAMIC_HEADER), damaged("its header lies past the end of the file"));
    let mut header = vec![0; index(DYNAMIC_HEADER)];
    read_at(&*storage, &mut header, footer.header).context(ReadForeignSnafu)?;
    ensure!(header.starts_with(DYNAMIC_COOKIE), damaged("its header has the wrong mark"));
    ensure!(be32(&header, 36) == checksum(&header, 36), damaged("the checksum of its header is wrong"));

    let (table_at, entries) = (be64(&header, 16), u64::from(be32(&header, 28)));
    let block_size = u64::from(be32(&header, 32));
    let possible = block_size.is_power_of_two() && (512..=LARGEST_BLOCK).contains(&block_size);
    ensure!(possible, damaged("its blocks have an impossible size"));
    let needed = footer.size.div_ceil(block_size);
    ensure!(needed <= MOST_BLOCKS && needed <= entries, damaged("its table of blocks has a wrong length"));
    ensure!(inside(table_at, needed * 4), damaged("its table of blocks lies past the end of the file"));
    let mut bytes = vec![0; index(needed * 4)];
    read_at(&*storage, &mut bytes, table_at).context(ReadForeignSnafu)?;
    let table = bytes.chunks_exact(4).map(|entry| be32(entry, 0)).collect();
    let bitmap_size = (block_size / 512).div_ceil(8).next_multiple_of(512);
    let map = Dynamic { table, bitmap_size, block_size, length };
    Ok(Arc::new(BlockDisk { storage, map, block_size, size: footer.size }))
}

/// A fixed disk: all blocks lie one behind the other.
struct Fixed {
    block_size: u64,
}

impl BlockMap for Fixed {
    fn find(&self, _: &dyn Storage, block: u64) -> io::Result<Place> {
        Ok(Place::At(block * self.block_size))
    }

    fn is_there(&self, storage: &dyn Storage, block: u64) -> io::Result<bool> {
        let start = block * self.block_size;
        Ok(storage.data_from(start)? < start + self.block_size)
    }
}

struct Dynamic {
    table: Vec<u32>,
    bitmap_size: u64,
    block_size: u64,
    length: u64,
}

impl BlockMap for Dynamic {
    fn find(&self, _: &dyn Storage, block: u64) -> io::Result<Place> {
        let Some(sector) = self.sector(block) else { return Ok(Place::Nowhere) };
        let place = sector * 512 + self.bitmap_size;
        if place + self.block_size > self.length {
            let what = "the VHD is damaged: a block lies past the end of the file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Place::At(place))
    }

    fn is_there(&self, _: &dyn Storage, block: u64) -> io::Result<bool> {
        Ok(self.sector(block).is_some())
    }
}

impl Dynamic {
    fn sector(&self, block: u64) -> Option<u64> {
        self.table.get(index(block)).filter(|sector| **sector != UNUSED).map(|sector| u64::from(*sector))
    }
}
