//! The guest: one processor that QEMU's TCG emulates, with both disks.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Pair;
use super::debian::{LABEL, PROGRAM, System};

/// The slots of the two disks.
const SLOTS: [&str; 2] = ["03", "04"];

const MEMORY: &str = "512M";

/// Of the huge pages, for the buffers of a job: 8 MiB at most.
const HUGE_PAGES: u32 = 16;

/// A guest that waits for jobs. Dropping it ends it.
pub(crate) struct Guest {
    process: Child,
    to_guest: ChildStdin,
    from_guest: BufReader<ChildStdout>,
    /// In which slot each of the disks is.
    slots: [&'static str; 2],
}

impl Guest {
    /// Boots a guest. The disk of `first` (0 or 1) is in the slot before the other's.
    pub(crate) fn boot(
        system: &System,
        disks: &Pair,
        first: usize,
        console: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let slots = if first == 0 { SLOTS } else { [SLOTS[1], SLOTS[0]] };
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35,usb=off,vmport=off,smbus=off,sata=off,memory-backend=memory"]);
        // Where there can never be a second processor, TCG makes plain accesses of the guest's atomic ones. They order nothing
        // then, and the device and the driver of a disk that another process serves miss each other's notifications.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,svm=off", "-smp", "1,maxcpus=2", "-m", MEMORY]);
        // All of it is there from the beginning: whose request comes upon a page first is not to pay for it.
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY},share=on,seal=on,prealloc=on");
        qemu.args(["-object", &memory]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.arg("-kernel").arg(&system.kernel).arg("-initrd").arg(&system.initramfs);
        let root = format!("root=LABEL={LABEL} ro init={PROGRAM}");
        qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1 hugepages={HUGE_PAGES} {root}")]);
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        let root = system.disk.display();
        qemu.args(["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={root}")]);
        qemu.args(["-device", "virtio-blk-pci,drive=root,addr=02"]);
        for (at, (disk, slot)) in disks.iter().zip(slots).enumerate() {
            qemu.args(["-chardev", &format!("socket,id=disk{at},path={}", disk.socket.display())]);
            let device =
                format!("vhost-user-blk-pci,chardev=disk{at},addr={slot},num-queues=1,queue-size=256");
            qemu.args(["-device", &device]);
        }
        let mut process = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to_guest = process.stdin.take().ok_or("QEMU has no input")?;
        let from_guest = BufReader::new(process.stdout.take().ok_or("QEMU has no output")?);
        let mut guest = Self { process, to_guest, from_guest, slots };
        guest.read_until("READY").map_err(|error| {
            let mut said = String::new();
            let _as_far_as_it_goes = File::open(console).and_then(|mut file| file.read_to_string(&mut said));
            format!("the guest did not boot: {error}\n{said}")
        })?;
        Ok(guest)
    }

    /// Has `fio` run on one of the disks; says what it reports.
    pub(crate) fn run_fio(&mut self, disk: usize, arguments: &str) -> Result<String, Box<dyn Error>> {
        writeln!(self.to_guest, "{} {arguments}", self.slots[disk])?;
        self.to_guest.flush()?;
        let said = self.read_until("END")?;
        let report = said.strip_prefix("STATUS 0\n");
        report.map(str::to_owned).ok_or_else(|| format!("fio failed: {said}").into())
    }

    /// All lines up to this one.
    fn read_until(&mut self, end: &str) -> Result<String, Box<dyn Error>> {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if self.from_guest.read_line(&mut line)? == 0 {
                return Err(format!("the guest ended: {said}").into());
            }
            if line.trim_end() == end {
                return Ok(said);
            }
            said.push_str(line.trim_end());
            said.push('\n');
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ended_or_not = self.process.kill();
        let _whatever_it_was = self.process.wait();
    }
}
