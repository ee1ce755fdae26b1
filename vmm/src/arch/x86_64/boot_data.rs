//! All that lies in memory beside the kernel and its initial file system when the kernel is entered.

use std::ops::Range;

use snafu::{Snafu, ensure};

use super::boot_parameters::BootParameters;
use super::devices::DeviceWindow;
use super::memory_map::{
    ACPI_TABLES, BOOT_PARAMETERS, COMMAND_LINE, COMMAND_LINE_LENGTH, DESCRIPTOR_TABLE, MemoryMap, PAGE_TABLES,
};
use super::{acpi, paging, segments};

/// What the data depends on.
#[derive(Clone, Debug)]
pub struct BootData<'a> {
    /// The memory.
    pub memory: &'a MemoryMap,
    /// The number of processors.
    pub cpus: u8,
    /// The virtio-mmio devices.
    pub devices: &'a [DeviceWindow],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Where the initial file system is.
    pub initramfs: Range<u64>,
}

/// Bytes, and where in memory they belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The address.
    pub address: u64,
    /// What lies there.
    pub bytes: Vec<u8>,
}

/// Why there is no such machine.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootDataError {
    /// The kernel would cut it.
    #[snafu(display(
        "the kernel's command line has {length} bytes, with what the engine adds: at most {} are possible",
        COMMAND_LINE_LENGTH - 1
    ))]
    CommandLine {
        /// Its length.
        length: usize,
    },
    /// The tables would reach into the kernel.
    #[snafu(display(
        "the ACPI tables of {cpus} processors and {devices} devices take {length} bytes: too many"
    ))]
    AcpiTables {
        /// The number of processors.
        cpus: u8,
        /// The number of devices.
        devices: usize,
        /// The length of the tables.
        length: usize,
    },
}

impl BootData<'_> {
    /// The pieces, none of which overlap. The rest of the memory below the kernel is to be zero.
    pub fn place(&self) -> Result<Vec<Placed>, BootDataError> {
        let mut command_line = self.command_line.as_bytes().to_vec();
        let length = command_line.len();
        let command_line_length = u32::try_from(length).ok();
        let command_line_length =
            command_line_length.filter(|length| u64::from(*length) < COMMAND_LINE_LENGTH);
        let Some(command_line_length) = command_line_length else {
            return CommandLineSnafu { length }.fail();
        };
        command_line.push(0);
        let tables = acpi::tables(ACPI_TABLES.start, self.cpus, self.devices);
        ensure!(
            tables.len() as u64 <= ACPI_TABLES.end - ACPI_TABLES.start,
            AcpiTablesSnafu { cpus: self.cpus, devices: self.devices.len(), length: tables.len() }
        );
        let parameters = BootParameters {
            command_line: COMMAND_LINE,
            command_line_length,
            initramfs: &self.initramfs,
            root_pointer: ACPI_TABLES.start,
            address_ranges: &self.memory.address_ranges(),
        };
        Ok(vec![
            Placed { address: DESCRIPTOR_TABLE, bytes: segments::descriptor_table() },
            Placed { address: BOOT_PARAMETERS, bytes: parameters.page() },
            Placed { address: PAGE_TABLES, bytes: paging::page_tables() },
            Placed { address: COMMAND_LINE, bytes: command_line },
            Placed { address: ACPI_TABLES.start, bytes: tables },
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KERNEL_START, MOST_DEVICES, device_windows};
    use super::*;

    fn place(cpus: u8, devices: usize, command_line: &str) -> Result<Vec<Placed>, BootDataError> {
        let devices = device_windows(devices).unwrap();
        let memory = MemoryMap::new(96 << 20);
        BootData { memory: &memory, cpus, devices: &devices, command_line, initramfs: 0..0 }.place()
    }

    #[test]
    fn the_pieces_of_the_largest_machine_lie_apart_and_below_the_kernel() {
        let pieces = place(255, MOST_DEVICES, &"x".repeat(2047)).unwrap();
        let end = |piece: &Placed| piece.address + piece.bytes.len() as u64;
        assert!(pieces.windows(2).all(|pair| end(&pair[0]) <= pair[1].address));
        // Page zero belongs to the firmware of old: kernels look for tables of its kind there.
        assert!(pieces[0].address >= 0x1000);
        assert!(pieces.iter().all(|piece| end(piece) <= KERNEL_START));
    }

    #[test]
    fn a_command_line_ends_with_a_zero_and_is_never_cut() {
        let pieces = place(1, 1, "quiet").unwrap();
        assert_eq!(pieces[3].bytes, b"quiet\0");
        assert_eq!(
            place(1, 1, &"x".repeat(2048)).unwrap_err().to_string(),
            "the kernel's command line has 2048 bytes, with what the engine adds: at most 2047 are possible"
        );
    }
}
