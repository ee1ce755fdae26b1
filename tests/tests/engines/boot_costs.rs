//! What a boot costs in exits of the guest: no more than it did. Counted in the laboratory, where it is the same each time.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use vmm_tests::boot_costs::{BARE, Baseline, COMMANDS, USED, growth, measure};
use vmm_tests::{in_laboratory, kernels, skip};

/// What was measured when it last changed for a reason.
const BASELINE: &str = include_str!("../../boot-costs.json");

/// What Firecracker 1.16.1 spends on the boot without devices: port accesses, all handled by its process.
const FIRECRACKER: u64 = 1096;

/// The promise for a VM with a disk, sockets and entropy, all of them used.
const PROMISED: u64 = 300;

#[test]
fn kvm_no_device_costs_more_exits_than_it_did() {
    if !in_laboratory() {
        skip!("`cargo lab test` runs it in the laboratory");
    }
    if kernels().is_some() {
        skip!("the baseline is of the kernel that Alpine brings");
    }
    let baseline: Baseline = serde_json::from_str(BASELINE).expect("a baseline");
    let mut sentences = Vec::new();
    for (kind, exits) in measure() {
        println!("{kind}: {exits}");
        let limit = match kind {
            BARE => FIRECRACKER - 1,
            USED => PROMISED,
            // Only that they become no more.
            COMMANDS => u64::MAX,
            kind => panic!("nothing is promised for {kind}"),
        };
        if exits.total > limit {
            sentences
                .push(format!("{kind}: {} exits are more than the {limit} that are promised", exits.total));
        }
        sentences.extend(
            growth(&baseline[kind], &exits).into_iter().map(|sentence| format!("{kind}: {sentence}")),
        );
    }
    assert!(
        sentences.is_empty(),
        "{}\nIf that is meant, `cargo lab baseline` measures anew.",
        sentences.join("\n")
    );
}
