use std::io::Write;

use proptest::prelude::*;

use super::*;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn plan(piece: FilePiece<'_>) -> LoadPlan<'_> {
    LoadPlan::new(vec![piece], Vec::new(), EntryPoint { instruction: 0, boot_data: 0 })
}

fn memory(length: usize) -> Regions {
    // Two regions, so that pieces can lie across.
    Regions::from_ranges(&[(GuestAddress(0), 0x3000), (GuestAddress(0x3000), length - 0x3000)]).unwrap()
}

fn contents(memory: &Regions, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
fn bytes_and_parts_of_files_come_to_lie_where_they_belong() {
    let bytes: Vec<u8> = (0..0x2001_u32).map(|at| at.to_le_bytes()[0]).collect();
    let file = file(&bytes);
    let mut plan = plan(FilePiece {
        file: &file,
        what: "file",
        offset: 1,
        address: 0x2345,
        length: 0x2000,
        stays: true,
    });
    plan.bytes.push(Placed { address: 0x10, bytes: b"ours".to_vec() });
    let memory = memory(0x10000);
    plan.load(&memory).unwrap();
    assert_eq!(contents(&memory, 0x2345, 0x2000), bytes[1..]);
    assert_eq!(contents(&memory, 0xf, 6), b"\0ours\0");
    assert_eq!(contents(&memory, 0x2344, 1), [0]);
    assert_eq!(contents(&memory, 0x4345, 1), [0]);
}

#[test]
fn a_file_that_has_become_shorter_is_told_as_such() {
    let file = file(&[1; 0x1000]);
    let plan =
        plan(FilePiece { file: &file, what: "file", offset: 0, address: 0, length: 0x1001, stays: true });
    let error = plan.load(&memory(0x10000)).unwrap_err();
    assert_eq!(error.to_string(), "cannot read 4097 bytes at 0 of the file for the memory at 0x0");
    assert!(matches!(error, LoadError::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof));
}

#[test]
fn what_does_not_lie_in_memory_is_refused() {
    let file = file(&[1; 0x1000]);
    for address in [0xf001, 0x10000, u64::MAX - 0xfff] {
        let plan =
            plan(FilePiece { file: &file, what: "file", offset: 0, address, length: 0x1000, stays: true });
        assert!(matches!(plan.load(&memory(0x10000)), Err(LoadError::Memory { .. })), "{address:#x}");
    }
}

#[test]
fn whole_pages_are_mapped_and_the_rest_is_copied() {
    let file = file(&[]);
    let mut plan = plan(FilePiece {
        file: &file,
        what: "file",
        offset: 0x5800,
        address: 0x20_0800,
        length: 0x3000,
        stays: true,
    });
    let place = |piece: &FilePiece<'_>| (piece.offset, piece.address, piece.length);
    let mapped = plan.take_mappable(0x1000);
    assert_eq!(mapped.iter().map(place).collect::<Vec<_>>(), [(0x6000, 0x20_1000, 0x2000)]);
    let rest: Vec<_> = plan.files.iter().map(place).collect();
    assert_eq!(rest, [(0x5800, 0x20_0800, 0x800), (0x8000, 0x20_3000, 0x800)]);
}

#[test]
fn nothing_is_mapped_that_lies_otherwise_in_memory_than_in_the_file() {
    let file = file(&[]);
    let mut plan = plan(FilePiece {
        file: &file,
        what: "file",
        offset: 0x1000,
        address: 0x2000,
        length: 0x10000,
        stays: true,
    });
    assert!(plan.take_mappable(0x4000).is_empty());
    assert_eq!(plan.take_mappable(0x1000).len(), 1);
}

proptest! {
    #[test]
    fn what_is_mapped_and_what_is_copied_is_the_whole(
        offset in 0_u64..0x20000,
        address in 0_u64..0x20000,
        length in 1_u64..0x20000,
        alike in any::<bool>(),
        shift in 12_u32..17,
    ) {
        let file = file(&[]);
        let page = 1 << shift;
        let address = if alike { address - address % page + offset % page } else { address };
        let mut plan = plan(FilePiece { file: &file, what: "file", offset, address, length, stays: true });
        let mapped = plan.take_mappable(page);
        for piece in &mapped {
            prop_assert!([piece.offset, piece.address, piece.length].iter().all(|value| value % page == 0));
        }
        let mut pieces = [mapped, plan.files].concat();
        pieces.sort_by_key(|piece| piece.address);
        let (mut at, mut end) = (offset, address);
        for piece in pieces {
            prop_assert_eq!((piece.offset, piece.address), (at, end));
            (at, end) = (at + piece.length, end + piece.length);
        }
        prop_assert_eq!(end, address + length);
    }
}
