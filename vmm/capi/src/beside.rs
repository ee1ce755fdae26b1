//! The `vmm` that lies beside this library.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The executable in the folder of this very library. The program that has loaded us may lie anywhere, so that the
/// library's own search, which begins beside the program, would not find it.
pub(crate) fn executable() -> Option<PathBuf> {
    let executable = folder()?.join("vmm");
    executable.is_file().then_some(executable)
}

fn folder() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let ours: extern "C" fn() -> *const std::ffi::c_char = crate::vmm_version;
    // SAFETY: it reads no memory behind the address, and fills in what it is given.
    let found = unsafe { libc::dladdr(ours as *const libc::c_void, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name of a loaded file, which stays while it is loaded, as we are.
    let file = unsafe { CStr::from_ptr(info.dli_fname) };
    let file = std::fs::canonicalize(Path::new(OsStr::from_bytes(file.to_bytes()))).ok()?;
    file.parent().map(Path::to_path_buf)
}
