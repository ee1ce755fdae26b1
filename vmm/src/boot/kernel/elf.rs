//! ELF kernels: whether an engine can load one and enter it by PVH.
//!
//! Structures: System V ABI, chapters 4 and 5. The entry: Xen's `XEN_ELFNOTE_PHYS32_ENTRY`.

use snafu::{OptionExt, ensure};

use super::{
    ArchitectureSnafu, HeaderSnafu, LARGEST_KERNEL, NoEntrySnafu, Result, TruncatedSnafu, bytes_at, u16_at,
    u32_at, u64_at,
};
use crate::arch::Arch;

pub(super) const MAGIC: &[u8] = b"\x7fELF";

const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
const PROGRAM_HEADER_LENGTH: usize = 56;

/// A kernel has fewer than ten; each is looked at.
const MOST_PROGRAM_HEADERS: u16 = 128;

/// `XEN_ELFNOTE_PHYS32_ENTRY`, in the name space `Xen`.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// The first address above what a 32-bit entry can reach.
const ADDRESS_LIMIT: u64 = 1 << 32;

struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    file_length: u64,
    memory_length: u64,
}

/// Whether this is an ELF file for x86_64 whose segments lie in it, with a PVH entry inside one of them.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let truncated = || TruncatedSnafu { part: "the ELF header" };
    let identification: [u8; 16] = bytes_at(bytes, 0).with_context(truncated)?;
    ensure!(identification.starts_with(MAGIC), HeaderSnafu { what: "what it unpacks to is no ELF file" });
    let machine = u16_at(bytes, 18).with_context(truncated)?;
    // Class 2: 64-bit; data 1: least significant byte first.
    if identification[4..6] != [2, 1] || machine != MACHINE_X86_64 {
        return ArchitectureSnafu { arch: Arch::X86_64, found: machine_name(machine) }.fail();
    }
    let headers = program_headers(bytes)?;
    let mut loaded = headers.iter().filter(|header| header.kind == SEGMENT_LOAD).peekable();
    ensure!(loaded.peek().is_some(), HeaderSnafu { what: "it has nothing to load" });
    for header in loaded {
        check_segment(bytes, header)?;
    }
    let notes = headers.iter().filter(|header| header.kind == SEGMENT_NOTE);
    let entry =
        notes.filter_map(|header| segment(bytes, header)).find_map(pvh_entry).context(NoEntrySnafu)?;
    let inside = |header: &ProgramHeader| {
        header.kind == SEGMENT_LOAD
            && entry.checked_sub(header.address).is_some_and(|offset| offset < header.file_length)
    };
    ensure!(
        headers.iter().any(inside),
        HeaderSnafu { what: format!("its PVH entry {entry:#x} is in no segment") }
    );
    Ok(())
}

fn program_headers(bytes: &[u8]) -> Result<Vec<ProgramHeader>> {
    let truncated = || TruncatedSnafu { part: "the ELF program headers" };
    let table = u64_at(bytes, 32).with_context(truncated)?;
    let length = u16_at(bytes, 54).with_context(truncated)?;
    let count = u16_at(bytes, 56).with_context(truncated)?;
    ensure!(
        usize::from(length) == PROGRAM_HEADER_LENGTH && (1..=MOST_PROGRAM_HEADERS).contains(&count),
        HeaderSnafu { what: format!("{count} program headers of {length} bytes") }
    );
    let table = usize::try_from(table).ok().with_context(truncated)?;
    (0..usize::from(count))
        .map(|index| {
            let at = table.checked_add(index * PROGRAM_HEADER_LENGTH).with_context(truncated)?;
            let header: [u8; PROGRAM_HEADER_LENGTH] = bytes_at(bytes, at).with_context(truncated)?;
            let word = |offset| u64_at(&header, offset).with_context(truncated);
            Ok(ProgramHeader {
                kind: u32_at(&header, 0).with_context(truncated)?,
                offset: word(8)?,
                address: word(24)?,
                file_length: word(32)?,
                memory_length: word(40)?,
            })
        })
        .collect()
}

fn check_segment(bytes: &[u8], header: &ProgramHeader) -> Result<()> {
    ensure!(segment(bytes, header).is_some(), TruncatedSnafu { part: "one of the ELF segments" });
    let end = header.address.checked_add(header.memory_length);
    ensure!(
        header.file_length <= header.memory_length
            && header.memory_length <= LARGEST_KERNEL
            && end.is_some_and(|end| end <= ADDRESS_LIMIT),
        HeaderSnafu {
            what: format!(
                "{} bytes of the file for {} bytes of memory at {:#x}",
                header.file_length, header.memory_length, header.address
            )
        }
    );
    Ok(())
}

fn segment<'a>(bytes: &'a [u8], header: &ProgramHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(header.offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(header.file_length).ok()?)?)
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
