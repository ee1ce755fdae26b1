//! Whoever sits at the VM's console: each has a socket that was handed over at the control socket.
//!
//! Nobody of them holds up the guest, the monitor or each other. What a slow one has not read waits up to a bound, beyond
//! which it is left out and told so. What they type waits up to a bound too, until the guest takes it; until then nothing
//! more is read from anybody.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};
use vmm_sys::{Interest, Poller, Ready};

/// More than this do not sit at one console.
const MOST: usize = 8;

/// More than this does not wait for a client that does not read.
const OUTPUT_LIMIT: usize = 256 << 10;

/// So much is read of what is typed, at once and at a time.
const INPUT: usize = 4096;

/// Stands for what a client was too slow for.
const LEFT_OUT: &[u8] = b"\r\n[vmm: output was left out here]\r\n";

/// The first of their tokens.
pub(super) const FIRST_TOKEN: u64 = 1 << 32;

/// Those at one console.
pub(super) struct ConsoleClients {
    clients: BTreeMap<u64, ConsoleClient>,
    next_token: u64,
    /// What was typed and the guest has not taken.
    typed: Vec<u8>,
}

struct ConsoleClient {
    socket: OwnedFd,
    output: Vec<u8>,
    /// Something was left out since it last read all.
    behind: bool,
    /// It types no more.
    deaf: bool,
    gone: bool,
}

impl ConsoleClients {
    pub(super) fn new() -> Self {
        Self { clients: BTreeMap::new(), next_token: FIRST_TOKEN, typed: Vec::new() }
    }

    /// Whether there is no room for another.
    pub(super) fn are_many(&self) -> bool {
        self.clients.len() >= MOST
    }

    /// One more sits at the console, and sees what was written last.
    pub(super) fn add(&mut self, poller: &Poller, socket: OwnedFd, last: &[u8]) -> io::Result<()> {
        let token = self.next_token;
        let mut client =
            ConsoleClient { socket, output: Vec::new(), behind: false, deaf: false, gone: false };
        client.hear(last);
        poller.add(&client, token, client.interest(self.typed.is_empty()))?;
        self.next_token += 1;
        self.clients.insert(token, client);
        Ok(())
    }

    /// The guest has written this.
    pub(super) fn hear(&mut self, poller: &Poller, bytes: &[u8]) {
        for client in self.clients.values_mut() {
            client.hear(bytes);
        }
        self.update(poller);
    }

    /// One of them has read or typed something, or left.
    pub(super) fn serve(&mut self, poller: &Poller, ready: Ready, machine: BorrowedFd<'_>) {
        let Some(client) = self.clients.get_mut(&ready.token) else { return };
        if ready.writable {
            client.flush();
        }
        if ready.readable && self.typed.is_empty() && !client.deaf {
            self.typed = client.typed();
        } else if ready.hangup {
            // It hears nothing more, and what it typed last the guest would have to take first.
            client.gone = true;
        }
        self.type_on(poller, machine);
    }

    /// Gives the machine what was typed, as far as it takes it.
    pub(super) fn type_on(&mut self, poller: &Poller, machine: BorrowedFd<'_>) {
        while !self.typed.is_empty() {
            match rustix::net::send(machine, &self.typed, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.typed.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                // A machine that has ended takes nothing, and its end is told otherwise.
                Err(_) => self.typed.clear(),
            }
        }
        self.update(poller);
    }

    /// Whether the machine is to say when it takes more of what was typed.
    pub(super) fn wait_for_machine(&self) -> bool {
        !self.typed.is_empty()
    }

    fn update(&mut self, poller: &Poller) {
        let may_type = self.typed.is_empty();
        self.clients.retain(|&token, client| {
            let stays = !client.gone && poller.modify(&*client, token, client.interest(may_type)).is_ok();
            if !stays {
                let _ = poller.delete(&*client);
            }
            stays
        });
    }
}

impl ConsoleClient {
    fn interest(&self, may_type: bool) -> Interest {
        Interest { readable: may_type && !self.deaf, writable: !self.output.is_empty() }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.behind || self.output.len() + bytes.len() > OUTPUT_LIMIT {
            self.behind = true;
            return;
        }
        self.output.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.output.is_empty() && !self.gone {
            match rustix::net::send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.gone = true,
            }
            if self.output.is_empty() && std::mem::take(&mut self.behind) {
                self.output.extend_from_slice(LEFT_OUT);
            }
        }
    }

    /// What it has typed.
    fn typed(&mut self) -> Vec<u8> {
        let mut bytes = [0; INPUT];
        match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.deaf = true,
            Ok((length, _)) => return bytes[..length].to_vec(),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
        Vec::new()
    }
}

