use std::error::Error;
use std::io::Write;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::arch::x86_64::device_windows;
use crate::boot::testing::{LOAD_ADDRESS, elf_kernel};
use crate::memory::Regions;

const MEBIBYTE: u64 = 1 << 20;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Plans to boot a kernel with an initial file system of some length in so much memory, and loads the plan.
fn boot(kernel: &[u8], initramfs: u64, memory: u64) -> Result<(Regions, EntryPoint)> {
    let (kernel, initramfs_file) = (file(kernel), file(b"cpio"));
    initramfs_file.set_len(initramfs).unwrap();
    let map = MemoryMap::new(memory);
    let boot = X86Boot {
        kernel: &kernel,
        initramfs: &initramfs_file,
        command_line: "quiet",
        memory: &map,
        cpus: 2,
        devices: &device_windows(3).unwrap(),
    };
    let plan = boot.plan()?;
    let ranges: Vec<_> = map.memory().into_iter().collect();
    let ranges = ranges
        .iter()
        .map(|range| (GuestAddress(range.start), usize::try_from(range.end - range.start).unwrap()));
    let regions = Regions::from_ranges(&ranges.collect::<Vec<_>>()).unwrap();
    plan.load(&regions).unwrap();
    Ok((regions, plan.entry()))
}

/// The error, with its causes.
fn refusal(kernel: &[u8], initramfs: u64, memory: u64) -> String {
    let error = boot(kernel, initramfs, memory).map(|(_, entry)| entry).unwrap_err();
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn contents(memory: &Regions, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn word(memory: &Regions, address: u64) -> u64 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

/// A kernel with a field of its first program header, or its entry, changed.
fn kernel_with(field: usize, value: u64) -> Vec<u8> {
    let mut kernel = elf_kernel("6.18");
    kernel[field..field + 8].copy_from_slice(&value.to_le_bytes());
    kernel
}

const ENTRY: usize = 24;
const ADDRESS: usize = 64 + 24;
const MEMORY_LENGTH: usize = 64 + 40;

#[test]
fn the_kernel_finds_everything_from_its_parameters() {
    let kernel = elf_kernel("6.18");
    let (memory, entry) = boot(&kernel, 4097, 96 * MEBIBYTE).unwrap();
    assert_eq!(entry.instruction, LOAD_ADDRESS);
    assert_eq!(contents(&memory, LOAD_ADDRESS, kernel.len()), kernel);
    let parameters = entry.boot_data;
    assert_eq!(contents(&memory, parameters + 0x202, 4), b"HdrS");
    let half = |at: u64| word(&memory, parameters + at) & 0xffff_ffff;
    assert_eq!((half(0x218), half(0x21c)), (94 * MEBIBYTE, 4097));
    assert_eq!(contents(&memory, half(0x218), 5), b"cpio\0");
    assert_eq!(contents(&memory, half(0x228), 6), b"quiet\0");
    assert_eq!(contents(&memory, word(&memory, parameters + 0x70), 8), b"RSD PTR ");
}

#[test]
fn the_initial_file_system_lies_below_the_hole_however_much_memory_there_is() {
    let (memory, entry) = boot(&elf_kernel("6.18"), 4096, 4096 * MEBIBYTE).unwrap();
    assert_eq!(word(&memory, entry.boot_data + 0x218) & 0xffff_ffff, 3070 * MEBIBYTE);
}

#[test]
fn a_machine_boots_without_an_initial_file_system() {
    let (memory, entry) = boot(&elf_kernel("6.18"), 0, 96 * MEBIBYTE).unwrap();
    assert_eq!(word(&memory, entry.boot_data + 0x21c) & 0xffff_ffff, 0);
}

#[test]
fn a_kernel_of_another_architecture_or_form_is_told_as_such() {
    let mut arm = elf_kernel("6.18");
    arm[18] = 183;
    assert_eq!(
        refusal(&arm, 1, 96 * MEBIBYTE),
        "cannot load the kernel: it is a kernel for arm64, not for x86_64"
    );
    assert!(refusal(&[b'#'; 64], 1, 96 * MEBIBYTE).contains("it is no kernel for x86_64"));
}

#[test]
fn a_kernel_that_is_cut_short_is_never_loaded() {
    let kernel = elf_kernel("6.18");
    for length in 0..kernel.len() {
        let refusal = refusal(&kernel[..length], 1, 96 * MEBIBYTE);
        assert!(refusal.starts_with("cannot load the kernel: it is cut short: "), "{length}: {refusal}");
    }
}

#[test]
fn a_kernel_that_is_larger_than_memory_is_told_with_what_it_needs() {
    assert_eq!(
        refusal(&kernel_with(MEMORY_LENGTH, 100 * MEBIBYTE), 1, 96 * MEBIBYTE),
        "the kernel needs memory up to 116 MiB, and the VM has 96 MiB: give it more"
    );
}

#[test]
fn an_initial_file_system_that_does_not_fit_behind_the_kernel_is_refused() {
    let kernel = kernel_with(MEMORY_LENGTH, 16 * MEBIBYTE);
    boot(&kernel, 64 * MEBIBYTE, 96 * MEBIBYTE).unwrap();
    for length in [64 * MEBIBYTE + 1, 97 * MEBIBYTE] {
        assert_eq!(
            refusal(&kernel, length, 96 * MEBIBYTE),
            format!(
                "the initial file system of {length} bytes does not fit into the 67108864 bytes of memory behind \
                 the kernel: give the VM more"
            )
        );
    }
}

#[test]
fn a_kernel_where_our_tables_are_or_nothing_is_mapped_is_refused() {
    let place = |address: u64| {
        let mut kernel = kernel_with(ADDRESS, address);
        kernel[ENTRY..ENTRY + 8].copy_from_slice(&address.to_le_bytes());
        kernel
    };
    boot(&place(MEBIBYTE), 1, 2048 * MEBIBYTE).unwrap();
    for address in [0, 0x2000, 0xf_f000, 0x3fff_f000, 0x8000_0000] {
        let refusal = refusal(&place(address), 1, 2048 * MEBIBYTE);
        assert!(refusal.contains("only 0x100000 to 0x40000000 is for kernels"), "{refusal}");
    }
}

#[test]
fn segments_that_overlap_are_refused() {
    // The second program header tells of notes: now it is loaded, too, into the first one.
    let mut kernel = elf_kernel("6.18");
    kernel[64 + 56] = 1;
    assert_eq!(
        refusal(&kernel, 1, 96 * MEBIBYTE),
        "cannot load the kernel: two of its segments overlap at 0x10000b0"
    );
}

#[test]
fn an_entry_outside_of_the_kernel_is_refused() {
    for entry in [0, LOAD_ADDRESS - 1, LOAD_ADDRESS + 0x1000, u64::MAX] {
        let refusal = refusal(&kernel_with(ENTRY, entry), 1, 96 * MEBIBYTE);
        assert!(refusal.ends_with(&format!("its entry {entry:#x} is in no segment")), "{refusal}");
    }
}

#[test]
fn a_command_line_that_the_kernel_would_cut_is_refused() {
    let (kernel, initramfs, map) = (file(&elf_kernel("6.18")), file(b"x"), MemoryMap::new(96 * MEBIBYTE));
    let command_line = "x".repeat(2048);
    let boot = X86Boot {
        kernel: &kernel,
        initramfs: &initramfs,
        command_line: &command_line,
        memory: &map,
        cpus: 1,
        devices: &[],
    };
    assert!(matches!(boot.plan(), Err(X86BootError::Data { .. })));
}

proptest! {
    #[test]
    fn no_kernel_is_loaded_outside_of_memory(
        changes in proptest::collection::vec((0_usize..176, any::<u8>()), 1..6),
    ) {
        let mut kernel = elf_kernel("6.18");
        for (at, byte) in changes {
            kernel[at] = byte;
        }
        // What can be planned can be loaded.
        let _ = boot(&kernel, 5000, 96 * MEBIBYTE);
    }
}

/// A kernel with a table of such sections: kind, flags, offset, size.
fn with_sections(sections: &[(u32, u64, u64, u64)]) -> Vec<u8> {
    let mut elf = elf_kernel("6.12");
    let table = elf.len() as u64;
    elf[40..48].copy_from_slice(&table.to_le_bytes());
    elf[58..60].copy_from_slice(&64_u16.to_le_bytes());
    elf[60..62].copy_from_slice(&u16::try_from(sections.len()).unwrap().to_le_bytes());
    for &(kind, flags, offset, size) in sections {
        let mut section = [0; 64];
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[8..16].copy_from_slice(&flags.to_le_bytes());
        section[24..32].copy_from_slice(&offset.to_le_bytes());
        section[32..40].copy_from_slice(&size.to_le_bytes());
        elf.extend(section);
    }
    elf
}

#[test]
fn the_code_that_a_kernel_rewrites_is_where_its_sections_say_and_a_lying_table_tells_of_none() {
    let code_of = |kernel: &[u8]| elf::layout(&file(kernel)).unwrap().code;
    let in_file = elf_kernel("6.12").len() as u64;
    let start = LOAD_ADDRESS + 0x40;
    let code = with_sections(&[(0, 0, 0, 0), (1, 6, 0x40, 0x10), (1, 2, 0x80, 8), (8, 6, 0x90, 8)]);
    assert_eq!(code_of(&code), std::slice::from_ref(&(start..start + 0x10)));
    // What reaches beyond the segment ends with it; what begins there is nowhere.
    let lying = with_sections(&[
        (1, 6, 0x50, 8),
        (1, 6, 0x40, u64::MAX),
        (1, 6, in_file, 8),
        (1, 6, u64::MAX, u64::MAX),
        (1, 6, 0x40, 0),
    ]);
    assert_eq!(code_of(&lying), std::slice::from_ref(&(start..LOAD_ADDRESS + in_file)));
    // A table that is not in the file.
    let cut = with_sections(&[(1, 6, 0x40, 0x10); 3]);
    assert_eq!(code_of(&cut[..cut.len() - 1]), []);
    assert_eq!(code_of(&elf_kernel("6.12")), []);
}
