//! Guest memory that another process owns and shares with us as open files.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use snafu::{ResultExt, Snafu, ensure};
use vm_memory::mmap::MmapRegionError;
use vm_memory::region::GuestRegionCollectionError;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use super::Regions;

/// A piece of guest memory in a file.
#[derive(Debug)]
pub struct SharedRegion {
    /// Where the guest sees it.
    pub guest_address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where it begins in the file.
    pub file_offset: u64,
    /// The file.
    pub file: OwnedFd,
}

/// Why memory of another process cannot be used as the guest's.
#[derive(Debug, Snafu)]
#[non_exhaustive]
pub enum MapError {
    /// The file can be made smaller under us, and an access to what is gone kills the process with `SIGBUS`.
    #[snafu(display("the memory at {address:#x} lies in a file that is not sealed against shrinking"))]
    NotSealed {
        /// The region's guest address.
        address: u64,
    },
    /// The file is not as long as the region says.
    #[snafu(display("the memory at {address:#x} reaches past the end of its file"))]
    PastTheEnd {
        /// The region's guest address.
        address: u64,
    },
    /// The file cannot be examined.
    #[snafu(display("cannot examine the file of the memory at {address:#x}"))]
    Examine {
        /// The region's guest address.
        address: u64,
        /// The cause.
        source: io::Error,
    },
    /// The region is empty, or its addresses wrap.
    #[snafu(display("the memory at {address:#x} cannot be {size} bytes long"))]
    BadSize {
        /// The region's guest address.
        address: u64,
        /// What it claims.
        size: u64,
    },
    /// The file cannot be mapped.
    #[snafu(display("cannot map the memory at {address:#x}"))]
    Map {
        /// The region's guest address.
        address: u64,
        /// The cause.
        source: MmapRegionError,
    },
    /// Regions overlap.
    #[snafu(display("the regions of the memory do not fit together"))]
    Arrange {
        /// The cause.
        source: GuestRegionCollectionError,
    },
}

/// Maps regions as the guest's memory.
///
/// Each file must be sealed against shrinking (`F_SEAL_SHRINK`, which only memory files can have) and as long as the
/// region says, so that whoever sent it cannot make our accesses fault.
pub fn map_shared_regions(regions: Vec<SharedRegion>) -> Result<Regions, MapError> {
    let mut mapped = regions.into_iter().map(map).collect::<Result<Vec<_>, _>>()?;
    mapped.sort_by_key(|region| vm_memory::GuestMemoryRegion::start_addr(region).0);
    Regions::from_regions(mapped).context(ArrangeSnafu)
}

fn map(region: SharedRegion) -> Result<GuestRegionMmap, MapError> {
    let SharedRegion { guest_address: address, size, file_offset, file } = region;
    let seals = fcntl_get_seals(&file);
    ensure!(seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)), NotSealedSnafu { address });
    // Looked at after the seal, the size can only grow.
    let stat = fstat(&file).map_err(io::Error::from).context(ExamineSnafu { address })?;
    let end = file_offset.checked_add(size);
    ensure!(
        end.is_some_and(|end| end <= u64::try_from(stat.st_size).unwrap_or(0)),
        PastTheEndSnafu { address }
    );
    let fits = size != 0 && address.checked_add(size).is_some();
    let length = usize::try_from(size).ok().filter(|_| fits);
    let Some(length) = length else { return BadSizeSnafu { address, size }.fail() };
    let file = FileOffset::new(File::from(file), file_offset);
    let mapping = MmapRegion::from_file(file, length).context(MapSnafu { address })?;
    match GuestRegionMmap::new(mapping, GuestAddress(address)) {
        Some(region) => Ok(region),
        None => BadSizeSnafu { address, size }.fail(),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;

    const PAGE: u64 = 0x1000;

    fn memory_file(size: u64) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, size).unwrap();
        file
    }

    fn sealed_file(size: u64) -> OwnedFd {
        let file = memory_file(size);
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        file
    }

    fn region(guest_address: u64, size: u64, file_offset: u64, file: OwnedFd) -> SharedRegion {
        SharedRegion { guest_address, size, file_offset, file }
    }

    #[test]
    fn regions_of_one_file_are_the_same_memory_for_both_sides() {
        let file = sealed_file(4 * PAGE);
        let (second, third) = (file.try_clone().unwrap(), file.try_clone().unwrap());
        let regions = vec![region(0x10_0000, 2 * PAGE, 2 * PAGE, second), region(0, 2 * PAGE, 0, third)];
        let memory = map_shared_regions(regions).unwrap();
        memory.write_slice(b"low", GuestAddress(PAGE)).unwrap();
        memory.write_slice(b"high", GuestAddress(0x10_0000)).unwrap();
        let mut bytes = [0; 4];
        rustix::io::pread(&file, &mut bytes, 2 * PAGE).unwrap();
        assert_eq!(&bytes, b"high");
        rustix::io::pread(&file, &mut bytes[..3], PAGE).unwrap();
        assert_eq!(&bytes[..3], b"low");
        assert!(!memory.check_range(GuestAddress(PAGE), 0x2000));
    }

    #[test]
    fn a_file_that_can_shrink_is_refused() {
        let refused = map_shared_regions(vec![region(0, PAGE, 0, memory_file(PAGE))]);
        assert!(matches!(refused, Err(MapError::NotSealed { .. })));
        let plain = OwnedFd::from(tempfile::tempfile_in("/tmp").unwrap());
        ftruncate(&plain, PAGE).unwrap();
        let refused = map_shared_regions(vec![region(0, PAGE, 0, plain)]);
        assert!(matches!(refused, Err(MapError::NotSealed { .. })));
    }

    #[test]
    fn a_region_past_the_end_of_its_file_is_refused() {
        for (size, offset) in [(2 * PAGE, 0), (PAGE, PAGE), (u64::MAX, PAGE), (PAGE, u64::MAX)] {
            let refused = map_shared_regions(vec![region(0, size, offset, sealed_file(PAGE))]);
            assert!(matches!(refused, Err(MapError::PastTheEnd { .. })), "{size:#x} at {offset:#x}");
        }
    }

    #[test]
    fn empty_wrapping_and_overlapping_regions_are_refused() {
        let refused = map_shared_regions(vec![region(0, 0, 0, sealed_file(PAGE))]);
        assert!(matches!(refused, Err(MapError::BadSize { .. })));
        let refused = map_shared_regions(vec![region(u64::MAX - 1, PAGE, 0, sealed_file(PAGE))]);
        assert!(matches!(refused, Err(MapError::BadSize { .. })));
        let twice = vec![region(0, PAGE, 0, sealed_file(PAGE)), region(0, PAGE, 0, sealed_file(PAGE))];
        assert!(matches!(map_shared_regions(twice), Err(MapError::Arrange { .. })));
        assert!(map_shared_regions(Vec::new()).is_err());
    }
}
