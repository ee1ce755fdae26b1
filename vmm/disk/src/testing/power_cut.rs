//! The states in which a power cut can leave a storage, replayed from a recorder's log.

use super::{Event, Log, Random};

/// A state after a power cut.
#[derive(Debug)]
pub struct DiskState<'a> {
    /// What the storage holds.
    pub bytes: &'a [u8],
    /// Every event of the log before this one had happened for good.
    pub settled: usize,
    /// No event from here on had begun.
    pub reached: usize,
}

/// Which states are tried.
///
/// Between two syncs, what was written may be durable or not, write by write, in any order, torn at any sector. Up to
/// `exhaustive` writes, all subsets are tried, in all orders that make a difference, and with each write torn in two
/// ways; beyond, `samples` of them.
#[derive(Clone, Debug)]
pub struct PowerCuts {
    /// Up to so many writes between two syncs, all states are tried.
    pub exhaustive: usize,
    /// How many are tried where there are more.
    pub samples: u64,
    /// Where the samples come from.
    pub seed: u64,
}

impl Default for PowerCuts {
    fn default() -> Self {
        Self { exhaustive: 8, samples: 10_000, seed: 1 }
    }
}

/// How much of a write became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    All,
    FirstHalf,
    EvenSectors,
    /// Each sector by itself, by chance.
    Some(u64),
}

impl Kept {
    fn keeps(self, event: &Event, sector: u64) -> bool {
        let (start, end) = event.range();
        match self {
            Self::All => true,
            Self::FirstHalf => sector < (start + (end - start) / 2).div_ceil(512),
            Self::EvenSectors => sector.is_multiple_of(2),
            Self::Some(seed) => Random::new(seed ^ sector.wrapping_mul(0x1234_5677)).chance(1, 2),
        }
    }
}

impl PowerCuts {
    /// Calls `inspect` with each state. Returns how many there were.
    pub fn replay(&self, log: &Log, mut inspect: impl FnMut(&DiskState<'_>)) -> u64 {
        let mut replay = Replay {
            base: log.initial.clone(),
            scratch: Vec::new(),
            random: Random::new(self.seed),
            count: 0,
            inspect: &mut inspect,
        };
        let mut start = 0;
        for end in 0..=log.events.len() {
            if end < log.events.len() && log.events[end] != Event::Sync {
                continue;
            }
            replay.interval(self, &log.events[start..end], start);
            for event in &log.events[start..end] {
                event.apply(&mut replay.base, |_| true);
            }
            start = end + 1;
        }
        replay.count
    }
}

struct Replay<'a> {
    /// What is durable.
    base: Vec<u8>,
    scratch: Vec<u8>,
    random: Random,
    count: u64,
    inspect: &'a mut dyn FnMut(&DiskState<'_>),
}

impl Replay<'_> {
    /// Tries the states between two syncs.
    fn interval(&mut self, cuts: &PowerCuts, events: &[Event], start: usize) {
        let changes: Vec<&Event> = events.iter().filter(|event| event.changes()).collect();
        // Marks that follow the sync directly belong to what had happened by then.
        let settled = start + events.iter().take_while(|event| !event.changes()).count();
        let reached = start + events.len();
        let tell = |replay: &mut Self, chosen: &[(usize, Kept)]| {
            replay.scratch.clone_from(&replay.base);
            for (position, kept) in chosen {
                let event = changes[*position];
                event.apply(&mut replay.scratch, |sector| kept.keeps(event, sector));
            }
            replay.count += 1;
            (replay.inspect)(&DiskState { bytes: &replay.scratch, settled, reached });
        };
        if changes.len() <= cuts.exhaustive {
            for subset in 0..1_u32 << changes.len() {
                let members: Vec<usize> =
                    (0..changes.len()).filter(|position| subset & 1 << position != 0).collect();
                for order in orders(&members, &changes) {
                    let chosen: Vec<_> = order.iter().map(|&position| (position, Kept::All)).collect();
                    tell(self, &chosen);
                }
                for torn in 0..members.len() {
                    let (first, last) = changes[members[torn]].range();
                    if last - first <= 512 {
                        continue;
                    }
                    for kept in [Kept::FirstHalf, Kept::EvenSectors] {
                        let mut chosen: Vec<_> =
                            members.iter().map(|&position| (position, Kept::All)).collect();
                        chosen[torn].1 = kept;
                        tell(self, &chosen);
                    }
                }
            }
        } else {
            for _ in 0..cuts.samples {
                let chosen = self.sample(changes.len());
                tell(self, &chosen);
            }
        }
    }

    fn sample(&mut self, changes: usize) -> Vec<(usize, Kept)> {
        let random = &mut self.random;
        let share = 1 + random.below(9);
        let torn = random.below(3);
        let mut chosen = Vec::new();
        for position in 0..changes {
            if random.chance(share, 10) {
                let kept = if random.chance(torn, 8) { Kept::Some(random.next_number()) } else { Kept::All };
                chosen.push((position, kept));
            }
        }
        if random.chance(1, 2) {
            random.shuffle(&mut chosen);
        }
        chosen
    }
}

