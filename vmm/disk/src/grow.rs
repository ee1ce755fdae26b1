//! Making a disk file larger.

use std::path::Path;
use std::sync::Arc;

use snafu::ResultExt;

use crate::chain::{lock_layer, open_layer};
use crate::error::{Error, GrowSnafu, Qcow2Snafu, ShrinkSnafu};
use crate::qcow2::Qcow2Image;
use crate::{Format, Storage};

/// Makes a disk larger, which nobody may be using. What is new reads as zeroes.
pub fn grow(path: &Path, format: Format, size: u64) -> Result<(), Error> {
    let storage = lock_layer(open_layer(path, true)?, path, true)?;
    let shrinks = |now| if size < now { ShrinkSnafu { path, now }.fail() } else { Ok(()) };
    match format {
        Format::Raw => {
            shrinks(storage.length().context(GrowSnafu { path })?)?;
            storage.set_length(size).and_then(|()| storage.sync()).context(GrowSnafu { path })
        }
        Format::Qcow2 => {
            let mut image = Qcow2Image::open(Arc::new(storage), None, false).context(Qcow2Snafu { path })?;
            shrinks(crate::DiskImage::size(&image))?;
            image.grow_to(size).context(GrowSnafu { path })
        }
    }
}
