//! ELF kernels: whether an engine can load and enter one, and what of it goes where.
//!
//! Structures: System V ABI, chapters 4 and 5. The entries: Xen's `XEN_ELFNOTE_PHYS32_ENTRY` for PVH; the file's own,
//! which for Linux is the 64-bit entry of its boot protocol, as a physical address.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use snafu::{OptionExt, ResultExt, ensure};

use super::{
    ArchitectureSnafu, HeaderSnafu, LARGEST_KERNEL, NoEntrySnafu, ReadSnafu, Result, TruncatedSnafu,
    bytes_at, u16_at, u32_at, u64_at, unknown_format,
};
use crate::arch::Arch;

pub(super) const MAGIC: &[u8] = b"\x7fELF";

const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
const HEADER_LENGTH: usize = 64;
const PROGRAM_HEADER_LENGTH: usize = 56;

const SECTION_HEADER_LENGTH: usize = 64;
const SECTION_CONTENT: u32 = 1;
const SECTION_CODE: u64 = 4;

/// A kernel has some forty; more are not looked at.
const MOST_SECTION_HEADERS: u16 = 256;

/// A kernel has fewer than ten; each is looked at.
const MOST_PROGRAM_HEADERS: u16 = 128;

/// `XEN_ELFNOTE_PHYS32_ENTRY`, in the name space `Xen`.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// The first address above what a 32-bit entry can reach.
const ADDRESS_LIMIT: u64 = 1 << 32;

/// A part of a kernel's file that belongs into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::boot) struct Segment {
    /// Where it begins in the file.
    pub(in crate::boot) offset: u64,
    /// Where it begins in memory.
    pub(in crate::boot) address: u64,
    /// How much of it is in the file.
    pub(in crate::boot) file_length: u64,
    /// How much it takes in memory: what is not in the file is zero.
    pub(in crate::boot) memory_length: u64,
}

/// What of a kernel's file goes where, and where it is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::boot) struct Layout {
    /// The parts, as the file lists them.
    pub(in crate::boot) segments: Vec<Segment>,
    /// The 64-bit entry.
    pub(in crate::boot) entry: u64,
    /// Where in memory its code lies, as far as the file says so.
    pub(in crate::boot) code: Vec<Range<u64>>,
}

/// Whether this is an ELF file for x86_64 whose segments lie in it, with its 64-bit entry and a PVH entry inside of
/// them.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let header = Header::parse(bytes)?;
    let table = usize::try_from(header.table).ok().and_then(|at| bytes.get(at..));
    let headers = program_headers(table.unwrap_or_default(), header.count)?;
    let segments = segments(&headers, bytes.len() as u64)?;
    ensure_inside(&segments, header.entry, "entry")?;
    let notes = headers.iter().filter(|header| header.kind == SEGMENT_NOTE);
    let notes = notes.filter_map(|header| contents(bytes, &header.segment));
    let entry = notes.into_iter().find_map(pvh_entry).context(NoEntrySnafu)?;
    ensure_inside(&segments, entry, "PVH entry")
}

/// Reads from a kernel's file what is to be loaded.
pub(in crate::boot) fn layout(file: &File) -> Result<Layout> {
    let length = file.metadata().context(ReadSnafu)?.len();
    let head = read_at(file, length, 0, HEADER_LENGTH as u64, "the ELF header")?;
    if !head.starts_with(MAGIC) {
        return Err(unknown_format(&head, Arch::X86_64));
    }
    let header = Header::parse(&head)?;
    let table_length = u64::from(header.count) * PROGRAM_HEADER_LENGTH as u64;
    let table = read_at(file, length, header.table, table_length, "the ELF program headers")?;
    let segments = segments(&program_headers(&table, header.count)?, length)?;
    ensure_inside(&segments, header.entry, "entry")?;
    let code = code(file, length, &header, &segments);
    Ok(Layout { segments, entry: header.entry, code })
}

/// Where the sections with code lie in memory. A kernel boots without a table of sections: one that is missing or broken
/// tells of none.
fn code(file: &File, length: u64, header: &Header, segments: &[Segment]) -> Vec<Range<u64>> {
    let sections = header.sections;
    let count = u64::from(sections.count.min(MOST_SECTION_HEADERS));
    if usize::from(sections.length) != SECTION_HEADER_LENGTH {
        return Vec::new();
    }
    let table_length = count * SECTION_HEADER_LENGTH as u64;
    let table = read_at(file, length, sections.table, table_length, "the ELF section headers");
    let table = table.unwrap_or_default();
    let place = |section: &[u8]| {
        let (kind, flags) = (u32_at(section, 4)?, u64_at(section, 8)?);
        let (offset, size) = (u64_at(section, 24)?, u64_at(section, 32)?);
        let is_code = kind == SECTION_CONTENT && flags & SECTION_CODE != 0;
        let within = |segment: &&Segment| {
            offset.checked_sub(segment.offset).is_some_and(|before| before < segment.file_length)
        };
        let segment = segments.iter().find(within).filter(|_| is_code)?;
        let before = offset - segment.offset;
        let size = size.min(segment.file_length - before);
        Some(segment.address + before..segment.address + before + size)
    };
    let mut code: Vec<Range<u64>> = table.chunks_exact(SECTION_HEADER_LENGTH).filter_map(place).collect();
    // No part of it twice, whatever the table says.
    code.sort_by_key(|range| range.start);
    let mut end = 0;
    for range in &mut code {
        range.start = range.start.max(end);
        range.end = range.end.max(range.start);
        end = range.end;
    }
    code.retain(|range| !range.is_empty());
    code
}

