//! Errors as objects, and the wall that no panic passes.

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use vmm::error_line;

/// Why a call failed, on this side of the interface.
#[derive(Debug)]
pub(crate) struct Failure {
    code: &'static str,
    message: String,
    hint: Option<String>,
    console: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, console: None }
    }

    /// What was asked for cannot be.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid", message)
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Self::new("panic", format!("vmm itself is wrong: {text}"))
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }
}

impl From<vmm::Error> for Failure {
    fn from(error: vmm::Error) -> Self {
        Self {
            code: error.code(),
            message: error_line(&error),
            hint: error.hint(),
            console: error.console_tail().map(str::to_owned),
        }
    }
}

/// `vmm_error`: texts that end with a zero, as C reads them.
pub(crate) struct Error {
    code: CString,
    message: CString,
    hint: Option<CString>,
    console: Option<CString>,
}

/// Text for C; a zero in it would be its end.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Does the work of a call. What goes wrong in it becomes an object of the caller's; null is success.
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> *mut Error {
    // What a panic has left half done is the caller's to free, and is not used again.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    match outcome.unwrap_or_else(|payload| Err(Failure::of_panic(&*payload))) {
        Ok(()) => ptr::null_mut(),
        Err(failure) => Box::into_raw(Box::new(Error {
            code: c_text(failure.code),
            message: c_text(&failure.message),
            hint: failure.hint.as_deref().map(c_text),
            console: failure.console.as_deref().map(c_text),
        })),
    }
}

/// Frees an object of the caller's; null is none.
///
/// # Safety
///
/// It came from `Box::into_raw` for this very type, and nobody uses it any more.
pub(crate) unsafe fn free<T>(object: *mut T) {
    if object.is_null() {
        return;
    }
    // SAFETY: as the caller of this function promises.
    let object = unsafe { Box::from_raw(object) };
    // A panic while something is taken down must not pass either.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
}

/// A text of an error that lives as long as it does; null for none.
unsafe fn text(error: *const Error, which: impl Fn(&Error) -> Option<&CString>) -> *const c_char {
    // SAFETY: the header asks for null or an error of ours that was not freed.
    let error = unsafe { error.as_ref() };
    error.and_then(which).map_or(ptr::null(), |text| text.as_ptr())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_error_code(error: *const Error) -> *const c_char {
    // SAFETY: the header says so.
    unsafe { text(error, |error| Some(&error.code)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_error_message(error: *const Error) -> *const c_char {
    // SAFETY: the header says so.
    unsafe { text(error, |error| Some(&error.message)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_error_hint(error: *const Error) -> *const c_char {
    // SAFETY: the header says so.
    unsafe { text(error, |error| error.hint.as_ref()) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_error_console(error: *const Error) -> *const c_char {
    // SAFETY: the header says so.
    unsafe { text(error, |error| error.console.as_ref()) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_error_free(error: *mut Error) {
    // SAFETY: the header asks for null or an error of ours, which is not used after this.
    unsafe { free(error) }
}
