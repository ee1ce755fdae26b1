//! Builds a project in a sandbox, shows what the build says while it says it, and takes the result out.
//!
//! cargo run --example stream_build -- PROJECT COMMAND RESULT
//!
//! The project is a folder, the command is run in its copy, and the result is a path in it.

use std::io::{self, Write};
use std::process::ExitCode;

use vmm::{CopyOptions, ProcessEvent, Sandbox};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [project, command, result] = arguments.as_slice() else {
        return Err("name the project's folder, the command that builds it, and its result".into());
    };
    let sandbox = Sandbox::builder("alpine").start()?;
    sandbox.copy_in([project], "/build", &CopyOptions::default())?;
    let mut build = sandbox.command(["sh", "-c", command]).workdir("/build").spawn()?;
    let status = loop {
        // Whoever reads slowly slows the build down: nothing piles up here.
        match build.next_event(None, None)? {
            ProcessEvent::Stdout(bytes) => write(io::stdout(), &bytes)?,
            ProcessEvent::Stderr(bytes) => write(io::stderr(), &bytes)?,
            ProcessEvent::Ended(status) => break status,
        }
    };
    if status.success() {
        sandbox.copy_out([format!("/build/{result}")], ".", &CopyOptions::default())?;
    }
    Ok(ExitCode::from(status.shell_status()))
}

fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
