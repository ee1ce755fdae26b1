//! The ACPI tables of the machine (ACPI 6.5, chapter 5): processors, the IO-APIC, devices, and how it is turned off.

mod aml;
mod namespace;
mod table;
#[cfg(test)]
mod tests;

use super::devices::{DeviceWindow, POWER_CONTROL_PORT, POWER_STATUS_PORT, RESET, RESET_PORT};
use super::memory_map::{IO_APIC, LOCAL_APIC};
use table::{Table, checksum};

/// The length of the root pointer, which comes first.
const ROOT_POINTER_LENGTH: u64 = 36;

/// All tables, one behind the other, as they are to lie at `address`, where the root pointer is.
pub(super) fn tables(address: u64, cpus: u8, devices: &[DeviceWindow]) -> Vec<u8> {
    // Each table names others, so those it names come first.
    let mut placed = Vec::new();
    let first = (address + ROOT_POINTER_LENGTH).next_multiple_of(16);
    let mut place = |table: Vec<u8>| {
        let at = first + placed.len() as u64;
        placed.extend(table);
        placed.resize(placed.len().next_multiple_of(16), 0);
        at
    };
    let namespace = place(namespace::table(devices));
    let fixed = place(fixed_description(namespace));
    let interrupts = place(interrupt_controllers(cpus));
    let root = place(root_table(&[fixed, interrupts]));
    let mut bytes = root_pointer(root);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes.extend(placed);
    bytes
}

/// The root pointer (RSDP, 5.2.5.3).
fn root_pointer(root_table: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0VMM   \x02".to_vec();
    // There is no table with 32-bit addresses.
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(36_u32.to_le_bytes());
    bytes.extend(root_table.to_le_bytes());
    bytes.extend([0; 4]);
    bytes[8] = checksum(&bytes[..20]);
    bytes[32] = checksum(&bytes);
    bytes
}

/// The root table (XSDT, 5.2.8).
fn root_table(addresses: &[u64]) -> Vec<u8> {
    let mut table = Table::new(*b"XSDT", 1);
    for address in addresses {
        table.append(&address.to_le_bytes());
    }
    table.finish()
}

/// The processors' local APICs and the IO-APIC (MADT, 5.2.12). A processor's number is its APIC's.
///
/// The flag that says that there is a PIC is not set. All numbers are below 255, so no x2APIC structures are needed.
fn interrupt_controllers(cpus: u8) -> Vec<u8> {
    let mut table = Table::new(*b"APIC", 5);
    table.append(&low_half(LOCAL_APIC));
    table.append(&0_u32.to_le_bytes());
    for cpu in 0..cpus {
        // Type, length, processor, APIC, enabled.
        table.append(&[0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    // Type, length, number; then the address, and the first of its interrupts.
    table.append(&[1, 12, 0, 0]);
    table.append(&low_half(IO_APIC));
    table.append(&0_u32.to_le_bytes());
    table.finish()
}

/// The fields of the fixed description that say something; all others are zero (FADT, 5.2.9).
mod fixed {
    pub(super) const LENGTH: usize = 276;
    pub(super) const BOOT_FLAGS: usize = 109;
    pub(super) const FLAGS: usize = 112;
    pub(super) const RESET_REGISTER: usize = 116;
    pub(super) const RESET_VALUE: usize = 128;
    pub(super) const MINOR_VERSION: usize = 131;
    pub(super) const NAMESPACE: usize = 140;
    pub(super) const SLEEP_CONTROL: usize = 244;
    pub(super) const SLEEP_STATUS: usize = 256;
    pub(super) const HYPERVISOR: usize = 268;
}

/// No screen of a PC, no clock in its CMOS memory; and since they are not set: no legacy devices, no keyboard
/// controller (table 5.11).
const BOOT_FLAGS: u16 = NO_VGA | NO_CMOS_CLOCK;
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Table 5.10. Buttons that are devices of the namespace, where there are none, keep the kernel from making their own.
const FLAGS: u32 =
    WRITE_BACK_WORKS | POWER_BUTTON_IS_A_DEVICE | SLEEP_BUTTON_IS_A_DEVICE | CAN_RESET | HARDWARE_REDUCED;
const WRITE_BACK_WORKS: u32 = 1 << 0;
const POWER_BUTTON_IS_A_DEVICE: u32 = 1 << 4;
const SLEEP_BUTTON_IS_A_DEVICE: u32 = 1 << 5;
const CAN_RESET: u32 = 1 << 10;
const HARDWARE_REDUCED: u32 = 1 << 20;

fn fixed_description(namespace: u64) -> Vec<u8> {
    let mut table = Table::new(*b"FACP", 6);
    table.extend_to(fixed::LENGTH);
    table.put(fixed::BOOT_FLAGS, &BOOT_FLAGS.to_le_bytes());
    table.put(fixed::FLAGS, &FLAGS.to_le_bytes());
    table.put(fixed::RESET_REGISTER, &byte_port(RESET_PORT));
    table.put(fixed::RESET_VALUE, &[RESET]);
    table.put(fixed::MINOR_VERSION, &[5]);
    table.put(fixed::NAMESPACE, &namespace.to_le_bytes());
    table.put(fixed::SLEEP_CONTROL, &byte_port(POWER_CONTROL_PORT));
    table.put(fixed::SLEEP_STATUS, &byte_port(POWER_STATUS_PORT));
    table.put(fixed::HYPERVISOR, b"VMM\0\0\0\0\0");
    table.finish()
}

/// The generic address of a port that is a byte wide (5.2.3.2).
fn byte_port(port: u16) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    const PORTS: u8 = 1;
    const BYTES: u8 = 1;
    [PORTS, 8, 0, BYTES, low, high, 0, 0, 0, 0, 0, 0]
}

/// An address below 4 GiB as four bytes.
fn low_half(address: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = address.to_le_bytes();
    [a, b, c, d]
}
