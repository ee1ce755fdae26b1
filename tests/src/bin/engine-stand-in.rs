//! A program that stands in for those around the software engine, so that its tests need no whole `vmm`:
//! the supervisor, a monitor that can be killed, and a QEMU that tries what the jail forbids.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vmm::engine::software::{SUPERVISOR_ARGUMENT, supervisor_main};
use vmm_tests::engine_machine;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [SUPERVISOR_ARGUMENT, ..] => supervisor_main(),
        ["monitor", kernel] => monitor(&PathBuf::from(kernel)),
        ["contained-monitor", kernel] => {
            contain();
            monitor(&PathBuf::from(kernel))
        }
        ["-sandbox", "on", "--version"] | ["--version"] => say("QEMU emulator version 99.0.0 (a stand-in)\n"),
        ["-machine", "help"] => say("microvm a machine\nq35 another\n"),
        ["-L", "help"] => ExitCode::SUCCESS,
        _ => escape(&arguments),
    }
}

fn say(text: &str) -> ExitCode {
    std::io::stdout().write_all(text.as_bytes()).expect("somebody reads");
    ExitCode::SUCCESS
}

/// Launches a machine, says how it is jailed and which processes belong to it, and waits to be killed.
fn monitor(kernel: &Path) -> ExitCode {
    let stand_in = std::env::current_exe().expect("we have a path");
    let (machine, mut console) = engine_machine::machine(kernel, 1);
    let engine = engine_machine::engine(&stand_in, None);
    let running = engine.launch(machine, Box::new(|_| {})).expect("the machine starts");
    println!("{}", serde_json::to_string(running.report()).expect("it can be written"));
    for process in running.processes() {
        println!("{process}");
    }
    println!("ready");
    let console = engine_machine::read_until(&mut console, engine_machine::GREETING);
    println!("{}", if console.ends_with(engine_machine::GREETING) { "greeted" } else { &console });
    let _ = std::io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

/// As in a container: no namespace can be made, nothing mounted.
fn contain() {
    rustix::thread::set_no_new_privs(true).expect("privileges can be given up");
    let refused = [libc::SYS_unshare, libc::SYS_mount, libc::SYS_setns, libc::SYS_pivot_root];
    vmm_sys::system_call_filter::refuse(&refused).expect("a filter can be set");
}

/// In QEMU's place: does what the kernel's command line says, and tells of it as QEMU would of an error.
fn escape(arguments: &[String]) -> ExitCode {
    let after = |option: &str| {
        arguments.iter().position(|argument| argument == option).and_then(|at| arguments.get(at + 1))
    };
    let wanted = after("-append").expect("there is a command line").rsplit(' ').next().unwrap_or_default();
    eprintln!("{}", attempt(wanted));
    ExitCode::from(42)
}

fn attempt(wanted: &str) -> String {
    use rustix::net::{AddressFamily, SocketType};
    let verdict = |result: Result<(), rustix::io::Errno>| match result {
        Ok(()) => "possible".to_owned(),
        Err(errno) => format!("refused: {errno}"),
    };
    let socket = |family| rustix::net::socket(family, SocketType::STREAM, None).map(drop);
    match wanted {
        "internet" => verdict(socket(AddressFamily::INET)),
        "vsock" => verdict(socket(AddressFamily::VSOCK)),
        "unix" => verdict(socket(AddressFamily::UNIX)),
        "files" => list("/"),
        "write" => match std::fs::File::create("/written") {
            Ok(_) => "possible".to_owned(),
            Err(error) => format!("refused: {error}"),
        },
        "kernel" => {
            let kernel = std::fs::read("/file0").map(|bytes| bytes.len().to_string());
            kernel.unwrap_or_else(|error| error.to_string())
        }
        "processes" => format!(
            "{} {} {:?}",
            std::process::id(),
            verdict(rustix::process::test_kill_process(rustix::process::Pid::from_raw(2).unwrap())),
            rustix::process::getppid().map(|parent| parent.as_raw_nonzero()),
        ),
        "user" => {
            let capabilities = rustix::thread::capabilities(None).unwrap();
            format!(
                "{} {} {:?} {:?} {}",
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
                capabilities.effective.union(capabilities.permitted).union(capabilities.inheritable).bits(),
                rustix::thread::no_new_privs(),
                rustix::thread::capability_is_in_bounding_set(rustix::thread::CapabilitySet::CHOWN).unwrap(),
            )
        }
        "limits" => {
            let maximum = |resource| rustix::process::getrlimit(resource).maximum;
            let resources = [rustix::process::Resource::Core, rustix::process::Resource::Nofile];
            format!("{:?}", resources.map(maximum))
        }
        "mount" => verdict(rustix::mount::mount("x", "/", "tmpfs", rustix::mount::MountFlags::empty(), None)),
        other => format!("no such attempt: {other}"),
    }
}

/// All files beneath a folder.
fn list(folder: &str) -> String {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path().display().to_string()),
            }
        }
    }
    found.sort();
    found.join(" ")
}
