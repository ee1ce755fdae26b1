//! The ACPI machine language, as much of it as the namespace needs (ACPI 6.5, chapters 20 and 6.4).

/// A name of four characters, such as `_HID`; at the root where it has a backslash in front, such as `\_SB_`.
fn name_string(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// `Scope (name) { contents }`.
pub(super) fn scope(name: &str, contents: &[u8]) -> Vec<u8> {
    package(&[0x10], &[name_string(name), contents.to_vec()].concat())
}

/// `Device (name) { contents }`.
pub(super) fn device(name: &str, contents: &[u8]) -> Vec<u8> {
    package(&[0x5b, 0x82], &[name_string(name), contents.to_vec()].concat())
}

/// `Name (name, value)`.
pub(super) fn name(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0x08], name_string(name), value.to_vec()].concat()
}

/// `Package () { value }`.
pub(super) fn package_of_one(value: &[u8]) -> Vec<u8> {
    package(&[0x12], &[&[1], value].concat())
}

/// A number, in the shortest form.
pub(super) fn integer(value: u32) -> Vec<u8> {
    let [a, b, c, d] = value.to_le_bytes();
    match value {
        0 | 1 => vec![a],
        2..=0xff => vec![0x0a, a],
        0x100..=0xffff => vec![0x0b, a, b],
        _ => vec![0x0c, a, b, c, d],
    }
}

/// A text in ASCII.
pub(super) fn string(text: &str) -> Vec<u8> {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

/// `EisaId (id)`: three capital letters and four hexadecimal digits, packed into 32 bits (19.3.4).
pub(super) fn eisa_id(id: &[u8; 7]) -> Vec<u8> {
    let letter = |at: usize| u32::from(id[at] & 0x1f);
    let digit =
        |at: usize| u32::from(if id[at].is_ascii_digit() { id[at] - b'0' } else { id[at] - b'A' + 10 });
    let vendor = letter(0) << 10 | letter(1) << 5 | letter(2);
    let product = digit(3) << 12 | digit(4) << 8 | digit(5) << 4 | digit(6);
    integer((vendor << 16 | product).swap_bytes())
}

/// `ResourceTemplate () { resources }`: a buffer that ends with an end tag.
pub(super) fn resource_template(resources: &[Vec<u8>]) -> Vec<u8> {
    // The checksum behind the end tag is not looked at where it is zero (6.4.2.9).
    let bytes = [resources.concat(), vec![0x79, 0]].concat();
    let length = integer(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    package(&[0x11], &[length, bytes].concat())
}

/// `Memory32Fixed (ReadWrite, base, length)`.
pub(super) fn memory(base: u32, length: u32) -> Vec<u8> {
    [&[0x86, 9, 0, 1][..], &base.to_le_bytes(), &length.to_le_bytes()].concat()
}

/// `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { line }`.
pub(super) fn edge_interrupt(line: u32) -> Vec<u8> {
    const CONSUMER: u8 = 1 << 0;
    const EDGE: u8 = 1 << 1;
    [&[0x89, 6, 0, CONSUMER | EDGE, 1][..], &line.to_le_bytes()].concat()
}

/// `IO (Decode16, first, first, 1, count)`.
pub(super) fn ports(first: u16, count: u8) -> Vec<u8> {
    let [low, high] = first.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, count]
}

/// An operation, the length of what follows (with that of itself), and what follows (20.2.4).
fn package(operation: &[u8], contents: &[u8]) -> Vec<u8> {
    let length = if contents.len() + 1 < 0x40 {
        vec![byte(contents.len() + 1)]
    } else {
        // The first byte tells how many more there are, and has the lowest four bits.
        let more = if contents.len() + 2 < 0x1000 { 1 } else { 2 };
        let total = contents.len() + 1 + more;
        let rest = (0..more).map(|index| byte(total >> (4 + 8 * index) & 0xff));
        std::iter::once(byte(more << 6 | total & 0xf)).chain(rest).collect()
    };
    [operation, &length, contents].concat()
}

fn byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_package_counts_itself() {
        let lengths = |contents: usize| package(&[], &vec![0xff; contents]);
        assert_eq!(lengths(62)[..1], [0x3f]);
        // 63 bytes and two of length: 65 is 0x41.
        assert_eq!(lengths(63)[..2], [0x41, 0x04]);
        assert_eq!(lengths(0xffd)[..2], [0x4f, 0xff]);
        // 0xffe bytes and three of length: 0x1001.
        assert_eq!(lengths(0xffe)[..3], [0x81, 0x00, 0x01]);
    }

    #[test]
    fn numbers_take_the_shortest_form() {
        assert_eq!(integer(0), [0]);
        assert_eq!(integer(1), [1]);
        assert_eq!(integer(2), [0x0a, 2]);
        assert_eq!(integer(0x1234), [0x0b, 0x34, 0x12]);
        assert_eq!(integer(0x1234_5678), [0x0c, 0x78, 0x56, 0x34, 0x12]);
    }

    #[test]
    fn an_eisa_id_is_packed_as_the_specification_shows() {
        assert_eq!(eisa_id(b"PNP0501"), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
        assert_eq!(eisa_id(b"PNP0C0F"), [0x0c, 0x41, 0xd0, 0x0c, 0x0f]);
    }
}
