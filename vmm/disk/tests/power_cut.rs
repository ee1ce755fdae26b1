//! No state that a power cut permits corrupts an overlay, or loses what the guest flushed.
//!
//! `VMM_DISK_SOAK=<seconds>` makes the random tests go on for so long.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod kit;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::guest::{Deed, Guest};
use kit::{has_tool, qemu_check, read};
use vmm_disk::qcow2::{Layout, Qcow2Image, check};
use vmm_disk::testing::{DiskState, Event, Log, MemoryStorage, PowerCuts, Random, RecordedFolder, Recorder};
use vmm_disk::{DiskImage, RawImage, Storage, create_overlay_on};

/// The base layer of the tests: patterned, with holes.
fn base_bytes(size: u64) -> Vec<u8> {
    (0..size).map(|at| if at / 2048 % 3 == 1 { 0 } else { 0x40 | (at / 512).to_le_bytes()[0] }).collect()
}

/// An overlay on a base, below which everything is recorded.
struct Subject {
    layout: Layout,
    base: Vec<u8>,
    recorder: Arc<Recorder>,
}

impl Subject {
    fn new(layout: Layout) -> Self {
        let memory = MemoryStorage::default();
        layout.write(&memory).unwrap();
        Self {
            layout,
            base: base_bytes(layout.virtual_size / 4 * 3),
            recorder: Arc::new(Recorder::new(memory.bytes())),
        }
    }

    fn open_on(&self, storage: Arc<dyn Storage>) -> Qcow2Image {
        let base = RawImage::open(Arc::new(MemoryStorage::new(self.base.clone())), true).unwrap();
        Qcow2Image::open(storage, Some(Arc::new(base)), false).unwrap()
    }

    fn open(&self) -> Qcow2Image {
        self.open_on(self.recorder.clone())
    }

    fn size(&self) -> u64 {
        self.layout.virtual_size
    }

    /// What the disk shows at first.
    fn initial(&self) -> Vec<u8> {
        let mut bytes = self.base.clone();
        bytes.resize(self.size() as usize, 0);
        bytes
    }

    /// Fails unless the state is sound and holds what the guests were promised.
    fn inspect(&self, guests: &[Guest], initial: &[u8], log: &Log, state: &DiskState<'_>) {
        let storage = Arc::new(MemoryStorage::new(state.bytes.to_vec()));
        let report = check(&*storage).unwrap();
        assert_eq!(report.corruptions, 0, "{:?} {:?}", self.layout, report.findings);
        let disk = self.open_on(storage.clone());
        let bytes = read(&disk, 0, self.size());
        for guest in guests {
            guest.inspect(&bytes, initial, &log.events, state);
        }
    }

    /// Fails unless an overlay that survived a power cut can be used on.
    fn use_on(&self, state: &DiskState<'_>) {
        let storage = Arc::new(MemoryStorage::new(state.bytes.to_vec()));
        let disk = self.open_on(storage.clone());
        let half = self.size() / 2;
        disk.write(&[std::io::IoSlice::new(&vec![0xaa; half as usize])], half / 2).unwrap();
        disk.discard(0, half).unwrap();
        disk.flush().unwrap();
        assert!(read(&disk, half, half / 2).iter().all(|&byte| byte == 0xaa));
        drop(disk);
        assert_eq!(check(&*storage).unwrap().corruptions, 0);
    }

    /// Replays all that was recorded, from what the disk showed at the beginning of the log.
    fn replay(&self, cuts: &PowerCuts, guests: &[Guest], log: &Log) -> u64 {
        let initial = self.initial();
        let mut number = 0_u64;
        cuts.replay(log, |state| {
            self.inspect(guests, &initial, log, state);
            number += 1;
            if number.is_multiple_of(50) {
                self.use_on(state);
            }
        })
    }
}

fn layout(virtual_size: u64, cluster_bits: u32) -> Layout {
    Layout { virtual_size, cluster_bits, refcount_order: 4, version: 3 }
}

