//! Boots a kernel on the native engine with nothing beside it: its console to standard output, and at the end a line of
//! JSON to standard error, with what the boot cost.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use vmm_tests::bare_boot::BareBoot;

const USAGE: &str = "usage: bare-boot KERNEL PROCESSORS MEMORY COMMAND-LINE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare-boot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [kernel, cpus, memory, command_line] = arguments else { return Err(USAGE.into()) };
    let boot =
        BareBoot { kernel: Path::new(kernel), cpus: cpus.parse()?, memory: memory.parse()?, command_line };
    let booted = boot.run(&mut std::io::stdout())?;
    eprintln!("{}", json!({ "end": booted.end, "exits": booted.exits }));
    Ok(())
}
