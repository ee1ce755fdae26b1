//! `vmm console`: a seat at a VM's console.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use vmm::{CancelToken, Console, Home, Sandbox};

use crate::error::Failure;
use crate::sanitise::{Sanitiser, say};
use crate::session::{self, DETACH_KEY, UntilKey};
use crate::signals::SignalForwarder;
use crate::terminal::RawTerminal;

/// What a terminal does with keys that nobody takes.
const BELL: &[u8] = b"\x07";

#[derive(Args)]
#[command(after_help = "Examples:
  vmm run -d --name box --init image alpine && vmm console box     a login at its console
  echo reboot | vmm console box                                    typed, and what comes of it")]
pub(crate) struct ConsoleCommand {
    /// The VM's name, id or the beginning of its id
    vm: String,
}

impl ConsoleCommand {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let mut console = sandbox.console()?;
        let interactive = io::stdin().is_terminal();
        let token = CancelToken::new()?;
        let _signals = SignalForwarder::install(&token)?;
        leave_when(&token, &console)?;
        if interactive {
            say("vmm: Ctrl-] leaves the console");
        }
        let raw = if interactive { Some(RawTerminal::enter()?) } else { None };
        let left = Arc::new(AtomicBool::new(false));
        let (typist, its_left) = (console.clone(), left.clone());
        // It is never joined: a read of our standard input cannot be called back, and ends with the process.
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            if type_in(&typist, interactive) {
                its_left.store(true, Ordering::Relaxed);
                typist.leave();
            }
        })?;
        let stdout = io::stdout();
        // Between a terminal and a guest in an interactive session nothing is changed.
        let harmful = stdout.is_terminal() && !interactive;
        let written = session::copy(&mut console, &mut Sanitiser::new(stdout.lock(), harmful));
        drop(raw);
        if interactive {
            let left = left.load(Ordering::Relaxed) || token.is_cancelled();
            say(&if left {
                format!("\nvmm: {} goes on", sandbox.name())
            } else {
                format!("vmm: {} has ended", sandbox.name())
            });
        }
        match written {
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Leaves the console when a signal says so: the terminal must be given back.
fn leave_when(token: &CancelToken, console: &Console) -> io::Result<()> {
    let (token, console) = (token.clone(), console.clone());
    std::thread::Builder::new().name("leave".to_owned()).spawn(move || {
        token.wait();
        console.leave();
    })?;
    Ok(())
}

/// Types what comes on standard input, until its end; says whether the key to leave was among it. Keys that the guest
/// does not take are lost, so that this key is always heard; what is piped in waits.
fn type_in(console: &Console, interactive: bool) -> bool {
    let mut keys = UntilKey::new(io::stdin().lock(), interactive.then_some(DETACH_KEY));
    if !interactive {
        // A console that is gone ends what is read, too.
        let _ = session::copy(&mut keys, &mut console.clone());
        return false;
    }
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = keys.read(&mut buffer) {
        let Ok(typed) = console.type_now(&buffer[..count]) else { return false };
        if typed < count {
            let _ = io::stderr().write_all(BELL);
        }
    }
    keys.seen()
}
