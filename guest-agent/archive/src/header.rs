//! The header of a member: 512 bytes, most of them numbers in octal digits.

use crate::error::{Error, damaged};

/// Everything in an archive comes in blocks of so many bytes.
pub const BLOCK: usize = 512;

/// A header.
pub(crate) type Block = [u8; BLOCK];

/// Whether bytes begin as a tar archive does.
#[must_use]
pub fn is_tar(first: &[u8]) -> bool {
    first.first_chunk::<BLOCK>().is_some_and(|block| &block[257..262] == b"ustar" && checksum_is_right(block))
}

/// How many bytes follow what has this length, up to the next block.
pub(crate) fn padding(length: u64) -> u64 {
    length.next_multiple_of(BLOCK as u64) - length
}

pub(crate) fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

pub(crate) fn checksum_is_right(block: &Block) -> bool {
    number(&block[148..156]).is_ok_and(|told| told == checksum(block))
}

fn checksum(block: &Block) -> u64 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) }).sum()
}

/// A number: octal digits, or, where the first bit is set, the other bits as they are.
pub(crate) fn number(field: &[u8]) -> Result<u64, Error> {
    match signed_number(field)?.try_into() {
        Ok(number) => Ok(number),
        Err(_) => damaged("a number of a member is negative"),
    }
}

/// A number that may be below zero, as times are.
pub(crate) fn signed_number(field: &[u8]) -> Result<i64, Error> {
    const WRONG: &str = "a number of a member is none";
    let Some(&first) = field.first() else { return damaged(WRONG) };
    if first & 0x80 != 0 {
        // Two's complement over the whole field, but for the first bit.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = value << 8 | i128::from(byte);
            if i64::try_from(value).is_err() {
                return damaged(WRONG);
            }
        }
        return i64::try_from(value).or_else(|_| damaged(WRONG));
    }
    let mut value: i64 = 0;
    for byte in field.iter().filter(|byte| !matches!(byte, 0 | b' ')) {
        let digit = match byte {
            b'0'..=b'7' => i64::from(byte - b'0'),
            _ => return damaged(WRONG),
        };
        value = match value.checked_mul(8) {
            Some(value) => value | digit,
            None => return damaged(WRONG),
        };
    }
    Ok(value)
}

/// The bytes of a field up to the first zero.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The name in a header.
pub(crate) fn name(block: &Block) -> Vec<u8> {
    let name = text(&block[..100]);
    // GNU's own format has other things there.
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// What is to stand in a header. Numbers that do not fit are cut: what is true stands in the note before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub seconds: u64,
    pub link: &'a [u8],
    pub device: (u32, u32),
}

/// The highest number of 7, and of 11, octal digits.
pub(crate) const MOST_IN_7: u64 = 0o7_777_777;
pub(crate) const MOST_IN_11: u64 = 0o77_777_777_777;

impl Fields<'_> {
    pub(crate) fn to_block(&self) -> Block {
        let mut block = [0; BLOCK];
        let name = &self.name[..self.name.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], self.uid.min(MOST_IN_7));
        octal(&mut block[116..124], self.gid.min(MOST_IN_7));
        octal(&mut block[124..136], self.size.min(MOST_IN_11));
        octal(&mut block[136..148], self.seconds.min(MOST_IN_11));
        block[156] = self.kind;
        let link = &self.link[..self.link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], u64::from(self.device.0).min(MOST_IN_7));
        octal(&mut block[337..345], u64::from(self.device.1).min(MOST_IN_7));
        let sum = checksum(&block);
        octal(&mut block[148..155], sum);
        block[155] = b' ';
        block
    }
}

/// Octal digits, and a zero behind them.
fn octal(field: &mut [u8], mut value: u64) {
    let Some((last, digits)) = field.split_last_mut() else { return };
    *last = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let number = |bytes: &[u8]| signed_number(bytes).ok();
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None, "it does not fit");
        assert_eq!(number(b"77777777777777777777777"), None);
        assert_eq!(number(b"0000888\0"), None);
        assert_eq!(number(b""), None);
        assert!(super::number(&[0xff; 12]).is_err(), "no length is negative");
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        let fields =
            Fields { name: b"a/b", kind: b'0', mode: 0o4755, uid: 7, size: 1 << 32, ..Fields::default() };
        let block = fields.to_block();
        assert!(is_tar(&block) && checksum_is_right(&block));
        assert_eq!((name(&block), number(&block[124..136]).unwrap()), (b"a/b".to_vec(), 1 << 32));
        assert_eq!(number(&block[100..108]).unwrap(), 0o4755);
    }
}
