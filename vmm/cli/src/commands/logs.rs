//! `vmm logs`: what a VM wrote to its console, or a command in it to its outputs.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::home::Timestamp;
use vmm::{ExitStatus, Home, LogOptions, ProcessId, Sandbox};

use super::print_json;
use crate::error::Failure;
use crate::sanitise::Sanitiser;
use crate::values;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm logs -f box
  vmm logs --tail 20 --since 10m box
  vmm logs --since 2026-01-31T12:00:00Z box
  vmm logs --process 7 box        what command 7 wrote last, each stream to ours")]
pub(crate) struct Logs {
    /// Go on until the VM has ended
    #[arg(long, short)]
    follow: bool,
    /// Only what was written since: so long ago, such as 10m, or a time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    since: Option<Timestamp>,
    /// Only so many lines, the last ones
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<u64>,
    /// What a command in the VM wrote, instead of the console: the last 64 KiB of each stream. Whoever is attached to it
    /// stays
    #[arg(long, short, value_name = "ID", conflicts_with_all = ["follow", "since"])]
    process: Option<u64>,
    /// Print JSON
    #[arg(long, requires = "process")]
    json: bool,
    /// The VM's name, id or the beginning of its id
    vm: String,
}

/// What a command wrote.
#[derive(Serialize)]
struct Written {
    /// As text: what is none is replaced.
    stdout: String,
    stderr: String,
    /// How many bytes came before, which nobody kept.
    stdout_dropped: u64,
    stderr_dropped: u64,
    /// How it ended, if it has.
    status: Option<ExitStatus>,
}

impl Logs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        if let Some(process) = self.process {
            return self.tell_output(&sandbox, ProcessId(process));
        }
        let options = LogOptions { follow: self.follow, since: self.since, tail: self.tail };
        let mut log = sandbox.logs(&options, None)?;
        let stdout = io::stdout();
        let harmful = stdout.is_terminal();
        let mut out = Sanitiser::new(stdout.lock(), harmful);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = log.read(&mut buffer)?;
            if count == 0 || !write(&mut out, &buffer[..count])? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    fn tell_output(&self, sandbox: &Sandbox, process: ProcessId) -> Result<ExitCode, Failure> {
        let output = sandbox.process_output(process)?;
        let (stdout, stderr) = (self.last(&output.stdout), self.last(&output.stderr));
        if self.json {
            let (stdout_dropped, stderr_dropped) = output.dropped;
            print_json(&Written {
                stdout: String::from_utf8_lossy(stdout).into_owned(),
                stderr: String::from_utf8_lossy(stderr).into_owned(),
                stdout_dropped,
                stderr_dropped,
                status: output.exit.map(ExitStatus::from),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let (out, err) = (io::stdout(), io::stderr());
        let (out_harmful, err_harmful) = (out.is_terminal(), err.is_terminal());
        write(&mut Sanitiser::new(out.lock(), out_harmful), stdout)?;
        write(&mut Sanitiser::new(err.lock(), err_harmful), stderr)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The last lines, if only those are wanted.
    fn last<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let Some(count) = self.tail.and_then(|count| usize::try_from(count).ok()) else { return text };
        let end = text.strip_suffix(b"\n").unwrap_or(text).len();
        let ends = text[..end].iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n');
        match count.checked_sub(1) {
            None => &[],
            Some(more) => ends.map(|(index, _)| &text[index + 1..]).nth(more).unwrap_or(text),
        }
    }
}

/// Writes on; says whether anybody reads it.
fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<bool> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}
