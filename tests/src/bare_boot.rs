//! A boot of a kernel on the native engine with nothing beside it: no disk, no initial file system, no virtio device.
//! How often it leaves the guest is the same each time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;

use vmm::arch::Arch;
use vmm::engine::native::NativeEngine;
use vmm::engine::{Engine, MachineEnd};
use vmm::machine::{Exits, Machine, MemorySize};

/// The command line with which monitors are compared: the kernel's own words on the serial port only where something is
/// wrong, and an end by a reset when it finds no root.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=t panic=-1";

/// What is booted.
pub struct BareBoot<'a> {
    /// The kernel, uncompressed.
    pub kernel: &'a Path,
    /// The number of processors.
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// The kernel's command line, to which the engine adds its own.
    pub command_line: &'a str,
}

/// How it went.
pub struct Booted {
    /// How the machine ended.
    pub end: MachineEnd,
    /// What it cost.
    pub exits: Exits,
}

impl BareBoot<'_> {
    /// Boots, and writes what the guest says to `console` as it comes, until the machine ends.
    pub fn run(&self, console: &mut impl Write) -> io::Result<Booted> {
        let engine = NativeEngine::kvm(Arch::X86_64).map_err(io::Error::other)?;
        let (mut ours, theirs) = UnixStream::pair()?;
        let machine = Machine {
            arch: Arch::X86_64,
            cpus: self.cpus,
            memory: self.memory,
            nested: false,
            huge_pages: false,
            kernel: File::open(self.kernel)?,
            initramfs: tempfile::tempfile()?,
            command_line: self.command_line.to_owned(),
            devices: Vec::new(),
            balloon: None,
            console: theirs.into(),
            types_on_serial: false,
        };
        let (sender, ended) = mpsc::channel();
        let tell = Box::new(move |end| sender.send(end).unwrap_or_default());
        let running = engine.launch(machine, tell).map_err(io::Error::other)?;
        let counter = running.exits().ok_or_else(|| io::Error::other("the engine counts no exits"))?;
        let end = wait(&mut ours, ended, running, console)?;
        Ok(Booted { end, exits: counter.exits() })
    }
}

/// Hands on what the guest says until the machine is gone, and with it the other end of its console.
fn wait(
    ours: &mut UnixStream,
    ended: mpsc::Receiver<MachineEnd>,
    running: Box<dyn vmm::engine::RunningMachine>,
    console: &mut impl Write,
) -> io::Result<MachineEnd> {
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let end = ended.recv();
            // It holds the console open.
            drop(running);
            end
        });
        let mut bytes = [0; 4096];
        loop {
            match ours.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => console.write_all(bytes.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            }
            console.flush()?;
        }
        let lost = || io::Error::other("the machine is gone, and nobody said how it ended");
        waiter.join().map_err(|_| lost())?.map_err(|_| lost())
    })
}
