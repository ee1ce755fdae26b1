//! The namespace (DSDT): the devices, and the sleep type that turns the machine off.

use super::super::devices::{DeviceWindow, SERIAL_INTERRUPT, SERIAL_PORT, SERIAL_PORT_COUNT, SOFT_OFF};
use super::aml::{
    device, edge_interrupt, eisa_id, integer, memory, name, package_of_one, ports, resource_template, scope,
    string,
};
use super::table::Table;

/// A virtio-mmio device (Linux, drivers/virtio/virtio_mmio.c).
const VIRTIO_MMIO: &str = "LNRO0005";

/// A serial port with a 16550's registers.
const SERIAL: &[u8; 7] = b"PNP0501";

pub(super) fn table(devices: &[DeviceWindow]) -> Vec<u8> {
    let mut contents = serial_port();
    for (number, window) in (0_u32..).zip(devices) {
        contents.extend(virtio_device(number, window));
    }
    let mut table = Table::new(*b"DSDT", 2);
    table.append(&scope("\\_SB_", &contents));
    table.append(&name("\\_S5_", &package_of_one(&integer(SOFT_OFF.into()))));
    table.finish()
}

/// Kernels find the port without this, and look at it no more often with it. But without a PIC there is no line 4 for
/// whom nobody tells of one, and a terminal on the port could be opened but not used.
fn serial_port() -> Vec<u8> {
    let resources =
        [ports(SERIAL_PORT, SERIAL_PORT_COUNT.to_le_bytes()[0]), edge_interrupt(SERIAL_INTERRUPT)];
    let contents = [
        name("_HID", &eisa_id(SERIAL)),
        name("_UID", &integer(0)),
        name("_CRS", &resource_template(&resources)),
    ];
    device("COM1", &contents.concat())
}

fn virtio_device(number: u32, window: &DeviceWindow) -> Vec<u8> {
    // All windows lie below 4 GiB.
    let half = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let resources = [memory(half(window.address), half(window.length)), edge_interrupt(window.interrupt)];
    let contents = [
        name("_HID", &string(VIRTIO_MMIO)),
        name("_UID", &integer(number)),
        name("_CRS", &resource_template(&resources)),
    ];
    device(&format!("V{number:03}"), &contents.concat())
}
