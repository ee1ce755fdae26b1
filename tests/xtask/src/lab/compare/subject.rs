//! The monitors that are compared, and how each is told to boot the same.
//!
//! Those of others are told by their documentation: Firecracker `docs/getting-started.md` and `docs/api_requests`, Cloud
//! Hypervisor `docs/`, QEMU `docs/system/i386/microvm.rst`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use laboratory::IMAGES;
use serde_json::json;

use super::super::in_its_place;
use super::inside;
use crate::failure::{Failure, Outcome};

/// What the kernel is told by each: to say on the serial port only what is wrong, and to end by a reset.
const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=t panic=-1";

/// The guest's memory, in MiB.
const MEMORY: &str = "256";

/// Those that are compared beside ours.
#[derive(Clone, Copy, Default)]
pub(super) struct Peers<'a> {
    pub(super) firecracker: Option<&'a str>,
    pub(super) cloud_hypervisor: Option<&'a str>,
    pub(super) qemu: bool,
}

/// A monitor that is measured.
pub(super) struct Subject {
    pub(super) name: &'static str,
    measure: Measure,
}

enum Measure {
    /// A boot to the kernel's death, watched from outside.
    Bare(Vec<String>),
    /// A start of `vmm` until the agent has answered, by its own timings.
    Ready,
}

impl Subject {
    fn bare(name: &'static str, command: Vec<String>) -> Self {
        Self { name, measure: Measure::Bare(command) }
    }

    /// How long one of its runs may take, in this machine's time. Under the instruction clock a guest hangs now and then,
    /// early and under any monitor, and no timeout inside fires then.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(match self.measure {
            Measure::Bare(_) => 40,
            Measure::Ready => 120,
        })
    }

    /// What is executed in the laboratory for so many runs.
    pub(super) fn command(&self, runs: u32) -> Vec<String> {
        match &self.measure {
            Measure::Bare(command) => {
                let watch =
                    [inside("laboratory-watch"), runs.to_string(), MEMORY.to_owned(), "--".to_owned()];
                watch.into_iter().chain(command.iter().cloned()).collect()
            }
            Measure::Ready => {
                let script = format!(
                    "for run in $(seq {runs}); do \
                     vmm run --detach --name measured --engine kvm --cpus 1 --memory {MEMORY}M alpine >/dev/null; \
                     vmm ps --json | tr -d '\\n '; echo; \
                     vmm kill measured >/dev/null; vmm rm measured >/dev/null; done"
                );
                ["sh", "-e", "-c", &script].map(str::to_owned).to_vec()
            }
        }
    }
}

/// All subjects, ours first. `kernel` is where it lies in the laboratory.
pub(super) fn all(peers: &Peers<'_>, kernel: &Path) -> Vec<Subject> {
    debug_assert!(kernel.starts_with(IMAGES));
    let kernel = kernel.to_string_lossy().into_owned();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let bare_boot = inside("bare-boot");
    let memory = format!("{MEMORY}M");
    let mut subjects = vec![
        Subject::bare("vmm", words(&[&bare_boot, &kernel, "1", &memory, COMMAND_LINE])),
        Subject { name: "vmm, from the start of its command to ready", measure: Measure::Ready },
    ];
    if peers.firecracker.is_some() {
        // The kernel's path in the configuration is a link's: what is carried is made before it is known.
        let script = format!(
            "ln -sf {kernel} /tmp/kernel; exec {} --no-api --config-file {}",
            inside("firecracker"),
            inside("firecracker.json")
        );
        subjects.push(Subject::bare("Firecracker", words(&["/bin/sh", "-c", &script])));
    }
    if peers.cloud_hypervisor.is_some() {
        let mut command = vec![inside("cloud-hypervisor")];
        command.extend(words(&["--kernel", &kernel, "--cmdline", COMMAND_LINE, "--cpus", "boot=1"]));
        command.extend(words(&[
            "--memory",
            &format!("size={memory}"),
            "--serial",
            "tty",
            "--console",
            "off",
        ]));
        subjects.push(Subject::bare("Cloud Hypervisor", command));
    }
    if peers.qemu {
        let mut command = vec![inside("qemu-system-x86_64")];
        command.extend(words(&["-M", "microvm,pit=on,pic=on,rtc=on", "-accel", "kvm", "-cpu", "host"]));
        command.extend(words(&[
            "-smp",
            "1",
            "-m",
            MEMORY,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]));
        command.extend(words(&["-bios", "qboot.rom", "-serial", "stdio", "-no-reboot"]));
        command.extend(words(&["-kernel", &kernel, "-append", COMMAND_LINE]));
        subjects.push(Subject::bare("QEMU microvm", command));
    }
    subjects
}

/// What they need in the laboratory: names there, and files here.
pub(super) fn carried(
    peers: &Peers<'_>,
    bare_boot: PathBuf,
    folder: &Path,
) -> Outcome<Vec<(PathBuf, PathBuf)>> {
    let mut carried = vec![(PathBuf::from("bare-boot"), bare_boot)];
    if let Some(program) = peers.firecracker {
        carried.push(("firecracker".into(), program.into()));
        let file = folder.join("firecracker.json");
        let configuration = json!({
            "boot-source": { "kernel_image_path": "/tmp/kernel", "boot_args": COMMAND_LINE },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY.parse::<u32>().unwrap_or_default() },
            "drives": [],
        });
        std::fs::write(&file, configuration.to_string())
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
        carried.push(("firecracker.json".into(), file));
    }
    if let Some(program) = peers.cloud_hypervisor {
        carried.push(("cloud-hypervisor".into(), program.into()));
    }
    if peers.qemu {
        carried.extend(qemu()?);
    }
    Ok(carried)
}

/// This machine's QEMU, and the firmware and the code for booting by PVH that its microvm wants.
fn qemu() -> Outcome<Vec<(PathBuf, PathBuf)>> {
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|path| path.is_file())
        .ok_or_else(|| Failure::new("there is no qemu-system-x86_64 on the path"))?;
    let said = Command::new(&program)
        .args(["-L", "help"])
        .output()
        .map_err(|error| Failure::new(format!("cannot start {}: {error}", program.display())))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut carried = vec![(PathBuf::from("qemu-system-x86_64"), program)];
    for name in ["qboot.rom", "pvh.bin", "linuxboot_dma.bin"] {
        let file = said.lines().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
        let file = file.ok_or_else(|| Failure::new(format!("QEMU's {name} is in none of its folders")))?;
        carried.extend(in_its_place(file));
    }
    Ok(carried)
}
