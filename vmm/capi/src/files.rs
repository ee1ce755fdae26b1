//! Files into a sandbox and out of it.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use serde_json::json;
use vmm::{Copied, CopyOptions, CopyOwner};

use crate::bytes::Bytes;
use crate::cancel::{Cancel, token};
use crate::error::{Error, Failure, guarded};
use crate::pointers::{bytes, optional, path, place, raw, reference, utf8};
use crate::sandbox::Sandbox;

/// `vmm_copy`, as the header has it.
#[repr(C)]
pub(crate) struct Copy {
    pub(crate) owner: *const c_char,
    pub(crate) set_id: bool,
    pub(crate) devices: bool,
    pub(crate) max_bytes: u64,
    pub(crate) max_entries: u64,
    pub(crate) patience_ms: u64,
    pub(crate) cancel: *const Cancel,
    pub(crate) reserved: [*const c_void; 4],
}

/// How to copy; as usual for null.
unsafe fn options(copy: *const Copy) -> Result<CopyOptions, Failure> {
    // SAFETY: the header asks for null or a description of a copy.
    let Some(copy) = (unsafe { copy.as_ref() }) else { return Ok(CopyOptions::default()) };
    if copy.reserved.iter().any(|reserved| !reserved.is_null()) {
        return Err(Failure::invalid("what is reserved in a vmm_copy is null: set all of it to zero first"));
    }
    // SAFETY: the header asks for null or a text.
    let owner = match unsafe { optional(copy.owner) } {
        None => CopyOwner::Usual,
        Some(b"keep") => CopyOwner::Keep,
        Some(named) => CopyOwner::Named(utf8(named, "owner")?.to_owned()),
    };
    let mut options = CopyOptions::default().owner(owner).set_id(copy.set_id).devices(copy.devices);
    if copy.max_bytes > 0 {
        options = options.max_bytes(copy.max_bytes);
    }
    if copy.max_entries > 0 {
        options = options.max_entries(copy.max_entries);
    }
    if copy.patience_ms > 0 {
        options = options.patience(Duration::from_millis(copy.patience_ms));
    }
    // SAFETY: the header asks for null or a token of ours.
    match unsafe { token(copy.cancel) } {
        Some(token) => Ok(options.cancel(&token)),
        None => Ok(options),
    }
}

/// Copies by `call`, one way or the other: sandbox, source, target and how.
unsafe fn copying(
    sandbox: *const Sandbox,
    [source, target]: [*const c_char; 2],
    copy: *const Copy,
    copied: *mut *mut Bytes,
    call: impl FnOnce(&vmm::Sandbox, &[u8], &[u8], &CopyOptions) -> Result<Copied, vmm::Error>,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a sandbox of ours.
        let sandbox = unsafe { reference(sandbox, "sandbox") }?;
        // SAFETY: the header asks for texts, and for null or a description of a copy.
        let (source, target, options) =
            unsafe { (raw(source, "source")?, raw(target, "target")?, options(copy)?) };
        let done = call(&sandbox.sandbox, source, target, &options)?;
        // SAFETY: the header asks for null or the place of a pointer.
        unsafe { tell(&done, copied) }
    })
}

/// What was copied, for those who want to know.
unsafe fn tell(copied: &Copied, to: *mut *mut Bytes) -> Result<(), Failure> {
    if to.is_null() {
        return Ok(());
    }
    let Copied { entries, bytes, sockets, set_id_taken, attributes_lost } = *copied;
    // SAFETY: it is not null, so the header asks for the place of a pointer.
    let place = unsafe { place(to, "copied") }?;
    *place = Bytes::json(&json!({
        "entries": entries,
        "bytes": bytes,
        "sockets": sockets,
        "set_id_taken": set_id_taken,
        "attributes_lost": attributes_lost,
    }))?;
    Ok(())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_copy_in(
    sandbox: *const Sandbox,
    source: *const c_char,
    target: *const c_char,
    copy: *const Copy,
    copied: *mut *mut Bytes,
) -> *mut Error {
    // SAFETY: the header asks of the caller what `copying` does.
    unsafe {
        copying(sandbox, [source, target], copy, copied, |sandbox, source, target, options| {
            sandbox.copy_in([path(source)], target, options)
        })
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_copy_out(
    sandbox: *const Sandbox,
    source: *const c_char,
    target: *const c_char,
    copy: *const Copy,
    copied: *mut *mut Bytes,
) -> *mut Error {
    // SAFETY: the header asks of the caller what `copying` does.
    unsafe {
        copying(sandbox, [source, target], copy, copied, |sandbox, source, target, options| {
            sandbox.copy_out([source], path(target), options)
        })
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_write_file(
    sandbox: *const Sandbox,
    path: *const c_char,
    data: *const u8,
    length: usize,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a sandbox of ours.
        let sandbox = unsafe { reference(sandbox, "sandbox") }?;
        // SAFETY: the header asks for a text and so many bytes.
        let (path, contents) = unsafe { (raw(path, "path")?, bytes(data, length, "data")?) };
        Ok(sandbox.sandbox.write_file(path, contents)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_read_file(
    sandbox: *const Sandbox,
    path: *const c_char,
    limit: usize,
    contents: *mut *mut Bytes,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let contents = unsafe { place(contents, "contents") }?;
        // SAFETY: the header asks for a sandbox of ours.
        let sandbox = unsafe { reference(sandbox, "sandbox") }?;
        // SAFETY: the header asks for a text.
        let path = unsafe { raw(path, "path") }?;
        *contents = Bytes::new(sandbox.sandbox.read_file(path, limit)?);
        Ok(())
    })
}
