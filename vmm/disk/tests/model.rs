//! A chain of layers behaves like a plain array of bytes, whatever its layers are.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod kit;

use std::path::PathBuf;
use std::sync::Arc;

use kit::{Operation, assert_same, read};
use proptest::prelude::*;
use vmm_disk::qcow2::{Layout, check};
use vmm_disk::testing::MemoryStorage;
use vmm_disk::{DiskImage, Format, Layer, Storage, open_chain_layers};

/// The layers below the one that is written.
#[derive(Clone, Debug)]
enum Base {
    Nothing,
    Raw { size: u64 },
    Qcow2 { size: u64, cluster_bits: u32 },
}

/// A chain to be tested.
#[derive(Clone, Debug)]
struct Chain {
    base: Base,
    layout: Layout,
}

fn chains() -> impl Strategy<Value = Chain> {
    let layout = prop_oneof![
        (prop_oneof![Just(9_u32), Just(10), Just(12), Just(16)], 0..=6_u32)
            .prop_map(|(cluster_bits, refcount_order)| (cluster_bits, refcount_order, 3)),
        (prop_oneof![Just(9_u32), Just(12)]).prop_map(|cluster_bits| (cluster_bits, 4, 2)),
    ];
    let sizes = || prop_oneof![Just(300_000_u64), 1..300_000_u64, Just(1 << 18)];
    let base = prop_oneof![
        Just(Base::Nothing),
        sizes().prop_map(|size| Base::Raw { size }),
        (sizes(), prop_oneof![Just(9_u32), Just(12)])
            .prop_map(|(size, cluster_bits)| Base::Qcow2 { size, cluster_bits }),
    ];
    (base, layout, sizes()).prop_map(|(base, (cluster_bits, refcount_order, version), virtual_size)| Chain {
        base,
        layout: Layout { virtual_size, cluster_bits, refcount_order, version },
    })
}

/// The layer at the bottom.
type Bottom = Option<(Arc<MemoryStorage>, Format)>;

fn pattern(size: u64) -> Vec<u8> {
    (0..size).map(|at| if at / 3000 % 3 == 0 { 0 } else { (at / 700).to_le_bytes()[0] | 0x80 }).collect()
}

fn layer(storage: Arc<dyn Storage>, format: Format) -> Layer {
    Layer { storage, path: PathBuf::from("memory"), format }
}

impl Chain {
    /// The layers, and what the disk shows at first.
    fn build(&self) -> (Bottom, Arc<MemoryStorage>, Vec<u8>) {
        let (base, mut shown) = match self.base {
            Base::Nothing => (None, Vec::new()),
            Base::Raw { size } => {
                (Some((Arc::new(MemoryStorage::new(pattern(size))), Format::Raw)), pattern(size))
            }
            Base::Qcow2 { size, cluster_bits } => {
                let storage = Arc::new(MemoryStorage::default());
                Layout { virtual_size: size, cluster_bits, refcount_order: 4, version: 3 }
                    .write(&*storage)
                    .unwrap();
                let disk = open_chain_layers(vec![layer(storage.clone(), Format::Qcow2)], false).unwrap();
                // The last third is left out, and reads as zeroes.
                let mut shown = pattern(size);
                let written = size / 3 * 2;
                disk.write(&[std::io::IoSlice::new(&shown[..written as usize])], 0).unwrap();
                shown[written as usize..].fill(0);
                drop(disk);
                (Some((storage, Format::Qcow2)), shown)
            }
        };
        let top = Arc::new(MemoryStorage::default());
        self.layout.write(&*top).unwrap();
        shown.resize(self.layout.virtual_size as usize, 0);
        (base, top, shown)
    }
}

fn open(base: &Bottom, top: &Arc<MemoryStorage>) -> Arc<dyn DiskImage> {
    let mut layers: Vec<Layer> =
        base.iter().map(|(storage, format)| layer(storage.clone(), *format)).collect();
    layers.push(layer(top.clone(), Format::Qcow2));
    open_chain_layers(layers, false).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_shows_what_was_written_and_stays_sound(
        (chain, operations) in chains().prop_flat_map(|chain| {
            let (size, unit) = (chain.layout.virtual_size, 1 << chain.layout.cluster_bits);
            (Just(chain), prop::collection::vec(Operation::strategy(size, unit), 1..40))
        })
    ) {
        let (base, top, mut model) = chain.build();
        let size = chain.layout.virtual_size;
        let base_before = base.as_ref().map(|(storage, _)| storage.bytes());
        let mut disk = open(&base, &top);
        for operation in operations {
            operation.apply(&*disk).unwrap();
            operation.apply_to_model(&mut model, &*disk);
            if let Operation::Reopen = operation {
                drop(disk);
                let report = check(&*top).unwrap();
                prop_assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.findings);
                disk = open(&base, &top);
            }
            assert_same(&model, &read(&*disk, 0, size), "after an operation");
        }
        drop(disk);
        let report = check(&*top).unwrap();
        prop_assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.findings);
        assert_same(&model, &read(&*open(&base, &top), 0, size), "opened again");
        prop_assert_eq!(base_before, base.as_ref().map(|(storage, _)| storage.bytes()), "the base is never written");
    }
}
