//! A guest of a few instructions in a kernel's place, which uses a virtio device as a driver does, says so on its serial
//! port, and ends. It is there in a moment, so that a test can have hundreds.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use vmm::arch::Arch;
use vmm::arch::x86_64::{
    KERNEL_START, MAPPED, POWER_CONTROL_PORT, POWER_OFF, RESET, RESET_PORT, SERIAL_PORT, device_windows,
};
use vmm::machine::{Machine, MemorySize};
use vmm::virtio::balloon::Balloon;
use vmm::virtio::entropy::Entropy;

/// What the guest says when the device has answered it.
pub const SAID: u8 = b'!';

/// What it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes round and round.
    Spins,
    /// It waits for an interrupt that never comes.
    Halts,
    /// It powers itself off.
    PowersOff,
    /// It resets itself.
    Resets,
}

/// A machine with this guest, a source of entropy, which it uses, and a balloon, which it does not; and our end of its
/// console.
pub fn machine(cpus: u8, then: Then) -> io::Result<(Machine, UnixStream)> {
    let (ours, console) = UnixStream::pair()?;
    let balloon = Balloon::new();
    let control = balloon.control();
    let machine = Machine {
        arch: Arch::X86_64,
        cpus,
        memory: MemorySize::mebibytes(128).map_err(io::Error::other)?,
        nested: false,
        huge_pages: false,
        kernel: kernel(&code(then)?)?,
        initramfs: tempfile::tempfile()?,
        command_line: String::new(),
        devices: vec![Box::new(Entropy::new()), Box::new(balloon)],
        balloon: Some(control),
        console: console.into(),
        types_on_serial: false,
    };
    Ok((machine, ours))
}

/// An ELF file with these instructions as its only segment (System V ABI, chapters 4 and 5).
fn kernel(code: &[u8]) -> io::Result<File> {
    let offset = 64 + 56u64;
    let entry = KERNEL_START + offset;
    let size = offset + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86_64
    elf.extend([entry, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, no sections
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]); // one segment
    elf.extend([0, KERNEL_START, KERNEL_START, size, size, 0x1000].map(u64::to_le_bytes).concat());
    elf.extend(code);
    let mut file = tempfile::tempfile()?;
    file.write_all(&elf)?;
    Ok(file)
}

/// A page of the guest's, behind its code, for each part of the queue and for the buffer.
const DESCRIPTORS: u32 = 0x20_0000;
const AVAILABLE: u32 = 0x20_1000;
const USED: u32 = 0x20_2000;
const BUFFER: u32 = 0x20_3000;

/// The largest page that the tables have.
const LARGE_PAGE: u64 = 2 << 20;

fn code(then: Then) -> io::Result<Vec<u8>> {
    let windows = device_windows(2).map_err(io::Error::other)?;
    let window = windows.first().ok_or_else(|| io::Error::other("no window"))?.address;
    let page = window & !(LARGE_PAGE - 1);
    // What is mapped to itself ends far behind the memory: the last page there becomes the devices'.
    let shown_at = low(MAPPED - LARGE_PAGE + (window - page));
    let mut code = Vec::new();
    map_last_page(&mut code, low(page));
    use_entropy(&mut code, shown_at);
    out(&mut code, SERIAL_PORT, SAID);
    match then {
        Then::PowersOff => out(&mut code, POWER_CONTROL_PORT, POWER_OFF),
        Then::Resets => out(&mut code, RESET_PORT, RESET),
        Then::Halts => code.extend([0xfa, 0xf4]), // cli; hlt
        Then::Spins => {}
    }
    code.extend([0xeb, 0xfe]); // jmp to itself
    Ok(code)
}

/// All that this guest knows lies below 4 GiB.
fn low(address: u64) -> u32 {
    u32::try_from(address).expect("an address below 4 GiB")
}

/// Follows the first entries of the tables down to that of large pages, and writes the last one there.
fn map_last_page(code: &mut Vec<u8>, address: u32) {
    const PRESENT_WRITABLE_LARGE: u32 = 0x83;
    code.extend([0x0f, 0x20, 0xd8]); // mov rax, cr3
    for _ in 0..2 {
        code.extend([0x48, 0x8b, 0x00]); // mov rax, [rax]
        code.extend([0x48, 0x25, 0x00, 0xf0, 0xff, 0xff]); // and rax, -0x1000
    }
    code.extend([0xc7, 0x80, 0xf8, 0x0f, 0x00, 0x00]); // mov dword [rax + 511 * 8], the page
    code.extend((address | PRESENT_WRITABLE_LARGE).to_le_bytes());
    code.extend([0xc7, 0x80, 0xfc, 0x0f, 0x00, 0x00, 0, 0, 0, 0]); // and the upper half of the entry
}

/// Sets the device up (virtio 1.2, 3.1 and 4.2.3), asks it for 8 bytes, and waits until they are there.
fn use_entropy(code: &mut Vec<u8>, device: u32) {
    // Acknowledged, driver, features are chosen: version 1 only.
    let features = [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)];
    // The first queue, of 8, where its parts lie, and that it is ready; the driver is, too.
    let queue = [
        (0x30, 0),
        (0x38, 8),
        (0x80, DESCRIPTORS),
        (0x84, 0),
        (0x90, AVAILABLE),
        (0x94, 0),
        (0xa0, USED),
        (0xa4, 0),
        (0x44, 1),
        (0x70, 15),
    ];
    for (register, value) in features.into_iter().chain(queue) {
        store(code, device + register, value);
    }
    // A buffer of 8 bytes, to be written; it is the first that is available.
    let request = [(DESCRIPTORS, BUFFER), (DESCRIPTORS + 8, 8), (DESCRIPTORS + 12, 2), (AVAILABLE, 1 << 16)];
    for (address, value) in request {
        store(code, address, value);
    }
    store(code, device + 0x50, 0); // the notification
    code.extend([0x66, 0x83, 0x3c, 0x25]); // cmp word [the used ring's index], 0
    code.extend((USED + 2).to_le_bytes());
    code.extend([0, 0x74, 0xf5]); // je back to that
}

/// `mov dword [address], value`
fn store(code: &mut Vec<u8>, address: u32, value: u32) {
    code.extend([0xc7, 0x04, 0x25]);
    code.extend(address.to_le_bytes());
    code.extend(value.to_le_bytes());
}

/// `mov dx, port; mov al, value; out dx, al`
fn out(code: &mut Vec<u8>, port: u16, value: u8) {
    code.extend([0x66, 0xba]);
    code.extend(port.to_le_bytes());
    code.extend([0xb0, value, 0xee]);
}
