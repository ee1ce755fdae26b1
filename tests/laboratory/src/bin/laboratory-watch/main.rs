//! Runs a monitor that boots a kernel without a root, until the kernel has died of that, and says what the boot cost: a
//! line for each run. `cargo lab compare` has it run monitors that know nothing of us, so everything is seen from
//! outside: KVM's counters, the process, its memory, its console.

mod console;
mod counters;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use console::Console;
use counters::Counters;
use laboratory::{Memory, processor_seconds};

const USAGE: &str = "usage: laboratory-watch RUNS GUEST-MEBIBYTES -- COMMAND...";

/// What the kernel says when it has found no root, and what it says last before it resets the machine.
const DIED: &str = "Kernel panic - not syncing";
const LAST: &str = "Kernel Offset: disabled\r\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("laboratory-watch: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, USAGE);
    let [runs, mebibytes, "--", program, arguments @ ..] = words else { return Err(usage()) };
    let runs: u32 = runs.parse().map_err(|_| usage())?;
    let mebibytes: u64 = mebibytes.parse().map_err(|_| usage())?;
    for _ in 0..runs {
        watch(program, arguments, mebibytes)?;
    }
    Ok(())
}

/// One run. It is held still for a look once the kernel has died, goes on to the kernel's last word, and is killed then:
/// some monitors end with their guest, and others start it again.
fn watch(program: &str, arguments: &[&str], mebibytes: u64) -> io::Result<()> {
    let (console, far_end) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(far_end.try_clone()?).stderr(far_end);
    // A terminal's signals, and those to a group, are not for it.
    command.process_group(0);
    let began = Instant::now();
    let mut child = Killed(command.spawn()?);
    // It holds the other end of the console open.
    drop(command);
    let mut console = Console::new(console);
    let said = |error: io::Error, console: &Console| {
        io::Error::new(error.kind(), format!("{program} {error}; it said:\n{}", console.said()))
    };
    console.read_until(DIED).map_err(|error| said(error, &console))?;
    let died = began.elapsed();
    let (process, id) = (Pid::from_child(&child.0), child.0.id());
    kill_process(process, Signal::STOP)?;
    let counters = Counters::open(id)?;
    let memory = Memory::without_guest(id, mebibytes << 10)?;
    kill_process(process, Signal::CONT)?;
    console.read_until(LAST).map_err(|error| said(error, &console))?;
    child.0.kill()?;
    // It can be looked at until it is waited for in earnest.
    waitid(WaitId::Pid(process), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let processor = processor_seconds(id)?;
    child.0.wait()?;
    let counters = counters.read()?;
    let counters: Vec<String> = counters.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    println!(
        "{{\"seconds\":{:.6},\"private_kib\":{},\"shared_kib\":{},\"processor_seconds\":{processor:.2},\"exits\":{{{}}}}}",
        died.as_secs_f64(),
        memory.private,
        memory.shared,
        counters.join(",")
    );
    Ok(())
}

/// A process that does not outlive who watches it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
