//! The devices of the machine: their addresses, ports and interrupt lines.

use snafu::{Snafu, ensure};

use super::memory_map::DEVICES;

/// The lines of the IO-APIC. A line's number is its global system interrupt, too.
pub const IO_APIC_PINS: u32 = 24;

/// The serial port's line, as on every PC.
pub const SERIAL_INTERRUPT: u32 = 4;

/// The first of the serial port's registers, as on every PC.
pub const SERIAL_PORT: u16 = 0x3f8;

/// The number of them.
pub const SERIAL_PORT_COUNT: u16 = 8;

/// The sleep control register (ACPI 6.5, 4.8.3.7), a byte: [`POWER_OFF`] written to it is the end of the machine.
pub const POWER_CONTROL_PORT: u16 = 0x600;

/// The sleep status register, a byte: the kernel clears it before it powers off. It reads as zero.
pub const POWER_STATUS_PORT: u16 = 0x601;

/// The reset register, a byte: [`RESET`] written to it starts the machine again.
pub const RESET_PORT: u16 = 0x602;

/// The sleep type that the tables give to `_S5`, soft off.
pub(super) const SOFT_OFF: u8 = 5;

/// Soft off, and the bit that enters it.
pub const POWER_OFF: u8 = SOFT_OFF << 2 | 1 << 5;

/// What the tables say resets the machine.
pub const RESET: u8 = 1;

/// The first line of a virtio device: the ones before belong to devices of a PC, one of which is here.
const FIRST_DEVICE_INTERRUPT: u32 = SERIAL_INTERRUPT + 1;

/// The most virtio devices of a machine: each has a line of its own, so that no interrupt asks two devices.
pub const MOST_DEVICES: usize = (IO_APIC_PINS - FIRST_DEVICE_INTERRUPT) as usize;

/// The registers of a virtio-mmio device.
const DEVICE_LENGTH: u64 = 0x1000;

/// Where a virtio-mmio device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWindow {
    /// The address of its registers.
    pub address: u64,
    /// Their length.
    pub length: u64,
    /// Its interrupt line: edge-triggered, active high.
    pub interrupt: u32,
}

/// More devices than there are interrupt lines.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("{count} virtio devices are too many: the machine has interrupt lines for {MOST_DEVICES}"))]
pub struct TooManyDevices {
    count: usize,
}

/// A place for each of so many virtio-mmio devices, in their order.
pub fn device_windows(count: usize) -> Result<Vec<DeviceWindow>, TooManyDevices> {
    ensure!(count <= MOST_DEVICES, TooManyDevicesSnafu { count });
    let addresses = (DEVICES..).step_by(0x1000);
    let lines = FIRST_DEVICE_INTERRUPT..IO_APIC_PINS;
    let window = |(address, interrupt)| DeviceWindow { address, length: DEVICE_LENGTH, interrupt };
    Ok(addresses.zip(lines).take(count).map(window).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_lie_side_by_side_each_with_a_line_of_its_own() {
        let windows = device_windows(MOST_DEVICES).unwrap();
        assert_eq!(windows.len(), 19);
        assert_eq!(windows[0], DeviceWindow { address: 0xfe00_0000, length: 0x1000, interrupt: 5 });
        assert_eq!(windows[18], DeviceWindow { address: 0xfe01_2000, length: 0x1000, interrupt: 23 });
        assert!(windows.windows(2).all(|pair| pair[0].address + pair[0].length == pair[1].address));
        assert!(windows.windows(2).all(|pair| pair[0].interrupt + 1 == pair[1].interrupt));
    }

    #[test]
    fn more_devices_than_lines_are_refused_with_the_limit() {
        assert_eq!(
            device_windows(20).unwrap_err().to_string(),
            "20 virtio devices are too many: the machine has interrupt lines for 19"
        );
    }

    #[test]
    fn power_off_is_the_sleep_type_and_the_enable_bit() {
        // ACPI 6.5, table 4.19: SLP_TYPx in bits 2 to 4, SLP_EN in bit 5.
        assert_eq!(POWER_OFF, 0b0011_0100);
    }
}
