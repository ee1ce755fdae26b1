//! The agent's program. As process 1 it boots the guest; otherwise it serves a Unix socket that it is given, or, started by
//! an agent, does what waits for disks.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The kernel hands unknown words of its command line to process 1: they mean nothing here.
    if rustix::process::getpid().is_init() {
        guest_agent::boot::run();
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.iter().map(|argument| argument.as_bytes()).eq([guest_agent::worker::ARGUMENT.to_bytes()]) {
        return guest_agent::worker::run();
    }
    if arguments != ["serve"] {
        eprintln!(
            "vmm-agent: process 1 of a guest. Elsewhere: `vmm-agent serve`, with a listening Unix socket as its \
             standard input, to try the protocol"
        );
        return ExitCode::FAILURE;
    }
    let served = std::io::stdin().as_fd().try_clone_to_owned().and_then(guest_agent::serve_alone);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm-agent: cannot serve the socket on standard input: {error}");
            ExitCode::FAILURE
        }
    }
}