/// The orders of some events that can differ in their outcome: those that overlap are permuted.
fn orders(members: &[usize], changes: &[&Event]) -> Vec<Vec<usize>> {
    let overlaps = |left: usize, right: usize| {
        let (left, right) = (changes[left].range(), changes[right].range());
        left.0 < right.1 && right.0 < left.1
    };
    let (mut entangled, apart): (Vec<usize>, Vec<usize>) =
        members.iter().partition(|&&one| members.iter().any(|&other| other != one && overlaps(one, other)));
    let mut orders = Vec::new();
    permute(&mut entangled, 0, &mut |order| orders.push([&apart, order].concat()));
    orders
}

/// All orders, but not more than a few thousand.
fn permute(items: &mut [usize], fixed: usize, each: &mut impl FnMut(&[usize])) {
    // Six entangled writes have 720 orders. More are not told apart any further.
    if fixed == items.len() || fixed == 6 {
        return each(items);
    }
    for next in fixed..items.len() {
        items.swap(fixed, next);
        permute(items, fixed + 1, each);
        items.swap(fixed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn write(offset: u64, bytes: &[u8]) -> Event {
        Event::Write { offset, bytes: bytes.to_vec() }
    }

    fn states(events: Vec<Event>) -> BTreeSet<Vec<u8>> {
        let mut states = BTreeSet::new();
        let log = Log { initial: vec![0; 3], events };
        PowerCuts::default().replay(&log, |state| {
            states.insert(state.bytes.to_vec());
        });
        states
    }

    #[test]
    fn every_subset_is_a_state() {
        let states = states(vec![write(0, b"a"), write(1, b"b"), write(2, b"c")]);
        assert_eq!(states.len(), 8);
        assert!(states.contains(b"\0b\0".as_slice()) && states.contains(b"abc".as_slice()));
    }

    #[test]
    fn what_was_synced_stays() {
        let states = states(vec![write(0, b"a"), Event::Sync, write(1, b"b")]);
        let expected: [&[u8]; 3] = [b"\0\0\0", b"a\0\0", b"ab\0"];
        assert_eq!(states, expected.map(<[u8]>::to_vec).into());
    }

    #[test]
    fn writes_to_one_place_come_in_any_order() {
        let states = states(vec![write(0, b"abc"), write(0, b"x")]);
        let expected: [&[u8]; 4] = [b"\0\0\0", b"abc", b"x\0\0", b"xbc"];
        assert_eq!(states, expected.map(<[u8]>::to_vec).into());
    }

    #[test]
    fn a_write_of_several_sectors_is_torn() {
        let log = Log { initial: vec![0; 2048], events: vec![write(0, &[1; 2048])] };
        let mut sums = BTreeSet::new();
        PowerCuts::default().replay(&log, |state| {
            sums.insert(state.bytes.chunks(512).map(|sector| u32::from(sector[0])).sum::<u32>());
        });
        assert_eq!(sums, [0, 2, 4].into());
    }
}
