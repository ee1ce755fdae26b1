//! The machine's devices at their places, and where a processor's accesses go.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use snafu::ResultExt;
use vmm_sys::Event;

use super::{DevicesSnafu, HypervisorSnafu, NativeError, PrepareSnafu};
use crate::arch::x86_64::{DeviceWindow, SERIAL_INTERRUPT, SERIAL_PORT, SERIAL_PORT_COUNT, device_windows};
use crate::devices::{Bus, BusDevice, Effect, PowerControl, SerialPort};
use crate::hypervisor::Vm;
use crate::memory::GuestMemory;
use crate::virtio::VirtioDevice;
use crate::virtio::transport::mmio::{InterruptLine, MmioTransport, QUEUE_NOTIFY};

/// Everything that the guest reaches beside memory and interrupt controllers. It does not change while the machine runs.
pub(super) struct Board {
    /// Ports (x86_64).
    pub(super) ports: Bus,
    /// Addresses without memory.
    pub(super) addresses: Bus,
    /// The serial port among them, to type on.
    pub(super) serial: Arc<SerialPort>,
    /// What each device is called, by its number on the buses.
    pub(super) names: Vec<String>,
    /// The virtio devices.
    transports: Vec<Arc<MmioTransport>>,
}

impl Board {
    /// Puts the devices at their places and binds their interrupts and doorbells.
    pub(super) fn new(
        vm: &dyn Vm,
        memory: &GuestMemory,
        devices: Vec<Box<dyn VirtioDevice>>,
        console: OwnedFd,
    ) -> Result<(Self, Vec<DeviceWindow>), NativeError> {
        let windows = device_windows(devices.len()).context(DevicesSnafu)?;
        let line = Event::new().context(PrepareSnafu)?;
        vm.bind_interrupt(SERIAL_INTERRUPT, &line).context(HypervisorSnafu)?;
        let serial = Arc::new(SerialPort::new(console, line).context(PrepareSnafu)?);
        let mut board = Self {
            ports: Bus::default(),
            addresses: Bus::default(),
            serial: serial.clone(),
            names: Vec::new(),
            transports: Vec::new(),
        };
        board.insert_ports("serial", SERIAL_PORT, SERIAL_PORT_COUNT, serial)?;
        board.insert_ports("power", PowerControl::PORT, PowerControl::PORT_COUNT, Arc::new(PowerControl))?;
        for (device, window) in devices.into_iter().zip(&windows) {
            board.insert_device(vm, memory, device, window)?;
        }
        Ok((board, windows))
    }

    fn insert_ports(
        &mut self,
        name: &str,
        first: u16,
        count: u16,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), NativeError> {
        let range = u64::from(first)..u64::from(first) + u64::from(count);
        let number = self.number(name);
        self.ports.insert(range, number, device).map_err(io::Error::other).context(PrepareSnafu)
    }

    fn insert_device(
        &mut self,
        vm: &dyn Vm,
        memory: &GuestMemory,
        device: Box<dyn VirtioDevice>,
        window: &DeviceWindow,
    ) -> Result<(), NativeError> {
        let line = Event::new().context(PrepareSnafu)?;
        vm.bind_interrupt(window.interrupt, &line).context(HypervisorSnafu)?;
        let number = self.number(device.device_type().name());
        let transport =
            MmioTransport::new(device, memory.clone(), Box::new(Line(line))).context(PrepareSnafu)?;
        if let Some(doorbells) = vm.doorbells() {
            for (index, kick) in (0u32..).zip(transport.kicks()) {
                doorbells
                    .bind_doorbell(window.address + QUEUE_NOTIFY, index, kick)
                    .context(HypervisorSnafu)?;
            }
        }
        let transport = Arc::new(transport);
        self.transports.push(Arc::clone(&transport));
        let range = window.address..window.address + window.length;
        self.addresses
            .insert(range, number, Arc::new(Window(transport)))
            .map_err(io::Error::other)
            .context(PrepareSnafu)
    }

    /// The number of one more device of this kind. The second of a kind has its number in its name.
    fn number(&mut self, kind: &str) -> usize {
        let of_kind =
            |name: &&String| name.trim_end_matches(|character: char| character.is_ascii_digit()) == kind;
        let name = match self.names.iter().filter(of_kind).count() {
            0 => kind.to_owned(),
            before => format!("{kind}{}", before + 1),
        };
        self.names.push(name);
        self.names.len() - 1
    }

    /// Stops the devices; returns when nothing of them is in flight.
    pub(super) fn stop(&self) {
        for transport in &self.transports {
            transport.shutdown();
        }
    }
}

/// A device's interrupt line.
struct Line(Event);

impl InterruptLine for Line {
    fn raise(&self) -> io::Result<()> {
        self.0.notify()
    }
}

/// A device's registers on the bus.
struct Window(Arc<MmioTransport>);

impl BusDevice for Window {
    fn read(&self, offset: u64, width: u8) -> u64 {
        let mut bytes = [0; 8];
        if let Some(read) = bytes.get_mut(..usize::from(width)) {
            self.0.read(offset, read);
        }
        u64::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Effect {
        if let Some(written) = value.to_le_bytes().get(..usize::from(width)) {
            self.0.write(offset, written);
        }
        Effect::None
    }
}
