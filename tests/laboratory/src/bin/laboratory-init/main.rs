//! Process 1 of the laboratory: makes a whole Linux of an Alpine's root file system, loads KVM, says that it is ready,
//! runs the command that it is told, and brings back what it says.

mod command;
mod failure;
mod kvm;
mod system;

use std::convert::Infallible;
use std::fs::File;
use std::process::ExitCode;

use failure::{Context, Result};
use laboratory::{CHANNEL, Message};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Err(failure) = work(&arguments);
    // When process 1 ends the kernel panics, and the machine with it: whoever waits for us learns of it at once.
    eprintln!("laboratory-init: {failure}");
    ExitCode::FAILURE
}

/// Never comes back but with a failure.
fn work(arguments: &[String]) -> Result<Infallible> {
    match arguments {
        // Started again by ourselves: for a program that lies in another root, or to hold a VM.
        [word, root, command @ ..] if word == system::BENEATH => Err(system::execute_beneath(root, command)),
        [word] if word == kvm::HOLD => kvm::hold(),
        _ => {
            system::build()?;
            serve(open_channel()?)
        }
    }
}

/// Never comes back but with a failure.
fn serve(mut channel: File) -> Result<Infallible> {
    Message::Ready.write(&mut channel).context("say that we are ready")?;
    // A frozen laboratory was frozen here: what follows happens in each of its lives.
    let end = loop {
        // Input that comes before its command has no one to read it.
        if let Message::Run(order) = Message::read(&mut channel).context("read an order")? {
            break match command::run(&order, &channel) {
                Ok(status) => Message::Ended(status),
                Err(failure) => Message::Failed(failure.to_string()),
            };
        }
    };
    end.write(&mut channel).context("say how it ended")?;
    command::reap_for_ever()
}

/// The virtio port with our name.
fn open_channel() -> Result<File> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").context("list the virtio ports")?;
    for port in ports {
        let port = port.context("list the virtio ports")?;
        let name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == CHANNEL {
            let device = std::path::Path::new("/dev").join(port.file_name());
            let channel = File::options().read(true).write(true).open(&device);
            return channel.context(&format!("open {}", device.display()));
        }
    }
    Err(failure::Failure::new(&format!("no virtio port is called {CHANNEL}")))
}
