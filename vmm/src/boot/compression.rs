//! What kernels, modules and disks are packed with, told by its first bytes, and unpacked by decoders in Rust.
//!
//! What is packed may be hostile: a decoder's own memory is bounded here, the length of what it gives by whoever reads.

use std::fmt;
use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// The memory that xz may ask for, in KiB: that of its highest level, `xz -9`, is 65 MiB, and kernels take 32 MiB.
const XZ_MEMORY_KIB: u32 = 192 << 10;

/// The longest window of zstd: what `zstd --long` makes has 128 MiB.
const ZSTD_WINDOW: u64 = 128 << 20;

/// A block of the old form of lz4 holds no more (Documentation of lz4, "Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;

/// A way of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// bzip2.
    Bzip2,
    /// lz4 in its old form, which the kernel's build uses.
    Lz4,
}

impl Compression {
    const MAGICS: [(Self, &[u8]); 5] = [
        (Self::Gzip, &[0x1f, 0x8b]),
        (Self::Xz, &[0xfd, b'7', b'z', b'X', b'Z', 0]),
        (Self::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
        (Self::Bzip2, b"BZh"),
        (Self::Lz4, &[0x02, 0x21, 0x4c, 0x18]),
    ];

    /// How something is packed that begins with these bytes.
    pub fn of(first: &[u8]) -> Option<Self> {
        let found = Self::MAGICS.into_iter().find(|(_, magic)| first.starts_with(magic));
        found.map(|(compression, _)| compression)
    }

    /// Reads what is unpacked, of one part behind the other to the end.
    pub fn reader<'a>(self, packed: impl BufRead + 'a) -> Box<dyn Read + 'a> {
        match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB)),
            Self::Zstd => Box::new(ZstdFrames::Between(Some(packed))),
            Self::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Self::Lz4 => Box::new(Lz4Blocks::new(packed)),
        }
    }

    /// Unpacks the first part; what lies behind it is not looked at. More than `limit` bytes are an error.
    pub(crate) fn unpack_first(self, packed: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read_bounded(GzDecoder::new(packed), limit),
            Self::Xz => read_bounded(XzReader::new_mem_limit(packed, false, XZ_MEMORY_KIB), limit),
            Self::Zstd => read_bounded(open_frame(packed)?, limit),
            Self::Bzip2 => read_bounded(bzip2::bufread::BzDecoder::new(packed), limit),
            Self::Lz4 => read_bounded(Lz4Blocks::new(packed), limit),
        }
    }

    /// Unpacks all of it. More than `limit` bytes are an error.
    pub(crate) fn unpack(self, packed: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        read_bounded(self.reader(packed), limit)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
        })
    }
}

fn read_bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let what = format!("it unpacks to more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The frames of zstd, one behind the other; `zstd` itself writes one, others many, and some with notes between them.
enum ZstdFrames<R: Read> {
    Between(Option<R>),
    Inside(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Inside(decoder) => match decoder.read(buffer)? {
                    0 if !buffer.is_empty() => {
                        let Self::Inside(decoder) = std::mem::replace(self, Self::Between(None)) else {
                            return Ok(0);
                        };
                        *self = Self::Between(Some(decoder.into_inner()));
                    }
                    count => return Ok(count),
                },
                Self::Between(packed) => {
                    let Some(mut packed) = packed.take() else { return Ok(0) };
                    if !skip_notes(&mut packed)? {
                        return Ok(0);
                    }
                    *self = Self::Inside(Box::new(open_frame(packed)?));
                }
            }
        }
    }
}

/// Passes over skippable frames (RFC 8878, 3.1.2). False: nothing follows.
fn skip_notes(packed: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let next = packed.fill_buf()?;
        match next.first() {
            None => return Ok(false),
            // 0x184D2A50 to 5F, the least significant byte first; a frame begins with 0x28.
            Some(0x50..=0x5f) => {}
            Some(_) => return Ok(true),
        }
        let mut head = [0; 8];
        packed.read_exact(&mut head)?;
        if head[1..4] != [0x2a, 0x4d, 0x18] {
            return Err(invalid("what follows a zstd frame is none"));
        }
        let length = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        if io::copy(&mut packed.by_ref().take(length), &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn open_frame<R: Read>(packed: R) -> io::Result<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>> {
    StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW).map_err(|error| match error {
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::MagicNumberReadError(error)) => error,
        error => invalid(error.to_string()),
    })
}

/// lz4 in its old form: a magic number, then blocks, each with its packed length before it. A length that no block can
/// have ends it: the kernel's build writes the unpacked size there.
struct Lz4Blocks<R> {
    packed: R,
    started: bool,
    block: Vec<u8>,
    read: usize,
}

impl<R: BufRead> Lz4Blocks<R> {
    fn new(packed: R) -> Self {
        Self { packed, started: false, block: Vec::new(), read: 0 }
    }

    /// Unpacks the next block; false if there is none.
    fn next(&mut self) -> io::Result<bool> {
        let mut word = [0; 4];
        if !self.started {
            self.packed.read_exact(&mut word)?;
            self.started = true;
        }
        loop {
            if self.packed.fill_buf()?.is_empty() {
                return Ok(false);
            }
            self.packed.read_exact(&mut word)?;
            // Another part begins.
            if word != *Compression::MAGICS[4].1 {
                break;
            }
        }
        let length = u32::from_le_bytes(word) as usize;
        if length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(invalid("a block of lz4 is too long"));
        }
        let mut packed = Vec::new();
        self.packed.by_ref().take(length as u64).read_to_end(&mut packed)?;
        // The size that the kernel's build writes behind the last block: nothing follows it.
        if packed.is_empty() && length > 0 {
            return Ok(false);
        }
        if packed.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.block.resize(LZ4_BLOCK, 0);
        let unpacked = lz4_flex::block::decompress_into(&packed, &mut self.block);
        let count = unpacked.map_err(|error| invalid(error.to_string()))?;
        self.block.truncate(count);
        self.read = 0;
        Ok(true)
    }
}

impl<R: BufRead> Read for Lz4Blocks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.read);
        buffer[..count].copy_from_slice(&self.block[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
pub(crate) mod tests;
