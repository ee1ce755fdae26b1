//! What C hands over, as Rust knows it. Null and text that is no UTF-8 are errors here, once for all calls.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::{ptr, slice};

use crate::error::Failure;

fn null(what: &str) -> Failure {
    Failure::new("null_pointer", format!("{what} is a null pointer"))
}

/// What a pointer points to.
///
/// # Safety
///
/// It is null, or points to a value of this type that stays as long as the reference is used.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: as the caller of this function promises.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// The place where a call puts what it makes. It holds null until then, and where the call fails.
///
/// # Safety
///
/// It is null, or points to a pointer that may be written.
pub(crate) unsafe fn place<'a, T>(place: *mut *mut T, what: &str) -> Result<&'a mut *mut T, Failure> {
    // SAFETY: as the caller of this function promises.
    let place = unsafe { place.as_mut() }.ok_or_else(|| null(what))?;
    *place = ptr::null_mut();
    Ok(place)
}

/// A text that may be of any bytes, such as a path.
///
/// # Safety
///
/// It is null, or points to bytes that end with a zero and stay as long as the reference is used.
pub(crate) unsafe fn raw<'a>(text: *const c_char, what: &str) -> Result<&'a [u8], Failure> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: as the caller of this function promises.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A text in UTF-8.
///
/// # Safety
///
/// As for [`raw`].
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: as the caller of this function promises.
    utf8(unsafe { raw(text, what) }?, what)
}

/// A text of any bytes; none for null.
///
/// # Safety
///
/// As for [`raw`].
pub(crate) unsafe fn optional<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: as the caller of this function promises.
    unsafe { raw(text, "") }.ok()
}

/// Texts up to the null pointer that ends their list; none for a list that is null itself.
///
/// # Safety
///
/// It is null, or points to pointers of which the last is null, each as for [`raw`].
pub(crate) unsafe fn texts<'a>(list: *const *const c_char) -> Vec<&'a [u8]> {
    let mut texts = Vec::new();
    if list.is_null() {
        return texts;
    }
    loop {
        // SAFETY: what came before was not the end, so there is one more.
        let entry = unsafe { *list.add(texts.len()) };
        // SAFETY: as the caller of this function promises.
        match unsafe { optional(entry) } {
            Some(text) => texts.push(text),
            None => return texts,
        }
    }
}

/// Bytes by their place and length; a null pointer is fine for none.
///
/// # Safety
///
/// It is null, or points to so many bytes, which stay as long as the reference is used.
pub(crate) unsafe fn bytes<'a>(data: *const u8, length: usize, what: &str) -> Result<&'a [u8], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(what));
    }
    if isize::try_from(length).is_err() {
        return Err(Failure::invalid(format!("{what}: nothing has {length} bytes")));
    }
    // SAFETY: as the caller of this function promises; the length is one that memory can have.
    Ok(unsafe { slice::from_raw_parts(data, length) })
}

pub(crate) fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes).map_err(|_| Failure::new("invalid_utf8", format!("{what} is no UTF-8")))
}

pub(crate) fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
