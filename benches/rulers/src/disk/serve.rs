//! A process of ours that serves a disk and nothing else, as a monitor serves it to QEMU: the same device and transport,
//! and threads that are held to the system calls of their roles.

use std::error::Error;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use vmm::threads;
use vmm::virtio::block::Block;
use vmm::virtio::transport::vhost_user::{SessionEnd, VhostUserServer};
use vmm_disk::{Format, LayerSpec, open_chain};
use vmm_sys::{Interest, Poller};

/// Serves the disk at the socket to one front end, until that closes the connection.
pub(crate) fn serve(socket: &Path, base: &Path, top: &Path) -> Result<(), Box<dyn Error>> {
    threads::confine()?;
    let layer = |path: &Path| LayerSpec { path: path.to_path_buf(), format: Format::Qcow2 };
    let disk = open_chain(&[layer(base), layer(top)], false)?;
    // Where the socket has its name, one can connect.
    let partial = socket.with_extension("partial");
    let listener = UnixListener::bind(&partial)?;
    fs::rename(&partial, socket)?;
    let (connection, _) = listener.accept()?;
    let server = VhostUserServer::start(Box::new(Block::new(disk, "bench", 1)), connection, "blk")?;
    let mut poller = Poller::new()?;
    poller.add(server.ended(), 0, Interest::READ)?;
    while server.end().is_none() {
        poller.wait(None)?.for_each(drop);
    }
    match server.end() {
        Some(SessionEnd::Disconnected) | None => Ok(()),
        Some(end) => Err(end.to_string().into()),
    }
}
