//! `vmm top`: what runs in a VM's guest, whoever started it.

use std::cmp::Reverse;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{GuestProcess, Home, Sandbox};

use super::{print_json, print_table};
use crate::error::Failure;
use crate::table;

/// For how long it is looked at what they do.
const OVER: Duration = Duration::from_millis(500);

#[derive(Args)]
#[command(after_help = "Examples:
  vmm top box              the busiest first
  vmm top box --json | jq '.[] | select(.user == \"nobody\")'")]
pub(crate) struct Top {
    /// List the kernel's own threads too
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The VM's name, id or the beginning of its id
    vm: String,
}

impl Top {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let mut processes = Sandbox::attach(&home, &self.vm)?.guest_processes(OVER)?;
        processes.retain(|process| self.all || !is_the_kernels(process));
        processes.sort_by_key(|process| (Reverse((process.cpu_permille, process.memory)), process.pid));
        if self.json {
            print_json(&processes)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = processes.iter().map(row).collect();
        print_table(&["PID", "USER", "STATE", "CPU", "MEMORY", "TIME", "COMMAND"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether it is a thread of the kernel's: the second process, or one that belongs to that.
fn is_the_kernels(process: &GuestProcess) -> bool {
    process.pid == 2 || process.parent == 2
}

fn row(process: &GuestProcess) -> Vec<String> {
    let user = process.user.as_ref().map(|user| clean(&user.to_string_lossy()));
    vec![
        process.pid.to_string(),
        user.unwrap_or_else(|| process.uid.to_string()),
        process.state.clone(),
        format!("{}.{}%", process.cpu_permille / 10, process.cpu_permille % 10),
        table::bytes(process.memory),
        format!("{}:{:02}", process.cpu_ms / 60_000, process.cpu_ms / 1000 % 60),
        command(process),
    ]
}

/// Its words in one line, as far as they are kept; of one without words its name, as `ps` has it.
fn command(process: &GuestProcess) -> String {
    if process.argv.is_empty() {
        return format!("[{}]", clean(&process.name.to_string_lossy()));
    }
    let words: Vec<_> = process.argv.iter().map(|word| word.to_string_lossy()).collect();
    clean(&words.join(" "))
}

fn clean(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_row() {
        let mut process = GuestProcess {
            pid: 7,
            parent: 1,
            uid: 65534,
            user: None,
            state: "R".to_owned(),
            cpu_ms: 125_000,
            cpu_permille: 998,
            memory: 3 << 20,
            started_ms: 0,
            name: "sh".into(),
            argv: vec!["sh".into(), "-c".into(), "a\u{1b}[2J".into()],
        };
        assert_eq!(row(&process), ["7", "65534", "R", "99.8%", "3.0 MiB", "2:05", "sh -c a?[2J"]);
        process.argv.clear();
        process.user = Some("nobody".into());
        assert_eq!((row(&process)[1].as_str(), row(&process)[6].as_str()), ("nobody", "[sh]"));
        assert!(!is_the_kernels(&process) && is_the_kernels(&GuestProcess { parent: 2, ..process }));
    }
}