/// A guest that acts at random, in one thread.
fn random_run(seed: u64, layout: Layout, deeds: usize) -> (Subject, Vec<Guest>) {
    let subject = Subject::new(layout);
    let mut random = Random::new(seed);
    let mut guest = Guest::new(0, 0..layout.virtual_size / 512);
    let disk = subject.open();
    let (longest, flush_every) = (1 + random.below(64), 2 + random.below(12));
    for _ in 0..deeds {
        let deed = guest.make_up(&mut random, longest, flush_every);
        guest.act(deed, &disk, &subject.recorder).unwrap();
    }
    drop(disk);
    (subject, vec![guest])
}

#[test]
fn the_first_writes_to_an_overlay_survive_in_every_state() {
    let subject = Subject::new(layout(1 << 20, 16));
    let disk = subject.open();
    let mut guest = Guest::new(0, 0..2048);
    for deed in [
        Deed::Write(3..4),
        Deed::Flush,
        Deed::Write(128..400),
        Deed::Write(5..6),
        Deed::Flush,
        Deed::Discard(128..384),
        Deed::Write(1000..1001),
        Deed::Flush,
        Deed::Write(640..900),
        Deed::Zero(0..128, true),
        Deed::Flush,
        Deed::Write(0..1),
        Deed::Flush,
    ] {
        guest.act(deed, &disk, &subject.recorder).unwrap();
    }
    drop(disk);
    let log = subject.recorder.take_log();
    let states = subject.replay(&PowerCuts::default(), &[guest], &log);
    println!("{states} states");
    assert!(states > 150);
}

#[test]
fn random_deeds_survive_power_cuts() {
    let soak: Option<u64> = std::env::var("VMM_DISK_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    let until = Instant::now() + Duration::from_secs(soak.unwrap_or(0));
    let (mut seed, mut states) = (0, 0);
    while seed < 12 || Instant::now() < until {
        let mut random = Random::new(seed);
        let cluster_bits = [9, 9, 10, 12, 16][random.below(5) as usize];
        let refcount_order = random.below(7) as u32;
        let size = [1 << 17, 1 << 18, 300 * 512][random.below(3) as usize];
        let layout = Layout { virtual_size: size, cluster_bits, refcount_order, version: 3 };
        let (subject, guests) = random_run(seed, layout, 40);
        let samples = if soak.is_some() { 10_000 } else { 60 };
        let exhaustive = if soak.is_some() { 8 } else { 6 };
        let cuts = PowerCuts { exhaustive, samples, seed };
        states += subject.replay(&cuts, &guests, &subject.recorder.take_log());
        seed += 1;
    }
    println!("{seed} runs, {states} states");
}

#[test]
fn threads_that_write_and_flush_at_once_lose_nothing() {
    let soak: Option<u64> = std::env::var("VMM_DISK_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    let until = Instant::now() + Duration::from_secs(soak.unwrap_or(0));
    let (mut seed, mut states) = (0, 0);
    while seed < 4 || Instant::now() < until {
        // Neighbours share clusters: each has 24 sectors, a cluster has 8 or 32.
        let subject = Subject::new(layout(4 * 24 * 512, if seed % 2 == 0 { 12 } else { 14 }));
        let disk = subject.open();
        let guests = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (disk, guests, subject) = (&disk, &guests, &subject);
                scope.spawn(move || {
                    let mut random = Random::new(seed << 8 | number);
                    let mut guest = Guest::new(number, number * 24..(number + 1) * 24);
                    for _ in 0..25 {
                        let deed = guest.make_up(&mut random, 24, 5);
                        guest.act(deed, disk, &subject.recorder).unwrap();
                    }
                    guests.lock().unwrap().push(guest);
                });
            }
        });
        drop(disk);
        let guests = guests.into_inner().unwrap();
        let samples = if soak.is_some() { 10_000 } else { 100 };
        let cuts = PowerCuts { exhaustive: 6, samples, seed };
        states += subject.replay(&cuts, &guests, &subject.recorder.take_log());
        seed += 1;
    }
    println!("{seed} runs, {states} states");
}

