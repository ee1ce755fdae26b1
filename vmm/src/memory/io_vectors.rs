//! Guest memory as the buffers of a system call, so that a disk's or a socket's bytes are not copied on their way.
//!
//! No Rust reference to guest memory is ever made here: the guest may write it at any moment, and two descriptors of
//! one request may name the same bytes, which neither `&[u8]` nor `&mut [u8]` allows. The standard library's
//! [`IoSlice`] and [`IoSliceMut`] hold a pointer and a length, and whoever receives them hands them to the kernel;
//! the contract of [`vmm_disk::DiskImage`] says so.

use std::io::{IoSlice, IoSliceMut};

use vm_memory::VolatileSlice;

// The layout that both slices promise: that of `struct iovec`.
const _: () = assert!(size_of::<IoSlice<'_>>() == size_of::<libc::iovec>());
const _: () = assert!(size_of::<IoSliceMut<'_>>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<IoSlice<'_>>() == align_of::<libc::iovec>());
const _: () = assert!(align_of::<IoSliceMut<'_>>() == align_of::<libc::iovec>());

fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    // The guard is a pointer and nothing else with the mappings that we use (it does something under Xen).
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

fn io_slice<'m>(slice: &VolatileSlice<'m>) -> IoSlice<'m> {
    let vector = vector(slice);
    // SAFETY: `IoSlice` is documented to be ABI compatible with `iovec`, and the assertions above hold its size and
    // alignment. The pointer and length come from a `VolatileSlice`, which stays mapped for `'m`. No reference to
    // the bytes is made here, nor by its receivers: the contract is that they only hand it to the kernel, or cut,
    // fill and copy it with `vmm_sys::scattered`.
    #[expect(unsafe_code, reason = "guest memory as a buffer of a system call, without a reference to it")]
    unsafe {
        std::mem::transmute::<libc::iovec, IoSlice<'m>>(vector)
    }
}

fn io_slice_mut<'m>(slice: &VolatileSlice<'m>) -> IoSliceMut<'m> {
    let vector = vector(slice);
    // SAFETY: as in `io_slice`. Two of them may overlap: the kernel writes through the pointers, one after the other,
    // as does `vmm_sys::scattered`, and a guest that named bytes twice gets either.
    #[expect(unsafe_code, reason = "guest memory as a buffer of a system call, without a reference to it")]
    unsafe {
        std::mem::transmute::<libc::iovec, IoSliceMut<'m>>(vector)
    }
}

/// A reusable list of buffers that are read from: the source of a write.
#[derive(Debug, Default)]
pub struct WriteVectors {
    room: Vec<IoSlice<'static>>,
}

impl WriteVectors {
    /// An empty list; it grows once to what the requests need and is used again.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `work` with the slices as buffers.
    pub fn with<'m, R>(
        &mut self,
        slices: impl Iterator<Item = VolatileSlice<'m>>,
        work: impl FnOnce(&[IoSlice<'m>]) -> R,
    ) -> R {
        let mut buffers: Vec<IoSlice<'m>> = std::mem::take(&mut self.room);
        buffers.extend(slices.map(|slice| io_slice(&slice)));
        let result = work(&buffers);
        // Collecting in place keeps the room and lets go of the lifetime.
        buffers.clear();
        self.room = buffers.into_iter().map(|_| IoSlice::new(&[])).collect();
        result
    }
}

/// A reusable list of buffers that are written to: the target of a read.
#[derive(Debug, Default)]
pub struct ReadVectors {
    room: Vec<IoSliceMut<'static>>,
}

impl ReadVectors {
    /// An empty list; it grows once to what the requests need and is used again.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `work` with the slices as buffers.
    pub fn with<'m, R>(
        &mut self,
        slices: impl Iterator<Item = VolatileSlice<'m>>,
        work: impl FnOnce(&mut [IoSliceMut<'m>]) -> R,
    ) -> R {
        let mut buffers: Vec<IoSliceMut<'m>> = std::mem::take(&mut self.room);
        buffers.extend(slices.map(|slice| io_slice_mut(&slice)));
        let result = work(&mut buffers);
        // Collecting in place keeps the room and lets go of the lifetime.
        buffers.clear();
        self.room = buffers.into_iter().map(|_| IoSliceMut::new(&mut [])).collect();
        result
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::memory::Regions;

    #[test]
    fn a_file_is_written_from_and_read_into_guest_memory() {
        let memory = Regions::from_ranges(&[(GuestAddress(0), 0x3000)]).unwrap();
        memory.write_slice(b"left", GuestAddress(0x10)).unwrap();
        memory.write_slice(b"right", GuestAddress(0x2000)).unwrap();
        let slice = |address, length| memory.get_slice(GuestAddress(address), length).unwrap();
        let mut file = tempfile::tempfile().unwrap();

        let mut vectors = WriteVectors::new();
        let slices = [slice(0x10, 4), slice(0x2000, 5)].into_iter();
        let written = vectors.with(slices, |buffers| file.write_vectored(buffers).unwrap());
        file.rewind().unwrap();
        let mut vectors = ReadVectors::new();
        let slices = [slice(0x1000, 2), slice(0x1100, 7)].into_iter();
        let read = vectors.with(slices, |buffers| file.read_vectored(buffers).unwrap());

        assert_eq!((written, read), (9, 9));
        let (mut head, mut tail) = ([0u8; 2], [0u8; 7]);
        memory.read_slice(&mut head, GuestAddress(0x1000)).unwrap();
        memory.read_slice(&mut tail, GuestAddress(0x1100)).unwrap();
        assert_eq!((&head, &tail), (b"le", b"ftright"));
    }

    #[test]
    fn the_room_for_buffers_is_used_again() {
        let memory = Regions::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let mut vectors = WriteVectors::new();
        let slices = || (0..64).map(|at| memory.get_slice(GuestAddress(at * 8), 8).unwrap());
        let first = vectors.with(slices(), <[_]>::as_ptr);
        let second = vectors.with(slices(), <[_]>::as_ptr);
        assert_eq!(first.cast::<u8>(), second.cast::<u8>());
    }
}
