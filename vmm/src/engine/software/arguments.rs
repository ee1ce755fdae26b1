//! QEMU's arguments for a machine: a pure function of what the machine is and what the host offers.

use crate::arch::Arch;
use crate::machine::MemorySize;
use crate::virtio::DeviceType;

use super::plan::FIRST_DESCRIPTOR;

/// QEMU's board, and what the kernel must be told to boot quickly on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Board {
    /// x86_64 with next to nothing on it. The kernel is told the rate of its counter, since there is no timer chip to
    /// measure it by.
    Microvm {
        /// The counter's rate.
        kilohertz: u64,
        /// The kernel's tick rate, where it is known: spares each further processor a measurement.
        tick_rate: Option<u32>,
        /// QEMU has qboot, which does no more than starting a kernel, and has done so when SeaBIOS begins to look around.
        has_qboot: bool,
    },
    /// A PC, for hosts whose counter is no clock.
    Q35,
    /// The arm64 board.
    Virt,
}

impl Board {
    /// QEMU's name for it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Microvm { .. } => "microvm",
            Self::Q35 => "q35",
            Self::Virt => "virt",
        }
    }

    /// The most devices that it has places for: its virtio-mmio transports, or free slots of its PCI bus.
    pub(super) fn max_devices(&self) -> usize {
        match self {
            Self::Microvm { .. } => 24 - FIRST_MICROVM_TRANSPORT,
            Self::Q35 => 28,
            Self::Virt => 32,
        }
    }

    /// The firmware files that QEMU looks for with it.
    pub(super) fn firmware(&self) -> &'static [&'static str] {
        match self {
            Self::Microvm { has_qboot: true, .. } => &[QBOOT],
            Self::Microvm { .. } => &["bios-microvm.bin", "pvh.bin", "linuxboot_dma.bin"],
            Self::Q35 => &["bios-256k.bin", "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin"],
            Self::Virt => &[],
        }
    }
}

/// The file of the firmware that is quicker than QEMU's own choice for the microvm.
pub(super) const QBOOT: &str = "qboot.rom";

/// The microvm board's first transport hangs on the first pin of the second IOAPIC, and QEMU's IOAPIC takes a first pin
/// for that of the timer and raises the third instead: what is plugged in there never interrupts.
const FIRST_MICROVM_TRANSPORT: usize = 1;

/// One device, as far as QEMU needs to know it: the rest it asks over vhost-user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceShape {
    /// What it is.
    pub kind: DeviceType,
    /// The largest size of each of its queues.
    pub queue_sizes: Vec<u16>,
}

/// What the arguments are made from.
#[derive(Clone, Debug)]
pub(super) struct MachineShape<'a> {
    /// The guest's architecture.
    pub arch: Arch,
    /// The board.
    pub board: Board,
    /// The number of processors.
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// The guest may run virtual machines itself.
    pub nested: bool,
    /// The kernel's command line, without what the board adds.
    pub command_line: &'a str,
    /// The devices, in the guest's order.
    pub devices: Vec<DeviceShape>,
    /// QEMU has a filter of its own.
    pub own_filter: bool,
}

/// The descriptor of QEMU's control connection; its console's follows, then its devices' in their order.
pub(super) const CONTROL_DESCRIPTOR: i32 = FIRST_DESCRIPTOR;
const CONSOLE_DESCRIPTOR: i32 = FIRST_DESCRIPTOR + 1;
const FIRST_DEVICE_DESCRIPTOR: i32 = FIRST_DESCRIPTOR + 2;

