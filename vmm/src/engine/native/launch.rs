//! Launches a machine: memory filled, devices at their places, a thread for each processor.

use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use snafu::{OptionExt, ResultExt, ensure};

use super::board::Board;
use super::control::Control;
use super::exits::{Counter, Counts};
use super::keyboard;
use super::processor::Processor;
use super::running::{MachineThreads, NativeMachine};
use super::{
    AddressesSnafu, BootSnafu, HugePagesSnafu, HypervisorSnafu, LoadSnafu, MemorySnafu, NativeEngine,
    NativeError, NestedSnafu, PrepareSnafu, ProcessorsSnafu,
};
use crate::arch::x86_64::{
    CpuidEntry, CpuidPolicy, KERNEL_PARAMETERS, MemoryMap, ProcessorState, Virtualization, entry_state,
    initial_registers, physical_address_bits, virtualization,
};
use crate::boot::{EntryPoint, LoadPlan, X86Boot};
use crate::engine::{LaunchReport, MachineEnd};
use crate::hypervisor::{Vcpu, VcpuSetup, Vm};
use crate::machine::Machine;
use crate::memory::{GuestMemory, Regions, ask_for_huge, copy_ahead, fresh_regions, make_huge, map_file};
use crate::threads::{self, Role};

/// What all processors begin with.
struct Beginning {
    host: Vec<CpuidEntry>,
    cpus: u8,
    /// By what the guest may run virtual machines itself.
    nested: Option<Virtualization>,
    first: ProcessorState,
}

