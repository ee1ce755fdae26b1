//! Guest memory that its guest does without, given back to the host.

use std::io;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::Regions;

/// Gives the pages of the host that lie wholly within a range back to it; what of the range is not the guest's memory
/// is left out. Says how many bytes that were.
///
/// The guest may use them again at any time. It finds zeroes there, or what the file has where the memory is a private
/// mapping of one.
pub fn give_back(memory: &Regions, start: GuestAddress, length: u64) -> io::Result<u64> {
    let page = rustix::param::page_size() as u64;
    let end = start.0.saturating_add(length);
    let mut given = 0;
    for region in memory.iter() {
        let base = region.start_addr().0;
        let first = start.0.max(base) - base;
        let last = end.saturating_sub(base).min(region.len());
        if first >= last {
            continue;
        }
        // A region's mapping begins with a page.
        let (from, to) = (first.next_multiple_of(page), last / page * page);
        let Some(count) = to.checked_sub(from).filter(|&count| count > 0) else { continue };
        let count_in_memory = usize::try_from(count).map_err(io::Error::other)?;
        let slice = region.get_slice(MemoryRegionAddress(from), count_in_memory).map_err(io::Error::other)?;
        let is_shared = region.flags() & libc::MAP_SHARED != 0;
        // SAFETY: the slice lies in the region's mapping, which lives as long as `memory` is borrowed; it begins with
        // a page of it. No references to guest memory exist: it is read and written by volatile accesses and by the
        // kernel, and the guest could have written anything there itself.
        #[expect(unsafe_code, reason = "pages of the guest's are thrown away")]
        unsafe {
            vmm_sys::pages::discard(slice.ptr_guard_mut().as_ptr(), count_in_memory, is_shared)?;
        }
        given += count;
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::ops::Range;
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, FileOffset};

    use super::*;
    use crate::memory::fresh_regions;

    fn page() -> u64 {
        rustix::param::page_size() as u64
    }

    fn memory(ranges: &[Range<u64>]) -> Regions {
        fresh_regions(ranges).unwrap()
    }

    #[test]
    fn whole_pages_are_given_back_and_what_lies_beside_them_stays() {
        let regions = memory(std::slice::from_ref(&(0..1 << 20)));
        let page = page();
        let mut all = vec![7; 6 * usize::try_from(page).unwrap()];
        regions.write_slice(&all, GuestAddress(0)).unwrap();
        assert_eq!(give_back(&regions, GuestAddress(page - 1), 3 * page + 2).unwrap(), 3 * page);
        assert_eq!(give_back(&regions, GuestAddress(4 * page + 1), page).unwrap(), 0);
        regions.read_slice(&mut all, GuestAddress(0)).unwrap();
        for (at, byte) in all.into_iter().enumerate() {
            let is_kept = !(page..4 * page).contains(&(at as u64));
            assert_eq!(byte, if is_kept { 7 } else { 0 }, "{at:#x}");
        }
    }

    #[test]
    fn what_is_not_the_guests_memory_is_left_out() {
        let page = page();
        let regions = memory(&[0..1 << 20, 1 << 21..3 << 20]);
        assert_eq!(give_back(&regions, GuestAddress((1 << 20) - page), 2 << 20).unwrap(), (1 << 20));
        assert_eq!(give_back(&regions, GuestAddress(0), u64::MAX).unwrap(), 2 << 20);
        for (start, length) in [(1 << 20, 1 << 20), (1 << 40, page), (u64::MAX, u64::MAX), (0, 0)] {
            assert_eq!(give_back(&regions, GuestAddress(start), length).unwrap(), 0);
        }
    }

    #[test]
    fn pages_of_a_shared_file_leave_the_file() {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let shared = FileOffset::new(file.try_clone().unwrap(), 0);
        let regions = Regions::from_ranges_with_files([(GuestAddress(0), 1 << 20, Some(shared))]).unwrap();
        regions.write_slice(&vec![7; 1 << 20], GuestAddress(0)).unwrap();
        assert_eq!(give_back(&regions, GuestAddress(0), 1 << 19).unwrap(), 1 << 19);
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, (1 << 19) - 1).unwrap();
        assert_eq!(bytes, [0, 7]);
    }
}
