//! A processor's thread: runs the guest and does what it comes out for.

use std::fmt;
use std::sync::Arc;

use super::board::Board;
use super::control::Control;
use crate::devices::{Bus, Effect};
use crate::engine::{MachineEnd, chain};
use crate::hypervisor::{Entry, Exit, Failure, SystemEvent, Vcpu};

/// What a bus without a device at an address reads as: as on a PC, all bits are set.
const NOTHING_THERE: u64 = u64::MAX;

/// How often a processor came out of the guest, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exits {
    ports: u64,
    addresses: u64,
    strays: u64,
    kicks: u64,
}

impl Exits {
    pub(super) fn add(&mut self, other: Self) {
        self.ports += other.ports;
        self.addresses += other.addresses;
        self.strays += other.strays;
        self.kicks += other.kicks;
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ports, addresses, strays, kicks } = self;
        write!(f, "{ports} of ports, {addresses} of addresses ({strays} where nothing is), {kicks} kicks")
    }
}

/// One processor of the machine.
pub(super) struct Processor {
    pub(super) vcpu: Box<dyn Vcpu>,
    pub(super) board: Arc<Board>,
    pub(super) control: Arc<Control>,
    pub(super) exits: Exits,
}

impl Processor {
    /// Runs until the machine ends; how often it came out.
    pub(super) fn run(mut self) -> Exits {
        let mut entry = Entry::Go;
        while self.control.may_run() {
            let end = match self.vcpu.run(entry) {
                Ok(exit) => self.handle(exit),
                Err(error) => Err(MachineEnd::Failed(chain(&error))),
            };
            match end {
                Ok(next) => entry = next,
                Err(end) => self.control.end(end),
            }
        }
        self.exits
    }

    fn handle(&mut self, exit: Exit) -> Result<Entry, MachineEnd> {
        match exit {
            Exit::PortRead { port, width } => {
                self.exits.ports += 1;
                Ok(Entry::Read(self.read(|board| &board.ports, port.into(), width)))
            }
            Exit::PortWrite { port, width, value } => {
                self.exits.ports += 1;
                self.write(|board| &board.ports, port.into(), width, value.into())
            }
            Exit::MmioRead { address, width } => {
                self.exits.addresses += 1;
                Ok(Entry::Read(self.read(|board| &board.addresses, address, width)))
            }
            Exit::MmioWrite { address, width, value } => {
                self.exits.addresses += 1;
                self.write(|board| &board.addresses, address, width, value)
            }
            Exit::Kicked => {
                self.exits.kicks += 1;
                Ok(Entry::Go)
            }
            Exit::Shutdown => {
                tracing::warn!(registers = self.vcpu.describe(), "the guest faulted three times over");
                Err(MachineEnd::Reset)
            }
            Exit::SystemEvent(SystemEvent::PowerOff) => Err(MachineEnd::PowerOff),
            Exit::SystemEvent(SystemEvent::Reset) => Err(MachineEnd::Reset),
            Exit::SystemEvent(SystemEvent::Crash) => Err(MachineEnd::Panicked),
            Exit::Failed(failure) => Err(MachineEnd::Failed(self.failed(failure))),
        }
    }

    fn read(&mut self, bus: impl Fn(&Board) -> &Bus, address: u64, width: u8) -> u64 {
        bus(&self.board).read(address, width).unwrap_or_else(|| {
            self.exits.strays += 1;
            tracing::trace!(address, width, "a read where nothing is");
            NOTHING_THERE
        })
    }

    fn write(
        &mut self,
        bus: impl Fn(&Board) -> &Bus,
        address: u64,
        width: u8,
        value: u64,
    ) -> Result<Entry, MachineEnd> {
        match bus(&self.board).write(address, width, value) {
            Some(Effect::None) => Ok(Entry::Go),
            Some(Effect::PowerOff) => Err(MachineEnd::PowerOff),
            Some(Effect::Reset) => Err(MachineEnd::Reset),
            None => {
                self.exits.strays += 1;
                tracing::trace!(address, width, value, "a write where nothing is");
                Ok(Entry::Go)
            }
        }
    }

    fn failed(&self, failure: Failure) -> String {
        let what = match failure {
            Failure::Entry(reason) => {
                format!("the processor refused to enter the guest (reason {reason:#x})")
            }
            Failure::Internal(1) => "the host could not emulate an instruction of the guest".to_owned(),
            Failure::Internal(number) => format!("the host's virtualization failed (error {number})"),
            Failure::Unknown(number) => format!("the guest did what nobody knows (exit {number})"),
        };
        format!("{what}: {}", self.vcpu.describe())
    }
}
