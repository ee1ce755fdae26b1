//! A guest that writes stamps to its disk, and knows what it may find there after a power cut.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

use std::io::IoSlice;
use std::ops::Range;

use vmm_disk::DiskImage;
use vmm_disk::testing::{DiskState, Event, Random, Recorder};

const SECTOR: u64 = 512;

/// What a guest did.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// It wrote its stamp to sectors.
    Write(Range<u64>),
    /// It zeroed sectors.
    Zero(Range<u64>, bool),
    /// It discarded sectors.
    Discard(Range<u64>),
    /// It flushed.
    Flush,
}

/// A guest, or one of its processors: it has the sectors that it uses to itself.
#[derive(Debug)]
pub(crate) struct Guest {
    number: u64,
    sectors: Range<u64>,
    deeds: Vec<Deed>,
}

/// The deed of a guest begins (phase 0) or has ended (phase 1).
fn mark(number: u64, deed: usize, phase: u64) -> u64 {
    number << 32 | (deed as u64) << 1 | phase
}

/// What is written to a sector: who wrote it, and when.
fn stamp(number: u64, deed: usize) -> [u8; 512] {
    let mut bytes = [0; 512];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&((number + 1) << 32 | (deed as u64 + 1)).to_be_bytes());
    }
    bytes
}

impl Guest {
    pub(crate) fn new(number: u64, sectors: Range<u64>) -> Self {
        Self { number, sectors, deeds: Vec::new() }
    }

    /// Does something, and marks its begin and its end in the recorder's log.
    pub(crate) fn act(
        &mut self,
        deed: Deed,
        disk: &dyn DiskImage,
        recorder: &Recorder,
    ) -> std::io::Result<()> {
        let number = self.deeds.len();
        self.deeds.push(deed.clone());
        recorder.mark(mark(self.number, number, 0));
        match deed {
            Deed::Write(sectors) => {
                let bytes = stamp(self.number, number).repeat((sectors.end - sectors.start) as usize);
                disk.write(&[IoSlice::new(&bytes)], sectors.start * SECTOR)
            }
            Deed::Zero(sectors, unmap) => {
                disk.write_zeroes(sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR, unmap)
            }
            Deed::Discard(sectors) => {
                disk.discard(sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR)
            }
            Deed::Flush => disk.flush(),
        }?;
        recorder.mark(mark(self.number, number, 1));
        Ok(())
    }

    /// Makes something up. One deed in `flush_every` is a flush.
    pub(crate) fn make_up(&self, random: &mut Random, longest: u64, flush_every: u64) -> Deed {
        if random.chance(1, flush_every) {
            return Deed::Flush;
        }
        let longest = if random.chance(1, 3) { longest } else { 4 };
        let length = 1 + random.below(longest);
        let count = self.sectors.end - self.sectors.start;
        let start = self.sectors.start + random.below(count);
        let sectors = start..(start + length).min(self.sectors.end);
        match random.below(10) {
            0 => Deed::Zero(sectors, random.chance(1, 2)),
            1 | 2 => Deed::Discard(sectors),
            _ => Deed::Write(sectors),
        }
    }

    /// Fails unless the guest finds on its disk, after a power cut, all that it was promised.
    pub(crate) fn inspect(&self, disk: &[u8], initial: &[u8], events: &[Event], state: &DiskState<'_>) {
        let happened = |deed: usize, phase: u64, end: usize| {
            events[..end].contains(&Event::Mark(mark(self.number, deed, phase)))
        };
        let begun = (0..self.deeds.len()).take_while(|&deed| happened(deed, 0, state.reached)).count();
        let flushed = (0..begun)
            .rev()
            .find(|&deed| matches!(self.deeds[deed], Deed::Flush) && happened(deed, 1, state.settled));
        for sector in self.sectors.clone() {
            let place = (sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize;
            let found = &disk[place.clone()];
            let allowed = self.allowed(sector, &initial[place], flushed.unwrap_or(0), begun);
            assert!(
                allowed.iter().any(|allowed| allowed == found),
                "guest {}, sector {sector}: {:02x?} is none of the {} contents that may be there \
                 (flushed by deed {flushed:?} of {begun})",
                self.number,
                &found[..16],
                allowed.len(),
            );
        }
    }

    /// What a sector may hold when the deeds before `flushed` are durable and those before `begun` may be.
    fn allowed(&self, sector: u64, initial: &[u8], flushed: usize, begun: usize) -> Vec<Vec<u8>> {
        let mut allowed = vec![initial.to_vec()];
        for (number, deed) in self.deeds[..begun].iter().enumerate() {
            let new = match deed {
                Deed::Write(sectors) if sectors.contains(&sector) => stamp(self.number, number).to_vec(),
                Deed::Zero(sectors, _) if sectors.contains(&sector) => vec![0; 512],
                // It may keep what it held, too.
                Deed::Discard(sectors) if sectors.contains(&sector) => {
                    allowed.push(vec![0; 512]);
                    continue;
                }
                _ => continue,
            };
            if number < flushed {
                allowed.clear();
            }
            allowed.push(new);
        }
        allowed
    }
}
