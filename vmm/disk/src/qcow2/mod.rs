//! qcow2: QEMU's copy-on-write format, versions 2 and 3.
//!
//! The parts: `header`, `geometry` and `entry` read the format; `table`, `pages` and `refcount` hold its tables in
//! memory; `metadata` joins them; `read`, `ahead`, `write`, `zeroes` and `commit` are what an image does; `check` judges one.
//! What may be written when is told in `commit`, the contract in `docs/disks.md`.

mod ahead;
mod check;
mod claims;
mod commit;
mod compressed;
mod create;
mod entry;
mod geometry;
mod grow;
mod header;
mod in_flight;
mod metadata;
mod pages;
mod read;
mod refcount;
mod resize;
mod rooms;
mod table;
mod write;
mod zeroes;

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::{fmt, io};

use snafu::{ResultExt, ensure};
use vmm_sys::scattered;

use crate::Storage;
use crate::image::{DiskImage, check_bounds, check_writable};
use crate::storage::write_at;
pub use check::{CheckError, CheckReport, check};
use claims::Claims;
use commit::Committed;
use compressed::CompressedReader;
pub use create::Layout;
use geometry::Geometry;
pub(crate) use header::Header;
pub use header::HeaderError;
use header::{AUTOCLEAR_AT, PrepareSnafu, ReadSnafu, RefcountBlockSnafu, RefcountsSnafu};
use in_flight::InFlight;
use metadata::Metadata;
use pages::PageCache;
use refcount::Refcounts;
use rooms::Rooms;
use table::Table;

/// How many pages of L2 tables are kept: at 4 KiB each, with clusters of 64 KiB, they map 32 GiB.
const L2_PAGES: usize = 1024;
/// How many pages of refcounts are kept: likewise, they count the clusters of a 16 GiB file.
const REFCOUNT_PAGES: usize = 128;

/// An open qcow2 image, on whatever lies below it.
pub struct Qcow2Image {
    storage: Arc<dyn Storage>,
    backing: Option<Arc<dyn DiskImage>>,
    geometry: Geometry,
    version: u32,
    size: u64,
    read_only: bool,
    metadata: RwLock<Metadata>,
    in_flight: InFlight,
    claims: Claims,
    rooms: Rooms,
    compressed: CompressedReader,
    /// Data was written that no sync has covered.
    unsynced: AtomicBool,
    /// A sync or a change of the header failed: what is on the disk is not known any more.
    failed: AtomicBool,
    flushes_asked: AtomicU64,
    committed: Mutex<Committed>,
}

impl Qcow2Image {
    /// Opens an image. Where it has nothing of its own, `backing` shows through; the names in its header are not
    /// followed.
    pub fn open(
        storage: Arc<dyn Storage>,
        backing: Option<Arc<dyn DiskImage>>,
        read_only: bool,
    ) -> Result<Self, HeaderError> {
        let header = Header::read(&*storage)?;
        Self::open_with(&header, storage, backing, read_only)
    }

    pub(crate) fn open_with(
        header: &Header,
        storage: Arc<dyn Storage>,
        backing: Option<Arc<dyn DiskImage>>,
        read_only: bool,
    ) -> Result<Self, HeaderError> {
        let geometry = header.geometry;
        let file_clusters = geometry.clusters(storage.length().context(ReadSnafu)?);
        let l1 = Table::read(&*storage, header.l1_offset, header.l1_entries).context(ReadSnafu)?;
        let refcount_table = if read_only {
            Table::new(header.refcount_table_offset, Vec::new())
        } else {
            header.check_writable()?;
            let entries = header.refcount_table_clusters << geometry.table_bits();
            Table::read(&*storage, header.refcount_table_offset, entries).context(ReadSnafu)?
        };
        let refcounts = Refcounts::new(geometry, refcount_table, REFCOUNT_PAGES, file_clusters);
        let l2 = PageCache::new(geometry.page_size(), L2_PAGES, false);
        let mut metadata = Metadata::new(header.version, l1, l2, refcounts);
        if !read_only {
            prepare_to_write(&*storage, header, &mut metadata, file_clusters)?;
        }
        Ok(Self {
            storage,
            backing,
            geometry,
            version: header.version,
            size: header.size,
            read_only,
            metadata: RwLock::new(metadata),
            in_flight: InFlight::default(),
            claims: Claims::default(),
            rooms: Rooms::default(),
            compressed: CompressedReader::new(geometry.cluster_size(), header.compression),
            unsynced: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            flushes_asked: AtomicU64::new(0),
            committed: Mutex::default(),
        })
    }

    /// Refuses to go on where it is not known what is on the disk.
    fn check_sound(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of this disk failed"));
        }
        Ok(())
    }

    /// Whether a range of the disk shows the layer below where this one has nothing.
    fn is_backed(&self, offset: u64) -> bool {
        offset < self.backed_size()
    }

    /// How much of the layer below can be seen: what lies past our own end never shows, not even once we grow.
    fn backed_size(&self) -> u64 {
        self.backing.as_ref().map_or(0, |backing| backing.size().min(self.size))
    }
}

/// Refuses refcounts that would let the tables be overwritten, and clears what only others keep up to date.
fn prepare_to_write(
    storage: &dyn Storage,
    header: &Header,
    metadata: &mut Metadata,
    file_clusters: u64,
) -> Result<(), HeaderError> {
    let geometry = header.geometry;
    let table = &metadata.refcounts.table;
    for entry in 0..table.len() {
        let offset = table.get(entry);
        let possible = geometry.is_aligned(offset) && geometry.cluster(offset) < file_clusters;
        ensure!(offset == 0 || possible, RefcountBlockSnafu { offset });
    }
    for (clusters, what) in
        metadata.protected().into_iter().zip(["the header", "the L1 table", "the refcount table"])
    {
        for cluster in clusters {
            let count = metadata.refcounts.get(storage, cluster).context(ReadSnafu)?;
            ensure!(count > 0, RefcountsSnafu { what });
        }
    }
    if header.autoclear != 0 {
        write_at(storage, &[0; 8], AUTOCLEAR_AT).context(PrepareSnafu)?;
        storage.sync().context(PrepareSnafu)?;
    }
    Ok(())
}

impl DiskImage for Qcow2Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        check_bounds(offset, scattered::length_mut(buffers), self.size)?;
        self.read_at(buffers, offset)
    }

    fn will_read(&self, offset: u64, length: u64) {
        self.fetch_ahead(offset, length);
    }

    fn will_write(&self, offset: u64, length: u64) {
        self.fetch_around_ahead(offset, length);
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        self.find_data(offset)
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_bounds(offset, scattered::length(buffers), self.size)?;
        self.check_sound()?;
        self.write_at(buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.flush_all()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_bounds(offset, length, self.size)?;
        self.check_sound()?;
        self.zero_range(offset, length, zeroes::Purpose::Discard)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_bounds(offset, length, self.size)?;
        self.check_sound()?;
        self.zero_range(offset, length, zeroes::Purpose::Zero { unmap })
    }
}

impl fmt::Debug for Qcow2Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Qcow2Image")
            .field("storage", &self.storage)
            .field("size", &self.size)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl Drop for Qcow2Image {
    fn drop(&mut self) {
        if self.read_only || self.failed.load(Ordering::Acquire) {
            return;
        }
        // The first commit lets go of what was freed, the second writes that it is free. Whoever needed a promise
        // has flushed before.
        for _ in 0..2 {
            if let Err(error) = self.flush_all() {
                tracing::warn!(%error, "a disk was closed without its last changes");
                return;
            }
        }
    }
}
