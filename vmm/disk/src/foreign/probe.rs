//! What a file is, told by what is in it.

use snafu::{ResultExt, ensure};

use super::{EmptySnafu, ForeignError, ForeignFormat, ReadForeignSnafu, UnsupportedSnafu, vhd};
use crate::Storage;
use crate::storage::read_at;

/// What is known and not read: where its mark lies, the mark, and what it is.
const NOT_READ: [(usize, &[u8], &str); 12] = [
    (0, b"vhdxfile", "a VHDX disk"),
    (0, b"COWD", "a VMDK disk of an ESX server (vmfsSparse)"),
    (0, b"\xbe\xba\xfe\xca", "a VMDK disk of an ESX server (seSparse)"),
    (0, b"QED\0", "a QED disk"),
    (0, b"OOOFS\0", "a bochs disk"),
    (0, b"WithoutFreeSpace", "a Parallels disk"),
    (0, b"WithouFreSpacExt", "a Parallels disk"),
    (64, b"\x7f\x10\xda\xbe", "a VDI disk"),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)"),
    (0, b"\x7fELF", "a program or a kernel, and no disk"),
    (0, b"hsqs", "a squashfs file system, and no disk"),
    (0x8001, b"CD001", "an image of an installation CD"),
];

/// How a description of a VMDK disk begins, whose data lie in other files.
const DESCRIPTION: &[u8] = b"# Disk DescriptorFile";

/// Finds the format of a disk by its content. What has no mark is raw.
pub fn probe(storage: &dyn Storage) -> Result<ForeignFormat, ForeignError> {
    let length = storage.length().context(ReadForeignSnafu)?;
    ensure!(length > 0, EmptySnafu);
    let mut head = vec![0; 0x8006];
    read_at(storage, &mut head, 0).context(ReadForeignSnafu)?;
    if head.starts_with(b"QFI\xfb") {
        return Ok(ForeignFormat::Qcow2);
    }
    if head.starts_with(b"KDMV") {
        return Ok(ForeignFormat::Vmdk);
    }
    if head.starts_with(DESCRIPTION) {
        let kind = super::vmdk::description(&head).kind.unwrap_or_else(|| "of an unknown kind".to_owned());
        let what = format!("the description of a VMDK disk in several files ({kind})");
        return UnsupportedSnafu { what }.fail();
    }
    if vhd::has_footer(storage, length).context(ReadForeignSnafu)? {
        return Ok(ForeignFormat::Vhd);
    }
    for (offset, mark, what) in NOT_READ {
        ensure!(!head[offset..].starts_with(mark), UnsupportedSnafu { what });
    }
    Ok(ForeignFormat::Raw)
}
