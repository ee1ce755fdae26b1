//! The configuration of a kernel, as the kernel itself brings it (`CONFIG_IKCONFIG`).

use super::Packing;

/// What stands before and behind the packed configuration (kernel/configs.c).
const BEGIN: &[u8] = b"IKCFG_ST";
const END: &[u8] = b"IKCFG_ED";

/// The largest configuration that is unpacked; that of a distribution has 300 KiB.
const LARGEST: u64 = 4 << 20;

/// The text between the marks. `None`: there is none, or it cannot be unpacked.
pub(super) fn find(kernel: &[u8]) -> Option<String> {
    let begin = super::release::position(kernel, BEGIN)? + BEGIN.len();
    let rest = &kernel[begin..];
    let packed = &rest[..super::release::position(rest, END)?];
    let text = Packing::of(packed)?.unpack_first(packed, LARGEST).ok()?;
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::gzip;

    fn kernel(between: &[u8]) -> Vec<u8> {
        [b"...", BEGIN, between, END, b"..."].concat()
    }

    #[test]
    fn the_configuration_lies_packed_between_its_marks() {
        let found = find(&kernel(&gzip(b"CONFIG_PVH=y\n")));
        assert_eq!(found.as_deref(), Some("CONFIG_PVH=y\n"));
    }

    #[test]
    fn a_kernel_without_one_or_with_a_broken_one_has_none() {
        let whole = kernel(&gzip(b"CONFIG_PVH=y\n"));
        let no_end = &whole[..whole.len() - 12];
        let bomb = kernel(&gzip(&vec![b'x'; usize::try_from(LARGEST).unwrap() + 1]));
        for bytes in [b"".as_slice(), BEGIN, no_end, &kernel(b"no gzip"), &kernel(&gzip(b"\xff\xfe")), &bomb]
        {
            assert_eq!(find(bytes), None);
        }
    }
}
