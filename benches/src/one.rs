//! One machine of ours: started, a command run in it again and again, stopped. Says how long each took.

use std::error::Error;
use std::fs;
use std::time::Instant;

use vmm::{MemorySize, Sandbox};

/// The machine is the peer's: one processor, 512 MiB. It is ready when its agent answered.
pub(crate) fn run(commands: usize, began: Instant) -> Result<(), Box<dyn Error>> {
    let sandbox = Sandbox::builder("alpine").cpus(1).memory(MemorySize::mebibytes(512)?).start()?;
    sandbox.health()?;
    println!("ready_ms {}", milliseconds(began));
    for _ in 0..commands {
        let began = Instant::now();
        let output = sandbox.command(["true"]).output()?;
        println!("exec_ms {}", milliseconds(began));
        if !output.status.success() {
            return Err("`true` failed in the guest".into());
        }
    }
    let info = sandbox.info()?;
    let monitor = info.monitor_pid.ok_or("the machine has no monitor")?;
    println!("monitor_kib {}", private_memory(monitor)?);
    let mut others = 0;
    for pid in info.processes {
        others += private_memory(pid)?;
    }
    println!("engine_kib {others}");
    sandbox.kill()?;
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// The pages that a process has for itself, without the guest's memory, which is a memory file. In KiB.
fn private_memory(pid: u32) -> Result<u64, Box<dyn Error>> {
    let mut of_guest = false;
    let mut sum = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Private_Clean:" | "Private_Dirty:") if !of_guest => {
                sum += words.next().ok_or("a line of smaps without a number")?.parse::<u64>()?;
            }
            Some(first) if !first.ends_with(':') => of_guest = line.contains("memfd:"),
            _ => {}
        }
    }
    Ok(sum)
}
