//! Giving up what waits, from another thread.

use vmm::CancelToken;

use crate::error::{Error, Failure, free, guarded};
use crate::pointers::{place, reference};

/// `vmm_cancel`.
pub(crate) struct Cancel(pub(crate) CancelToken);

/// The token that a call was given; none for null.
///
/// # Safety
///
/// It is null or a token of ours that was not freed.
pub(crate) unsafe fn token(cancel: *const Cancel) -> Option<CancelToken> {
    // SAFETY: as the caller of this function promises.
    unsafe { cancel.as_ref() }.map(|cancel| cancel.0.clone())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_cancel_new(cancel: *mut *mut Cancel) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let cancel = unsafe { place(cancel, "cancel") }?;
        let token = CancelToken::new();
        let token = token.map_err(|error| Failure::new("system", format!("cannot make a token: {error}")))?;
        *cancel = Box::into_raw(Box::new(Cancel(token)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_cancel_now(cancel: *const Cancel) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a token of ours.
        unsafe { reference(cancel, "cancel") }?.0.cancel();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_cancel_free(cancel: *mut Cancel) {
    // SAFETY: the header asks for null or a token of ours, which is not used after this.
    unsafe { free(cancel) }
}
