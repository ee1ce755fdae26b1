use super::super::devices::{MOST_DEVICES, device_windows};
use super::tables;

const ADDRESS: u64 = 0xe_0000;

/// The tables, as a kernel finds them from the root pointer.
struct Found {
    bytes: Vec<u8>,
}

impl Found {
    fn new(cpus: u8, devices: usize) -> Self {
        Self { bytes: tables(ADDRESS, cpus, &device_windows(devices).unwrap()) }
    }

    fn at(&self, address: u64) -> &[u8] {
        &self.bytes[usize::try_from(address - ADDRESS).unwrap()..]
    }

    /// A table, after a look at its header.
    fn table(&self, address: u64) -> &[u8] {
        let bytes = self.at(address);
        let table = &bytes[..u32_at(bytes, 4) as usize];
        assert_eq!(sum(table), 0, "{:?}", &table[..4]);
        assert_eq!(table[10..24], *b"VMM   VMMGUEST");
        table
    }

    /// The tables that the root table names: their signatures and they.
    fn by_signature(&self, signature: &[u8; 4]) -> &[u8] {
        let root = self.table(u64_at(self.at(ADDRESS), 24));
        assert_eq!(root[..4], *b"XSDT");
        let addresses = root[36..].chunks_exact(8).map(|entry| u64_at(entry, 0));
        let mut named = addresses.map(|address| self.table(address));
        named.find(|table| table[..4] == *signature).unwrap()
    }

    fn namespace(&self) -> &[u8] {
        self.table(u64_at(self.by_signature(b"FACP"), 140))
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The objects of a piece of machine language that is a list of packages, with what is in each.
fn packages<'a>(mut code: &'a [u8], operation: &[u8]) -> Vec<&'a [u8]> {
    let mut found = Vec::new();
    while let Some(rest) = code.strip_prefix(operation) {
        let more = usize::from(rest[0] >> 6);
        let mut length = usize::from(rest[0] & if more == 0 { 0x3f } else { 0xf });
        for (index, byte) in rest[1..=more].iter().enumerate() {
            length |= usize::from(*byte) << (4 + 8 * index);
        }
        found.push(&rest[1 + more..length]);
        code = &rest[length..];
    }
    found
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_root_pointer_is_found_and_its_sums_are_right() {
    let found = Found::new(1, 1);
    let pointer = found.at(ADDRESS);
    assert_eq!(pointer[..8], *b"RSD PTR ");
    assert_eq!((sum(&pointer[..20]), sum(&pointer[..36])), (0, 0));
    assert_eq!((pointer[15], u32_at(pointer, 20)), (2, 36));
}

#[test]
fn the_machine_is_hardware_reduced_and_has_nothing_from_before() {
    let found = Found::new(2, 3);
    let fixed = found.by_signature(b"FACP");
    assert_eq!((fixed.len(), fixed[8], fixed[131]), (276, 6, 5));
    // HW_REDUCED_ACPI and RESET_REG_SUP are set. Of the boot flags only the absences are: no VGA, no CMOS clock.
    assert_eq!(u32_at(fixed, 112), 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4 | 1);
    assert_eq!(u32_at(fixed, 109) & 0xffff, 1 << 5 | 1 << 2);
    // No registers of fixed hardware.
    assert!(fixed[46..109].iter().all(|byte| *byte == 0));
    assert!(fixed[148..244].iter().all(|byte| *byte == 0));
}

#[test]
fn the_registers_that_end_the_machine_are_byte_wide_ports() {
    let found = Found::new(1, 0);
    let fixed = found.by_signature(b"FACP");
    for (at, port) in [(116, 0x602), (244, 0x600), (256, 0x601)] {
        // In the space of ports, 8 bits wide, from bit 0, accessed by bytes.
        assert_eq!(fixed[at..at + 4], [1, 8, 0, 1]);
        assert_eq!(u64_at(fixed, at + 4), port);
    }
    assert_eq!(fixed[128], 1);
    // Name (\_S5_, Package (1) { 5 })
    assert!(contains(found.namespace(), b"\x08\\_S5_\x12\x04\x01\x0a\x05"));
}

#[test]
fn each_processor_has_a_local_apic_and_there_is_no_pic() {
    let found = Found::new(255, 0);
    let table = found.by_signature(b"APIC");
    assert_eq!((u32_at(table, 36), u32_at(table, 40)), (0xfee0_0000, 0));
    let mut entries = &table[44..];
    for cpu in 0..255 {
        assert_eq!(entries[..8], [0, 8, cpu, cpu, 1, 0, 0, 0]);
        entries = &entries[8..];
    }
    assert_eq!(entries, [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
}

#[test]
fn each_device_is_described_with_its_window_and_its_line() {
    let found = Found::new(1, MOST_DEVICES);
    let scopes = packages(&found.namespace()[36..], &[0x10]);
    let devices = packages(scopes[0].strip_prefix(b"\\_SB_").unwrap(), &[0x5b, 0x82]);
    assert_eq!(devices.len(), 1 + MOST_DEVICES);
    for (number, window) in device_windows(MOST_DEVICES).unwrap().iter().enumerate() {
        let device = devices[1 + number];
        assert_eq!(device[..4], *format!("V{number:03}").as_bytes());
        assert!(contains(device, b"\x08_HID\x0dLNRO0005\0"));
        let address = u32::try_from(window.address).unwrap().to_le_bytes();
        assert!(contains(device, &[&[0x86, 9, 0, 1][..], &address, &[0, 0x10, 0, 0]].concat()));
        // Consumed, edge-triggered, active high, exclusive.
        assert!(contains(device, &[&[0x89, 6, 0, 3, 1][..], &window.interrupt.to_le_bytes()].concat()));
        assert_eq!(device[device.len() - 2..], [0x79, 0]);
    }
}

#[test]
fn the_serial_port_is_described_with_its_ports_and_its_line() {
    let found = Found::new(1, 0);
    let namespace = found.namespace();
    assert!(contains(namespace, b"COM1\x08_HID\x0c\x41\xd0\x05\x01"));
    assert!(contains(namespace, &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 3, 1, 4, 0, 0, 0]));
}
