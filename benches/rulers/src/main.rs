//! The developers' rulers, sharper and narrower than the benchmarks of `vmm bench`: a disk without a guest around it, copies
//! of files beside `tar`, commands through the library, the monitor's processor time.
//!
//! `cargo xtask bench disk` prepares what `vmm-bench disk` needs and runs it, and so for `files` and `exec`.

mod disk;
mod exec;
mod files;
mod start;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: vmm-bench disk fio|rings FOLDER JSON-FILE ROUNDS [NAME]
       vmm-bench exec COMMANDS
       vmm-bench files FOLDER JSON-FILE ROUNDS FILES MEBIBYTES
       vmm-bench serve-disk SOCKET BASE TOP
       vmm-bench start ROUNDS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["exec", commands] => exec::run(commands.parse()?),
        ["files", folder, json, rounds, files, mebibytes] => files::run(&files::Comparison {
            folder: PathBuf::from(folder),
            json: PathBuf::from(json),
            rounds: rounds.parse()?,
            files: files.parse()?,
            mebibytes: mebibytes.parse()?,
        }),
        ["start", rounds] => start::run(rounds.parse()?),
        ["disk", ruler, folder, json, rounds, filter @ ..] if filter.len() < 2 => {
            disk::run(&disk::Comparison {
                ruler: ruler.parse()?,
                folder: PathBuf::from(folder),
                json: PathBuf::from(json),
                rounds: rounds.parse()?,
                filter: filter.first().map(|&filter| filter.to_owned()),
            })
        }
        ["serve-disk", socket, base, top] => {
            disk::serve(&PathBuf::from(socket), &PathBuf::from(base), &PathBuf::from(top))
        }
        _ => Err(USAGE.into()),
    }
}
