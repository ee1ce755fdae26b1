//! Bytes that a call hands out: the contents of a file, or JSON.

use serde::Serialize;

use crate::error::{Failure, free};

/// `vmm_bytes`: as the header has it, then what it points to.
#[repr(C)]
pub(crate) struct Bytes {
    pub(crate) data: *const u8,
    pub(crate) length: usize,
    held: Held,
}

impl Bytes {
    pub(crate) fn new(bytes: Vec<u8>) -> *mut Self {
        let held = Held::new(bytes);
        Box::into_raw(Box::new(Self { data: held.data(), length: held.length(), held }))
    }

    /// What is known, as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Result<*mut Self, Failure> {
        let json = serde_json::to_vec(value);
        Ok(Self::new(json.map_err(|error| Failure::new("system", format!("cannot write JSON: {error}")))?))
    }
}

/// Bytes with a zero behind them, so that text is a text of C's too.
pub(crate) struct Held(Vec<u8>);

impl Held {
    pub(crate) fn new(mut bytes: Vec<u8>) -> Self {
        bytes.push(0);
        Self(bytes)
    }

    pub(crate) fn data(&self) -> *const u8 {
        self.0.as_ptr()
    }

    pub(crate) fn length(&self) -> usize {
        self.0.len() - 1
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_bytes_free(bytes: *mut Bytes) {
    // SAFETY: the header asks for null or bytes of ours, which are not used after this.
    unsafe { free(bytes) }
}
