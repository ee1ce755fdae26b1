//! The C interface of the library `vmm`: `libvmm.so`, and what `include/vmm.h` says of it.
//!
//! The header is the documentation and the contract; `tests.rs` holds the two together. Every function returns an
//! error object, or null where all went well. What a caller can get wrong without breaking C's own rules (null, text
//! that is no UTF-8, a word that is no option) is such an error, and a panic becomes one.
//!
//! May depend on: `vmm`, what it exports. Nothing of ours may depend on it.
#![expect(unsafe_code, reason = "what C hands over are pointers, and only C knows what they point to")]

mod beside;
mod bytes;
mod cancel;
mod command;
mod error;
mod files;
mod options;
mod pointers;
mod process;
mod sandbox;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_char};

/// The version of this library.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

#[unsafe(no_mangle)]
extern "C" fn vmm_version() -> *const c_char {
    VERSION.as_ptr()
}
