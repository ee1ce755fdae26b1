//! The thread that types on the serial port what comes from the machine's console.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use crate::devices::SerialPort;
use crate::threads::{self, Role};

/// The port takes fewer at a time.
const READ: usize = 256;

/// Starts the thread. It ends when the console is shut down, or closed at its other end.
pub(super) fn start(console: OwnedFd, port: Arc<SerialPort>) -> io::Result<JoinHandle<()>> {
    threads::spawn(Role::Keyboard, "keyboard", move || {
        if let Err(error) = serve(File::from(console), &port) {
            tracing::warn!(%error, "what is typed does not reach the guest any more");
        }
    })
}

fn serve(mut console: File, port: &SerialPort) -> io::Result<()> {
    let mut bytes = [0; READ];
    loop {
        let count = match console.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut typed = &bytes[..count];
        while !typed.is_empty() {
            let taken = port.type_in(typed);
            typed = &typed[taken..];
            if taken == 0 && !wait_until_taken(&console, port)? {
                return Ok(());
            }
        }
    }
}

/// Waits until the guest has taken all that was typed. Says whether the console is still there.
fn wait_until_taken(console: &File, port: &SerialPort) -> io::Result<bool> {
    // That it is gone is told unasked.
    let mut waited = [PollFd::new(port.taken(), PollFlags::IN), PollFd::new(console, PollFlags::empty())];
    rustix::io::retry_on_intr(|| poll(&mut waited, None))?;
    Ok(waited[1].revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::BusDevice;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use vmm_sys::Event;

    #[test]
    fn more_than_the_port_takes_arrives_as_the_guest_reads_it_and_the_end_ends_the_thread() {
        let (mut typist, console) = UnixStream::pair().unwrap();
        let (_reader, writer) = UnixStream::pair().unwrap();
        let port = Arc::new(SerialPort::new(writer.into(), Event::new().unwrap()).unwrap());
        let thread = start(console.into(), port.clone()).unwrap();
        let typed: Vec<u8> = (0..1000u16).map(|number| number.to_le_bytes()[0]).collect();
        typist.write_all(&typed).unwrap();
        let mut read = Vec::new();
        while read.len() < typed.len() {
            if port.read(5, 1) & 1 == 1 {
                read.push(port.read(0, 1).to_le_bytes()[0]);
            } else {
                std::thread::yield_now();
            }
        }
        assert_eq!(read, typed);
        // Also while the guest takes nothing.
        typist.write_all(&typed).unwrap();
        drop(typist);
        thread.join().unwrap();
    }
}
