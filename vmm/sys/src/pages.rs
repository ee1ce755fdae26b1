//! Mapped pages: those that their owner does without, and huge ones.

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

/// Has pages of a mapping ready to be written to, as the first write to each would make them.
///
/// # Safety
///
/// `start` is aligned to a page and lies in a mapping that reaches `length` bytes from there and may be written to.
#[expect(unsafe_code, reason = "advice about a mapping that the caller answers for")]
pub unsafe fn make_ready(start: *mut u8, length: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the caller's promise: the pages are mapped. What they hold stays.
        unsafe { madvise(start.cast(), length, Advice::LinuxPopulateWrite)? };
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (start, length);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What says whether there are huge pages: the word in brackets.
#[cfg(target_os = "linux")]
const MODE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

#[cfg(target_os = "linux")]
fn is_never(mode: &str) -> bool {
    mode.contains("[never]")
}

/// Has the system back a mapping by huge pages wherever it can. Fails where it gives none.
///
/// # Safety
///
/// `start` is aligned to a page and lies in a mapping that reaches `length` bytes from there.
#[expect(unsafe_code, reason = "advice about a mapping that the caller answers for")]
pub unsafe fn make_huge(start: *mut u8, length: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // Where it is switched off, the advice is taken and not heeded (admin-guide/mm/transhuge.rst).
        let unsupported = |reason: String| Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        match std::fs::read_to_string(MODE) {
            Ok(mode) if is_never(&mode) => return unsupported(format!("{MODE} says never")),
            Err(_) => return unsupported("its kernel has none".to_owned()),
            Ok(_) => {}
        }
        // SAFETY: the caller's promise: the pages are mapped. What they hold stays.
        unsafe { madvise(start.cast(), length, Advice::LinuxHugepage)? };
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (start, length);
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_brackets_is_the_mode() {
        assert!(is_never("always madvise [never]\n"));
        assert!(!is_never("always [madvise] never\n"));
    }
}
