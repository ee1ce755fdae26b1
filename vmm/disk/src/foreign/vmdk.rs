//! VMware's disks in one file: monolithicSparse and streamOptimized (Virtual Disk Format 5.0).
//!
//! A disk is cut into grains; a directory leads to tables, and these to grains. A streamOptimized disk is written in
//! one go: its grains are compressed, and the directory's place is told at the end of the file.

use std::io;
use std::sync::{Arc, Mutex};

use flate2::{Decompress, FlushDecompress, Status};
use snafu::{ResultExt, ensure};

use super::blocks::{BlockDisk, BlockMap, Place};
use super::numbers::{le16, le32, le64};
use super::{DamagedSnafu, ForeignError, ForeignFormat, ReadForeignSnafu, UnsupportedSnafu, check_size};
use crate::bytes::index;
use crate::locking::lock;
use crate::storage::read_at;
use crate::{DiskImage, LARGEST_FOREIGN_DISK, Storage};

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"KDMV";
/// In the place of the directory's offset: it is told in a copy of the header before the last sector.
const AT_END: u64 = u64::MAX;
/// The mark of the sector before that copy.
const FOOTER_MARKER: u32 = 3;
/// Flags of the header: an entry of 1 means zeroes, grains are compressed, marks lie before them.
const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// The only method there is.
const DEFLATE: u16 = 1;
/// The bytes of a mark before a compressed grain: the sector of the disk, and the length.
const GRAIN_MARK: u64 = 12;
/// Grains of 2 MiB are the largest, in sectors.
const LARGEST_GRAIN: u64 = 4096;
/// Entries of a table: the format has no other number, some writers fewer.
const MOST_ENTRIES: u64 = 512;
/// No directory is longer: it leads to 16 TiB in grains of 16 KiB.
const MOST_TABLES: u64 = 1 << 21;
/// A description in the file is not longer.
const LONGEST_DESCRIPTION: u64 = 64 << 10;

/// Opens a disk.
pub(super) fn open(storage: Arc<dyn Storage>) -> Result<Arc<dyn DiskImage>, ForeignError> {
    let length = storage.length().context(ReadForeignSnafu)?;
    let first = Header::read(&*storage, 0)?;
    check_description(&*storage, &first)?;
    let header = if first.directory == AT_END { Header::at_end(&*storage, length)? } else { first };
    header.check()?;

    let grain_size = header.grain_sectors * SECTOR;
    let grains = header.sectors.div_ceil(header.grain_sectors);
    let tables = grains.div_ceil(header.entries);
    ensure!(tables <= MOST_TABLES, damaged("its grain directory is too long"));
    let directory_at = header.directory.checked_mul(SECTOR);
    let end = directory_at.and_then(|at| at.checked_add(tables * 4));
    let inside = end.is_some_and(|end| end <= length);
    ensure!(inside, damaged("its grain directory lies past the end of the file"));
    let mut bytes = vec![0; index(tables * 4)];
    read_at(&*storage, &mut bytes, directory_at.unwrap_or_default()).context(ReadForeignSnafu)?;
    let directory = bytes.chunks_exact(4).map(|entry| le32(entry, 0)).collect();
    let map = Grains {
        directory,
        entries: header.entries,
        grain_size,
        size: header.sectors * SECTOR,
        length,
        zeroed: header.flags & ZEROED_GRAINS != 0,
        compressed: header.flags & COMPRESSED != 0,
        recent_table: Mutex::default(),
        recent_grain: Mutex::default(),
    };
    Ok(Arc::new(BlockDisk { storage, map, block_size: grain_size, size: header.sectors * SECTOR }))
}

fn damaged(what: &'static str) -> DamagedSnafu<ForeignFormat, &'static str> {
    DamagedSnafu { format: ForeignFormat::Vmdk, what }
}

/// What the description says of interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    /// How the disk is kept.
    pub(super) kind: Option<String>,
    /// The content of the disk that this one builds on.
    pub(super) parent: Option<String>,
}

/// Reads a description: lines of `name=value`.
pub(super) fn description(bytes: &[u8]) -> Description {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.find(|(found, _)| found.trim() == name)?;
        let value: String = value.trim().trim_matches('"').chars().take(40).collect();
        Some(value.escape_debug().to_string())
    };
    Description { kind: value("createType"), parent: value("parentCID") }
}