/// All arguments but those that name files.
pub(super) fn arguments(machine: &MachineShape<'_>) -> Vec<String> {
    let mut arguments = Arguments::default();
    // Nothing that we do not name: no default devices, no configuration files, no window, no second console.
    arguments.flags(&["-nodefaults", "-no-user-config"]);
    arguments.option("-display", "none");
    // A reset ends QEMU and says so: a new start makes a new machine.
    arguments.option("-action", "reboot=shutdown,shutdown=poweroff");
    if machine.own_filter {
        let filter = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        arguments.option("-sandbox", filter);
    }
    arguments.option("-machine", &board_option(&machine.board, machine.nested));
    if matches!(machine.board, Board::Microvm { has_qboot: true, .. }) {
        arguments.option("-bios", QBOOT);
    }
    arguments.option("-accel", "tcg,thread=multi");
    arguments.option("-cpu", processor(machine.arch, machine.nested));
    arguments.option("-smp", &processors(machine.cpus));
    let bytes = machine.memory.bytes();
    arguments.option("-m", &format!("{}M", bytes >> 20));
    let memory = format!("memory-backend-memfd,id=memory,size={bytes},share=on,seal=on");
    arguments.option("-object", &memory);
    arguments.socket("control", CONTROL_DESCRIPTOR);
    arguments.option("-mon", "chardev=control,mode=control");
    arguments.socket("console", CONSOLE_DESCRIPTOR);
    arguments.option("-serial", "chardev:console");
    if machine.board != Board::Q35 {
        arguments.option("-global", "virtio-mmio.force-legacy=false");
    }
    for (index, device) in machine.devices.iter().enumerate() {
        let id = format!("device{index}");
        let descriptor = i32::try_from(index).unwrap_or(i32::MAX).saturating_add(FIRST_DEVICE_DESCRIPTOR);
        arguments.socket(&id, descriptor);
        arguments.option("-device", &device_option(machine, index, device, &id));
    }
    arguments.option("-append", &command_line(machine));
    arguments.list
}

fn board_option(board: &Board, nested: bool) -> String {
    let options = match board {
        // With the PIC on, its first unprogrammed tick is a divide error before there is a console; without the
        // clock chip the kernel waits more than a second for it. The option ROM, which QEMU would look for, has SeaBIOS
        // start a kernel; qboot does that itself.
        Board::Microvm { has_qboot: true, .. } => "pit=off,pic=off,rtc=on,x-option-roms=off",
        Board::Microvm { .. } => "pit=off,pic=off,rtc=on",
        Board::Q35 => "usb=off,vmport=off,smbus=off,sata=off",
        // The kernel then begins in EL2, where a hypervisor belongs.
        Board::Virt if nested => "gic-version=3,virtualization=on",
        Board::Virt => "gic-version=3",
    };
    format!("{},{options},memory-backend=memory", board.name())
}

/// QEMU (10.0) leaves out the barriers of a machine that can have but one processor, and its atomic operations are none
/// then: what the guest's drivers write and read of a queue, and what our devices do, no longer have an order, and a
/// notification is lost now and then. So there is room for a second processor, which never comes.
fn processors(count: u8) -> String {
    let room = count.max(2);
    // One package, so that the kernel takes the first processor's figures for all of them.
    format!("cpus={count},maxcpus={room},sockets=1,cores={room},threads=1")
}

fn processor(arch: Arch, nested: bool) -> &'static str {
    match arch {
        // Where a processor says that it moves strings of bytes fast, kernels copy and clear memory that way; QEMU does
        // each byte by itself. AMD's virtualization is part of "max".
        Arch::X86_64 if nested => "max,erms=off,fsrm=off,fsrs=off",
        Arch::X86_64 => "max,erms=off,fsrm=off,fsrs=off,svm=off",
        // "max" computes pointer authentication in software at every call and return: six times slower to boot.
        Arch::Arm64 => "neoverse-n1",
    }
}