#[test]
fn a_refcount_table_that_grows_survives_power_cuts() {
    // With clusters of 512 bytes and refcounts of 64 bits, one cluster of table counts 2 MiB.
    let layout = Layout { virtual_size: 4 << 20, cluster_bits: 9, refcount_order: 6, version: 3 };
    let subject = Subject::new(layout);
    let disk = subject.open();
    let mut guest = Guest::new(0, 0..8192);
    for start in (0..3328).step_by(256) {
        guest.act(Deed::Write(start..start + 256), &disk, &subject.recorder).unwrap();
    }
    guest.act(Deed::Flush, &disk, &subject.recorder).unwrap();
    subject.recorder.take_log();
    let before = Guest::new(0, 0..0);
    // It moves in here.
    for start in (3328..4608).step_by(256) {
        guest.act(Deed::Write(start..start + 256), &disk, &subject.recorder).unwrap();
    }
    guest.act(Deed::Flush, &disk, &subject.recorder).unwrap();
    let log = subject.recorder.take_log();
    let moved = |event: &Event| matches!(event, Event::Write { offset: 48, bytes } if bytes.len() == 12);
    assert_eq!(log.events.iter().filter(|event| moved(event)).count(), 1, "the table moved once");
    let cuts = PowerCuts { samples: 25, ..PowerCuts::default() };
    let states = subject.replay(&cuts, &[before], &log);
    println!("{states} states");
    assert_eq!(check(&*subject.recorder).unwrap().corruptions, 0);
}

#[test]
fn a_disk_that_becomes_larger_survives_power_cuts() {
    // One grows within its L1 table, the other needs a longer one, which lies elsewhere.
    for (larger, moves) in [(1 << 17, false), (4 << 20, true)] {
        let small = layout(100 << 10, 9);
        let subject = Subject::new(small);
        let disk = subject.open();
        let mut guest = Guest::new(0, 0..200);
        for deed in [Deed::Write(3..40), Deed::Discard(8..16), Deed::Write(100..200), Deed::Flush] {
            guest.act(deed, &disk, &subject.recorder).unwrap();
        }
        drop(disk);
        let before = read(&subject.open(), 0, 100 << 10);
        subject.recorder.take_log();
        let mut disk = subject.open();
        let l1 = subject.recorder.bytes()[40..48].to_vec();
        disk.grow_to(larger).unwrap();
        assert_eq!(subject.recorder.bytes()[40..48] != l1, moves, "the table moved");
        drop(disk);
        let log = subject.recorder.take_log();
        let cuts = PowerCuts { samples: 500, ..PowerCuts::default() };
        let mut sizes = std::collections::BTreeSet::new();
        let states = cuts.replay(&log, |state| {
            let storage = Arc::new(MemoryStorage::new(state.bytes.to_vec()));
            let report = check(&*storage).unwrap();
            assert_eq!(report.corruptions, 0, "{:?}", report.findings);
            let disk = subject.open_on(storage);
            assert!(read(&disk, 0, 100 << 10) == before);
            assert!([100 << 10, larger].contains(&disk.size()));
            assert!(
                state.settled < log.events.len() || disk.size() == larger,
                "it is as large as was promised"
            );
            sizes.insert(disk.size());
        });
        println!("{states} states");
        assert_eq!(sizes.len(), 2);
    }
}

#[test]
fn without_its_barriers_an_image_is_lost() {
    // The test of the tests: the same log with every other sync left out must show damage.
    let mut damaged = 0;
    for seed in 0..6 {
        let (subject, guests) = random_run(seed, layout(1 << 17, 9), 30);
        let mut log = subject.recorder.take_log();
        let mut number = 0;
        log.events.retain(|event| {
            number += u32::from(*event == Event::Sync);
            *event != Event::Sync || number.is_multiple_of(2)
        });
        let initial = subject.initial();
        let cuts = PowerCuts { exhaustive: 4, samples: 100, seed };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cuts.replay(&log, |state| subject.inspect(&guests, &initial, &log, state));
        }));
        damaged += u32::from(found.is_err());
    }
    assert!(damaged >= 5, "only {damaged} of 6 runs were damaged");
}