/// Refuses what needs other files than this one.
fn check_description(storage: &dyn Storage, header: &Header) -> Result<(), ForeignError> {
    let unsupported = |what: String| UnsupportedSnafu { what }.fail();
    let place = header.description.checked_mul(SECTOR).filter(|place| *place < LARGEST_FOREIGN_DISK);
    ensure!(place.is_some(), damaged("its description lies past the end of the file"));
    let length = header.description_sectors.saturating_mul(SECTOR).min(LONGEST_DESCRIPTION);
    let mut bytes = vec![0; index(length)];
    read_at(storage, &mut bytes, place.unwrap_or_default()).context(ReadForeignSnafu)?;
    let Description { kind, parent } = description(&bytes);
    match kind.as_deref() {
        Some("monolithicSparse" | "streamOptimized") => {}
        Some(kind) => return unsupported(format!("a VMDK disk of the kind {kind}")),
        None => return unsupported("one file of a VMDK disk in several files".to_owned()),
    }
    match parent.as_deref() {
        None | Some("ffffffff" | "FFFFFFFF") => Ok(()),
        Some(_) => unsupported("a VMDK disk that builds on another".to_owned()),
    }
}

#[derive(Debug)]
struct Header {
    version: u32,
    flags: u32,
    sectors: u64,
    grain_sectors: u64,
    description: u64,
    description_sectors: u64,
    entries: u64,
    directory: u64,
    compression: u16,
}

impl Header {
    fn read(storage: &dyn Storage, at: u64) -> Result<Self, ForeignError> {
        let mut bytes = vec![0; index(SECTOR)];
        read_at(storage, &mut bytes, at).context(ReadForeignSnafu)?;
        ensure!(bytes.starts_with(MAGIC), damaged("its header has the wrong mark"));
        Ok(Self {
            version: le32(&bytes, 4),
            flags: le32(&bytes, 8),
            sectors: le64(&bytes, 12),
            grain_sectors: le64(&bytes, 20),
            description: le64(&bytes, 28),
            description_sectors: le64(&bytes, 36),
            entries: u64::from(le32(&bytes, 44)),
            directory: le64(&bytes, 56),
            compression: le16(&bytes, 77),
        })
    }

    /// The copy at the end: the last three sectors are a mark, the copy, and a mark of the end.
    fn at_end(storage: &dyn Storage, length: u64) -> Result<Self, ForeignError> {
        let cut = damaged("its end is missing");
        let mark_at = length.checked_sub(3 * SECTOR).filter(|at| *at > 0);
        ensure!(mark_at.is_some(), cut);
        let mark_at = mark_at.unwrap_or_default();
        let mut mark = vec![0; index(SECTOR)];
        read_at(storage, &mut mark, mark_at).context(ReadForeignSnafu)?;
        ensure!(le32(&mark, 8) == 0 && le32(&mark, 12) == FOOTER_MARKER, cut);
        let header = Self::read(storage, mark_at + SECTOR)?;
        ensure!(header.directory != AT_END, cut);
        Ok(header)
    }

    fn check(&self) -> Result<(), ForeignError> {
        let Self { version, flags, sectors, grain_sectors, entries, compression, .. } = *self;
        if !(1..=3).contains(&version) {
            return UnsupportedSnafu { what: format!("version {version} of VMDK") }.fail();
        }
        if flags & COMPRESSED != 0 && (compression != DEFLATE || flags & MARKERS == 0) {
            return UnsupportedSnafu { what: "a VMDK disk compressed in an unknown way" }.fail();
        }
        check_size(sectors.saturating_mul(SECTOR))?;
        let possible = grain_sectors.is_power_of_two() && grain_sectors <= LARGEST_GRAIN;
        ensure!(possible, damaged("its grains have an impossible size"));
        ensure!((1..=MOST_ENTRIES).contains(&entries), damaged("its grain tables have an impossible size"));
        Ok(())
    }
}

/// The table that was read last, and the place of its sector.
type RecentTable = Option<(u32, Arc<[u32]>)>;

/// The grain that was decompressed last, and its sector.
type RecentGrain = Option<(u32, Arc<[u8]>)>;

struct Grains {
    directory: Vec<u32>,
    entries: u64,
    grain_size: u64,
    /// Of the disk.
    size: u64,
    /// Of the file.
    length: u64,
    zeroed: bool,
    compressed: bool,
    recent_table: Mutex<RecentTable>,
    recent_grain: Mutex<RecentGrain>,
}

impl BlockMap for Grains {
    fn find(&self, storage: &dyn Storage, block: u64) -> io::Result<Place> {
        let Some(sector) = self.sector(storage, block)? else { return Ok(Place::Nowhere) };
        let place = u64::from(sector) * SECTOR;
        if self.compressed {
            return self.decompressed(storage, block, sector).map(Place::Bytes);
        }
        // The last grain of a disk need not be whole.
        if place >= self.length {
            return Err(invalid("a grain lies past the end of the file"));
        }
        Ok(Place::At(place))
    }

