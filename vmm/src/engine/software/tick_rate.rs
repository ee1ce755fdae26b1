//! The rate of a kernel's timer tick (`CONFIG_HZ`), read from the kernel itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The rates that a kernel can be configured for (kernel/Kconfig.hz).
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// Where `jiffies_64` may lie: it is aligned to a cache line (kernel/time/timer.c).
const ALIGNMENT: usize = 64;

/// An ELF program header of a loadable segment that may be written.
const PT_LOAD: u32 = 1;
const PF_W: u32 = 2;

/// More data than any kernel has.
const MAX_DATA: u64 = 256 << 20;

/// The tick rate of an x86_64 kernel in ELF, if it shows.
///
/// The kernel's clock starts 300 seconds before it wraps, to show the errors of those who forget that it does
/// (`INITIAL_JIFFIES`, include/linux/jiffies.h), so the rate stands in the initial value of `jiffies_64`. Several
/// candidates mean that it cannot be known.
pub(super) fn tick_rate(kernel: &File) -> io::Result<Option<u32>> {
    let Some((offset, length)) = data_segment(kernel)? else { return Ok(None) };
    let mut data = vec![0u8; length];
    kernel.read_exact_at(&mut data, offset)?;
    // Addresses and offsets agree modulo the page size, so alignment in the file is alignment in memory.
    let skip =
        usize::try_from(offset.next_multiple_of(ALIGNMENT as u64) - offset).map_err(io::Error::other)?;
    let mut found = None;
    for chunk in data.get(skip..).unwrap_or_default().chunks_exact(ALIGNMENT) {
        let Some(&value) = chunk.first_chunk::<8>() else { continue };
        let value = u64::from_le_bytes(value);
        if let Some(&rate) = RATES.iter().find(|&&rate| value == initial_jiffies(rate)) {
            if found.is_some_and(|other| other != rate) {
                return Ok(None);
            }
            found = Some(rate);
        }
    }
    Ok(found)
}

/// `(unsigned long)(unsigned int)(-300 * HZ)`.
fn initial_jiffies(rate: u32) -> u64 {
    u64::from((rate * 300).wrapping_neg())
}

/// Offset and length in the file of the first segment that the kernel can write to.
fn data_segment(kernel: &File) -> io::Result<Option<(u64, usize)>> {
    let mut header = [0u8; 64];
    kernel.read_exact_at(&mut header, 0)?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Ok(None);
    }
    let table = u64_at(&header, 32);
    let (entry_size, count) = (u64_at(&header, 54) & 0xffff, u64_at(&header, 56) & 0xffff);
    for index in 0..count.min(64) {
        let mut entry = [0u8; 56];
        let Some(place) = table.checked_add(index * entry_size) else { return Ok(None) };
        kernel.read_exact_at(&mut entry, place)?;
        let kind_and_flags = u64_at(&entry, 0);
        let kind = u32::try_from(kind_and_flags & 0xffff_ffff).unwrap_or_default();
        let flags = u32::try_from(kind_and_flags >> 32).unwrap_or_default();
        let (offset, length) = (u64_at(&entry, 8), u64_at(&entry, 32));
        if kind == PT_LOAD && flags & PF_W != 0 && length <= MAX_DATA {
            return Ok(usize::try_from(length).ok().map(|length| (offset, length)));
        }
    }
    Ok(None)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An ELF file with one writable segment.
    fn kernel(data: &[u8]) -> File {
        let mut bytes = vec![0u8; 4096];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&PT_LOAD.to_le_bytes());
        bytes[68..72].copy_from_slice(&(PF_W | 4).to_le_bytes());
        bytes[72..80].copy_from_slice(&4096u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(data.len() as u64).to_le_bytes());
        bytes.extend_from_slice(data);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn the_rate_is_read_from_where_the_kernels_clock_starts() {
        let mut data = vec![0u8; 1024];
        data[128..136].copy_from_slice(&0xFFFB_6C20u64.to_le_bytes());
        assert_eq!(tick_rate(&kernel(&data)).unwrap(), Some(1000));
        data[128..136].copy_from_slice(&0xFFFE_DB08u64.to_le_bytes());
        assert_eq!(tick_rate(&kernel(&data)).unwrap(), Some(250));
    }

    #[test]
    fn a_kernel_that_shows_no_rate_or_two_has_none() {
        let mut data = vec![0u8; 1024];
        assert_eq!(tick_rate(&kernel(&data)).unwrap(), None);
        data[129..137].copy_from_slice(&0xFFFB_6C20u64.to_le_bytes());
        assert_eq!(tick_rate(&kernel(&data)).unwrap(), None, "not aligned");
        data[0..8].copy_from_slice(&initial_jiffies(100).to_le_bytes());
        data[64..72].copy_from_slice(&initial_jiffies(300).to_le_bytes());
        assert_eq!(tick_rate(&kernel(&data)).unwrap(), None, "two");
    }

    #[test]
    fn what_is_no_elf_has_no_rate() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0u8; 4096]).unwrap();
        assert_eq!(tick_rate(&file).unwrap(), None);
        assert!(tick_rate(&tempfile::tempfile().unwrap()).is_err());
    }
}
