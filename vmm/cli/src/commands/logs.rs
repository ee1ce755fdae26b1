//! `vmm logs`: what a VM wrote to its console.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use crate::error::Failure;
use crate::sanitise::Sanitiser;

#[derive(Args)]
pub(crate) struct Logs {
    /// Go on until the VM has ended
    #[arg(long, short)]
    follow: bool,
    /// Its name, id or the beginning of its id
    vm: String,
}

impl Logs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let mut log = Sandbox::attach(&home, &self.vm)?.logs(self.follow, None)?;
        let stdout = io::stdout();
        let harmful = stdout.is_terminal();
        let mut out = Sanitiser::new(stdout.lock(), harmful);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = log.read(&mut buffer)?;
            if count == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            match out.write_all(&buffer[..count]).and_then(|()| out.flush()) {
                // The reader has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                written => written?,
            }
        }
    }
}
