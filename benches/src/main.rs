//! Ours beside a peer, on the same machine in the same minutes: how soon a VM is ready and how soon a command in it is
//! done, and what a disk does.
//!
//! `cargo xtask bench` prepares everything and runs `vmm-bench compare`, `cargo xtask bench disk` runs `vmm-bench disk`, and so
//! for `files` and `exec`.

mod compare;
mod disk;
mod exec;
mod files;
mod host;
mod one;
mod sample;
mod start;
mod subject;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
usage: vmm-bench compare PYTHON PEER-SCRIPT JSON-FILE ROUNDS COMMANDS
       vmm-bench disk fio|rings FOLDER JSON-FILE ROUNDS [NAME]
       vmm-bench exec COMMANDS
       vmm-bench files FOLDER JSON-FILE ROUNDS FILES MEBIBYTES
       vmm-bench one COMMANDS
       vmm-bench serve-disk SOCKET BASE TOP
       vmm-bench start ROUNDS";

fn main() -> ExitCode {
    let began = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments, began) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str], began: Instant) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["one", commands] => one::run(commands.parse()?, began),
        ["exec", commands] => exec::run(commands.parse()?),
        ["files", folder, json, rounds, files, mebibytes] => files::run(&files::Comparison {
            folder: PathBuf::from(folder),
            json: PathBuf::from(json),
            rounds: rounds.parse()?,
            files: files.parse()?,
            mebibytes: mebibytes.parse()?,
        }),
        ["start", rounds] => start::run(rounds.parse()?),
        ["compare", python, script, json, rounds, commands] => compare::run(&compare::Comparison {
            python: PathBuf::from(python),
            script: PathBuf::from(script),
            json: PathBuf::from(json),
            rounds: rounds.parse()?,
            commands: commands.parse()?,
        }),
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
