//! What all ACPI tables have in common (ACPI 6.5, 5.2.6).

/// A table in the making.
pub(super) struct Table {
    bytes: Vec<u8>,
}

const LENGTH: usize = 4;
const CHECKSUM: usize = 9;

impl Table {
    /// A table that has its header so far.
    pub(super) fn new(signature: [u8; 4], revision: u8) -> Self {
        let mut bytes = signature.to_vec();
        // Length and checksum are known at the end.
        bytes.extend([0, 0, 0, 0, revision, 0]);
        bytes.extend(b"VMM   VMMGUEST");
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(b"VMM ");
        bytes.extend(1_u32.to_le_bytes());
        Self { bytes }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Appends zeros, until the table has this length.
    pub(super) fn extend_to(&mut self, length: usize) {
        self.bytes.resize(length, 0);
    }

    /// Puts a field over what is there.
    pub(super) fn put(&mut self, at: usize, field: &[u8]) {
        self.bytes[at..at + field.len()].copy_from_slice(field);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let [a, b, c, d, ..] = (self.bytes.len() as u64).to_le_bytes();
        self.put(LENGTH, &[a, b, c, d]);
        self.bytes[CHECKSUM] = checksum(&self.bytes);
        self.bytes
    }
}

/// The byte that makes the sum of all zero.
pub(super) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}
