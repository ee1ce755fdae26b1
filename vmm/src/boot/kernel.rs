//! Kernel files: what people have (bzImage, EFI zboot, ELF, Image) becomes what engines load (ELF, Image).

mod configuration;
pub(super) mod elf;
mod release;

use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::io;

use super::compression::Compression as Packing;
use crate::arch::Arch;

/// The largest kernel that is unpacked. Distributions' kernels have a tenth of it.
const LARGEST_KERNEL: u64 = 512 << 20;

/// A kernel in the form that an engine loads: an ELF file with a PVH entry on x86_64, an `Image` on arm64.
#[derive(Debug)]
pub struct Kernel {
    arch: Arch,
    bytes: Vec<u8>,
}

/// Why a file is no kernel that can be booted.
#[derive(Debug, Snafu)]
#[non_exhaustive]
pub enum KernelError {
    /// None of the formats that are known for the architecture.
    #[snafu(display("it is no kernel for {arch}: {wanted} is wanted, and it begins with {found}"))]
    Format {
        /// The architecture of the machine.
        arch: Arch,
        /// What is known for it.
        wanted: &'static str,
        /// Its first bytes.
        found: String,
    },
    /// A kernel of another architecture.
    #[snafu(display("it is a kernel for {found}, not for {arch}"))]
    Architecture {
        /// The architecture of the machine.
        arch: Arch,
        /// That of the kernel.
        found: String,
    },
    /// It ends before what its header tells of.
    #[snafu(display("it is cut short: {part} is not in it"))]
    Truncated {
        /// What should be there.
        part: &'static str,
    },
    /// Its header says something that cannot be.
    #[snafu(display("its header is wrong: {what}"))]
    Header {
        /// What is wrong.
        what: String,
    },
    /// It is compressed in a way that is not read here.
    #[snafu(display("it is compressed with {method}: that is not unpacked here, so give it unpacked"))]
    Compression {
        /// The method.
        method: String,
    },
    /// Its compressed part is damaged.
    #[snafu(display("its compressed part cannot be unpacked"))]
    Unpack {
        /// Why not.
        source: io::Error,
    },
    /// Its file cannot be read.
    #[snafu(display("it cannot be read"))]
    Read {
        /// Why not.
        source: io::Error,
    },
    /// There is no way to start it.
    #[snafu(display("it has no PVH entry: a kernel built with CONFIG_PVH is wanted"))]
    NoEntry,
}

type Result<T, E = KernelError> = std::result::Result<T, E>;

impl Kernel {
    /// Takes a kernel file of any known format: bzImage or ELF for x86_64, EFI zboot, `Image`, or a gzipped `Image`
    /// for arm64.
    pub fn from_file_contents(contents: &[u8], arch: Arch) -> Result<Self> {
        let bytes = match arch {
            Arch::X86_64 if contents.starts_with(elf::MAGIC) => contents.to_vec(),
            Arch::X86_64 if bytes_at(contents, BZIMAGE_MAGIC_AT) == Some(*b"HdrS") => {
                unpack_bzimage(contents)?
            }
            Arch::Arm64 if bytes_at(contents, ZBOOT_MAGIC_AT) == Some(*b"zimg") => unpack_zboot(contents)?,
            Arch::Arm64 if bytes_at(contents, IMAGE_MAGIC_AT) == Some(*b"ARM\x64") => contents.to_vec(),
            _ => match Packing::of(contents) {
                Some(packing) if arch == Arch::Arm64 => unpack(packing, contents, LARGEST_KERNEL)?,
                _ => return Err(unknown_format(contents, arch)),
            },
        };
        match arch {
            Arch::X86_64 => elf::check(&bytes)?,
            Arch::Arm64 => check_image(&bytes)?,
        }
        Ok(Self { arch, bytes })
    }

    /// The bytes that an engine loads.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The architecture that it runs on.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// What `uname -r` will say, where the kernel tells: the name of the folder that its modules are in.
    pub fn release(&self) -> Option<String> {
        release::find(&self.bytes)
    }

    /// What it was built with, where the kernel tells: the text of its `.config`.
    pub fn configuration(&self) -> Option<String> {
        configuration::find(&self.bytes)
    }
}

/// The setup header of a bzImage (Documentation/arch/x86/boot.rst): `header`, at a fixed place.
const BZIMAGE_MAGIC_AT: usize = 0x202;

/// Takes the ELF file out of a bzImage: it lies compressed in the protected-mode part.
fn unpack_bzimage(contents: &[u8]) -> Result<Vec<u8>> {
    let part = "the setup header";
    let truncated = || TruncatedSnafu { part };
    let protocol = u16_at(contents, 0x206).with_context(truncated)?;
    // `payload_offset` came with protocol 2.08.
    ensure!(
        protocol >= 0x208,
        HeaderSnafu { what: format!("boot protocol {protocol:#x} is older than 2.08") }
    );
    let setup_sectors = match bytes_at(contents, 0x1f1).with_context(truncated)? {
        [0] => 4,
        [count] => usize::from(count),
    };
    let protected_mode = (setup_sectors + 1) * 512;
    let payload_offset = u32_at(contents, 0x248).with_context(truncated)?;
    let payload_length = u32_at(contents, 0x24c).with_context(truncated)?;
    let payload = slice(contents, protected_mode.checked_add(payload_offset as usize), payload_length)
        .context(TruncatedSnafu { part: "the compressed kernel" })?;
    if payload.starts_with(elf::MAGIC) {
        return Ok(payload.to_vec());
    }
    let Some(packing) = Packing::of(payload) else {
        return CompressionSnafu { method: compression_of(payload) }.fail();
    };
    // The payload ends with the size of what it unpacks to, which for gzip is its own trailer.
    let promised = payload.len().checked_sub(4).and_then(|at| u32_at(payload, at));
    let promised = promised.context(TruncatedSnafu { part: "the size of the kernel" })?;
    let unpacked = unpack(packing, payload, u64::from(promised).min(LARGEST_KERNEL))?;
    ensure!(
        unpacked.len() as u64 == u64::from(promised),
        HeaderSnafu { what: format!("it promises {promised} bytes of kernel and holds {}", unpacked.len()) }
    );
    Ok(unpacked)
}

