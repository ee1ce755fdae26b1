//! Runs programs that nobody trusts, each within limits of time, memory, output and processes.
//!
//! The sandbox is a virtual machine: its memory is a limit that nothing in it can pass, and what a program leaves behind
//! ends with it. Within it, limits for one program are the kernel's own (`ulimit`), for a user that is not root.

use std::time::Duration;

use vmm::{Error, ExitStatus, Output, Sandbox};

const PROGRAMS: [(&str, &str); 5] = [
    ("answer", "echo $((6 * 7))"),
    ("time", "while :; do :; done"),
    ("memory", "tail -c 100000000 /dev/zero"),
    ("output", "seq 10000"),
    ("processes", "for i in $(seq 100); do sleep 60 & done"),
];

/// Runs one program, which belongs to the user `nobody`.
fn run(sandbox: &Sandbox, program: &str) -> Result<Output, Error> {
    sandbox
        .command(["sh", "-c", "ulimit -v 65536 -u 32; exec sh -c \"$1\"", "sh", program])
        .user("nobody")
        .timeout(Duration::from_secs(5))
        .output_limit(1000)
        .output()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sandbox = Sandbox::builder("alpine").memory("256M".parse()?).start()?;
    for (name, program) in PROGRAMS {
        let output = run(&sandbox, program)?;
        let time = if output.status == ExitStatus::TimedOut { ", its time was up" } else { "" };
        let much = if output.truncated { ", it wrote too much" } else { "" };
        println!("{name}: status {}{time}{much}", output.status.shell_status());
    }
    // It ends here; it would also, had this program been killed.
    Ok(())
}
