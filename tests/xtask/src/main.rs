//! The project's own commands: `cargo quickstart`, `cargo verify`, `cargo wheel`, `cargo xtask …`.
//!
//! They bring a fresh machine to the point where `vmm` runs and is tested. Everything here is started by cargo
//! before anything else is compiled, so it leans on the standard library.

mod bench;
mod command;
mod failure;
mod lab;
mod project;
mod quickstart;
mod setup;
mod soak;
mod steps;
mod verify;
mod wheel;

use std::process::ExitCode;

use failure::{Failure, Outcome};

const USAGE: &str = "\
The project's own commands:

  cargo quickstart            install what is missing, build, boot Alpine, run a command in it
  cargo verify [NAME]         install what is missing, build, run every test (or those with NAME in their name)
  cargo verify --soak SUITE   run a long loop, or go on with it; `cargo verify --list` says which there are
  cargo lab run -- COMMAND    run a command where /dev/kvm is real, though emulated; `cargo lab` says what else
  cargo wheel                 build the Python package, with the library and `vmm` in it
  cargo xtask bench [OPTION…] run `vmm bench`, beside quicksand and whatever else is here; the page lies in target/bench
  cargo xtask bench disk [fio|rings]
                              compare a disk with that of qemu-storage-daemon: with fio in a guest, without a guest, or both
  cargo xtask bench files     compare vmm cp with tar through vmm exec, and with the vsock's own throughput
  cargo xtask bench exec      time commands through the library: one after the other, and 64 at once
  cargo xtask setup [test|fuzz|compare|compare-disk]
                              only install what is missing to run `vmm`, or for the tests, fuzzing, the comparisons
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["lab", rest @ ..] => return end(lab::run(rest)),
        [] | [.., "help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["quickstart"] => quickstart::run(),
        ["wheel"] => wheel::run(),
        ["bench", "disk"] => bench::run_disk(&bench::RULERS),
        ["bench", "disk", ruler] if bench::RULERS.contains(ruler) => bench::run_disk(&[ruler]),
        ["bench", "files"] => bench::run_files(),
        ["bench", "exec"] => bench::run_exec(),
        ["bench", options @ ..] => bench::run(options),
        ["setup"] => setup::install_missing(setup::TO_RUN),
        ["setup", "test"] => setup::install_missing(setup::TO_TEST),
        ["setup", "fuzz"] => setup::install_missing(setup::TO_FUZZ),
        ["setup", "compare"] => setup::install_missing(setup::TO_COMPARE),
        ["setup", "compare-disk"] => setup::install_missing(setup::TO_COMPARE_DISKS),
        ["verify"] => verify::run(None),
        ["verify", "--list"] => {
            soak::list();
            Ok(())
        }
        ["verify", "--soak", name] => soak::run(name, None),
        ["verify", "--soak", name, piece] => soak::run(name, Some(piece)),
        ["verify", filter] if !filter.starts_with('-') => verify::run(Some(filter)),
        unknown => Err(Failure::new(format!("no such command: {}", unknown.join(" "))).hint(USAGE)),
    };
    end(outcome.map(|()| ExitCode::SUCCESS))
}

fn end(outcome: Outcome<ExitCode>) -> ExitCode {
    match outcome {
        Ok(status) => status,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