/// The header of an EFI zboot image (include/linux/pe.h, `struct linux_pe_zboot_header`): `zimg` behind `MZ`.
const ZBOOT_MAGIC_AT: usize = 4;

/// Takes the `Image` out of an EFI zboot file.
fn unpack_zboot(contents: &[u8]) -> Result<Vec<u8>> {
    let truncated = || TruncatedSnafu { part: "the zboot header" };
    let offset = u32_at(contents, 8).with_context(truncated)?;
    let length = u32_at(contents, 12).with_context(truncated)?;
    let method: [u8; 32] = bytes_at(contents, 24).with_context(truncated)?;
    let method = method.split(|byte| *byte == 0).next().unwrap_or_default();
    let payload = slice(contents, Some(offset as usize), length)
        .context(TruncatedSnafu { part: "the compressed kernel" })?;
    let Some(packing) = Packing::of(payload) else {
        let method = String::from_utf8_lossy(method).escape_debug().to_string();
        return CompressionSnafu { method }.fail();
    };
    unpack(packing, payload, LARGEST_KERNEL)
}

/// The header of an arm64 kernel (Documentation/arch/arm64/booting.rst): `magic`, at a fixed place.
const IMAGE_MAGIC_AT: usize = 56;

fn check_image(bytes: &[u8]) -> Result<()> {
    let truncated = || TruncatedSnafu { part: "the header of the Image" };
    let magic: [u8; 4] = bytes_at(bytes, IMAGE_MAGIC_AT).with_context(truncated)?;
    if magic != *b"ARM\x64" {
        return Err(unknown_format(bytes, Arch::Arm64));
    }
    let image_size = u64_at(bytes, 16).with_context(truncated)?;
    // The size in memory counts what is zero at the start, so it is never less than the file.
    ensure!(
        image_size >= bytes.len() as u64 && image_size <= LARGEST_KERNEL,
        HeaderSnafu { what: format!("{image_size} bytes of memory for a file of {} bytes", bytes.len()) }
    );
    let flags = u64_at(bytes, 24).with_context(truncated)?;
    ensure!(flags & 1 == 0, ArchitectureSnafu { arch: Arch::Arm64, found: "big-endian arm64" });
    Ok(())
}

fn unpack(packing: Packing, packed: &[u8], limit: u64) -> Result<Vec<u8>> {
    match packing.unpack_first(packed, limit) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            HeaderSnafu { what: error.to_string() }.fail()
        }
        unpacked => unpacked.context(UnpackSnafu),
    }
}

fn unknown_format(contents: &[u8], arch: Arch) -> KernelError {
    // A kernel for the other architecture is the likeliest mistake, and has a line of its own.
    let image = bytes_at(contents, IMAGE_MAGIC_AT) == Some(*b"ARM\x64");
    let zboot = bytes_at(contents, ZBOOT_MAGIC_AT) == Some(*b"zimg");
    let bzimage = bytes_at(contents, BZIMAGE_MAGIC_AT) == Some(*b"HdrS");
    match arch {
        Arch::X86_64 if image || zboot => ArchitectureSnafu {
            arch,
            found: if image { "arm64" } else { "arm64 (or another with EFI zboot)" },
        }
        .build(),
        Arch::Arm64 if bzimage => ArchitectureSnafu { arch, found: "x86" }.build(),
        Arch::Arm64 if contents.starts_with(elf::MAGIC) => {
            HeaderSnafu { what: "an ELF file; for arm64 the Image is wanted" }.build()
        }
        _ => {
            let wanted = match arch {
                Arch::X86_64 => "a bzImage or an ELF file",
                Arch::Arm64 => "an Image, perhaps gzipped or in an EFI zboot file,",
            };
            let first = &contents[..contents.len().min(8)];
            let found = if first.is_empty() {
                "nothing".to_owned()
            } else {
                format!("{:?}", first.escape_ascii().to_string())
            };
            FormatSnafu { arch, wanted, found }.build()
        }
    }
}

fn compression_of(payload: &[u8]) -> String {
    let known: [(&[u8], &str); 2] = [(&[0x5d, 0, 0], "lzma"), (&[0x89, b'L', b'Z', b'O'], "lzo")];
    let method = known.into_iter().find(|(magic, _)| payload.starts_with(magic));
    method.map_or("something unknown", |(_, method)| method).to_owned()
}

fn slice(bytes: &[u8], offset: Option<usize>, length: u32) -> Option<&[u8]> {
    let offset = offset?;
    bytes.get(offset..offset.checked_add(length as usize)?)
}

fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes_at(bytes, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
