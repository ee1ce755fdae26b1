//! Whatever the order in which both sides write and read, the bytes arrive whole and in their order.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The host's program writes so much, as far as its socket has room.
    HostWrites(usize, usize),
    /// The host's program reads at most so much.
    HostReads(usize, usize),
    /// The guest sends so much, as far as it has credit.
    GuestWrites(usize, usize),
    /// The guest takes so many packets out of its receive queue, and gives their buffers back or keeps them.
    GuestReceives(usize, bool),
    /// The guest's program reads at most so much; the guest may tell of it.
    GuestReads(usize, usize, bool),
    /// All queues stop and start.
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..3usize;
    prop_oneof![
        3 => (which.clone(), 1..40_000usize).prop_map(|(at, count)| Step::HostWrites(at, count)),
        3 => (which.clone(), 1..80_000usize).prop_map(|(at, count)| Step::HostReads(at, count)),
        3 => (which.clone(), 0..65_536usize).prop_map(|(at, count)| Step::GuestWrites(at, count)),
        3 => (1..10usize, any::<bool>()).prop_map(|(count, give)| Step::GuestReceives(count, give)),
        2 => (which, 1..9_000usize, any::<bool>()).prop_map(|(at, count, tell)| Step::GuestReads(at, count, tell)),
        1 => Just(Step::Pause),
    ]
}

struct Pair {
    socket: GuestSocket,
    client: Client,
    /// What was written, and what was read of it, towards the guest and towards the host.
    to_guest: (Vec<u8>, Vec<u8>),
    to_host: (Vec<u8>, Vec<u8>),
}

struct World {
    guest: Guest,
    pairs: Vec<Pair>,
    kept: Vec<Vec<Buffer>>,
    next: u64,
}

impl World {
    fn new(allocations: [u32; 3]) -> Self {
        let mut guest = Guest::bare(ConnectionLimit::default());
        guest.give_buffers(5, &[44, 700]);
        guest.give_buffers(3, &[30, 30, 2000]);
        let pairs = allocations.map(|allocation| {
            let mut client = guest.client(52);
            let socket = GuestSocket::accept_with(&mut guest, allocation);
            client.read_line();
            client.socket().set_nonblocking(true).unwrap();
            Pair { socket, client, to_guest: Default::default(), to_host: Default::default() }
        });
        Self { guest, pairs: pairs.into(), kept: Vec::new(), next: 0 }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.next += 1;
        pattern_from(self.next << 32, count)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::HostWrites(at, count) => {
                let bytes = self.bytes(count);
                let pair = &mut self.pairs[at];
                if let Ok(written) = pair.client.stream.get_mut().write(&bytes) {
                    pair.to_guest.0.extend(&bytes[..written]);
                }
            }
            Step::HostReads(at, count) => {
                let mut bytes = vec![0; count];
                let pair = &mut self.pairs[at];
                if let Ok(count) = pair.client.stream.read(&mut bytes) {
                    pair.to_host.1.extend(&bytes[..count]);
                }
            }
            Step::GuestWrites(at, count) => {
                let count = count.min(self.pairs[at].socket.credit() as usize);
                let bytes = self.bytes(count);
                let pair = &mut self.pairs[at];
                pair.socket.write(&mut self.guest, &bytes);
                pair.to_host.0.extend(bytes);
            }
            Step::GuestReceives(count, give_back) => {
                for _ in 0..count {
                    let Some((packet, pieces)) = self.guest.try_receive_and_keep() else { break };
                    self.deliver(packet);
                    self.kept.push(pieces);
                }
                if give_back {
                    for pieces in self.kept.drain(..) {
                        self.guest.give_back(pieces);
                    }
                }
            }
            Step::GuestReads(at, count, tell) => {
                let pair = &mut self.pairs[at];
                let count = count.min(pair.socket.unread.len());
                let bytes = pair.socket.take_unread(count);
                pair.to_guest.1.extend(bytes);
                if tell {
                    pair.socket.send(&mut self.guest, Operation::CreditUpdate);
                }
            }
            Step::Pause => {
                let states = self.guest.stop();
                self.guest.start(states);
            }
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let port = packet.header.source_port;
        let pair = self.pairs.iter_mut().find(|pair| pair.socket.host_port == port).unwrap();
        match packet.operation() {
            Operation::ReadWrite | Operation::CreditUpdate => pair.socket.take_packet(packet),
            _ => panic!("{packet:?}"),
        }
    }

    /// Everybody reads until everything has arrived.
    fn finish(&mut self) {
        for pieces in std::mem::take(&mut self.kept) {
            self.guest.give_back(pieces);
        }
        for at in 0..self.pairs.len() {
            self.pairs[at].client.socket().set_nonblocking(false).unwrap();
            self.take(Step::GuestReads(at, usize::MAX, true));
            let missing = self.pairs[at].to_host.0.len() - self.pairs[at].to_host.1.len();
            let rest = self.pairs[at].client.read(missing);
            self.pairs[at].to_host.1.extend(rest);
            while self.pairs[at].to_guest.1.len() < self.pairs[at].to_guest.0.len() {
                let packet = self.guest.receive();
                let is_data = packet.operation() == Operation::ReadWrite;
                let port = packet.header.source_port;
                self.deliver(packet);
                let other = self.pairs.iter().position(|pair| pair.socket.host_port == port).unwrap();
                if is_data {
                    self.take(Step::GuestReads(other, usize::MAX, true));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_one_side_writes_the_other_reads(
        allocations in [1..20_000u32, 1..300_000u32, 1000..1001u32],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(allocations);
        for step in steps {
            world.take(step);
        }
        world.finish();
        for pair in &world.pairs {
            prop_assert!(pair.to_guest.0 == pair.to_guest.1);
            prop_assert!(pair.to_host.0 == pair.to_host.1);
        }
    }
}