#[test]
fn our_check_agrees_with_qemu_img() {
    if !has_tool("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.qcow2");
    let mut random = Random::new(7);
    let mut seen = [0; 3];
    for seed in 0..6 {
        let (subject, _) = random_run(seed, layout(1 << 17, [9, 12][seed as usize % 2]), 30);
        let log = subject.recorder.take_log();
        let mut sampled = Vec::new();
        PowerCuts { exhaustive: 3, samples: 4, seed }
            .replay(&log, |state| sampled.push(state.bytes.to_vec()));
        random.shuffle(&mut sampled);
        for (number, mut bytes) in sampled.into_iter().take(16).enumerate() {
            if number % 2 == 1 {
                damage(&mut bytes, &mut random);
            }
            std::fs::write(&path, &bytes).unwrap();
            let report = check(&MemoryStorage::new(bytes)).unwrap();
            let (corruptions, leaks) = qemu_check(&path);
            assert_eq!(corruptions > 0, report.corruptions > 0, "corruptions: {corruptions}, {report:?}");
            if corruptions == 0 {
                assert_eq!(leaks, report.leaks, "{report:?}");
            }
            seen[if corruptions > 0 { 2 } else { usize::from(leaks > 0) }] += 1;
        }
    }
    println!("sound: {}, with leaks: {}, corrupt: {}", seen[0], seen[1], seen[2]);
    assert!(seen.iter().all(|&count| count > 3), "{seen:?}");
}

/// Changes a bit in the tables of an image, whose header is left alone.
fn damage(bytes: &mut [u8], random: &mut Random) {
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (l1, refcounts) = (number(40) as usize, number(48) as usize);
    let l2 = (number(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let block = number(refcounts) as usize;
    let (place, bits): (usize, &[u32]) = match random.below(3) {
        0 => (l1, &[63, 12]),
        1 if l2 != 0 => (l2 + 8 * random.below(4) as usize, &[63, 12, 13]),
        _ => (block + 8 * random.below(4) as usize, &[0, 16, 17, 32]),
    };
    let bit = bits[random.below(bits.len() as u64) as usize];
    let changed = number(place) ^ 1 << bit;
    bytes[place..place + 8].copy_from_slice(&changed.to_be_bytes());
}

#[test]
fn an_overlay_is_there_whole_or_not_at_all() {
    let folder = RecordedFolder::default();
    let path = PathBuf::from("/layers/top.qcow2");
    create_overlay_on(&folder, &path, 1 << 30).unwrap();
    let steps = folder.steps();
    let mut states = 0;
    for cut in 0..=steps {
        folder.replay(cut, |files| {
            states += 1;
            let overlay = files.get(&path);
            assert!(overlay.is_some() || cut < steps, "it is there once it was made");
            if let Some(bytes) = overlay {
                let storage = Arc::new(MemoryStorage::new(bytes.clone()));
                assert_eq!(check(&*storage).unwrap().leaks, 0);
                assert_eq!(Qcow2Image::open(storage, None, false).unwrap().size(), 1 << 30);
            }
            let strays = files.keys().filter(|name| **name != path);
            assert!(strays.into_iter().all(|name| is_partial(name)));
        });
    }
    println!("{states} states");
    assert!(states > 30);
    assert!(create_overlay_on(&folder, &path, 1 << 30).is_err(), "nothing is replaced");
    let mut last = Vec::new();
    folder.replay(folder.steps(), |files| last = files.keys().cloned().collect());
    assert_eq!(last, [path], "and what was prepared is removed");
}

fn is_partial(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "partial")
}