fn device_option(machine: &MachineShape<'_>, index: usize, device: &DeviceShape, id: &str) -> String {
    let board = &machine.board;
    let bus = if *board == Board::Q35 { "-pci" } else { "" };
    let name = match device.kind {
        DeviceType::Block => format!("vhost-user-blk{bus}"),
        DeviceType::Entropy => format!("vhost-user-rng{bus}"),
        DeviceType::Vsock if bus.is_empty() => "vhost-user-vsock-device".to_owned(),
        DeviceType::Vsock => "vhost-user-vsock-pci".to_owned(),
        // QEMU has none yet: such a machine is refused before.
        kind @ (DeviceType::Balloon | DeviceType::Console) => format!("vhost-user-{}{bus}", kind.name()),
    };
    // The kernel finds the devices, and so names the disks, in the order of the tables that QEMU describes them by:
    // microvm's begin with the last transport.
    let place = match board {
        Board::Q35 => format!("addr={:#x}", index + 2),
        Board::Microvm { .. } => {
            let last = FIRST_MICROVM_TRANSPORT + machine.devices.len() - 1;
            format!("bus=virtio-mmio-bus.{}", last - index)
        }
        Board::Virt => format!("bus=virtio-mmio-bus.{index}"),
    };
    let queues = match device.kind {
        DeviceType::Block => {
            let size = device.queue_sizes.iter().copied().min().unwrap_or(128);
            format!(",num-queues={},queue-size={size}", device.queue_sizes.len())
        }
        _ => String::new(),
    };
    format!("{name},chardev={id},{place}{queues}")
}

/// The board's parameters first: the machine's own come after and prevail.
fn command_line(machine: &MachineShape<'_>) -> String {
    let mut parameters = Vec::new();
    if let Board::Microvm { kilohertz, tick_rate, .. } = &machine.board {
        parameters.push(format!("tsc_early_khz={kilohertz} tsc=reliable no_timer_check"));
        if let Some(rate) = tick_rate.filter(|&rate| rate > 0) {
            parameters.push(format!("lpj={}", kilohertz * 1000 / u64::from(rate)));
        }
    }
    if !machine.command_line.is_empty() {
        parameters.push(machine.command_line.to_owned());
    }
    parameters.join(" ")
}