    fn is_there(&self, storage: &dyn Storage, block: u64) -> io::Result<bool> {
        Ok(self.sector(storage, block)?.is_some())
    }
}

impl Grains {
    fn sector(&self, storage: &dyn Storage, grain: u64) -> io::Result<Option<u32>> {
        let Some(&table) = self.directory.get(index(grain / self.entries)) else { return Ok(None) };
        if table == 0 {
            return Ok(None);
        }
        let entry = self.table(storage, table)?.get(index(grain % self.entries)).copied();
        Ok(entry.filter(|sector| *sector != 0 && !(self.zeroed && *sector == 1)))
    }

    fn table(&self, storage: &dyn Storage, sector: u32) -> io::Result<Arc<[u32]>> {
        let mut recent = lock(&self.recent_table);
        if let Some((_, table)) = recent.as_ref().filter(|(found, _)| *found == sector) {
            return Ok(table.clone());
        }
        let place = u64::from(sector) * SECTOR;
        if place + self.entries * 4 > self.length {
            return Err(invalid("a grain table lies past the end of the file"));
        }
        let mut bytes = vec![0; index(self.entries * 4)];
        read_at(storage, &mut bytes, place)?;
        let table: Arc<[u32]> = bytes.chunks_exact(4).map(|entry| le32(entry, 0)).collect();
        *recent = Some((sector, table.clone()));
        Ok(table)
    }

    fn decompressed(&self, storage: &dyn Storage, grain: u64, sector: u32) -> io::Result<Arc<[u8]>> {
        let mut recent = lock(&self.recent_grain);
        if let Some((_, bytes)) = recent.as_ref().filter(|(found, _)| *found == sector) {
            return Ok(bytes.clone());
        }
        let place = u64::from(sector) * SECTOR;
        let mut mark = [0; 12];
        read_at(storage, &mut mark, place)?;
        let (first, length) = (le64(&mark, 0), u64::from(le32(&mark, 8)));
        if first.checked_mul(SECTOR) != grain.checked_mul(self.grain_size) {
            return Err(invalid("a grain is marked as another one"));
        }
        let end = place + GRAIN_MARK + length;
        if length > self.grain_size * 2 || end > self.length {
            return Err(invalid("a compressed grain has an impossible length"));
        }
        let mut compressed = vec![0; index(length)];
        read_at(storage, &mut compressed, place + GRAIN_MARK)?;
        let needed = self.size.saturating_sub(grain * self.grain_size).min(self.grain_size);
        let bytes: Arc<[u8]> = inflate(&compressed, index(self.grain_size), needed)?.into();
        *recent = Some((sector, bytes.clone()));
        Ok(bytes)
    }
}

/// Inflates a grain. Of the last one of a disk only so much is needed as the disk has, and it is filled with zeroes.
fn inflate(compressed: &[u8], length: usize, needed: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut stream = Decompress::new(true);
    let corrupt = |_| invalid("a compressed grain cannot be decompressed");
    let status = stream.decompress(compressed, &mut bytes, FlushDecompress::Finish).map_err(corrupt)?;
    if status != Status::StreamEnd || stream.total_out() < needed {
        return Err(invalid("a compressed grain is cut short"));
    }
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the VMDK is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    #[test]
    fn a_description_is_read_as_far_as_it_matters() {
        let text =
            b"# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\0junk=1";
        let expected = Description { kind: Some("streamOptimized".into()), parent: Some("ffffffff".into()) };
        assert_eq!(description(text), expected);
        assert_eq!(description(b"\xff\xfe"), Description::default());
    }

    #[test]
    fn a_grain_that_is_not_whole_is_an_error_and_no_zeroes() {
        let deflate = |length: usize| {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&bytes).unwrap();
            (encoder.finish().unwrap(), bytes)
        };
        let (whole, bytes) = deflate(65536);
        assert_eq!(inflate(&whole, 65536, 65536).unwrap(), bytes);
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            assert!(inflate(&whole[..cut], 65536, 65536).is_err(), "{cut}");
        }
        let (part, bytes) = deflate(512);
        assert_eq!(inflate(&part, 65536, 512).unwrap()[..512], bytes, "the last one of a disk");
        assert!(inflate(&part, 65536, 65536).is_err());
        assert!(inflate(&whole, 512, 512).is_err(), "it is longer than a grain");
    }
}
