//! No operation on the disk of a VM loses a byte or a VM in any state that a power cut permits.
//!
//! Each operation runs in a process of its own under `strace`, on a home of its own. What it did to the home's files is
//! then replayed (`tree`): every write, every name, every sync. A further operation is one more entry of [`OPERATIONS`].
//!
//! `VMM_DISK_SOAK=<seconds>` makes the tests go on for so long, with all samples.

mod trace;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use vmm_disk::{Format, LayerSpec, create_overlay, open_chain};

use super::{DiskFile, layer_upon, root};
use crate::home::{Home, VmSpec};
use crate::image::{ImageStore, NewLayer};
use crate::sandbox::{CancelToken, Sandbox};
use trace::{BEGIN, Step, can_trace, this_test, trace};
use tree::{Cuts, Tree, replay, written};

/// The size of the disk at first.
const SIZE: u64 = 1 << 20;

/// Something that is done to a home.
struct Operation {
    name: &'static str,
    /// How many VMs and snapshots there are afterwards.
    vms: usize,
    snapshots: usize,
    act: fn(&Home),
}

/// The operations. Before each there is a VM `box` with three layers above its image, a snapshot `old` of the second, and
/// a disk file `data.qcow2` of the user's.
const OPERATIONS: [Operation; 11] = [
    Operation { name: "clone", vms: 2, snapshots: 1, act: |home| drop(vm(home).clone_to("copy").unwrap()) },
    Operation {
        name: "snapshot",
        vms: 1,
        snapshots: 2,
        act: |home| assert_eq!(vm(home).create_snapshot("new").unwrap(), None, "no guest stood still"),
    },
    Operation {
        name: "restore",
        vms: 1,
        snapshots: 1,
        act: |home| vm(home).restore_snapshot("old").unwrap(),
    },
    Operation { name: "forget", vms: 1, snapshots: 0, act: |home| vm(home).remove_snapshot("old").unwrap() },
    Operation {
        name: "resize",
        vms: 1,
        snapshots: 1,
        act: |home| vm(home).resize_disk("2M".parse().unwrap()).unwrap(),
    },
    Operation {
        name: "flatten",
        vms: 1,
        snapshots: 1,
        act: |home| {
            vm(home).flatten(&token()).unwrap();
        },
    },
    Operation {
        name: "flatten_all",
        vms: 1,
        snapshots: 1,
        act: |home| {
            vm(home).flatten_all(&token()).unwrap();
        },
    },
    Operation {
        name: "compact",
        vms: 1,
        snapshots: 1,
        act: |home| {
            vm(home).compact_disk(&token()).unwrap();
        },
    },
    Operation { name: "remove", vms: 0, snapshots: 0, act: |home| vm(home).remove(false).unwrap() },
    Operation {
        name: "compact_file",
        vms: 1,
        snapshots: 1,
        act: |home| assert!(data(home).compact(home).unwrap().after > 0),
    },
    Operation {
        name: "resize_file",
        vms: 1,
        snapshots: 1,
        act: |home| data(home).resize("20G".parse().unwrap()).unwrap(),
    },
];

pub(super) fn vm(home: &Home) -> Sandbox {
    Sandbox::attach(home, "box").unwrap()
}

fn data(home: &Home) -> DiskFile {
    DiskFile::open(home.root().join("data.qcow2")).unwrap()
}

pub(super) fn token() -> CancelToken {
    CancelToken::new().unwrap()
}

/// What there is to be seen in a home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// What each disk shows: of a VM by its name, of a snapshot as `VM@SNAPSHOT`, the user's as `data`.
    pub(super) disks: BTreeMap<String, Vec<u8>>,
}

/// What a disk shows, without the zeroes at its end: a disk that grew shows the same.
fn shown(layers: &[LayerSpec]) -> Vec<u8> {
    for layer in layers.iter().filter(|layer| layer.format == Format::Qcow2) {
        let report = vmm_disk::check_layer(&layer.path).unwrap();
        assert_eq!(report.corruptions, 0, "{}: {:?}", layer.path.display(), report.findings);
    }
    let disk = open_chain(layers, true).unwrap();
    let mut bytes = vec![9; usize::try_from(disk.size().min(2 * SIZE)).unwrap()];
    disk.read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
    bytes
}

impl Contents {
    /// What is there, and whether it hangs together.
    pub(super) fn read(home: &Home) -> Self {
        let mut contents = Self::default();
        for folder in home.folders().unwrap() {
            let spec = folder.spec().unwrap().unwrap();
            let name = spec.display_name().to_owned();
            for snapshot in &spec.snapshots {
                contents.disks.insert(format!("{name}@{}", snapshot.name), shown(&snapshot.layers));
            }
            contents.disks.insert(name, shown(&root(&spec).unwrap().layers));
        }
        let data = LayerSpec { path: home.root().join("data.qcow2"), format: Format::Qcow2 };
        contents.disks.insert("data".to_owned(), shown(&[data]));
        contents
    }
}