impl AsFd for ConsoleClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    struct Desk {
        poller: Poller,
        clients: ConsoleClients,
        machine: UnixStream,
        ours: UnixStream,
    }

    impl Desk {
        fn new() -> Self {
            let (machine, ours) = UnixStream::pair().unwrap();
            Self { poller: Poller::new().unwrap(), clients: ConsoleClients::new(), machine, ours }
        }

        fn sit_down(&mut self) -> UnixStream {
            let (theirs, client) = UnixStream::pair().unwrap();
            self.clients.add(&self.poller, client.into(), b"login: ").unwrap();
            theirs
        }

        /// Does what is to be done for the clients now.
        fn turn(&mut self) {
            let ready: Vec<Ready> =
                self.poller.wait(Some(std::time::Duration::from_millis(100))).unwrap().collect();
            for ready in ready {
                self.clients.serve(&self.poller, ready, self.ours.as_fd());
            }
        }
    }

    #[test]
    fn all_see_what_the_guest_writes_and_the_guest_gets_what_each_types() {
        let mut desk = Desk::new();
        let (mut one, mut other) = (desk.sit_down(), desk.sit_down());
        desk.clients.hear(&desk.poller, b"# ");
        one.write_all(b"ls\r").unwrap();
        desk.turn();
        let mut typed = [0; 3];
        desk.machine.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"ls\r");
        for client in [&mut one, &mut other] {
            let mut seen = [0; 9];
            client.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"login: # ");
        }
        // Who has typed all still sees what comes; who leaves is forgotten.
        one.shutdown(std::net::Shutdown::Write).unwrap();
        // Not closed: until its exec, a child that another test starts may hold a copy of the descriptor.
        other.shutdown(std::net::Shutdown::Both).unwrap();
        (0..3).for_each(|_| desk.turn());
        assert_eq!(desk.clients.clients.len(), 1);
        desk.clients.hear(&desk.poller, b"!");
        one.read_exact(&mut typed[..1]).unwrap();
        assert_eq!(typed[0], b'!');
    }

    #[test]
    fn a_client_that_does_not_read_costs_little_and_is_told_what_it_missed() {
        let mut desk = Desk::new();
        let mut slow = desk.sit_down();
        for _ in 0..1000 {
            desk.clients.hear(&desk.poller, &[b'x'; 4096]);
        }
        let kept: usize = desk.clients.clients.values().map(|client| client.output.len()).sum();
        assert!(kept <= OUTPUT_LIMIT, "{kept}");
        slow.set_nonblocking(true).unwrap();
        let mut seen = Vec::new();
        for _ in 0..1000 {
            let _ = slow.read_to_end(&mut seen);
            if seen.ends_with(LEFT_OUT) {
                break;
            }
            desk.turn();
        }
        assert!(seen.ends_with(LEFT_OUT) && seen.len() < 2 << 20, "{}", seen.len());
        desk.clients.hear(&desk.poller, b"now");
        let _ = slow.read_to_end(&mut seen);
        assert!(seen.ends_with(b"now"));
    }

    #[test]
    fn what_a_guest_does_not_take_waits_and_nothing_more_is_read() {
        let mut desk = Desk::new();
        let mut typist = desk.sit_down();
        typist.set_nonblocking(true).unwrap();
        let mut typed = 0;
        loop {
            match typist.write(&[b'y'; 4096]) {
                Ok(length) => typed += length,
                Err(_) if desk.clients.wait_for_machine() => break,
                Err(_) => desk.turn(),
            }
        }
        assert!(desk.clients.typed.len() <= INPUT);
        // All of it arrives once the guest reads.
        let mut machine = desk.machine.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; typed];
            machine.read_exact(&mut all).unwrap();
        });
        while !reader.is_finished() {
            desk.clients.type_on(&desk.poller, desk.ours.as_fd());
            desk.turn();
        }
        reader.join().unwrap();
    }
}
