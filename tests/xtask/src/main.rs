//! The project's own commands: `cargo quickstart`, `cargo verify`, `cargo xtask …`.
//!
//! They bring a fresh machine to the point where `vmm` runs and is tested. Everything here is started by cargo
//! before anything else is compiled, so it leans on the standard library.

mod command;
mod failure;
mod project;
mod quickstart;
mod setup;
mod steps;

use std::process::ExitCode;

use failure::Failure;

const USAGE: &str = "\
The project's own commands:

  cargo quickstart            install what is missing, build, boot Alpine, run a command in it
  cargo xtask setup           only install what is missing to run `vmm`
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["quickstart"] => quickstart::run(),
        ["setup"] => setup::install_missing(setup::TO_RUN),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        unknown => Err(Failure::new(format!("no such command: {}", unknown.join(" "))).hint(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