fn read_at(file: &File, length: u64, offset: u64, count: u64, part: &'static str) -> Result<Vec<u8>> {
    let inside = offset.checked_add(count).is_some_and(|end| end <= length);
    let count = usize::try_from(count).ok().filter(|_| inside).context(TruncatedSnafu { part })?;
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset).context(ReadSnafu)?;
    Ok(bytes)
}

struct Header {
    entry: u64,
    /// Where the program headers are.
    table: u64,
    count: u16,
    sections: Sections,
}

/// The table of sections, not yet checked.
#[derive(Clone, Copy)]
struct Sections {
    table: u64,
    length: u16,
    count: u16,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let truncated = || TruncatedSnafu { part: "the ELF header" };
        ensure!(bytes.starts_with(MAGIC), HeaderSnafu { what: "what it unpacks to is no ELF file" });
        let header: [u8; HEADER_LENGTH] = bytes_at(bytes, 0).with_context(truncated)?;
        let half = |offset| u16_at(&header, offset).with_context(truncated);
        let word = |offset| u64_at(&header, offset).with_context(truncated);
        let machine = half(18)?;
        // Class 2: 64-bit; data 1: least significant byte first.
        if header[4..6] != [2, 1] || machine != MACHINE_X86_64 {
            return ArchitectureSnafu { arch: Arch::X86_64, found: machine_name(machine) }.fail();
        }
        let (length, count) = (half(54)?, half(56)?);
        ensure!(
            usize::from(length) == PROGRAM_HEADER_LENGTH && (1..=MOST_PROGRAM_HEADERS).contains(&count),
            HeaderSnafu { what: format!("{count} program headers of {length} bytes") }
        );
        let sections = Sections { table: word(40)?, length: half(58)?, count: half(60)? };
        Ok(Self { entry: word(24)?, table: word(32)?, count, sections })
    }
}

struct ProgramHeader {
    kind: u32,
    segment: Segment,
}

fn program_headers(table: &[u8], count: u16) -> Result<Vec<ProgramHeader>> {
    let truncated = || TruncatedSnafu { part: "the ELF program headers" };
    let table = table.get(..usize::from(count) * PROGRAM_HEADER_LENGTH).with_context(truncated)?;
    let parse = |header: &[u8]| {
        let word = |offset| u64_at(header, offset).with_context(truncated);
        Ok(ProgramHeader {
            kind: u32_at(header, 0).with_context(truncated)?,
            segment: Segment {
                offset: word(8)?,
                address: word(24)?,
                file_length: word(32)?,
                memory_length: word(40)?,
            },
        })
    };
    table.chunks_exact(PROGRAM_HEADER_LENGTH).map(parse).collect()
}

/// The segments that are loaded, each checked against the length of the file.
fn segments(headers: &[ProgramHeader], length: u64) -> Result<Vec<Segment>> {
    let loaded = headers.iter().filter(|header| header.kind == SEGMENT_LOAD);
    let segments: Vec<_> = loaded.map(|header| header.segment.clone()).collect();
    ensure!(!segments.is_empty(), HeaderSnafu { what: "it has nothing to load" });
    for Segment { offset, address, file_length, memory_length } in &segments {
        let end = offset.checked_add(*file_length);
        ensure!(end.is_some_and(|end| end <= length), TruncatedSnafu { part: "one of the ELF segments" });
        let end = address.checked_add(*memory_length);
        ensure!(
            file_length <= memory_length
                && *memory_length <= LARGEST_KERNEL
                && end.is_some_and(|end| end <= ADDRESS_LIMIT),
            HeaderSnafu {
                what: format!(
                    "{file_length} bytes of the file for {memory_length} bytes of memory at {address:#x}"
                )
            }
        );
    }
    Ok(segments)
}

fn ensure_inside(segments: &[Segment], entry: u64, name: &str) -> Result<()> {
    let inside = |segment: &Segment| {
        entry.checked_sub(segment.address).is_some_and(|offset| offset < segment.file_length)
    };
    let what = || format!("its {name} {entry:#x} is in no segment");
    ensure!(segments.iter().any(inside), HeaderSnafu { what: what() });
    Ok(())
}

fn contents<'a>(bytes: &'a [u8], segment: &Segment) -> Option<&'a [u8]> {
    let start = usize::try_from(segment.offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(segment.file_length).ok()?)?)
}

/// The PVH entry among some notes. Each has three words, then its name and its value, padded to four bytes.
fn pvh_entry(mut notes: &[u8]) -> Option<u64> {
    while !notes.is_empty() {
        let name_length = u32_at(notes, 0)? as usize;
        let value_length = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..12_usize.checked_add(name_length)?)?;
        let value_at = 12 + name_length.checked_next_multiple_of(4)?;
        let value = notes.get(value_at..value_at.checked_add(value_length)?)?;
        if name == b"Xen\0" && kind == NOTE_PHYS32_ENTRY {
            // The kernel writes a word of its own width; only 32 bits of it can be an entry.
            return u32_at(value, 0).map(u64::from);
        }
        notes = notes.get(value_at.checked_add(value_length.checked_next_multiple_of(4)?)?..)?;
    }
    None
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "32-bit x86".to_owned(),
        40 => "32-bit Arm".to_owned(),
        MACHINE_X86_64 => "x86_64 in an unusual form".to_owned(),
        183 => "arm64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("ELF machine {other}"),
    }
}
