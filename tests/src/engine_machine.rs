//! Machines for the tests of an engine alone: a real kernel, a few instructions as its `/init`, no disk.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use vmm::arch::Arch;
use vmm::boot::{CommandLine, Initramfs};
use vmm::engine::software::SoftwareEngine;
use vmm::engine::{Engine, EngineChoice, EngineOptions, select};
use vmm::image::ImageStore;
use vmm::machine::{Machine, MemorySize};

/// What the machine's `/init` says before it does what it is for.
pub const GREETING: &str = "the guest is here\n";

/// What `/init` asks of the kernel (reboot(2)).
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Nothing: it sleeps.
    Sleeps,
    /// The power off.
    PowersOff,
    /// A restart.
    Restarts,
}

/// The kernel of the pulled image. `None`: no image was pulled.
pub fn kernel() -> Option<PathBuf> {
    let home = crate::images::cache();
    let store = home.is_dir().then(|| ImageStore::open(&home).ok()).flatten()?;
    let image = "alpine".parse().expect("a good name");
    Some(store.find(&image, Arch::X86_64).ok()?.kernel())
}

/// Whether the software engine can be tried here; otherwise, why not.
pub fn missing() -> Option<String> {
    let options = EngineOptions::new("");
    SoftwareEngine::find(Arch::X86_64, &options).err().map(|error| error.to_string())
}

/// The software engine with a stand-in as its supervisor and perhaps as its QEMU.
pub fn engine(supervisor: &Path, qemu: Option<&Path>) -> Box<dyn Engine> {
    let options = EngineOptions { qemu: qemu.map(Path::to_owned), ..EngineOptions::new(supervisor) };
    select(EngineChoice::Auto, false, Arch::X86_64, &options).expect("the engine is found")
}

/// A machine that greets and sleeps, with our end of its console.
pub fn machine(kernel: &Path, cpus: u8) -> (Machine, UnixStream) {
    machine_with(kernel, cpus, Init::Sleeps, "")
}

/// A machine, with our end of its console.
pub fn machine_with(kernel: &Path, cpus: u8, init: Init, parameters: &str) -> (Machine, UnixStream) {
    let mut initramfs = tempfile::tempfile().expect("a file");
    Initramfs::new(&init_program(init)).write(&mut initramfs).expect("the initramfs is written");
    initramfs.rewind().expect("a file can be rewound");
    let mut command_line = CommandLine::new(Arch::X86_64);
    command_line.append(parameters).expect("good parameters");
    let (ours, console) = UnixStream::pair().expect("a pair of sockets");
    let machine = Machine {
        arch: Arch::X86_64,
        cpus,
        memory: MemorySize::mebibytes(128).expect("enough memory"),
        nested: false,
        huge_pages: false,
        kernel: File::open(kernel).expect("the kernel opens"),
        initramfs,
        command_line: command_line.to_string(),
        devices: Vec::new(),
        balloon: None,
        console: console.into(),
        types_on_serial: false,
    };
    (machine, ours)
}

/// Reads a console until a text has come, or to its end. Gives all that was read.
pub fn read_until(console: &mut UnixStream, text: &str) -> String {
    console.set_read_timeout(Some(std::time::Duration::from_secs(120))).expect("a timeout can be set");
    let mut read = Vec::new();
    let mut bytes = [0u8; 4096];
    while !String::from_utf8_lossy(&read).replace('\r', "").contains(text) {
        match console.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => read.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}; the console said:\n{}", String::from_utf8_lossy(&read)),
        }
    }
    String::from_utf8_lossy(&read).replace('\r', "")
}

/// A static x86_64 program: writes the greeting, calls reboot(2), and sleeps if it lives on.
fn init_program(init: Init) -> Vec<u8> {
    // reboot(2): RB_DISABLE_CAD, RB_POWER_OFF, RB_AUTOBOOT. The first changes nothing here.
    let command: u32 = match init {
        Init::Sleeps => 0,
        Init::PowersOff => 0x4321_fedc,
        Init::Restarts => 0x0123_4567,
    };
    let length = u32::try_from(GREETING.len()).expect("it is short");
    let mut code = Vec::new();
    code.extend_from_slice(&[0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0]); // mov eax, SYS_write; mov edi, stdout
    code.extend_from_slice(&[0x48, 0x8d, 0x35]); // lea rsi, [rip + greeting]
    let greeting = code.len();
    code.extend_from_slice(&[0; 4]);
    code.push(0xba); // mov edx, length
    code.extend_from_slice(&length.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05]); // syscall
    code.extend_from_slice(&[0xb8, 169, 0, 0, 0]); // mov eax, SYS_reboot
    code.extend_from_slice(&[0xbf, 0xad, 0xde, 0xe1, 0xfe]); // mov edi, LINUX_REBOOT_MAGIC1
    code.extend_from_slice(&[0xbe, 0x69, 0x19, 0x12, 0x28]); // mov esi, LINUX_REBOOT_MAGIC2
    code.push(0xba); // mov edx, command
    code.extend_from_slice(&command.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05]); // syscall
    code.extend_from_slice(&[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]); // pause(2), again and again
    let distance = i32::try_from(code.len() - (greeting + 4)).expect("it is short");
    code[greeting..greeting + 4].copy_from_slice(&distance.to_le_bytes());
    code.extend_from_slice(GREETING.as_bytes());

    let base = 0x40_0000u64;
    let headers = 64 + 56;
    let size = headers + code.len() as u64;
    let mut program = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    program.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86_64
    for word in [base + headers, 64, 0] {
        program.extend_from_slice(&word.to_le_bytes()); // entry, program headers, no sections
    }
    program.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    program.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]); // one segment, readable and executable
    for word in [0, base, base, size, size, 0x1000] {
        program.extend_from_slice(&word.to_le_bytes());
    }
    program.extend_from_slice(&code);
    program
}
