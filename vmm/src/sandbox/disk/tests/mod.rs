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
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use vmm_disk::{Format, LayerSpec, create_overlay, open_chain};

use super::{DiskFile, layer_upon, root};
use crate::home::{Home, VmFolder, VmSpec};
use crate::image::{ImageStore, Layer, NewLayer, Thoroughness, image_upon};
use crate::sandbox::launch::launch;
use crate::sandbox::program::MonitorProgram;
use crate::sandbox::start::create_top_layer;
use crate::sandbox::{CancelToken, Sandbox, StartOptions};
use trace::{BEGIN, END, Step, can_trace, this_test, trace};
use tree::{Cuts, PAGE, Tree, is_zero, replay, written};

/// The size of the disk at first.
const SIZE: u64 = 1 << 20;

/// Something that is done to a home.
struct Operation {
    name: &'static str,
    /// How many VMs and snapshots there are afterwards.
    vms: usize,
    snapshots: usize,
    /// What is done before, beside what is for all of them.
    before: fn(&Home),
    /// The VM runs: its monitor, with a guest that is a script, changes the disk together with whoever asks for it. The
    /// guest writes a sector of ones when it is to stand still, and one of [`LATER`] as soon as it goes on.
    runs: bool,
    act: fn(&Home),
}

/// What the guest of a VM that runs writes in its first sector.
const FROZEN: u8 = 1;
const LATER: u8 = 0xff;

/// The operations. Before each there is a VM `box` with three layers above its image, a snapshot `old` of the second, and
/// a disk file `data.qcow2` of the user's.
const OPERATIONS: [Operation; 21] = [
    operation("clone", 2, 1, clone),
    operation("snapshot", 1, 2, snapshot),
    operation("restore", 1, 1, |home| vm(home).restore_snapshot("old").unwrap()),
    operation("forget", 1, 0, |home| vm(home).remove_snapshot("old").unwrap()),
    operation("resize", 1, 1, |home| vm(home).resize_disk("2M".parse().unwrap()).unwrap()),
    operation("flatten", 1, 1, flatten),
    operation("flatten_all", 1, 1, flatten_all),
    operation("compact", 1, 1, compact),
    operation("remove", 0, 0, |home| vm(home).remove(false).unwrap()),
    operation("compact_file", 1, 1, |home| assert!(data(home).compact(home).unwrap().after > 0)),
    operation("resize_file", 1, 1, |home| data(home).resize("20G".parse().unwrap()).unwrap()),
    operation("commit", 1, 1, |home| commit(home, "mine")),
    Operation {
        before: |home| commit_and_write(home, "mine"),
        ..operation("commit_over", 1, 1, |home| commit(home, "mine"))
    },
    Operation {
        before: |home| commit_and_write(home, EXACT),
        ..operation("commit_over_exactly", 1, 1, |home| commit(home, EXACT))
    },
    operation("overlay", 2, 1, make_with_overlay),
    Operation { before: lay_outside, ..operation("flatten_overlay", 1, 0, flatten) },
    Operation { before: lay_outside, ..operation("flatten_all_overlay", 1, 0, flatten_all) },
    Operation {
        before: |home| {
            lay_outside(home);
            vm(home).flatten(&token()).unwrap();
            write(&layers_of_box(home), &[(0, 1 << 19, 0)]);
        },
        ..operation("compact_overlay", 1, 0, compact)
    },
    Operation { runs: true, ..operation("snapshot_running", 1, 2, snapshot) },
    Operation { runs: true, ..operation("clone_running", 2, 1, clone) },
    Operation { runs: true, ..operation("commit_running", 1, 1, |home| commit(home, "mine")) },
];

const fn operation(name: &'static str, vms: usize, snapshots: usize, act: fn(&Home)) -> Operation {
    Operation { name, vms, snapshots, before: |_| (), runs: false, act }
}

/// A name that only one image has.
const EXACT: &str = "mine:9.0.0-20260101-0000001";

