//! A serial port (16550A): the guest's console. What it writes goes to the machine's console; what is typed there comes
//! by [`SerialPort::type_in`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys::Event;

use super::{BusDevice, Effect};

/// The port. What the guest writes has left when the write returns; a console that nobody reads holds the guest up.
pub struct SerialPort {
    port: Mutex<Serial<Line, Taken, Console>>,
    taken: Event,
}

impl SerialPort {
    /// `console` gets what the guest writes; `interrupt` is notified when the guest is to look.
    pub fn new(console: OwnedFd, interrupt: Event) -> io::Result<Self> {
        let taken = Event::new()?;
        let console = Console(Some(console.into()));
        let port = Serial::with_events(Line(interrupt), Taken(taken.try_clone()?), console);
        Ok(Self { port: Mutex::new(port), taken })
    }

    /// Types what there is room for, and says how much that is. Where there is none, [`SerialPort::taken`] says when the
    /// guest has taken all.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if port.fifo_capacity() == 0 {
            // What was told before is no news of this.
            let _ = self.taken.clear();
            return 0;
        }
        // A port that the guest tests itself takes nothing: then it is lost, as on a line.
        let room = bytes.len().min(port.fifo_capacity());
        let _ = port.enqueue_raw_bytes(&bytes[..room]);
        room
    }

    /// Notified when the guest has taken all that was typed.
    pub fn taken(&self) -> &Event {
        &self.taken
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

struct Taken(Event);

impl SerialEvents for Taken {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // Its counter is never full: who waits for it clears it.
        let _ = self.0.notify();
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
        let serial = SerialPort::new(writer.into(), interrupt.try_clone().unwrap()).unwrap();
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
    fn what_is_typed_reaches_the_guest_and_no_more_than_there_is_room_for() {
        let (_reader, writer) = UnixStream::pair().unwrap();
        let interrupt = Event::new().unwrap();
        let serial = SerialPort::new(writer.into(), interrupt.try_clone().unwrap()).unwrap();
        serial.write(INTERRUPT_ENABLE, 1, 1);
        let typed = [b'k'; 200];
        let room = serial.type_in(&typed);
        assert!((1..200).contains(&room), "{room}");
        assert!(interrupt.clear().unwrap());
        assert_eq!(serial.type_in(&typed), 0);
        assert!(!serial.taken().clear().unwrap());
        for _ in 0..room {
            assert_eq!(serial.read(LINE_STATUS, 1) & 1, 1);
            assert_eq!(serial.read(DATA, 1), u64::from(b'k'));
        }
        assert_eq!(serial.read(LINE_STATUS, 1) & 1, 0);
        assert!(serial.taken().clear().unwrap());
        assert_eq!(serial.type_in(b"more"), 4);
    }

    #[test]
    fn a_console_that_nobody_reads_any_more_stops_no_guest() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let serial = SerialPort::new(writer.into(), Event::new().unwrap()).unwrap();
        drop(reader);
        for _ in 0..3 {
            serial.write(DATA, 1, 0x41);
        }
        serial.write(u64::MAX, 8, u64::MAX);
        assert_eq!(serial.read(u64::MAX, 8), 0);
    }
}
