//! What a chain asks of the disk (5.2.6), checked against the disk's bounds.

use super::state::{
    BlockState, MAXIMUM_DATA, MAXIMUM_DISCARD_SECTORS, MAXIMUM_RANGES, MAXIMUM_SEGMENTS,
    MAXIMUM_ZERO_SECTORS, SECTOR_SIZE,
};
use crate::memory::Regions;
use crate::virtio::{Chain, ChainReader, ChainWriter};

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

const RANGE_LENGTH: u32 = 16;
const RANGE_UNMAP: u32 = 1;

/// The last byte of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: Status,
    pub reason: &'static str,
}

const fn refuse(reason: &'static str) -> Refusal {
    Refusal { status: Status::IoError, reason }
}

const fn unsupported(reason: &'static str) -> Refusal {
    Refusal { status: Status::Unsupported, reason }
}

/// A part of the disk, in bytes, all of it within the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub offset: u64,
    pub length: u64,
    pub unmap: bool,
}

/// The ranges of a discard or write-zeroes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges {
    ranges: [Range; MAXIMUM_RANGES],
    count: usize,
}

impl Ranges {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Range> {
        self.ranges[..self.count].iter()
    }
}

/// What is asked.
pub(super) enum Operation<'a> {
    Read { offset: u64 },
    Write { offset: u64, data: ChainReader<'a> },
    Flush,
    GetId,
    Discard(Ranges),
    WriteZeroes(Ranges),
}

/// A chain taken apart.
pub(super) struct Request<'a> {
    pub operation: Result<Operation<'a>, Refusal>,
    /// What the device writes in front of the status; only reading and the name fill it.
    pub answer: ChainWriter<'a>,
    pub status: ChainWriter<'a>,
}

impl<'a> Request<'a> {
    /// Takes a chain apart. `None`: it has no room for a status, so that nothing can be answered.
    pub(super) fn parse(chain: &'a Chain, memory: &'a Regions, disk: &BlockState) -> Option<Self> {
        let mut status = chain.writer(memory);
        let length = status.remaining().checked_sub(1)?;
        let answer = status.take(length).ok()?;
        let operation = if chain.segment_count() > MAXIMUM_SEGMENTS {
            Err(refuse("it has too many segments"))
        } else {
            parse_operation(chain.reader(memory), length, disk)
        };
        Some(Self { operation, answer, status })
    }
}

fn parse_operation<'a>(
    mut reader: ChainReader<'a>,
    answer_length: u32,
    disk: &BlockState,
) -> Result<Operation<'a>, Refusal> {
    let header = reader.read_object::<[u32; 4]>().map_err(|_| refuse("its header is cut off"))?;
    let [kind, _reserved, low, high] = header.map(u32::from_le);
    let sector = u64::from(high) << 32 | u64::from(low);
    let writes = matches!(kind, TYPE_OUT | TYPE_DISCARD | TYPE_WRITE_ZEROES);
    if writes && disk.image.read_only() {
        return Err(refuse("the disk is read-only"));
    }
    match kind {
        TYPE_IN => Ok(Operation::Read { offset: check_transfer(disk, sector, answer_length)? }),
        TYPE_OUT => {
            let offset = check_transfer(disk, sector, reader.remaining())?;
            Ok(Operation::Write { offset, data: reader })
        }
        TYPE_FLUSH => Ok(Operation::Flush),
        TYPE_GET_ID => Ok(Operation::GetId),
        TYPE_DISCARD => parse_ranges(reader, disk, MAXIMUM_DISCARD_SECTORS, 0).map(Operation::Discard),
        TYPE_WRITE_ZEROES => {
            parse_ranges(reader, disk, MAXIMUM_ZERO_SECTORS, RANGE_UNMAP).map(Operation::WriteZeroes)
        }
        _ => Err(unsupported("its type is unknown")),
    }
}

/// The place of a transfer in bytes.
fn check_transfer(disk: &BlockState, sector: u64, length: u32) -> Result<u64, Refusal> {
    if length > MAXIMUM_DATA {
        return Err(refuse("it moves more than a request may"));
    }
    if !length.is_multiple_of(SECTOR_SIZE) {
        return Err(refuse("its length is no number of sectors"));
    }
    check_sectors(disk, sector, length / SECTOR_SIZE)
}

fn check_sectors(disk: &BlockState, sector: u64, count: u32) -> Result<u64, Refusal> {
    let end = sector.checked_add(count.into());
    if end.is_none_or(|end| end > disk.capacity()) {
        return Err(refuse("it reaches past the end of the disk"));
    }
    // The end fits, so the offset does: the capacity is that of a disk counted in bytes.
    Ok(sector * u64::from(SECTOR_SIZE))
}

/// Reads all ranges, once, before anything is done with one of them.
fn parse_ranges(
    mut reader: ChainReader<'_>,
    disk: &BlockState,
    maximum_sectors: u32,
    known_flags: u32,
) -> Result<Ranges, Refusal> {
    let length = reader.remaining();
    let count = usize::try_from(length / RANGE_LENGTH).unwrap_or(usize::MAX);
    if !length.is_multiple_of(RANGE_LENGTH) || count == 0 || count > MAXIMUM_RANGES {
        return Err(refuse("it does not name a possible number of ranges"));
    }
    let mut ranges = Ranges { ranges: [Range::default(); MAXIMUM_RANGES], count };
    for range in &mut ranges.ranges[..count] {
        let fields = reader.read_object::<[u32; 4]>().map_err(|_| refuse("its ranges are cut off"))?;
        let [low, high, sectors, flags] = fields.map(u32::from_le);
        if flags & !known_flags != 0 {
            return Err(unsupported("a range has unknown flags"));
        }
        if sectors > maximum_sectors {
            return Err(refuse("a range is longer than it may be"));
        }
        let offset = check_sectors(disk, u64::from(high) << 32 | u64::from(low), sectors)?;
        let length = u64::from(sectors) * u64::from(SECTOR_SIZE);
        *range = Range { offset, length, unmap: flags & RANGE_UNMAP != 0 };
    }
    Ok(ranges)
}
