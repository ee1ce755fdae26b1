//! A serial port (16550A) that writes to the machine's console. Nobody types on it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys::Event;

use super::{BusDevice, Effect};

/// The port. What the guest writes has left when the write returns; a console that nobody reads holds the guest up.
pub struct SerialPort {
    port: Mutex<Serial<Line, NoEvents, Console>>,
}

impl SerialPort {
    /// `console` gets what the guest writes; `interrupt` is notified when the guest is to look.
    pub fn new(console: OwnedFd, interrupt: Event) -> Self {
        Self { port: Mutex::new(Serial::new(Line(interrupt), Console(Some(console.into())))) }
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, _width: u8) -> u64 {
        let Ok(offset) = u8::try_from(offset) else { return 0 };
        self.port.lock().unwrap_or_else(PoisonError::into_inner).read(offset).into()
    }

    fn write(&self, offset: u64, _width: u8, value: u64) -> Effect {
        let [low, ..] = value.to_le_bytes();
        if let Ok(offset) = u8::try_from(offset) {
            // What can fail is the interrupt, whose event is never full, and the console, which is gone with its reader.
            let _ = self.port.lock().unwrap_or_else(PoisonError::into_inner).write(offset, low);
        }
        Effect::None
    }
}

struct Line(Event);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.notify()
    }
}

/// Where the guest's words go, until nobody is there to read them.
struct Console(Option<File>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.0
            && let Err(error) = file.write_all(bytes)
        {
            tracing::debug!(%error, "the console is gone");
            self.0 = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;

    #[test]
    fn what_the_guest_writes_reaches_the_console() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let interrupt = Event::new().unwrap();
        let serial = SerialPort::new(writer.into(), interrupt.try_clone().unwrap());
        for byte in b"boot" {
            assert_eq!(serial.read(LINE_STATUS, 1) & 0x60, 0x60);
            assert_eq!(serial.write(DATA, 1, u64::from(*byte)), Effect::None);
        }
        assert!(!interrupt.clear().unwrap());
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"boot");
        serial.write(INTERRUPT_ENABLE, 1, 2);
        assert!(interrupt.clear().unwrap());
    }

    #[test]
    fn a_console_that_nobody_reads_any_more_stops_no_guest() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let serial = SerialPort::new(writer.into(), Event::new().unwrap());
        drop(reader);
        for _ in 0..3 {
            serial.write(DATA, 1, 0x41);
        }
        serial.write(u64::MAX, 8, u64::MAX);
        assert_eq!(serial.read(u64::MAX, 8), 0);
    }
}
