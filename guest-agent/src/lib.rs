//! The agent in the guest: process 1 of a machine, or a process beside the image's own init.
//!
//! It is small and quick, since every instruction may run under an emulator: one thread, few allocations, few system
//! calls. What it says to the host, and takes from it, is `vmm-protocol`; `docs/protocol.md` describes it.

#![cfg(target_os = "linux")]

pub mod boot;
mod cgroup;
mod clock;
mod command;
mod console;
mod environment;
mod files;
mod freeze;
mod guest_processes;
mod health;
mod image_init;
mod kernel_log;
mod launch;
mod listener;
mod refusal;
pub mod server;
mod transfer;
mod users;
pub mod worker;

use std::io;
use std::os::fd::OwnedFd;

/// Serves clients of a Unix socket that listens: the agent without a machine around it, to try the protocol. Ends when
/// it is told to by a signal.
pub fn serve_alone(listening: OwnedFd) -> io::Result<()> {
    server::block_signals()?;
    let listener = listener::Listener::unix(listening)?;
    let launcher = launch::Launcher::new(Vec::new())?;
    let mut server =
        server::Server::new(server::Place::Alone, listener, launcher, cgroup::Groups::default())?;
    server.run()?;
    Ok(())
}