#[derive(Default)]
struct Arguments {
    list: Vec<String>,
}

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.list.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    fn option(&mut self, name: &str, value: &str) {
        self.flags(&[name, value]);
    }

    fn socket(&mut self, id: &str, descriptor: i32) {
        self.option("-chardev", &format!("socket,id={id},fd={descriptor}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(board: Board) -> MachineShape<'static> {
        MachineShape {
            arch: if board == Board::Virt { Arch::Arm64 } else { Arch::X86_64 },
            board,
            cpus: 2,
            memory: MemorySize::mebibytes(512).unwrap(),
            nested: false,
            command_line: "quiet",
            devices: vec![
                DeviceShape { kind: DeviceType::Block, queue_sizes: vec![256, 256] },
                DeviceShape { kind: DeviceType::Vsock, queue_sizes: vec![128; 3] },
                DeviceShape { kind: DeviceType::Entropy, queue_sizes: vec![64] },
            ],
            own_filter: true,
        }
    }

    fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn the_microvm_is_started_as_it_was_measured() {
        let board = Board::Microvm { kilohertz: 2_596_096, tick_rate: Some(1000), has_qboot: true };
        let expected = "-nodefaults -no-user-config -display none \
            -action reboot=shutdown,shutdown=poweroff \
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
            -machine microvm,pit=off,pic=off,rtc=on,x-option-roms=off,memory-backend=memory -bios qboot.rom -accel tcg,thread=multi \
            -cpu max,erms=off,fsrm=off,fsrs=off,svm=off -smp cpus=2,maxcpus=2,sockets=1,cores=2,threads=1 -m 512M \
            -object memory-backend-memfd,id=memory,size=536870912,share=on,seal=on \
            -chardev socket,id=control,fd=100 -mon chardev=control,mode=control \
            -chardev socket,id=console,fd=101 -serial chardev:console \
            -global virtio-mmio.force-legacy=false \
            -chardev socket,id=device0,fd=102 \
            -device vhost-user-blk,chardev=device0,bus=virtio-mmio-bus.3,num-queues=2,queue-size=256 \
            -chardev socket,id=device1,fd=103 \
            -device vhost-user-vsock-device,chardev=device1,bus=virtio-mmio-bus.2 \
            -chardev socket,id=device2,fd=104 \
            -device vhost-user-rng,chardev=device2,bus=virtio-mmio-bus.1 -append ";
        let parameters = "tsc_early_khz=2596096 tsc=reliable no_timer_check lpj=2596096 quiet";
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        expected.push(parameters);
        assert_eq!(arguments(&machine(board)), expected);
    }

    #[test]
    fn a_pc_has_its_devices_on_the_pci_bus_and_measures_its_clock_itself() {
        let arguments = arguments(&machine(Board::Q35));
        assert_eq!(
            values(&arguments, "-device"),
            [
                "vhost-user-blk-pci,chardev=device0,addr=0x2,num-queues=2,queue-size=256",
                "vhost-user-vsock-pci,chardev=device1,addr=0x3",
                "vhost-user-rng-pci,chardev=device2,addr=0x4",
            ]
        );
        assert_eq!(values(&arguments, "-append"), ["quiet"]);
        assert!(values(&arguments, "-global").is_empty());
    }

    #[test]
    fn an_arm64_guest_gets_its_own_board() {
        let arguments = arguments(&machine(Board::Virt));
        assert_eq!(values(&arguments, "-machine"), ["virt,gic-version=3,memory-backend=memory"]);
        assert_eq!(values(&arguments, "-append"), ["quiet"]);
    }

    #[test]
    fn only_a_guest_that_may_nest_has_a_processor_for_it() {
        for board in [Board::Microvm { kilohertz: 2_000_000, tick_rate: None, has_qboot: false }, Board::Q35]
        {
            let plain = machine(board);
            let nested = MachineShape { nested: true, ..plain.clone() };
            assert_eq!(values(&arguments(&plain), "-cpu"), ["max,erms=off,fsrm=off,fsrs=off,svm=off"]);
            assert_eq!(values(&arguments(&nested), "-cpu"), ["max,erms=off,fsrm=off,fsrs=off"]);
        }
        let nested = MachineShape { nested: true, ..machine(Board::Virt) };
        let arguments = arguments(&nested);
        assert_eq!(
            values(&arguments, "-machine"),
            ["virt,gic-version=3,virtualization=on,memory-backend=memory"]
        );
    }

    #[test]
    fn a_machine_of_one_processor_has_room_for_a_second() {
        let one = MachineShape { cpus: 1, ..machine(Board::Q35) };
        let expected = "cpus=1,maxcpus=2,sockets=1,cores=2,threads=1";
        assert_eq!(values(&arguments(&one), "-smp"), [expected]);
    }

    #[test]
    fn a_kernel_whose_tick_rate_is_unknown_measures_it() {
        let board = Board::Microvm { kilohertz: 2_000_000, tick_rate: None, has_qboot: false };
        assert!(!values(&arguments(&machine(board)), "-append")[0].contains("lpj"));
    }

    #[test]
    fn a_qemu_without_a_filter_is_not_asked_for_it() {
        let shape = MachineShape { own_filter: false, ..machine(Board::Q35) };
        assert!(values(&arguments(&shape), "-sandbox").is_empty());
    }

    #[test]
    fn what_the_machine_says_prevails_over_what_the_board_says() {
        let board = Board::Microvm { kilohertz: 2_000_000, tick_rate: None, has_qboot: false };
        let shape = MachineShape { command_line: "tsc=unstable", ..machine(board) };
        assert!(values(&arguments(&shape), "-append")[0].ends_with("no_timer_check tsc=unstable"));
    }

    #[test]
    fn no_argument_names_a_file_of_the_host() {
        for board in [
            Board::Microvm { kilohertz: 1_000_000, tick_rate: None, has_qboot: false },
            Board::Q35,
            Board::Virt,
        ] {
            assert!(arguments(&machine(board)).iter().all(|argument| !argument.contains('/')));
        }
    }
}