/// Fails where a layer is nobody's.
fn assert_nothing_is_orphaned(home: &Home, base: &str) {
    let mut known: Vec<String> = vec![base.to_owned()];
    for folder in home.all_folders().unwrap() {
        for record in ["owns.json", "drops.json"] {
            let text = fs::read_to_string(folder.path().join(record)).unwrap_or_else(|_| "[]".to_owned());
            let paths: Vec<String> = serde_json::from_str(&text).unwrap();
            known.extend(paths.iter().map(|path| path.rsplit('/').next().unwrap().to_owned()));
        }
    }
    for entry in fs::read_dir(home.root().join("layers")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // What is not complete is removed by whoever makes a layer next.
        let layer = !name.ends_with(".partial") && name != ".lock";
        assert!(!layer || known.contains(&name), "the layer {name} is nobody's");
    }
}

fn write(layers: &[LayerSpec], pieces: &[(u64, u64, u8)]) {
    let disk = open_chain(layers, false).unwrap();
    for &(offset, length, byte) in pieces {
        disk.write(&[IoSlice::new(&vec![byte; usize::try_from(length).unwrap()])], offset).unwrap();
    }
    disk.flush().unwrap();
}

/// Makes the home, and returns the name of the image's layer.
pub(super) fn prepare(home: &Home) -> String {
    let store = ImageStore::open(home.root()).unwrap();
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at / 4096).to_le_bytes()[0] | 1).collect();
    let new = NewLayer { format: Format::Raw, below: None, durable: true };
    let base = store.layers().create(new, |path| fs::write(path, bytes)).unwrap();
    let held = home.create(Some(&"box".parse().unwrap())).unwrap();
    let mut layers = vec![base.spec()];
    let mut kept = Vec::new();
    for number in 0..3_u64 {
        layers = layer_upon(&store, &held, &layers, SIZE).unwrap();
        // The rewriting of a cluster, of a part of one, and zeroes.
        let byte = u8::try_from(number).unwrap();
        let pieces = [(number * 65536, 65536, 0xa0 + byte), (number * 100_000 + 5000, 9000, 0xb0 + byte)];
        write(&layers, &pieces);
        write(&layers, &[(600_000, 300_000, 0)]);
        if number == 1 {
            kept.clone_from(&layers);
        }
    }
    held.write_spec(&spec(held.folder().id().as_str(), &layers, &kept)).unwrap();
    let data = home.root().join("data.qcow2");
    create_overlay(&data, 16 << 20).unwrap();
    let data = [LayerSpec { path: data, format: Format::Qcow2 }];
    write(&data, &[(0, 300_000, 7), (500_000, 200_000, 8), (100_000, 150_000, 0)]);
    base.id.to_string()
}

/// The description of a VM with these layers.
fn spec(id: &str, layers: &[LayerSpec], kept: &[LayerSpec]) -> VmSpec {
    serde_json::from_value(json!({
        "version": VmSpec::VERSION,
        "id": id,
        "name": "box",
        "image": "none",
        "image_reference": "none:0.0.0-20260101-0000000",
        "image_version": "0.0.0-20260101-0000000",
        "created": crate::home::Timestamp::now(),
        "engine": crate::home::EngineChoice::Auto,
        "require_hardware": false,
        "configuration": vmm_protocol::Configuration {
            host_name: None,
            time_ns: None,
            entropy: Vec::new(),
            environment: Vec::new(),
            resolv_conf: None,
            root: vmm_protocol::Root {
                device: "/dev/vda".to_owned(),
                file_system: "ext4".to_owned(),
                options: String::new(),
                read_only: false,
                grow: false,
                overlay: None,
            },
            init: vmm_protocol::Init::Agent,
            mask_services: Vec::new(),
        },
        "machine": {
            "arch": crate::arch::Arch::host().unwrap(),
            "cpus": 1,
            "memory": crate::machine::MemorySize::MINIMUM,
            "boot": { "kernel": "/nowhere", "initramfs": "/nowhere", "command_line": "" },
            "disks": [{ "layers": layers, "read_only": false, "serial": "root" }],
            "vsock": { "guest_cid": 3, "socket": "/nowhere" },
        },
        "snapshots": [{ "name": "old", "created": crate::home::Timestamp::now(), "layers": kept }],
    }))
    .unwrap()
}

/// The body of a process that does one operation.
#[test]
fn a_process_that_does_one_operation() {
    let Ok(wanted) = std::env::var("VMM_TEST_OPERATION") else { return };
    let operation = OPERATIONS.iter().find(|operation| operation.name == wanted).unwrap();
    assert!(fs::File::open(BEGIN).is_err());
    (operation.act)(&Home::open_default().unwrap());
}

