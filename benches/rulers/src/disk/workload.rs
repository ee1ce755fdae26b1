//! What is asked of the disks. They have a part that lies in the overlay already, and a part that only the layer below
//! has: the first write to a cluster there copies the rest of it up.

const MIB: u64 = 1 << 20;

/// The size of the disk: a part in the overlay, and parts below for each workload that brings clusters up.
pub(crate) const DISK: u64 = 3 * IN_OVERLAY;

/// How much of it, from its beginning, the overlay has.
pub(crate) const IN_OVERLAY: u64 = 256 * MIB;

const LARGE: u64 = MIB;
const SMALL: u64 = 4096;

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) write: bool,
    pub(crate) random: bool,
    /// The length of a request.
    pub(crate) block: u64,
    /// How many requests are under way at once.
    pub(crate) depth: u32,
    /// The part of the disk: where it begins, and its length.
    pub(crate) offset: u64,
    pub(crate) span: u64,
    /// How many requests there are.
    pub(crate) requests: u64,
    /// What the host's page cache has.
    pub(crate) cache: Cache,
}

impl Workload {
    /// Whether it writes what the overlay has not.
    pub(crate) fn is_first(&self) -> bool {
        self.write && self.offset >= IN_OVERLAY
    }
}

/// What the host's page cache has of the disk when a workload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// All of it.
    Full,
    /// Nothing.
    Empty,
}

const fn sequential(name: &'static str, write: bool, part: (u64, u64), times: u64) -> Workload {
    let (offset, span) = part;
    let (random, cache, requests) = (false, Cache::Full, times * span / LARGE);
    Workload { name, write, random, block: LARGE, depth: 8, offset, span, requests, cache }
}

const fn random(name: &'static str, write: bool, depth: u32, part: (u64, u64), requests: u64) -> Workload {
    let (offset, span) = part;
    let cache = Cache::Full;
    Workload { name, write, random: true, block: SMALL, depth, offset, span, requests, cache }
}

const fn uncached(workload: Workload) -> Workload {
    Workload { cache: Cache::Empty, ..workload }
}

const OVERLAY: (u64, u64) = (0, IN_OVERLAY);
/// As much of the overlay as of what lies below.
const BOTH: (u64, u64) = (0, 2 * IN_OVERLAY);
const FIRST_BELOW: (u64, u64) = (IN_OVERLAY, IN_OVERLAY / 2);
const SECOND_BELOW: (u64, u64) = (IN_OVERLAY * 3 / 2, IN_OVERLAY / 2);
const THIRD_BELOW: (u64, u64) = (IN_OVERLAY * 2, IN_OVERLAY);

/// What is not measured: an emulated processor does slowly what it does for the first time.
pub(crate) const WARM_UP: [Workload; 3] = [
    sequential("warm-up, reading", false, BOTH, 1),
    sequential("warm-up, writing", true, OVERLAY, 1),
    random("warm-up, small writes", true, 32, OVERLAY, 8192),
];

/// In an order in which none finds what another one changed.
pub(crate) const WORKLOADS: [Workload; 11] = [
    sequential("read, sequential", false, BOTH, 8),
    random("read, 4 KiB, depth 1", false, 1, BOTH, 8192),
    random("read, 4 KiB, depth 32", false, 32, BOTH, 24576),
    sequential("write in place, sequential", true, OVERLAY, 16),
    random("write in place, 4 KiB, depth 1", true, 1, OVERLAY, 8192),
    random("write in place, 4 KiB, depth 32", true, 32, OVERLAY, 24576),
    sequential("first write, sequential", true, THIRD_BELOW, 1),
    random("first write, 4 KiB, depth 1", true, 1, FIRST_BELOW, 1536),
    random("first write, 4 KiB, depth 32", true, 32, SECOND_BELOW, 1536),
    uncached(random("uncached read, 4 KiB, depth 1", false, 1, BOTH, 512)),
    uncached(random("uncached read, 4 KiB, depth 32", false, 32, BOTH, 4096)),
];
