//! Sandboxes: made, found, asked, ended.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::time::Duration;

use crate::bytes::Bytes;
use crate::cancel::{Cancel, token};
use crate::error::{Error, Failure, c_text, free, guarded};
use crate::options::{Options, open_home};
use crate::pointers::{optional, path, place, reference, text};

/// `vmm_sandbox`.
pub(crate) struct Sandbox {
    pub(crate) sandbox: vmm::Sandbox,
    name: CString,
    id: CString,
}

impl Sandbox {
    fn new(sandbox: vmm::Sandbox) -> *mut Self {
        let (name, id) = (c_text(sandbox.name()), c_text(&sandbox.id().to_string()));
        Box::into_raw(Box::new(Self { sandbox, name, id }))
    }
}

// Several threads may use one at once, as the header says.
const _: fn() = || {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Sandbox>();
};

/// A home that is named, or none.
unsafe fn home(home: *const c_char) -> Option<PathBuf> {
    // SAFETY: the header asks for null or a text.
    unsafe { optional(home) }.map(path)
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_open(options: *const Options, sandbox: *mut *mut Sandbox) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let sandbox = unsafe { place(sandbox, "sandbox") }?;
        // SAFETY: the header asks for options of ours.
        let options = unsafe { reference(options, "options") }?;
        *sandbox = Sandbox::new(options.builder()?.start()?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_start(
    options: *const Options,
    name: *const c_char,
    sandbox: *mut *mut Sandbox,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let sandbox = unsafe { place(sandbox, "sandbox") }?;
        // SAFETY: the header asks for options of ours.
        let options = unsafe { reference(options, "options") }?;
        // SAFETY: the header asks for a text.
        let name = unsafe { text(name, "name") }?;
        let (home, start) = options.for_start()?;
        *sandbox = Sandbox::new(vmm::Sandbox::start(&home, name, start)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_attach(
    home_folder: *const c_char,
    name: *const c_char,
    sandbox: *mut *mut Sandbox,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let sandbox = unsafe { place(sandbox, "sandbox") }?;
        // SAFETY: the header asks for texts, the first of which may be null.
        let (home, name) = unsafe { (home(home_folder), text(name, "name")?) };
        *sandbox = Sandbox::new(vmm::Sandbox::attach(&open_home(home.as_ref())?, name)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_list(home_folder: *const c_char, json: *mut *mut Bytes) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let json = unsafe { place(json, "json") }?;
        // SAFETY: the header asks for null or a text.
        let home = unsafe { home(home_folder) };
        *json = Bytes::json(&vmm::Sandbox::list(&open_home(home.as_ref())?)?)?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_name(sandbox: *const Sandbox) -> *const c_char {
    // SAFETY: the header asks for null or a sandbox of ours.
    unsafe { sandbox.as_ref() }.map_or(std::ptr::null(), |sandbox| sandbox.name.as_ptr())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_id(sandbox: *const Sandbox) -> *const c_char {
    // SAFETY: the header asks for null or a sandbox of ours.
    unsafe { sandbox.as_ref() }.map_or(std::ptr::null(), |sandbox| sandbox.id.as_ptr())
}

/// Asks a sandbox something that is told as JSON.
unsafe fn ask(
    sandbox: *const Sandbox,
    json: *mut *mut Bytes,
    question: impl FnOnce(&vmm::Sandbox) -> Result<*mut Bytes, Failure>,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let json = unsafe { place(json, "json") }?;
        // SAFETY: the header asks for a sandbox of ours.
        let sandbox = unsafe { reference(sandbox, "sandbox") }?;
        *json = question(&sandbox.sandbox)?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_info(sandbox: *const Sandbox, json: *mut *mut Bytes) -> *mut Error {
    // SAFETY: the header asks for what `ask` needs.
    unsafe { ask(sandbox, json, |sandbox| Bytes::json(&sandbox.info()?)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_health(sandbox: *const Sandbox, json: *mut *mut Bytes) -> *mut Error {
    // SAFETY: the header asks for what `ask` needs.
    unsafe { ask(sandbox, json, |sandbox| Bytes::json(&sandbox.health()?)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_processes(sandbox: *const Sandbox, json: *mut *mut Bytes) -> *mut Error {
    // SAFETY: the header asks for what `ask` needs.
    unsafe { ask(sandbox, json, |sandbox| Bytes::json(&sandbox.processes()?)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_wait(
    sandbox: *const Sandbox,
    cancel: *const Cancel,
    json: *mut *mut Bytes,
) -> *mut Error {
    // SAFETY: the header asks for null or a token of ours.
    let cancel = unsafe { token(cancel) };
    // SAFETY: the header asks for what `ask` needs.
    unsafe { ask(sandbox, json, |sandbox| Bytes::json(&sandbox.wait(cancel.as_ref())?)) }
}

/// Does something to a sandbox.
unsafe fn act(
    sandbox: *const Sandbox,
    action: impl FnOnce(&vmm::Sandbox) -> Result<(), vmm::Error>,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a sandbox of ours.
        let sandbox = unsafe { reference(sandbox, "sandbox") }?;
        Ok(action(&sandbox.sandbox)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_wait_until_ready(
    sandbox: *const Sandbox,
    cancel: *const Cancel,
) -> *mut Error {
    // SAFETY: the header asks for null or a token of ours.
    let cancel = unsafe { token(cancel) };
    // SAFETY: the header asks for what `act` needs.
    unsafe { act(sandbox, |sandbox| sandbox.wait_until_ready(cancel.as_ref())) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_stop(sandbox: *const Sandbox, grace_ms: i64) -> *mut Error {
    let stop = |sandbox: &vmm::Sandbox| {
        let grace = match u64::try_from(grace_ms) {
            Ok(grace_ms) => Duration::from_millis(grace_ms),
            Err(_) => sandbox.stop_grace()?,
        };
        sandbox.stop(grace).map(drop)
    };
    // SAFETY: the header asks for what `act` needs.
    unsafe { act(sandbox, stop) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_kill(sandbox: *const Sandbox) -> *mut Error {
    // SAFETY: the header asks for what `act` needs.
    unsafe { act(sandbox, |sandbox| sandbox.kill().map(drop)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_pause(sandbox: *const Sandbox) -> *mut Error {
    // SAFETY: the header asks for what `act` needs.
    unsafe { act(sandbox, vmm::Sandbox::pause) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_resume(sandbox: *const Sandbox) -> *mut Error {
    // SAFETY: the header asks for what `act` needs.
    unsafe { act(sandbox, vmm::Sandbox::resume) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_remove(sandbox: *const Sandbox, force: bool) -> *mut Error {
    // SAFETY: the header asks for what `act` needs.
    unsafe { act(sandbox, |sandbox| sandbox.remove(force)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_free(sandbox: *mut Sandbox) {
    // SAFETY: the header asks for null or a sandbox of ours, which is not used after this.
    unsafe { free(sandbox) }
}
