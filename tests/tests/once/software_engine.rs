//! The software engine by itself: a real QEMU in its jail, a real kernel, how machines end; a QEMU that is missing, too
//! old or killed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what goes wrong here fails the test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use vmm::engine::{MachineEnd, RunningMachine};
use vmm::machine::Machine;
use vmm_tests::engine_machine::{self, GREETING, Init, machine, machine_with, read_until};
use vmm_tests::{TestHome, program};

const PATIENCE: Duration = Duration::from_secs(120);

fn stand_in() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_engine-stand-in"))
}

/// The kernel to boot; without QEMU or an image the test is left out.
macro_rules! kernel_or_skip {
    () => {
        match (engine_machine::missing(), engine_machine::kernel()) {
            (None, Some(kernel)) => kernel,
            (Some(reason), _) => {
                println!("skipped: {reason}");
                return;
            }
            (None, None) => {
                println!("skipped: no image was pulled");
                return;
            }
        }
    };
}

fn launch(machine: Machine) -> (Box<dyn RunningMachine>, Receiver<MachineEnd>) {
    let (sender, receiver) = channel();
    let engine = engine_machine::engine(&stand_in(), None);
    let ended = Box::new(move |end| sender.send(end).unwrap());
    (engine.launch(machine, ended).unwrap(), receiver)
}

/// A handle on a process that can be waited for though it is no child of ours.
fn handle(process: u32) -> OwnedFd {
    pidfd_open(pid(process), PidfdFlags::empty()).unwrap()
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(i32::try_from(process).unwrap()).unwrap()
}

fn assert_ends(handle: &OwnedFd) {
    let timeout = rustix::event::Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)).unwrap(), 1, "it lives on");
}

#[test]
fn a_guest_that_powers_off_and_one_that_restarts_are_told_apart() {
    let kernel = kernel_or_skip!();
    for (init, end) in [(Init::PowersOff, MachineEnd::PowerOff), (Init::Restarts, MachineEnd::Reset)] {
        let (machine, mut console) = machine_with(&kernel, 1, init, "");
        let (_running, ended) = launch(machine);
        let said = read_until(&mut console, GREETING);
        assert!(said.contains(GREETING), "{said}");
        assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), end);
    }
}

#[test]
fn a_kernel_without_root_panics_on_its_console_and_resets() {
    let kernel = kernel_or_skip!();
    let (mut machine, mut console) = machine(&kernel, 1);
    machine.initramfs = tempfile::tempfile().unwrap();
    let (_running, ended) = launch(machine);
    let said = read_until(&mut console, "end Kernel panic");
    assert!(said.contains("Unable to mount root fs"), "{said}");
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), MachineEnd::Reset);
}

#[test]
fn a_machine_has_as_many_processors_as_it_was_given() {
    let kernel = kernel_or_skip!();
    for cpus in [1, 2, 4] {
        let (machine, mut console) = machine_with(&kernel, cpus, Init::PowersOff, "loglevel=7");
        let (_running, ended) = launch(machine);
        let said = read_until(&mut console, GREETING);
        assert!(said.contains(&format!("Brought up 1 node, {cpus} CPU")), "{said}");
        assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), MachineEnd::PowerOff);
    }
}

#[test]
fn a_machine_that_is_stopped_is_gone_at_once() {
    let kernel = kernel_or_skip!();
    let (machine, mut console) = machine(&kernel, 1);
    let (mut running, ended) = launch(machine);
    read_until(&mut console, GREETING);
    let handles: Vec<_> = running.processes().into_iter().map(handle).collect();
    running.stop().unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), MachineEnd::Stopped);
    handles.iter().for_each(assert_ends);
    running.stop().unwrap();
}

#[test]
fn a_machine_may_be_stopped_before_its_qemu_says_a_word() {
    let kernel = kernel_or_skip!();
    let (machine, _console) = machine(&kernel, 1);
    let (running, ended) = launch(machine);
    drop(running);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), MachineEnd::Stopped);
}

#[test]
fn a_paused_machine_says_nothing_until_it_is_resumed() {
    let kernel = kernel_or_skip!();
    let (machine, mut console) = machine_with(&kernel, 1, Init::PowersOff, "");
    let (mut running, ended) = launch(machine);
    running.pause().unwrap();
    // What it had said by then may be in the socket; of a guest that stands still no more comes, and no end.
    assert!(ended.try_recv().is_err());
    running.resume().unwrap();
    assert!(read_until(&mut console, GREETING).contains(GREETING));
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), MachineEnd::PowerOff);
}