impl NativeEngine {
    pub(super) fn launch_machine(
        &self,
        machine: Machine,
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<NativeMachine, NativeError> {
        let limit = self.max_processors();
        ensure!(usize::from(machine.cpus) <= limit, ProcessorsSnafu { count: machine.cpus, limit });
        let host = self.hypervisor.x86_64().map_or(Ok(Vec::new()), |host| host.supported_cpuid());
        let host = host.context(HypervisorSnafu)?;
        let nested = nested(&machine, &host)?;
        let map = MemoryMap::new(machine.memory.bytes());
        let bits = physical_address_bits(&host);
        ensure!(map.end() >> bits.min(63) == 0, AddressesSnafu { size: machine.memory, bits });

        let regions = fresh_regions(&map.memory()).context(MemorySnafu { size: machine.memory })?;
        if machine.huge_pages {
            make_huge(&regions).context(HugePagesSnafu)?;
        }
        let vm = self.hypervisor.create_vm().context(HypervisorSnafu)?;
        let memory = GuestMemory::new(regions.clone());
        let its_console = machine.console.try_clone().context(PrepareSnafu)?;
        let (board, windows) = Board::new(&*vm, &memory, machine.devices, its_console)?;
        let command_line = format!("{} {KERNEL_PARAMETERS}", machine.command_line);
        let boot = X86Boot {
            kernel: &machine.kernel,
            initramfs: &machine.initramfs,
            command_line: &command_line,
            memory: &map,
            cpus: machine.cpus,
            devices: &windows,
        };
        let plan = boot.plan().context(BootSnafu)?;
        let rewritten = if machine.huge_pages { Vec::new() } else { plan.rewritten().to_vec() };
        let EntryPoint { instruction, boot_data } = fill(&regions, plan, machine.huge_pages)?;
        vm.map_memory(regions.clone()).context(HypervisorSnafu)?;

        let first = entry_state(instruction, boot_data);
        let beginning = Beginning { host, cpus: machine.cpus, nested, first };
        let (control, board) = (Arc::new(Control::default()), Arc::new(board));
        let counts = (0..machine.cpus).map(|_| Arc::new(Counts::new(board.names.len())));
        let exits = Counter { names: board.names.clone(), processors: counts.collect() };
        let processors = start_processors(&vm, &control, &board, beginning, &exits)?;
        let processor_us = Some(vmm_sys::clock::processor_us());
        let keyboard = if machine.types_on_serial {
            let console = machine.console.try_clone().context(PrepareSnafu)?;
            Some(keyboard::start(console, board.serial.clone()).context(PrepareSnafu)?)
        } else {
            None
        };
        let report = LaunchReport { engine: self.kind, program: None, jail: None, processor_us };
        let its_control = Arc::clone(&control);
        let beside = Box::new(move || copy_all_ahead(&regions, &rewritten, &its_control));
        let threads = MachineThreads { processors, beside, ended };
        let running = NativeMachine::new(control, board, machine.console, threads, exits, report);
        Ok(running.context(PrepareSnafu)?.with_balloon(machine.balloon).with_keyboard(keyboard))
    }
}

/// By what a machine may run virtual machines itself, if it is to.
fn nested(machine: &Machine, host: &[CpuidEntry]) -> Result<Option<Virtualization>, NativeError> {
    if !machine.nested {
        return Ok(None);
    }
    virtualization(host).context(NestedSnafu).map(Some)
}

/// Puts into memory what the machine boots from. Pages of a file are none of the huge ones: there, all is copied.
fn fill(memory: &Regions, mut plan: LoadPlan<'_>, huge_pages: bool) -> Result<EntryPoint, NativeError> {
    if !huge_pages {
        for piece in plan.take_mappable(rustix::param::page_size() as u64) {
            map_file(memory, piece.address, piece.file, piece.offset, piece.length).context(PrepareSnafu)?;
        }
        for range in plan.copied() {
            ask_for_huge(memory, &range);
        }
    }
    plan.load(memory).context(LoadSnafu)?;
    Ok(plan.entry())
}

/// Copies ahead of the guest what it will rewrite, for as long as it runs. The kernel's file may lie on a slow disk.
fn copy_all_ahead(memory: &Regions, parts: &[Range<u64>], control: &Control) {
    const PIECE: usize = 1 << 20;
    for part in parts {
        let starts = (part.start..part.end).step_by(PIECE);
        for start in starts.take_while(|_| !control.is_ending()) {
            copy_ahead(memory, &(start..part.end.min(start + PIECE as u64)));
        }
    }
}

/// Starts a thread for each processor. All are made when this returns, and wait; they and the calling thread are held to
/// their roles.
fn start_processors(
    vm: &Arc<dyn Vm>,
    control: &Arc<Control>,
    board: &Arc<Board>,
    beginning: Beginning,
    exits: &Counter,
) -> Result<Vec<JoinHandle<()>>, NativeError> {
    let beginning = Arc::new(beginning);
    let mut threads = Threads { control, threads: Vec::new() };
    for (index, exits) in (0u8..).zip(&exits.processors) {
        let (vm, board, control) = (Arc::clone(vm), Arc::clone(board), Arc::clone(control));
        let (beginning, exits) = (Arc::clone(&beginning), Arc::clone(exits));
        let (made, is_made) = mpsc::sync_channel(1);
        let run = move || {
            let _watch = Watch(&control);
            match prepare(&*vm, index, &beginning) {
                Ok(vcpu) => {
                    control.add(vcpu.kicker());
                    let processor = Processor { vcpu, board, control: Arc::clone(&control), exits };
                    // Whoever waits is there until it has heard.
                    let _ = made.send(Ok(()));
                    processor.run();
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            }
        };
        let thread = threads::spawn_without_role(format!("cpu{index}"), run).context(PrepareSnafu)?;
        threads.threads.push(thread);
        let lost = || Err(std::io::Error::other("a processor's thread died"));
        is_made.recv().or_else(|_| lost()).context(PrepareSnafu)??;
    }
    threads::enter(Role::Machine).context(PrepareSnafu)?;
    Ok(std::mem::take(&mut threads.threads))
}

/// Makes a processor on its own thread, which is held to its role from then on.
fn prepare(vm: &dyn Vm, index: u8, beginning: &Beginning) -> Result<Box<dyn Vcpu>, NativeError> {
    let mut vcpu = vm.create_vcpu(index).context(HypervisorSnafu)?;
    let policy = CpuidPolicy {
        cpu: index,
        cpus: beginning.cpus,
        tsc_kilohertz: vcpu.counter_kilohertz().unwrap_or(0),
        nested: beginning.nested.is_some(),
    };
    vcpu.set_up(VcpuSetup::X86_64 {
        cpuid: &policy.apply(&beginning.host),
        registers: &initial_registers(beginning.nested),
        state: (index == 0).then_some(&beginning.first),
    })
    .context(HypervisorSnafu)?;
    threads::enter(Role::Processor).context(PrepareSnafu)?;
    Ok(vcpu)
}

/// Threads that have not been handed on: they end, and are waited for.
struct Threads<'a> {
    control: &'a Control,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Threads<'_> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.control.end(MachineEnd::Stopped);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Ends the machine when its thread dies.
struct Watch<'a>(&'a Control);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end(MachineEnd::Failed("a processor's thread died".to_owned()));
        }
    }
}
