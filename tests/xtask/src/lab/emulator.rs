//! The laboratory's machine: QEMU, which emulates a processor with AMD's virtualization. It dies with us.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::qmp::Monitor;
use crate::failure::{Failure, Outcome};

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// The laboratory's memory: for the machines in it, the images and their disks.
const MEMORY: &str = "3072M";

/// The kernel's parameters.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t";

/// Two processors that work, and the first, on which no program may run: it has the kernel's own work.
///
/// QEMU counts a pin that only the first processor has (IGNNE#) to what a processor knows of its virtualization, and
/// lowers it, from whichever thread and without a lock, whenever any processor restores its floating-point registers.
/// What the first one's thread writes there meanwhile is lost: that it has left a guest, or that interrupts are off. A
/// guest on it is torn, some time. Seen in QEMU 10.0: `cpu_clear_ignne`, and `hflags2`.
///
/// Without the features that are left out, kernels copy and clear memory in words. With them it is in strings of bytes,
/// which QEMU carries out one by one: a quarter of a boot's time.
const PROCESSORS: &[&str] =
    &["-cpu", "max,erms=off,fsrm=off,fsrs=off", "-accel", "tcg,thread=multi,tb-size=512", "-smp", "3"];

/// Those that work have no tick of their own while they have one thing to do: each of a thousand in a second would
/// leave the guest that runs there, and what is emulated starts with all caches empty then. A third of a boot's exits
/// were that, and a fifth of its time.
const TWO_WORK: &str = "isolcpus=0 nohz_full=1,2";

/// In nanoseconds. A thousand ticks of the first processor in a second, and those of the guests inside, wake QEMU two times
/// each, and take guests out: a fifth of the time was that. A kernel whose tick is late counts it as several.
const TIMER_SLACK: &str = "4000000";

/// One processor that never waits for the host's time. With more of QEMU's threads, the order of what happens is another
/// one each time. It has every feature: figures of other days are compared with what is measured on it.
const INSTRUCTION_CLOCK: &[&str] = &[
    "-cpu",
    "max",
    "-accel",
    "tcg,thread=single,tb-size=512",
    "-smp",
    "1",
    "-icount",
    "shift=0,sleep=off",
    "-rtc",
    "base=2026-01-01,clock=vm",
];

/// How long an answer of QEMU's monitor may take, and saving the machine.
const MONITOR_LIMIT: Duration = Duration::from_secs(120);

/// The files of a frozen laboratory, in its folder.
const MEMORY_FILE: &str = "memory";
pub(super) const STATE_FILE: &str = "state";

/// What every laboratory is made of.
pub(super) struct Parts {
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// The disk with the root file system.
    pub(super) root: PathBuf,
    /// The disk with the programs under test.
    pub(super) programs: PathBuf,
}

/// How it starts.
pub(super) enum Start<'a> {
    /// As any machine does, with its memory in a folder, to be frozen there.
    Boot { initramfs: &'a Path, folder: &'a Path },
    /// As any machine does, on the instruction clock: its time is the number of instructions that its one processor has
    /// carried out, a nanosecond each, whatever else this machine does. Files go to a folder.
    Measure { initramfs: &'a Path, folder: &'a Path },
    /// As it was frozen in this folder, which stays as it is: it writes to memory of its own.
    Thaw { folder: &'a Path },
}

/// A QEMU that runs. Dropping it ends it.
pub(super) struct Emulator {
    child: Child,
    /// Our end of the channel.
    pub(super) channel: UnixStream,
    /// Our end of QEMU's monitor.
    monitor: Option<UnixStream>,
    /// What QEMU and the laboratory's console say; nobody but us sees the file.
    log: File,
}

impl Emulator {
    pub(super) fn start(parts: &Parts, start: &Start<'_>) -> Outcome<Self> {
        Self::try_start(parts, start)
            .map_err(|error| Failure::new(format!("cannot start {PROGRAM}: {error}")))
    }

    fn try_start(parts: &Parts, start: &Start<'_>) -> io::Result<Self> {
        let (channel, far_channel) = UnixStream::pair()?;
        let (monitor, far_monitor) = UnixStream::pair()?;
        let log = nameless_log(start.folder())?;
        let mut command = Command::new(PROGRAM);
        command.args(arguments(parts, start)).current_dir(start.folder());
        // Sockets go as standard streams: no other descriptor survives the start, and no path needs a name.
        command.stdin(OwnedFd::from(far_channel));
        command.stdout(Stdio::from(OwnedFd::from(far_monitor)));
        command.stderr(log.try_clone()?);
        let child = vmm_sys::child::die_with_parent(&mut command).spawn()?;
        Ok(Self { child, channel, monitor: Some(monitor), log })
    }

    /// Has the processors' timers go off later by as much as [`TIMER_SLACK`], several at once. QEMU has asked for none when
    /// its monitor speaks.
    pub(super) fn let_timers_wait(&self) {
        // Without the right to it (`CAP_SYS_NICE`), all takes longer.
        let _ = std::fs::write(format!("/proc/{}/timerslack_ns", self.child.id()), TIMER_SLACK);
    }

    /// QEMU's monitor.
    pub(super) fn monitor(&mut self) -> Outcome<Monitor> {
        let taken = self.monitor.take().ok_or_else(|| Failure::new("QEMU's monitor is in use"))?;
        Monitor::new(taken, MONITOR_LIMIT)
    }