/// Cuts the power in an operation, in every way that the samples allow. Only the steps that `happens` says are taken to have
/// been made.
fn survives(operation: &Operation, cuts: &Cuts, happens: fn(&Step) -> bool) -> u64 {
    // In memory, where the machine has a place for that: the cuts are ours, and nobody waits for a disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("home");
    let home = Home::open(&path).unwrap();
    let base = prepare(&home);
    let before = Contents::read(&home);
    let tree = Tree::read(&path);
    let mut last = tree.clone();
    let command = this_test("sandbox::disk::tests::a_process_that_does_one_operation");
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let environment = [("VMM_TEST_OPERATION", operation.name), ("VMM_HOME", path.to_str().unwrap())];
    let steps = trace(&mut last, &command, &environment);
    let after = Contents::read(&home);
    let tree = tree.before(&last);
    assert!(tree.after(&steps).files() == Tree::read(&path).files(), "the steps are not all that was done");
    let steps: Vec<Step> = steps.into_iter().filter(happens).collect();
    let mut number = 0_u64;
    let states = replay(&tree, &steps, cuts, |done| {
        let home = Home::open(&path).unwrap();
        home.clear_leftovers().unwrap();
        let found = Contents::read(&home);
        for (name, bytes) in &found.disks {
            let allowed = [before.disks.get(name).filter(|_| !done), after.disks.get(name)];
            let allowed: Vec<_> = allowed.into_iter().flatten().collect();
            assert!(allowed.contains(&bytes), "{}: {name} shows what it never was", operation.name);
        }
        for name in before.disks.keys().filter(|name| after.disks.contains_key(*name)) {
            assert!(found.disks.contains_key(name), "{}: {name} is lost", operation.name);
        }
        assert!(!done || found == after, "{}: what was done is lost", operation.name);
        if done {
            assert_nothing_is_orphaned(&home, &base);
        }
        number += 1;
        if number.is_multiple_of(20) {
            go_on(&home, &found, &base);
        }
    });
    println!("{}: {} steps, {} bytes, {states} states", operation.name, steps.len(), written(&steps));
    assert_eq!(after.disks.keys().filter(|name| name.contains('@')).count(), operation.snapshots);
    assert_eq!(after.disks.len() - operation.snapshots - 1, operation.vms);
    states
}

/// A home that survived can be used on, and loses what a cut left behind.
fn go_on(home: &Home, found: &Contents, base: &str) {
    // One that is being removed has lost its name before the rest.
    if home.find("box").is_ok() {
        vm(home).create_snapshot("then").unwrap();
        vm(home).remove_snapshot("then").unwrap();
        vm(home).flatten(&token()).unwrap();
    }
    data(home).compact(home).unwrap();
    // A clone or a removal that a cut undid may have left a layer that nobody knows of.
    crate::sandbox::prune_images(home, false).unwrap();
    assert_eq!(Contents::read(home), *found);
    let needed: Vec<_> =
        home.folders().unwrap().iter().flat_map(|folder| layers_of(folder.path().as_path())).collect();
    for entry in fs::read_dir(home.root().join("layers")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == ".lock" || name == base || needed.contains(&name), "{name} is still there");
    }
}

/// The names of the layers that a VM's description has.
fn layers_of(folder: &Path) -> Vec<String> {
    let spec: VmSpec = serde_json::from_slice(&fs::read(folder.join("spec.json")).unwrap()).unwrap();
    let snapshots = spec.snapshots.iter().flat_map(|snapshot| &snapshot.layers);
    let layers = spec.machine.disks.iter().flat_map(|disk| &disk.layers).chain(snapshots);
    let name = |layer: &LayerSpec| Some(layer.path.parent()?.file_name()?.to_str()?.to_owned());
    layers.filter_map(name).collect()
}

#[test]
fn operations_on_disks_survive_power_cuts() {
    if !can_trace() {
        return;
    }
    let soak: Option<u64> = std::env::var("VMM_DISK_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    let until = Instant::now() + Duration::from_secs(soak.unwrap_or(0));
    let (mut seed, mut states) = (0, 0);
    while seed < 1 || Instant::now() < until {
        for operation in &OPERATIONS {
            let cuts = match soak {
                Some(_) => Cuts { exhaustive: 8, samples: 1000, seed },
                None => Cuts { exhaustive: 4, samples: 10, seed },
            };
            states += survives(operation, &cuts, |_| true);
        }
        seed += 1;
    }
    println!("{seed} runs, {states} states");
}

#[test]
fn without_its_syncs_an_operation_loses_something() {
    if !can_trace() {
        return;
    }
    // The test of the tests.
    for name in ["clone", "flatten", "compact_file"] {
        let operation = OPERATIONS.iter().find(|operation| operation.name == name).unwrap();
        let cuts = Cuts { exhaustive: 0, samples: 30, seed: 1 };
        let survived = std::panic::catch_unwind(|| {
            survives(operation, &cuts, |step| !matches!(step, Step::Sync { .. }))
        });
        assert!(survived.is_err(), "{name}");
    }
}
