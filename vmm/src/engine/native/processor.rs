//! A processor's thread: runs the guest and does what it comes out for.

use std::sync::Arc;

use super::board::Board;
use super::control::Control;
use super::exits::Counts;
use crate::devices::{Bus, Effect};
use crate::engine::{MachineEnd, chain};
use crate::hypervisor::{Entry, Exit, Failure, SystemEvent, Vcpu};

/// What a bus without a device at an address reads as: as on a PC, all bits are set.
const NOTHING_THERE: u64 = u64::MAX;

/// One processor of the machine.
pub(super) struct Processor {
    pub(super) vcpu: Box<dyn Vcpu>,
    pub(super) board: Arc<Board>,
    pub(super) control: Arc<Control>,
    pub(super) exits: Arc<Counts>,
}

impl Processor {
    /// Runs until the machine ends.
    pub(super) fn run(mut self) {
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
    }

    fn handle(&mut self, exit: Exit) -> Result<Entry, MachineEnd> {
        match exit {
            Exit::PortRead { port, width } => {
                Ok(Entry::Read(self.read(&self.board.ports, port.into(), width)))
            }
            Exit::PortWrite { port, width, value } => {
                self.write(&self.board.ports, port.into(), width, value.into())
            }
            Exit::MmioRead { address, width } => {
                Ok(Entry::Read(self.read(&self.board.addresses, address, width)))
            }
            Exit::MmioWrite { address, width, value } => {
                self.write(&self.board.addresses, address, width, value)
            }
            Exit::Kicked => {
                self.exits.add_kick();
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

    fn read(&self, bus: &Bus, address: u64, width: u8) -> u64 {
        let read = bus.read(address, width);
        self.exits.add_read(read.map(|(device, _)| device));
        read.map_or_else(
            || {
                tracing::trace!(address, width, "a read where nothing is");
                NOTHING_THERE
            },
            |(_, value)| value,
        )
    }

    fn write(&self, bus: &Bus, address: u64, width: u8, value: u64) -> Result<Entry, MachineEnd> {
        let written = bus.write(address, width, value);
        self.exits.add_write(written.map(|(device, _)| device));
        match written {
            Some((_, Effect::None)) => Ok(Entry::Go),
            Some((_, Effect::PowerOff)) => Err(MachineEnd::PowerOff),
            Some((_, Effect::Reset)) => Err(MachineEnd::Reset),
            None => {
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