fn clone(home: &Home) {
    vm(home).clone_to("copy").unwrap();
}

fn snapshot(home: &Home) {
    vm(home).create_snapshot("new").unwrap();
}

fn flatten(home: &Home) {
    vm(home).flatten(&token()).unwrap();
}

fn flatten_all(home: &Home) {
    vm(home).flatten_all(&token()).unwrap();
}

fn compact(home: &Home) {
    vm(home).compact_disk(&token()).unwrap();
}

fn commit(home: &Home, name: &str) {
    vm(home).commit(&name.parse().unwrap(), true, &()).unwrap();
}

/// Makes an image of the VM, which then writes more.
pub(super) fn commit_and_write(home: &Home, name: &str) {
    commit(home, name);
    write(&layers_of_box(home), &[(8192, 100_000, 0xc0)]);
}

pub(super) fn layers_of_box(home: &Home) -> Vec<LayerSpec> {
    let spec = home.find("box").unwrap().spec().unwrap().unwrap();
    root(&spec).unwrap().layers.clone()
}

/// Where the overlay lies that its user chose a place for.
fn overlay(home: &Home) -> PathBuf {
    home.root().join("overlay.qcow2")
}

/// Lays the VM's lowest layer where its user would have it, with two others upon it and no snapshot.
pub(super) fn lay_outside(home: &Home) {
    vm(home).remove_snapshot("old").unwrap();
    vm(home).flatten(&token()).unwrap();
    let lowest = layers_of_box(home)[1].path.clone();
    fs::rename(&lowest, overlay(home)).unwrap();
    std::os::unix::fs::symlink(overlay(home), lowest).unwrap();
    for number in 0..2 {
        vm(home).create_snapshot("then").unwrap();
        write(
            &layers_of_box(home),
            &[(100_000 * number, 150_000, 0xd0), (700_000 + number * 4096, 65536, 0)],
        );
        vm(home).remove_snapshot("then").unwrap();
    }
}

/// Makes a VM whose overlay lies where its user would have it.
fn make_with_overlay(home: &Home) {
    let store = ImageStore::open(home.root()).unwrap();
    let image = store.find(&IMAGE.parse().unwrap(), crate::arch::Arch::host().unwrap()).unwrap();
    let held = home.create(Some(&"other".parse().unwrap())).unwrap();
    let builder = Sandbox::builder(IMAGE).name("other").overlay(overlay(home));
    let top = create_top_layer(&store, &image, &held, &builder).unwrap();
    let base = store.layers().layer(image.layer()).unwrap();
    let mut spec = spec(held.folder(), &[base.spec(), top.spec()], &[]);
    (spec.name, spec.snapshots) = (Some("other".parse().unwrap()), Vec::new());
    held.write_spec(&spec).unwrap();
}

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
    /// What the disk of each image shows, by its exact name.
    images: BTreeMap<String, Vec<u8>>,
}

/// What a disk shows, without the pages of zeroes at its end: a disk that grew shows the same.
fn shown(layers: &[LayerSpec]) -> Vec<u8> {
    for layer in layers.iter().filter(|layer| layer.format == Format::Qcow2) {
        let report = vmm_disk::check_layer(&layer.path).unwrap();
        assert_eq!(report.corruptions, 0, "{}: {:?}", layer.path.display(), report.findings);
    }
    let disk = open_chain(layers, true).unwrap();
    let mut bytes = vec![9; usize::try_from(disk.size().min(2 * SIZE)).unwrap()];
    disk.read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    let pages = bytes.chunks(PAGE).rposition(|page| !is_zero(page)).map_or(0, |last| last + 1);
    bytes.truncate(pages * PAGE);
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
        let store = ImageStore::open(home.root()).unwrap();
        for (name, arch) in store.names().unwrap() {
            let image = store.find(&name, arch).unwrap();
            let layers = store.verify(&image, Thoroughness::Full).unwrap();
            let layers: Vec<_> = layers.iter().map(Layer::spec).collect();
            contents.images.insert(image.to_string(), shown(&layers));
        }
        contents
    }

    /// What there may be to see of each disk and image.
    fn all(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.disks.iter().chain(&self.images)
    }

    fn get(&self, name: &str) -> Option<&Vec<u8>> {
        self.disks.get(name).or_else(|| self.images.get(name))
    }
}

