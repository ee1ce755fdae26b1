use proptest::prelude::*;

use super::*;
use crate::boot::Compression;
use crate::boot::compression::tests::{ALL, pack};
use crate::boot::testing::{bzimage, elf_kernel, gzip, image_kernel, zboot};

const RELEASE: &str = "6.18.56-0-virt";

fn refusal(contents: &[u8], arch: Arch) -> String {
    Kernel::from_file_contents(contents, arch).unwrap_err().to_string()
}

#[test]
fn every_form_of_a_kernel_becomes_the_one_that_engines_load() {
    let (elf, image) = (elf_kernel(RELEASE), image_kernel(RELEASE));
    let forms = [
        (Arch::X86_64, elf.clone(), &elf),
        (Arch::X86_64, bzimage(&gzip(&elf)), &elf),
        (Arch::X86_64, bzimage(&elf), &elf),
        (Arch::Arm64, image.clone(), &image),
        (Arch::Arm64, gzip(&image), &image),
        (Arch::Arm64, zboot(&gzip(&image), "gzip"), &image),
    ];
    for (arch, file, loaded) in forms {
        let kernel = Kernel::from_file_contents(&file, arch).unwrap();
        assert_eq!(kernel.bytes(), loaded.as_slice());
        assert_eq!(kernel.arch(), arch);
        assert_eq!(kernel.release().as_deref(), Some(RELEASE));
    }
}

#[test]
fn a_kernel_is_unpacked_however_it_is_packed() {
    let (elf, image) = (elf_kernel(RELEASE), image_kernel(RELEASE));
    for packing in ALL {
        let mut payload = pack(packing, &elf);
        if packing != Compression::Gzip {
            // As the kernel's build appends it; gzip has it already.
            payload.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
        }
        let kernel = Kernel::from_file_contents(&bzimage(&payload), Arch::X86_64).unwrap();
        assert!(kernel.bytes() == elf, "{packing}");
        let payload = pack(packing, &image);
        let kernel = Kernel::from_file_contents(&zboot(&payload, "any"), Arch::Arm64).unwrap();
        assert!(kernel.bytes() == image, "{packing}");
    }
}

#[test]
fn a_kernel_for_another_machine_is_told_as_such() {
    let (elf, image) = (elf_kernel(RELEASE), image_kernel(RELEASE));
    assert_eq!(refusal(&image, Arch::X86_64), "it is a kernel for arm64, not for x86_64");
    assert!(refusal(&zboot(&gzip(&image), "gzip"), Arch::X86_64).contains("not for x86_64"));
    assert_eq!(refusal(&bzimage(&gzip(&elf)), Arch::Arm64), "it is a kernel for x86, not for arm64");
    let mut riscv = elf.clone();
    riscv[18] = 243;
    assert_eq!(refusal(&riscv, Arch::X86_64), "it is a kernel for RISC-V, not for x86_64");
    let mut narrow = elf;
    (narrow[4], narrow[18]) = (1, 3);
    assert_eq!(refusal(&narrow, Arch::X86_64), "it is a kernel for 32-bit x86, not for x86_64");
}

#[test]
fn what_is_no_kernel_is_refused_with_what_is_wanted() {
    assert_eq!(
        refusal(b"#!/bin/sh\n", Arch::X86_64),
        "it is no kernel for x86_64: a bzImage or an ELF file is wanted, and it begins with \"#!/bin/s\""
    );
    assert!(refusal(b"", Arch::Arm64).ends_with("begins with nothing"));
    assert_eq!(
        refusal(&bzimage(&gzip(b"not a kernel, but long enough for the header of one")), Arch::X86_64),
        "its header is wrong: what it unpacks to is no ELF file"
    );
    assert!(refusal(&zboot(&gzip(&[0; 100]), "gzip"), Arch::Arm64).starts_with("it is no kernel for arm64"));
}

#[test]
fn another_compression_is_named() {
    let lzo = bzimage(&[0x89, b'L', b'Z', b'O', 0, 0, 0, 0]);
    assert!(refusal(&lzo, Arch::X86_64).starts_with("it is compressed with lzo:"));
    assert!(refusal(&zboot(&[0; 8], "lzma"), Arch::Arm64).starts_with("it is compressed with lzma:"));
}

#[test]
fn a_kernel_without_a_pvh_entry_is_refused() {
    let mut elf = elf_kernel(RELEASE);
    let name = elf.windows(4).position(|window| window == b"Xen\0").unwrap();
    elf[name] = b'Y';
    assert!(refusal(&elf, Arch::X86_64).starts_with("it has no PVH entry"));
    let mut elf = elf_kernel(RELEASE);
    elf[name + 4 + 3] = 0x7f;
    assert!(refusal(&elf, Arch::X86_64).contains("is in no segment"));
}

#[test]
fn a_kernel_that_is_cut_short_is_never_taken() {
    let packed = bzimage(&gzip(&elf_kernel(RELEASE)));
    // The last bytes pad the file; they hold nothing.
    for length in 0..packed.len() - 32 {
        assert!(Kernel::from_file_contents(&packed[..length], Arch::X86_64).is_err(), "{length}");
    }
    let packed = zboot(&gzip(&image_kernel(RELEASE)), "gzip");
    for length in 0..packed.len() {
        assert!(Kernel::from_file_contents(&packed[..length], Arch::Arm64).is_err(), "{length}");
    }
}

#[test]
fn a_kernel_of_another_length_than_promised_is_refused() {
    let mut payload = gzip(&elf_kernel(RELEASE));
    payload.extend(7_u32.to_le_bytes());
    let refusal = refusal(&bzimage(&payload), Arch::X86_64);
    assert!(refusal.starts_with("its header is wrong: it unpacks to more than 7 bytes"), "{refusal}");
}

#[test]
fn segments_that_cannot_be_loaded_are_refused() {
    // The first program header begins at 64: offset at 8, address at 24, lengths in the file and memory at 32 and 40.
    for (field, value) in
        [(8, u64::MAX), (24, 0xffff_ffff), (24, u64::MAX), (32, u64::MAX), (40, 1), (40, u64::MAX)]
    {
        let mut elf = elf_kernel(RELEASE);
        elf[64 + field..64 + field + 8].copy_from_slice(&value.to_le_bytes());
        assert!(Kernel::from_file_contents(&elf, Arch::X86_64).is_err(), "{field} {value:#x}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_the_readers(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        form in 0_usize..6,
    ) {
        let (elf, image) = (elf_kernel(RELEASE), image_kernel(RELEASE));
        let forms = [
            bzimage(&gzip(&elf)),
            bzimage(&elf),
            elf,
            zboot(&gzip(&image), "gzip"),
            gzip(&image),
            image,
        ];
        let mut file = forms[form].clone();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        for arch in Arch::ALL {
            if let Ok(kernel) = Kernel::from_file_contents(&file, arch) {
                let _ = kernel.release();
            }
        }
    }
}
