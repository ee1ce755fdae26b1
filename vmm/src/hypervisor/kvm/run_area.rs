//! The page that a processor and its user share (`struct kvm_run`; Documentation/virt/kvm/api.rst, 5).

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Our mapping of it. Everything in it is read and written by copies through a pointer: the kernel writes to it, too.
#[derive(Debug)]
pub(super) struct RunArea {
    start: *mut u8,
    size: usize,
}

// SAFETY: the mapping belongs to no thread. Two threads use it at once only for `immediate_exit`, which is accessed as
// an atomic; everything else is its processor's thread's alone, which `KvmVcpu`, being bound to it, sees to.
#[expect(unsafe_code, reason = "a kicker lives on another thread")]
unsafe impl Send for RunArea {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a kicker lives on another thread")]
unsafe impl Sync for RunArea {}

impl RunArea {
    pub(super) fn map(vcpu: &impl AsRawFd, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the processor's page is too small"));
        }
        // SAFETY: the descriptor is open while `vcpu` is borrowed.
        #[expect(unsafe_code, reason = "the crate offers the number only")]
        let descriptor = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: a new mapping at an address that the kernel chooses takes the place of nothing.
        #[expect(unsafe_code, reason = "a mapping")]
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                descriptor,
                0,
            )
        }?;
        Ok(Self { start: start.cast(), size })
    }

    /// Whether the next entry is to return at once.
    pub(super) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the mapping, which lives as long as `self`; all of us access it as an atomic, and the
        // kernel only reads it.
        #[expect(unsafe_code, reason = "shared with the kernel")]
        unsafe {
            AtomicU8::from_ptr(self.start.add(offset_of!(kvm_run, immediate_exit)))
        }
    }

    /// What the kernel wrote when it came back. Called by the processor's thread, which is not in the kernel then.
    pub(super) fn get(&self) -> kvm_run {
        // SAFETY: the mapping begins with the structure, of which every bit pattern is valid, and is aligned to a page.
        #[expect(unsafe_code, reason = "shared with the kernel")]
        unsafe {
            self.start.cast::<kvm_run>().read_volatile()
        }
    }

    /// Reads what the kernel put at `offset`, as a little-endian number.
    pub(super) fn read(&self, offset: usize, width: u8) -> u64 {
        let mut bytes = [0u8; 8];
        let width = usize::from(width).min(8);
        if self.holds(offset, width) {
            for (index, byte) in bytes.iter_mut().take(width).enumerate() {
                // SAFETY: `holds` has seen that the byte lies in the mapping.
                #[expect(unsafe_code, reason = "shared with the kernel")]
                let read = unsafe { self.start.add(offset + index).read_volatile() };
                *byte = read;
            }
        }
        u64::from_le_bytes(bytes)
    }

    /// Writes the low bytes of `value` to `offset`.
    pub(super) fn write(&self, offset: usize, width: u8, value: u64) {
        let width = usize::from(width).min(8);
        if self.holds(offset, width) {
            for (index, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
                // SAFETY: `holds` has seen that the byte lies in the mapping.
                #[expect(unsafe_code, reason = "shared with the kernel")]
                unsafe {
                    self.start.add(offset + index).write_volatile(byte);
                }
            }
        }
    }

    fn holds(&self, offset: usize, width: usize) -> bool {
        offset.checked_add(width).is_some_and(|end| end <= self.size)
    }

    /// Forbids or permits an immediate exit.
    pub(super) fn set_immediate_exit(&self, wanted: bool) {
        self.immediate_exit().store(wanted.into(), Ordering::SeqCst);
    }
}

impl Drop for RunArea {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody who could use it is left.
        #[expect(unsafe_code, reason = "a mapping")]
        let unmapped = unsafe { munmap(self.start.cast(), self.size) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}
