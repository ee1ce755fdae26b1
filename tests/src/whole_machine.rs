//! What a whole machine holds: for the laboratory, where nobody changes it but the test.

use std::fmt;
use std::fs;
use std::path::Path;

/// What is there, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Population {
    /// Programs that run.
    pub processes: usize,
    /// Unix sockets, those without a name among them.
    pub sockets: usize,
    /// What is mounted.
    pub mounts: usize,
}

impl Population {
    /// As it is now.
    pub fn now() -> Self {
        let lines = |path| fs::read_to_string(path).expect("Linux's list").lines().count();
        Self {
            processes: programs(),
            // A line above the list says what is in it.
            sockets: lines("/proc/net/unix") - 1,
            mounts: lines("/proc/self/mountinfo"),
        }
    }
}

/// Processes with arguments: the kernel's own have none, nor have those that ended.
fn programs() -> usize {
    let entries = fs::read_dir("/proc").expect("Linux's list of processes").flatten();
    let arguments = |folder: &Path| fs::read(folder.join("cmdline")).unwrap_or_default();
    let is_process = |path: &Path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    entries.filter(|entry| is_process(&entry.path()) && !arguments(&entry.path()).is_empty()).count()
}

/// Memory, in KiB. It is never quite the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryReading {
    /// What programs could have.
    pub available: i64,
    /// What the kernel keeps of its own, and cannot give back.
    pub slab: i64,
}

impl MemoryReading {
    /// As it is when the kernel has forgotten what it only remembers of files.
    pub fn now() -> Self {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").expect("only root has caches dropped");
        // Each processor counts for itself, and tells when it is asked.
        fs::write("/proc/sys/vm/stat_refresh", "1").expect("only root has counters refreshed");
        Self::parse(&fs::read_to_string("/proc/meminfo").expect("Linux tells of its memory"))
    }

    fn parse(meminfo: &str) -> Self {
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells of it");
            line.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
        };
        Self { available: kib("MemAvailable"), slab: kib("SUnreclaim") }
    }
}

/// A change below this is none, in KiB, however little the readings differ: a page more here and there decides nothing.
const SMALLEST: MemoryReading = MemoryReading { available: 2048, slab: 512 };

/// Fewer readings say nothing.
const FEWEST: usize = 12;

/// How memory went over the rounds, one reading after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trend {
    /// How much less there is for programs at the end than at the beginning.
    pub lost: Change,
    /// How much more the kernel keeps.
    pub slab: Change,
    /// How many rounds lie between.
    pub rounds: usize,
}

/// A change of something that is read again and again, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the beginning to the end.
    pub by: i64,
    /// By how much readings that lie together differ.
    pub noise: i64,
}

impl Trend {
    /// The first quarter is left out: caches fill. Of the rest, the medians of the first and of the last third are
    /// compared, so that a single reading decides nothing. `None`: there are too few.
    pub fn of(readings: &[MemoryReading]) -> Option<Self> {
        let settled = readings.get(readings.len() / 4..).filter(|_| readings.len() >= FEWEST)?;
        let third = settled.len() / 3;
        let (first, last) = (settled.get(..third)?, settled.get(settled.len() - third..)?);
        let change = |of: fn(&MemoryReading) -> i64| {
            let (first, last) = (sorted(first, of), sorted(last, of));
            Change { by: median(&last) - median(&first), noise: spread(&first).max(spread(&last)) }
        };
        Some(Self {
            lost: change(|reading| -reading.available),
            slab: change(|reading| reading.slab),
            rounds: settled.len() - third,
        })
    }

    /// Whether it is no more than noise. What is lost by the same amount in each round is twice as much between the
    /// thirds as within one, so it is told from noise when it is more than that.
    pub fn is_flat(&self) -> bool {
        let flat = |change: Change, smallest: i64| change.by <= smallest.max(change.noise);
        flat(self.lost, SMALLEST.available) && flat(self.slab, SMALLEST.slab)
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, slab, rounds } = self;
        write!(f, "over {rounds} rounds {} KiB less memory (noise {})", lost.by, lost.noise)?;
        write!(f, ", {} KiB more of the kernel's own (noise {})", slab.by, slab.noise)
    }
}

fn sorted(readings: &[MemoryReading], of: fn(&MemoryReading) -> i64) -> Vec<i64> {
    let mut values: Vec<i64> = readings.iter().map(of).collect();
    values.sort_unstable();
    values
}

fn median(sorted: &[i64]) -> i64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn spread(sorted: &[i64]) -> i64 {
    sorted.last().zip(sorted.first()).map_or(0, |(most, least)| most - least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(count: i64, loss: i64, growth: i64) -> Vec<MemoryReading> {
        // With noise, and caches that fill at first.
        let noise = |round: i64| (round * 7919) % 1500;
        let filled = |round: i64| 20_000 * i64::from(round < 2);
        let reading = |round| MemoryReading {
            available: 2_000_000 + filled(round) - round * loss - noise(round),
            slab: 40_000 + round * growth + noise(round) / 10,
        };
        (0..count).map(reading).collect()
    }

    #[test]
    fn what_is_lost_each_round_is_told_from_noise() {
        assert!(Trend::of(&readings(60, 0, 0)).unwrap().is_flat());
        assert!(!Trend::of(&readings(60, 200, 0)).unwrap().is_flat());
        assert!(!Trend::of(&readings(60, 0, 40)).unwrap().is_flat());
        assert_eq!(Trend::of(&readings(60, 0, 0)).unwrap().rounds, 30);
    }

    #[test]
    fn a_few_readings_say_nothing() {
        assert_eq!(Trend::of(&readings(11, 9000, 9000)), None);
    }

    #[test]
    fn the_kernels_words_are_read() {
        let text = "MemTotal: 9 kB\nMemAvailable:    2048 kB\nSlab: 7 kB\nSUnreclaim:   12 kB\n";
        assert_eq!(MemoryReading::parse(text), MemoryReading { available: 2048, slab: 12 });
    }
}
