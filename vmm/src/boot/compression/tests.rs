use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::boot::testing::gzip;

pub(crate) const ALL: [Compression; 5] =
    [Compression::Gzip, Compression::Xz, Compression::Zstd, Compression::Bzip2, Compression::Lz4];

/// Packs some bytes.
pub(crate) fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => gzip(bytes),
        Compression::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::Bzip2 => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        Compression::Lz4 => {
            let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
            for block in bytes.chunks(LZ4_BLOCK) {
                let block = lz4_flex::block::compress(block);
                packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
                packed.extend(block);
            }
            packed
        }
    }
}

fn sample() -> Vec<u8> {
    (0..300_000_u32).map(|number| (number / 7).to_le_bytes()[0] ^ (number / 3000).to_le_bytes()[0]).collect()
}

#[test]
fn what_was_packed_is_unpacked() {
    let bytes = sample();
    for compression in ALL {
        let packed = pack(compression, &bytes);
        assert_eq!(Compression::of(&packed), Some(compression));
        assert!(compression.unpack(&packed, 300_000).unwrap() == bytes, "{compression}");
        assert!(compression.unpack_first(&packed, 300_000).unwrap() == bytes, "{compression}");
    }
    assert_eq!(Compression::of(b"\x7fELF"), None);
    assert_eq!(Compression::of(b""), None);
}

#[test]
fn parts_one_behind_the_other_are_one_file() {
    for compression in ALL {
        let packed = [pack(compression, b"one "), pack(compression, b"two")].concat();
        assert_eq!(compression.unpack(&packed, 100).unwrap(), b"one two", "{compression}");
    }
    let note = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let packed = [note.clone(), pack(Compression::Zstd, b"one"), note].concat();
    assert_eq!(Compression::Zstd.unpack(&packed, 100).unwrap(), b"one");
}

#[test]
fn any_number_of_empty_parts_is_nothing() {
    let packed = [2, 0x21, 0x4c, 0x18].repeat(1 << 20);
    assert_eq!(Compression::Lz4.unpack(&packed, 100).unwrap(), b"");
}

#[test]
fn a_bomb_ends_at_its_limit() {
    let bytes = vec![0; 40 << 20];
    for compression in ALL {
        let packed = pack(compression, &bytes);
        let error = compression.unpack(&packed, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{compression}: {error}");
        assert!(compression.unpack_first(&packed, 1 << 20).is_err(), "{compression}");
    }
}

#[test]
fn what_is_cut_short_is_an_error() {
    for compression in ALL {
        let packed = pack(compression, &sample());
        for length in [5, packed.len() / 2, packed.len() - 1] {
            assert!(compression.unpack(&packed[..length], 1 << 30).is_err(), "{compression} {length}");
        }
    }
}

#[test]
fn an_xz_file_that_wants_too_much_memory_is_refused() {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.lzma_options.dict_size = 512 << 20;
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(b"little").unwrap();
    let packed = writer.finish().unwrap();
    let error = Compression::Xz.unpack(&packed, 100).unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_break_a_decoder(
        which in 0_usize..5,
        changes in proptest::collection::vec((0_usize..400, any::<u8>()), 0..6),
    ) {
        let mut packed = pack(ALL[which], &sample()[..2000]);
        for (at, byte) in changes {
            let length = packed.len();
            packed[at % length] = byte;
        }
        if let Ok(bytes) = ALL[which].unpack(&packed, 10_000) {
            prop_assert!(bytes.len() <= 10_000);
        }
    }
}
