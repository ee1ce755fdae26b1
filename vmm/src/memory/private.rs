//! Guest memory of our own: fresh, or the pages of a file until somebody writes to them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags, mmap};
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::Regions;

/// Makes memory for these ranges of guest addresses. It is zero, takes no room until it is written to, and its maker
/// answers for there being enough.
pub fn fresh_regions(ranges: &[Range<u64>]) -> io::Result<Regions> {
    let lengths = ranges.iter().map(|range| usize::try_from(range.end - range.start));
    let lengths: Result<Vec<_>, _> = lengths.collect();
    let lengths = lengths.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let ranges: Vec<_> = ranges.iter().map(|range| GuestAddress(range.start)).zip(lengths).collect();
    Regions::from_ranges(&ranges).map_err(|error| match error {
        FromRangesError::MmapRegion(MmapRegionError::Mmap(error)) => error,
        other => io::Error::other(other),
    })
}

/// The size of a huge page.
const HUGE: u64 = 2 << 20;

/// Has the host back this memory by huge pages, as soon as it is used. Fails where the host gives none, or the guest could
/// not have them as such: they must begin alike for both.
pub fn make_huge(memory: &Regions) -> io::Result<()> {
    memory.iter().try_for_each(|region| {
        if region.as_ptr().addr() as u64 % HUGE != region.start_addr().0 % HUGE {
            let reason = "its mappings do not begin with a huge page, as those of Linux 6.7 and later do";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        // SAFETY: a region is a mapping of its own, of this length, which lives as long as `memory` is borrowed.
        #[expect(unsafe_code, reason = "advice about all pages of the mapping")]
        unsafe {
            vmm_sys::pages::make_huge(region.as_ptr(), region.size())
        }
    })
}

/// Has the host back a part of memory that is about to be filled by huge pages, if it gives any: one is cleared and found
/// much sooner than 512 small ones. A part that is smaller than a huge page is left alone.
pub fn ask_for_huge(memory: &Regions, part: &Range<u64>) {
    let Some(region) = memory.find_region(GuestAddress(part.start)) else { return };
    let whole = region.start_addr().0..region.start_addr().0 + region.len();
    // Up to the end of the last one: what is not filled is memory like any other.
    let (start, end) = (part.start.next_multiple_of(HUGE), part.end.next_multiple_of(HUGE).min(whole.end));
    let Some(length) = end.checked_sub(start).filter(|_| part.end - part.start >= HUGE) else { return };
    let (Ok(length), Ok(place)) = (usize::try_from(length), memory.get_host_address(GuestAddress(start)))
    else {
        return;
    };
    // SAFETY: from `start` to `end` lies within one region, a mapping that lives as long as `memory` is borrowed, and
    // both are multiples of a page.
    #[expect(unsafe_code, reason = "advice about some pages of the mapping")]
    let asked = unsafe { vmm_sys::pages::make_huge(place, length) };
    if let Err(error) = asked {
        tracing::debug!(%error, "no huge pages for what the guest boots from");
    }
}

/// Has copies made of the pages of this part of memory that are a file's, before the guest writes to them: with hardware
/// virtualization it would come out three times for each, to read it, to write to it, and once it was copied.
pub fn copy_ahead(memory: &Regions, part: &Range<u64>) {
    let page = rustix::param::page_size() as u64;
    let (start, end) = (part.start - part.start % page, part.end.next_multiple_of(page));
    let slice = usize::try_from(end - start).ok().map(|length| memory.get_slice(GuestAddress(start), length));
    let Some(Ok(slice)) = slice else { return };
    // SAFETY: the slice lies within one region, a mapping that may be written to and lives as long as `memory` is
    // borrowed. A mapping begins with a page; the system refuses a start that is none.
    #[expect(unsafe_code, reason = "advice about some pages of the mapping")]
    let copied = unsafe { vmm_sys::pages::make_ready(slice.ptr_guard_mut().as_ptr(), slice.len()) };
    // Linux before 5.14 does not know how: the guest does it, page by page.
    if let Err(error) = copied {
        tracing::debug!(%error, "no pages copied ahead of the guest");
    }
}

/// Puts `length` bytes of a file into memory at `address`, without reading them: pages that the guest does not change
/// are shared by all machines that have them. Everything is to be aligned to the host's pages.
pub fn map_file(memory: &Regions, address: u64, file: &File, offset: u64, length: u64) -> io::Result<()> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let place = memory.get_slice(GuestAddress(address), length).map_err(io::Error::other)?;
    let start = place.ptr_guard_mut().as_ptr();
    let page = rustix::param::page_size();
    if !start.addr().is_multiple_of(page) || !length.is_multiple_of(page) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE);
    // SAFETY: the range lies within one region of `memory`, page by page, and is that region's alone; what replaces its
    // pages is unmapped with the region, as they would have been. Nobody holds a reference into guest memory. A file that
    // is cut short makes accesses fault, so that files are such as are replaced and never changed (`LoadPlan`).
    #[expect(unsafe_code, reason = "pages of a file in the place of fresh ones")]
    let mapped = unsafe { mmap(start.cast(), length, protection, flags, file.as_fd(), offset) };
    mapped.map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn fresh_memory_is_zero_and_lies_where_it_was_wanted() {
        let memory = fresh_regions(&[0..0x20_0000, 0x1_0000_0000..0x1_0020_0000]).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1_001f_fff8)).unwrap(), 0);
        assert!(memory.read_obj::<u8>(GuestAddress(0x20_0000)).is_err());
        assert!(fresh_regions(std::slice::from_ref(&(0..u64::MAX))).is_err());
    }

    /// What the system says of the mapping with this address, which may be more than one region.
    fn flags_of_mapping(address: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let contains = |line: &&str| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            let range = range.and_then(|(start, end)| Some(number(start)?..number(end)?));
            range.is_some_and(|range| range.contains(&address))
        };
        let mut of_mapping = smaps.lines().skip_while(|line| !contains(line));
        of_mapping.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
    }

    #[test]
    fn memory_can_be_asked_to_be_of_huge_pages() {
        let memory = fresh_regions(&[0..0x40_0000, 0x1_0000_0000..0x1_0040_0000]).unwrap();
        match make_huge(&memory) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                println!("skipped: this host gives no huge pages");
            }
            made => {
                made.unwrap();
                for region in memory.iter() {
                    let flags = flags_of_mapping(region.as_ptr().addr());
                    assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
                }
            }
        }
    }

    #[test]
    fn pages_of_a_file_are_in_memory_and_stay_in_the_file() {
        let page = rustix::param::page_size();
        let memory = fresh_regions(std::slice::from_ref(&(0..0x20_0000))).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; page]).unwrap();
        file.write_all(&vec![2; page]).unwrap();
        let page = page as u64;
        map_file(&memory, 4 * page, &file, page, page).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4 * page)).unwrap(), 2);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(5 * page)).unwrap(), 0);
        memory.write_obj(9u8, GuestAddress(4 * page)).unwrap();
        let mut byte = [0];
        rustix::io::pread(&file, &mut byte, page).unwrap();
        assert_eq!(byte, [2]);
    }

    #[test]
    fn pages_of_a_file_are_copied_ahead_and_hold_what_they_held() {
        let page = rustix::param::page_size();
        let memory = fresh_regions(std::slice::from_ref(&(0..0x20_0000))).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 * page]).unwrap();
        let length = page as u64;
        map_file(&memory, 0, &file, 0, 3 * length).unwrap();
        let place = memory.get_host_address(GuestAddress(0)).unwrap().addr();
        let copied = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let of_mapping = smaps.split_once(&format!("{place:x}-")).unwrap().1;
            let line = of_mapping.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024 / page
        };
        assert_eq!(copied(), 0);
        // Two pages, which it only touches.
        copy_ahead(&memory, &(length - 1..length + 1));
        assert_eq!(copied(), 2);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(length)).unwrap(), 7);
        // What is no memory is left alone.
        copy_ahead(&memory, &(0x20_0000..0x20_0001));
    }

    #[test]
    fn what_does_not_lie_in_pages_of_the_memory_is_not_mapped() {
        let page = rustix::param::page_size() as u64;
        let memory = fresh_regions(std::slice::from_ref(&(0..0x20_0000))).unwrap();
        let file = tempfile::tempfile().unwrap();
        for (address, length) in [(0x20_0000, page), (0x20_0000 - page, 2 * page), (1, page), (0, page - 1)] {
            assert!(map_file(&memory, address, &file, 0, length).is_err(), "{address:#x} {length:#x}");
        }
    }
}