/// Fails where there is a file of an overlay that no layer leads to.
fn assert_no_overlay_is_orphaned(home: &Home) {
    let names = fs::read_dir(home.root()).unwrap().map(|entry| entry.unwrap().file_name());
    let left = names.filter(|name| name.to_str().unwrap().starts_with("overlay.")).collect::<Vec<_>>();
    let store = ImageStore::open(home.root()).unwrap();
    assert!(left.is_empty() || store.layers().leading_to(&overlay(home)).unwrap().is_some(), "{left:?}");
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

pub(super) fn write(layers: &[LayerSpec], pieces: &[(u64, u64, u8)]) {
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
    image_upon(&store, &base.id, IMAGE);
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
    held.write_spec(&spec(held.folder(), &layers, &kept)).unwrap();
    let data = home.root().join("data.qcow2");
    create_overlay(&data, 16 << 20).unwrap();
    let data = [LayerSpec { path: data, format: Format::Qcow2 }];
    write(&data, &[(0, 300_000, 7), (500_000, 200_000, 8), (100_000, 150_000, 0)]);
    base.id.to_string()
}

/// The image that the VM is of.
const IMAGE: &str = "none:0.0.0-20260101-0000000";

/// The description of a VM with these layers.
fn spec(folder: &VmFolder, layers: &[LayerSpec], kept: &[LayerSpec]) -> VmSpec {
    serde_json::from_value(json!({
        "version": VmSpec::VERSION,
        "id": folder.id(),
        "name": "box",
        // What its guest does, where it has one (`life_cycle_tests`).
        "image": "Disk",
        "image_reference": IMAGE,
        "image_version": "0.0.0-20260101-0000000",
        "created": crate::home::Timestamp::now(),
        "engine": crate::home::EngineChoice::Auto,
        "require_hardware": false,
        "configuration": vmm_protocol::Configuration {
            host_name: Some("box".to_owned()),
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
            "vsock": { "guest_cid": 3, "socket": VmFolder::vsock_socket(&folder.sockets()) },
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
    let home = Home::open_default().unwrap();
    let running = operation.runs.then(|| {
        let held = home.find("box").unwrap().hold().unwrap();
        let folder = held.folder().clone();
        let now = vmm_sys::clock::monotonic_us();
        let lifeline = launch(&MonitorProgram::of_tests(), held, false, now, &StartOptions::default());
        Sandbox::of(folder, Some(lifeline.unwrap()))
    });
    mark(BEGIN);
    (operation.act)(&home);
    mark(END);
    if let Some(running) = running {
        running.kill().unwrap();
    }
}

/// Tells whoever traces this process how far it is.
fn mark(path: &str) {
    assert!(fs::File::open(path).is_err());
}

/// Cuts the power in an operation, in every way that the samples allow. Only the steps that `happens` says are taken to have
/// been made.
fn survives(operation: &Operation, cuts: &Cuts, happens: fn(&Step) -> bool) -> u64 {
    // In memory, where the machine has a place for that: the cuts are ours, and nobody waits for a disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("home");
    let home = Home::open(&path).unwrap();
    let base = prepare(&home);
    (operation.before)(&home);
    let before = Contents::read(&home);
    let tree = Tree::read(&path);
    let mut last = tree.clone();
    let command = this_test("sandbox::disk::tests::a_process_that_does_one_operation");
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let environment = [("VMM_TEST_OPERATION", operation.name), ("VMM_HOME", path.to_str().unwrap())];
    let traced = trace(&mut last, &command, &environment);
    assert!(last.files() == Tree::read(&path).files(), "the steps are not all that was done");
    let after = Contents::read(&home);
    let tree = tree.before(&last).after(&traced.before);
    let steps: Vec<Step> = traced.steps.into_iter().filter(happens).collect();
    let written_by_guest = written_by_guest(operation, &before);
    let mut number = 0_u64;
    let states = replay(&tree, &steps, cuts, |done| {
        let home = Home::open(&path).unwrap();
        home.clear_leftovers().unwrap();
        assert_no_overlay_is_orphaned(&home);
        let found = Contents::read(&home);
        for (name, bytes) in found.all() {
            let allowed = [before.get(name).filter(|_| !done), after.get(name)];
            let by_guest = written_by_guest.iter().filter(|_| name == "box");
            let mut allowed = allowed.into_iter().flatten().chain(by_guest);
            assert!(
                allowed.any(|allowed| allowed == bytes),
                "{}: {name} shows what it never was",
                operation.name
            );
        }
        for (name, _) in before.all().filter(|(name, _)| after.get(name).is_some()) {
            assert!(found.get(name).is_some(), "{}: {name} is lost", operation.name);
        }
        let is_all = found.all().map(|(name, _)| name).eq(after.all().map(|(name, _)| name));
        assert!(!done || is_all, "{}: what was done is lost", operation.name);
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
    if operation.runs {
        let made = after.all().find(|(name, _)| before.get(name).is_none()).map(|(_, shown)| shown);
        assert_eq!(
            made,
            written_by_guest.first(),
            "what was made is not of the moment at which the guest stood still"
        );
    }
    states
}

/// What the disk of a VM that runs may show beside what it did before: what its guest wrote when it was to stand still, and
/// later. What was made of the disk shows the first of them.
fn written_by_guest(operation: &Operation, before: &Contents) -> Vec<Vec<u8>> {
    let written = |byte| [vec![byte; 512], before.disks["box"][512..].to_vec()].concat();
    if operation.runs { vec![written(FROZEN), written(LATER)] } else { Vec::new() }
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
    let mut needed: Vec<_> =
        home.folders().unwrap().iter().flat_map(|folder| layers_of(folder.path().as_path())).collect();
    let store = ImageStore::open(home.root()).unwrap();
    for (name, arch) in store.names().unwrap() {
        let chain = store.layers().chain(store.find(&name, arch).unwrap().layer()).unwrap();
        needed.extend(chain.into_iter().map(|layer| layer.id.to_string()));
    }
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
    let (mut seed, states) = (0, AtomicU64::new(0));
    while seed < 1 || Instant::now() < until {
        let cuts = match soak {
            Some(_) => Cuts { exhaustive: 8, samples: 1000, seed },
            None => Cuts { exhaustive: 4, samples: 10, seed },
        };
        let next = Mutex::new(OPERATIONS.iter());
        thread::scope(|scope| {
            // The longest of all tests: it would be the last one, on one processor.
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(operation) = { next.lock().unwrap().next() } {
                        states.fetch_add(survives(operation, &cuts, |_| true), Ordering::Relaxed);
                    }
                });
            }
        });
        seed += 1;
    }
    println!("{seed} runs, {} states", states.into_inner());
}

#[test]
fn without_its_syncs_an_operation_loses_something() {
    if !can_trace() {
        return;
    }
    // The test of the tests.
    for name in ["clone", "flatten", "compact_file", "commit", "commit_over", "snapshot_running"] {
        let operation = OPERATIONS.iter().find(|operation| operation.name == name).unwrap();
        let cuts = Cuts { exhaustive: 0, samples: 30, seed: 1 };
        let survived = std::panic::catch_unwind(|| {
            survives(operation, &cuts, |step| !matches!(step, Step::Sync { .. }))
        });
        assert!(survived.is_err(), "{name}");
    }
}
