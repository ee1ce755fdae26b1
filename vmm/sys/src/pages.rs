//! Mapped pages that their owner does without.

use std::io;

use rustix::mm::{Advice, madvise};

/// Lets the system have the pages of a mapping back. They stay mapped: what is read there afterwards is zeroes, or the
/// file's bytes where the mapping is a private one of a file. Pages of a shared file are gone from the file as well.
///
/// # Safety
///
/// `start` is aligned to a page and lies in a mapping that reaches `length` bytes from there, is `is_shared` or not,
/// and in which no Rust reference points.
#[expect(unsafe_code, reason = "what a mapping's pages hold is thrown away")]
pub unsafe fn discard(start: *mut u8, length: usize, is_shared: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let advice = if is_shared { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
    #[cfg(not(target_os = "linux"))]
    let (advice, _) = (Advice::DontNeed, is_shared);
    // SAFETY: the caller's promise: the pages are mapped, and nobody counts on what they hold.
    unsafe { madvise(start.cast(), length, advice)? };
    Ok(())
}