    /// What QEMU and the console said so far.
    pub(super) fn said(&self) -> String {
        let mut text = Vec::new();
        let read = self.log.try_clone().and_then(|mut log| {
            log.rewind()?;
            log.read_to_end(&mut text)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&text).replace('\r', ""),
            Err(error) => format!("(its log cannot be read: {error})"),
        }
    }

    /// Waits until it has ended by itself.
    pub(super) fn wait(&mut self) -> Outcome {
        let ended = self.child.wait().map_err(|error| error.to_string());
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("it ended with {status}")),
            Err(error) => Err(error),
        }
        .map_err(|reason| Failure::new(format!("{PROGRAM} did not end in order: {reason}")))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Start<'_> {
    fn folder(&self) -> &Path {
        let (Self::Boot { folder, .. } | Self::Measure { folder, .. } | Self::Thaw { folder }) = self;
        folder
    }
}

/// A file that nobody else sees. QEMU opens it a second time by its number, and two that write must not write over each
/// other.
fn nameless_log(folder: &Path) -> io::Result<File> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("log-{}-{number}", std::process::id()));
    let log = File::options().read(true).append(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(log)
}

/// The command line. Its paths are absolute but for those in the laboratory's folder, which is where QEMU starts.
pub(super) fn arguments(parts: &Parts, start: &Start<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-m", MEMORY]);
    add(match start {
        Start::Measure { .. } => INSTRUCTION_CLOCK,
        Start::Boot { .. } | Start::Thaw { .. } => PROCESSORS,
    });
    add(&["-M", "q35,usb=off,smbus=off,sata=off,vmport=off,memory-backend=memory"]);
    let file =
        |sharing| format!("memory-backend-file,id=memory,size={MEMORY},mem-path={MEMORY_FILE},{sharing}");
    let memory = match start {
        Start::Boot { .. } => file("share=on"),
        Start::Measure { .. } => format!("memory-backend-ram,id=memory,size={MEMORY}"),
        Start::Thaw { .. } => file("share=off,readonly=on,rom=off"),
    };
    add(&["-object", &memory]);
    add(&["-chardev", "file,id=console,path=/dev/fd/2,append=on", "-serial", "chardev:console"]);
    add(&["-device", "virtio-serial-pci,addr=2", "-chardev", "socket,id=channel,fd=0"]);
    add(&["-device", &format!("virtserialport,chardev=channel,name={}", laboratory::CHANNEL)]);
    add(&["-chardev", "socket,id=monitor,fd=1", "-mon", "chardev=monitor,mode=control"]);
    for (name, format, path, address) in
        [("root", "qcow2", &parts.root, 3), ("programs", "raw", &parts.programs, 4)]
    {
        let mut drive = OsString::from(format!("if=none,id={name},format={format},readonly=on,file="));
        drive.push(escaped(path));
        arguments.extend(["-drive".into(), drive]);
        let device = format!("virtio-blk-pci,drive={name},addr={address}");
        arguments.extend(["-device".into(), device.into()]);
    }
    arguments.extend(["-kernel".into(), parts.kernel.clone().into()]);
    let command_line = match start {
        Start::Measure { .. } => COMMAND_LINE.to_owned(),
        Start::Boot { .. } | Start::Thaw { .. } => format!("{COMMAND_LINE} {TWO_WORK}"),
    };
    arguments.extend(["-append".into(), command_line.into()]);
    match start {
        Start::Boot { initramfs, .. } | Start::Measure { initramfs, .. } => {
            arguments.extend(["-initrd".into(), initramfs.into()]);
        }
        Start::Thaw { .. } => arguments.extend(["-incoming".into(), "defer".into()]),
    }
    arguments
}

/// A path in a list of options, where a comma would end it.
fn escaped(path: &Path) -> OsString {
    match path.to_str() {
        Some(text) => text.replace(',', ",,").into(),
        None => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thawed_laboratory_never_writes_to_the_frozen_one() {
        let parts = Parts { kernel: "/k".into(), root: "/a,b".into(), programs: "/p".into() };
        let line = |start| {
            let words = arguments(&parts, &start).into_iter().map(|word| word.into_string().unwrap());
            words.collect::<Vec<_>>().join(" ")
        };
        let folder = Path::new("/frozen");
        let boot = line(Start::Boot { initramfs: Path::new("/i"), folder });
        assert!(boot.contains("mem-path=memory,share=on") && boot.contains("-initrd /i"), "{boot}");
        let thaw = line(Start::Thaw { folder });
        assert!(thaw.contains("mem-path=memory,share=off,readonly=on,rom=off"), "{thaw}");
        assert!(thaw.contains("-incoming defer") && thaw.contains("file=/a,,b "), "{thaw}");
        assert_eq!(thaw.matches("readonly=on").count(), 3, "{thaw}");
        let measure = line(Start::Measure { initramfs: Path::new("/i"), folder });
        assert!(
            measure.contains("thread=single") && measure.contains("-icount shift=0,sleep=off"),
            "{measure}"
        );
        assert!(!measure.contains("mem-path") && measure.contains("-initrd /i"), "{measure}");
    }
}
