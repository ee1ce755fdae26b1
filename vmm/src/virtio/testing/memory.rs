//! A guest's memory, and room in it for the pieces of a test.

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::{GuestMemory, Regions, Snapshot};

/// Some memory of a guest that is not there. Room is taken from its beginning and never given back.
pub struct TestMemory {
    memory: GuestMemory,
    next: u64,
    end: u64,
}

impl TestMemory {
    /// One region from address 0, of so many bytes.
    pub fn new(size: usize) -> Self {
        Self::with_regions(&[(0, size)])
    }

    /// Several regions (address and size), in order; room is taken from the first.
    pub fn with_regions(regions: &[(u64, usize)]) -> Self {
        let ranges: Vec<_> = regions.iter().map(|&(start, size)| (GuestAddress(start), size)).collect();
        let regions = Regions::from_ranges(&ranges).expect("map anonymous memory");
        let first = regions.iter().next().expect("at least one region");
        let (next, end) = (first.start_addr().0, first.start_addr().0 + first.len());
        Self { memory: GuestMemory::new(regions), next, end }
    }

    /// One region from address 0, in a file that can be sent to another process and cannot shrink.
    #[cfg(target_os = "linux")]
    pub fn shared(size: usize) -> (Self, std::os::fd::OwnedFd) {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("test-guest", flags).expect("a memory file");
        ftruncate(&file, size as u64).expect("a size for the memory file");
        fcntl_add_seals(&file, SealFlags::SHRINK).expect("a seal on the memory file");
        let region = crate::memory::SharedRegion {
            guest_address: 0,
            size: size as u64,
            file_offset: 0,
            file: file.try_clone().expect("another descriptor"),
        };
        let regions = crate::memory::map_shared_regions(vec![region]).expect("map the memory file");
        (Self { memory: GuestMemory::new(regions), next: 0, end: size as u64 }, file)
    }

    /// The handle that a device is given.
    pub fn handle(&self) -> GuestMemory {
        self.memory.clone()
    }

    /// The memory as it is now.
    pub fn regions(&self) -> Snapshot {
        self.memory.memory()
    }

    /// Takes room, aligned to 16 bytes.
    pub fn allocate(&mut self, length: usize) -> u64 {
        self.try_allocate(length).expect("the test's memory is too small")
    }

    /// Takes room, aligned to 16 bytes, if there is any.
    pub fn try_allocate(&mut self, length: usize) -> Option<u64> {
        let start = self.next.next_multiple_of(16);
        let end = start + length as u64;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(start)
    }

    /// Takes room and fills it.
    pub fn allocate_bytes(&mut self, bytes: &[u8]) -> u64 {
        let start = self.allocate(bytes.len());
        self.write(start, bytes);
        start
    }

    /// Writes as the guest does.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .memory()
            .write_slice(bytes, GuestAddress(address))
            .expect("an address of the guest's memory");
    }

    /// Reads as the guest does.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .memory()
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("an address of the guest's memory");
        bytes
    }
}