#[test]
fn two_machines_run_side_by_side() {
    let kernel = kernel_or_skip!();
    let (first, mut first_console) = machine(&kernel, 1);
    let (second, mut second_console) = machine(&kernel, 1);
    let (first, first_ended) = launch(first);
    let (_second, _second_ended) = launch(second);
    read_until(&mut first_console, GREETING);
    drop(first);
    assert_eq!(first_ended.recv_timeout(PATIENCE).unwrap(), MachineEnd::Stopped);
    assert!(read_until(&mut second_console, GREETING).contains(GREETING));
}

#[test]
fn a_qemu_that_is_killed_is_a_failure_with_its_reason() {
    let kernel = kernel_or_skip!();
    let (machine, _console) = machine(&kernel, 1);
    let (running, ended) = launch(machine);
    let [_, qemu] = running.processes()[..] else { panic!("two processes") };
    kill_process(pid(qemu), Signal::KILL).unwrap();
    let MachineEnd::Failed(reason) = ended.recv_timeout(PATIENCE).unwrap() else { panic!("no failure") };
    assert_eq!(reason, "QEMU was killed by signal 9");
}

#[test]
fn a_supervisor_that_is_killed_takes_qemu_along() {
    let kernel = kernel_or_skip!();
    let (machine, _console) = machine(&kernel, 1);
    let (running, ended) = launch(machine);
    let [supervisor, qemu] = running.processes()[..] else { panic!("two processes") };
    let qemu = handle(qemu);
    kill_process(pid(supervisor), Signal::KILL).unwrap();
    let MachineEnd::Failed(reason) = ended.recv_timeout(PATIENCE).unwrap() else { panic!("no failure") };
    assert!(reason.contains("supervisor"), "{reason}");
    assert_ends(&qemu);
}

/// A monitor in a process of its own, with the machine's processes.
fn monitor(kernel: &Path) -> (Child, Vec<OwnedFd>) {
    let mut monitor = Command::new(stand_in())
        .arg("monitor")
        .arg(kernel)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines().map(Result::unwrap);
    let _report = lines.next().unwrap();
    let processes = lines.take_while(|line| line != "ready").map(|line| handle(line.parse().unwrap()));
    let processes: Vec<_> = processes.collect();
    assert_eq!(processes.len(), 2);
    (monitor, processes)
}

#[test]
fn a_monitor_that_is_killed_takes_qemu_along() {
    let kernel = kernel_or_skip!();
    let (mut monitor, processes) = monitor(&kernel);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    processes.iter().for_each(assert_ends);
}

#[test]
fn without_qemu_it_says_the_command_that_installs_it() {
    let home = TestHome::new();
    let path = home.path_with(&["sh"]);
    home.vmm(["run", "--engine", "software", "alpine", "--", "true"])
        .env("PATH", &path)
        .run()
        .refused_saying(&["QEMU", "install"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
    let doctor = home.vmm(["doctor"]).env("PATH", &path).run().stdout();
    assert!(doctor.contains("install"), "{doctor}");
}

#[test]
fn with_a_qemu_that_is_too_old_it_says_which_is_needed() {
    let home = TestHome::new();
    let path = home.path_with(&["sh"]);
    for name in ["qemu-system-x86_64", "qemu-system-aarch64"] {
        program(&path.join(name), "echo 'QEMU emulator version 7.2.0'");
    }
    home.vmm(["run", "--engine", "software", "alpine", "--", "true"])
        .env("PATH", &path)
        .run()
        .refused_saying(&["7.2", "8.2"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_monitor_says_when_its_qemu_is_killed_and_ends() {
    let home = TestHome::new();
    let vm = home.machine("headless", &[]);
    let (monitor, qemu) = (vm.monitor(), vm.processes());
    let qemu = qemu.iter().find(|process| process.command.contains("qemu")).expect("a QEMU");
    qemu.kill();
    assert!(monitor.ends_within(PATIENCE));
    let info = vm.info();
    assert_eq!(info["state"], "crashed");
    let message = info["end"]["message"].as_str().unwrap_or_default();
    assert!(message.to_lowercase().contains("qemu"), "{info}");
    home.wait_until_quiet();
}
