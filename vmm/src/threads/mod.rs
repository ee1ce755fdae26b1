//! The threads of the process that runs a VM, each held to the system calls that its role needs.
//!
//! A guest that takes one of them over finds little that it can ask of the host's kernel: [`Role`] says what each is
//! for, `filters` what it may do. Where filters are wanted, [`confine`] is called once, before there are other threads;
//! without, as in tests of devices, threads are as ever.
//!
//! A thread inherits the filter of the one that starts it. So that a processor's thread, which starts a queue when its
//! guest says so, need neither be able to start threads nor to do what that queue does, a thread of its own starts
//! the others: [`spawn`] asks it.
//!
//! May be used by every module, and uses none.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod filters;
#[cfg(target_os = "linux")]
mod linux;
mod starter;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

use std::io;
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};

#[cfg(not(target_os = "linux"))]
use elsewhere as system;
#[cfg(target_os = "linux")]
use linux as system;
use starter::Starter;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::how_it_ended;
#[cfg(target_os = "linux")]
pub use linux::how_it_ended;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The monitor's own: signals, clients, the console, the VM's folder.
    EventLoop,
    /// It has the machine, from the moment at which the guest may run.
    Machine,
    /// It starts threads.
    Starter,
    /// It runs the guest on one of the host's processors, and answers its accesses to registers.
    Processor,
    /// It waits for the machine's end, and clears it away.
    Watcher,
    /// It hears what QEMU says of one device.
    Session,
    /// It answers the requests of a queue from a disk, the host's entropy or the guest's memory.
    Queue,
    /// It types on the guest's console what comes from the host.
    Keyboard,
    /// It carries bytes between the guest and Unix sockets of the host.
    Sockets,
    /// It talks to the guest's agent.
    Agent,
    /// It has the guest stand still, and switches the top layer of its disk.
    Layer,
}

impl Role {
    /// Those that [`spawn`] gives.
    const SPAWNED: [Self; 7] =
        [Self::Watcher, Self::Session, Self::Queue, Self::Keyboard, Self::Sockets, Self::Agent, Self::Layer];
}

/// There when threads are held to their roles.
static STARTER: OnceLock<Starter> = OnceLock::new();

/// Whether this kernel can hold threads to their roles; why not.
pub fn check() -> io::Result<()> {
    system::check()
}

/// Has this process's threads be held to their roles from now on: those that [`spawn`] starts from their beginning,
/// others when they [`enter`]. To be called once, by the only thread.
pub fn confine() -> io::Result<()> {
    system::prepare()?;
    let starter = Starter::start()?;
    STARTER.set(starter).map_err(|_| io::Error::other("the threads are confined already"))
}

/// Whether [`confine`] was called.
pub fn are_confined() -> bool {
    STARTER.get().is_some()
}

/// Starts a thread that has this role from its first moment. The name is the thread's: of 15 bytes at most, or the
/// kernel cuts it.
pub fn spawn<T: Send + 'static>(
    role: Role,
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    #[cfg(test)]
    #[cfg(target_os = "linux")]
    tests::confine_if_asked();
    let thread = thread::Builder::new().name(name.into());
    match STARTER.get() {
        Some(starter) => starter.spawn(role, thread, work),
        None => thread.spawn(work),
    }
}

/// Starts a thread that takes its role on by itself, with [`enter`], before the guest runs. Only a thread without a role
/// can.
pub fn spawn_without_role<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(work)
}

/// Holds the calling thread to a role from now on, for good, where threads are held to theirs.
pub fn enter(role: Role) -> io::Result<()> {
    if are_confined() { system::hold_to(role) } else { Ok(()) }
}
