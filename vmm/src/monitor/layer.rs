//! Another top layer for the disk of a VM that runs: what a clone, a snapshot or an image of it stands on.
//!
//! What is on the host's disk is right at every moment, whoever dies. These are the steps, each complete before the next:
//!
//! 1. The new layer is recorded as the VM's own, then made, empty. A death leaves a layer that is not used, and goes with
//!    the next change or with the VM.
//! 2. The guest's file systems stand still, and all that it wrote is in the old top and synced.
//! 3. The disk's gate is closed: no request is under way, none begins. The old top is written back and opened for reading.
//! 4. The VM's description names the new layer as the top. A death before that finds the old chain, which holds all. A
//!    death after it finds the new layer, empty, upon the same: the disk reads as before, and nobody writes to the old top
//!    any more.
//! 5. The disk goes on with the new layer, which takes no system call and cannot fail; the gate opens, the guest goes on.
//!
//! Until 4 has succeeded the disk is what it was, and after that there is nothing that could fail. Were 4 to come after 5,
//! what the guest flushes into the new layer could be lost with a power cut in between.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Weak, mpsc};
use std::time::{Duration, Instant};

use vmm_disk::{DiskImage, LayerFile, LayerSpec, LiveDisk};

use super::event_loop::{Happening, Post};
use crate::agent::AgentClient;
use crate::threads::{self, Role};

/// Half of what a guest stands still at most: by then, whatever its clock is, it has not gone on by itself.
const STILL: Duration = Duration::from_secs(5);

/// What a thread needs that adds a layer.
pub(super) struct NewTop {
    pub(super) disk: Weak<LiveDisk>,
    pub(super) vsock_socket: PathBuf,
    pub(super) layer: LayerSpec,
    /// The layer's file, open for writing.
    pub(super) file: OwnedFd,
    /// That of the top until now, for reading.
    pub(super) old: OwnedFd,
}

/// Whoever is to record the layer, and answers whether that is done.
pub(super) type Recorded = mpsc::SyncSender<Result<(), String>>;

/// Adds the layer, in a thread of its own; what came of it is posted. On the way whoever is posted to is asked to record
/// it.
pub(super) fn add(new: NewTop, post: &Post) -> io::Result<()> {
    let post = post.clone();
    let work = move || {
        let outcome = switch(new, &post);
        post.send(Happening::LayerAdded(outcome));
    };
    threads::spawn(Role::Layer, "layer", work).map(drop)
}

fn switch(new: NewTop, post: &Post) -> Result<Duration, String> {
    let NewTop { disk, vsock_socket, layer, file, old } = new;
    // From here on this thread may be the last that has the disk, and then it closes it.
    let Some(disk) = disk.upgrade() else {
        return Err("the VM's disk takes no layer while it runs: stop it first".to_owned());
    };
    // What is a long time's work is done while the guest runs.
    disk.flush().map_err(|error| format!("cannot write the VM's disk back: {error}"))?;
    let frozen = AgentClient::new(vsock_socket).freeze().map_err(|error| crate::engine::chain(&error))?;
    let since = Instant::now();
    let mut record = || {
        if since.elapsed() > STILL {
            return Err("it took so long that the guest may not stand still any more: try again".into());
        }
        let (answer, recorded) = mpsc::sync_channel(1);
        post.send(Happening::RecordLayer(answer));
        recorded.recv().unwrap_or_else(|_| Err("the VM is ending".to_owned())).map_err(Into::into)
    };
    let file = LayerFile { file: File::from(file), path: layer.path, format: layer.format };
    let switched = disk.switch_to_file(file, File::from(old), &mut record);
    let thawed = frozen.thaw();
    switched.map_err(|error| crate::engine::chain(&error))?;
    Ok(thawed.map_or_else(
        |error| {
            // It goes on by itself in a moment.
            tracing::warn!("the guest does not say that it goes on: {}", crate::engine::chain(&error));
            since.elapsed()
        },
        |thawed| thawed.frozen,
    ))
}
