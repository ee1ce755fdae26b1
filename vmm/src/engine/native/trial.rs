//! A trial of the host's virtualization: a few instructions that every kernel needs, in a process that can be killed.
//!
//! A hypervisor without hardware below it may answer every call and still not run a kernel: it interprets the guest's
//! instructions, some of them not at all and all of them slowly. Nothing but trying tells.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys::{Interest, Poller};

use crate::arch::x86_64::{
    BootData, CpuidPolicy, KERNEL_START, MemoryMap, entry_state, initial_registers, trial_code,
};
use crate::engine::chain;
use crate::hypervisor::{Entry, Exit, Failure, Hypervisor, Vcpu, VcpuSetup};
use crate::memory::fresh_regions;

/// The first argument that makes an executable call [`trial_main`].
pub const TRIAL_ARGUMENT: &str = "--try-virtualization";

/// The processor's time that a trial may take, in seconds, the system's unit for it. Hardware needs a thousandth. It is
/// no time of day: a host that is busy with others must not be taken for one that cannot do it.
const PROCESSOR_LIMIT: u64 = 1;

/// How long it is waited for all the same.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What the loop may take: on hardware it is microseconds, and 2 ms where that hardware is emulated itself.
const LOOP_LIMIT: Duration = Duration::from_millis(10);

/// How often the loop may take longer, because the host has others to serve, before it counts.
const MOST_LOOPS: u32 = 8;

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The guest did all that was asked of it, quickly.
    Works,
    /// The hypervisor gave up: it runs without hardware, or is broken.
    Fails {
        /// What it gave up on.
        reason: String,
    },
    /// The guest did all, slowly: every instruction is interpreted.
    Slow,
    /// Nothing came of it in time. The host may be busy.
    Late,
    /// It cannot be used, whatever is below it: it is too old.
    Unfit {
        /// Why.
        reason: String,
    },
}

/// Runs the trial in a process of its own.
pub(super) fn run(executable: &Path) -> io::Result<Verdict> {
    let child = Command::new(executable)
        .arg(TRIAL_ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut child = Killed(child);
    let Some(mut output) = child.0.stdout.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let mut poller = Poller::new()?;
    poller.add(&output, 0, Interest::READ)?;
    if poller.wait(Some(TIME_LIMIT))?.next().is_none() {
        return Ok(Verdict::Late);
    }
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    if let Ok(verdict) = serde_json::from_str(&text) {
        return Ok(verdict);
    }
    match child.0.wait()?.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => {
            let reason = "a guest of a few instructions did not end in a second of the processor's time";
            Ok(Verdict::Fails { reason: reason.to_owned() })
        }
        _ => Ok(Verdict::Fails { reason: "the process that tried it died".to_owned() }),
    }
}

/// A process that does not outlive who watches it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of a trial: prints its verdict.
#[cfg(target_os = "linux")]
pub fn trial_main() -> ExitCode {
    use std::io::Write;
    // It ends us by a signal, which is no reason for a core dump. Where a limit cannot be set, whoever waits for us has one.
    for (resource, current) in [(Resource::Cpu, PROCESSOR_LIMIT), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(current), ..rustix::process::getrlimit(resource) };
        let _ = rustix::process::setrlimit(resource, limit);
    }
    let verdict = match crate::hypervisor::kvm::Kvm::open() {
        Ok(kvm) => try_guest(&kvm).unwrap_or_else(|reason| Verdict::Fails { reason }),
        Err(error) => Verdict::Unfit { reason: chain(&error) },
    };
    let text = serde_json::to_string(&verdict).unwrap_or_default();
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn try_guest(hypervisor: &dyn Hypervisor) -> Result<Verdict, String> {
    let mut vcpu = prepare(hypervisor).map_err(|error| chain(&*error))?;
    let mut next = || vcpu.run(Entry::Go).map_err(|error| chain(&error));
    let said = |exit, wanted| match exit {
        Exit::PortWrite { port: trial_code::PORT, value, .. } if value == wanted => Ok(()),
        exit => Err(format!("it gave up before step {wanted} of {}: {}", trial_code::LOOPED, told(exit))),
    };
    for step in 1..=trial_code::STEPS {
        said(next()?, step)?;
    }
    for _ in 0..MOST_LOOPS {
        let began = Instant::now();
        said(next()?, trial_code::LOOPED)?;
        if began.elapsed() < LOOP_LIMIT {
            return Ok(Verdict::Works);
        }
    }
    Ok(Verdict::Slow)
}

fn told(exit: Exit) -> &'static str {
    match exit {
        Exit::Failed(Failure::Internal(_)) => "the host could not emulate an instruction",
        Exit::Failed(_) => "the host's virtualization failed",
        Exit::Shutdown => "the guest faulted",
        _ => "the guest did something else",
    }
}

fn prepare(hypervisor: &dyn Hypervisor) -> Result<Box<dyn Vcpu>, Box<dyn std::error::Error>> {
    let host = hypervisor.x86_64().map(|host| host.supported_cpuid()).transpose()?.unwrap_or_default();
    let map = MemoryMap::new(2 << 20);
    let memory = fresh_regions(&map.memory())?;
    let data = BootData { memory: &map, cpus: 1, devices: &[], command_line: "", initramfs: 0..0 };
    for piece in data.place()? {
        memory.write_slice(&piece.bytes, GuestAddress(piece.address))?;
    }
    memory.write_slice(&trial_code::instructions(&host), GuestAddress(KERNEL_START))?;
    let vm = hypervisor.create_vm()?;
    vm.map_memory(memory)?;
    let mut vcpu = vm.create_vcpu(0)?;
    let rate = vcpu.counter_kilohertz().unwrap_or(0);
    let policy = CpuidPolicy { cpu: 0, cpus: 1, tsc_kilohertz: rate, nested: false };
    vcpu.set_up(VcpuSetup::X86_64 {
        cpuid: &policy.apply(&host),
        registers: &initial_registers(None),
        state: Some(&entry_state(KERNEL_START, 0)),
    })?;
    Ok(vcpu)
}
