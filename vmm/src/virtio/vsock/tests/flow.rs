//! Flow control in both directions, and what happens when nobody reads.

use super::*;

#[test]
fn the_guest_is_sent_no_more_than_its_credit_and_the_rest_when_it_has_read() {
    let mut guest = Guest::new();
    let mut client = guest.client(52);
    let mut socket = GuestSocket::accept_with(&mut guest, 1000);
    client.read_line();
    let bytes = pattern(3500);
    client.write(&bytes);
    let mut read = socket.read(&mut guest, 1000);
    guest.expect_silence();
    while read.len() < bytes.len() {
        socket.send(&mut guest, Operation::CreditUpdate);
        read.extend(socket.read(&mut guest, (bytes.len() - read.len()).min(1000)));
    }
    assert_eq!(read, bytes);
}

#[test]
fn a_guest_that_made_its_buffer_smaller_is_sent_nothing_until_it_fits_again() {
    let mut guest = Guest::new();
    let mut client = guest.client(52);
    let mut socket = GuestSocket::accept_with(&mut guest, 1000);
    client.read_line();
    client.write(&pattern(800));
    while socket.unread.len() < 800 {
        let packet = guest.receive();
        socket.take_packet(packet);
    }
    socket.allocation = 500;
    socket.send(&mut guest, Operation::CreditUpdate);
    client.write(b"more");
    guest.expect_silence();
    socket.take_unread(800);
    socket.send(&mut guest, Operation::CreditUpdate);
    assert_eq!(socket.read(&mut guest, 4), b"more");
}

impl GuestSocket {
    /// Whether there is credit, when everything is done that can be without a reader.
    fn has_credit_after_all(&mut self, guest: &mut Guest) -> bool {
        if self.credit() == 0 {
            guest.quiesce();
        }
        while let Some(packet) = guest.try_receive() {
            assert_eq!(packet.operation(), Operation::CreditUpdate);
            self.take(&packet.header);
        }
        self.credit() > 0
    }
}

#[test]
fn a_slow_reader_on_the_host_stops_the_guest_and_lets_it_go_on() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let mut sent = Vec::new();
    // The client's socket takes some of it, our buffer the rest.
    while socket.has_credit_after_all(&mut guest) {
        let piece = pattern(socket.credit().min(50_000) as usize);
        socket.write(&mut guest, &piece);
        sent.extend(piece);
    }
    assert!(sent.len() < 2 << 20, "{} bytes were taken with nobody reading", sent.len());
    assert_eq!(client.read(sent.len()), sent);
    let update = guest.expect(Operation::CreditUpdate);
    socket.take(&update);
    assert!(socket.credit() >= socket.host_allocation / 2);
    socket.write(&mut guest, b"on and on");
    assert_eq!(client.read(9), b"on and on");
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let piece = pattern(64 << 10);
    let mut written = 0;
    let reset = loop {
        socket.write(&mut guest, &piece);
        written += piece.len();
        assert!(written < 4 << 20, "nothing stops the guest");
        // A packet behind the reset would bring another one.
        guest.quiesce();
        if let Some(packet) = guest.try_receive()
            && packet.operation() == Operation::Reset
        {
            break packet.header;
        }
    };
    assert_eq!(reset.source_port, socket.host_port);
    let read = client.read_to_end();
    assert!(read.len() < written);
    guest.expect_health();
}

#[test]
fn a_question_for_credit_is_answered_at_once() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    socket.write(&mut guest, b"12345");
    assert_eq!(client.read(5), b"12345");
    guest.expect_silence();
    socket.send(&mut guest, Operation::CreditRequest);
    let update = guest.expect(Operation::CreditUpdate);
    assert_eq!((update.buffer_allocation, update.forward_count), (256 << 10, 5));
}

#[test]
fn the_guest_learns_of_free_room_before_its_credit_is_gone() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let piece = pattern(1 << 10);
    for _ in 0..4096 {
        assert!(socket.credit() >= 1 << 10, "the guest has to wait although the client reads");
        socket.write(&mut guest, &piece);
        assert_eq!(client.read(piece.len()), piece);
        while let Some(packet) = guest.try_receive() {
            socket.take(&packet.header);
        }
    }
}

#[test]
fn without_buffers_of_the_guest_the_client_is_held_back() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    guest.give_buffers(1, &[BUFFER]);
    let (mut socket, mut client) = guest.connection_from_host(52);
    // The only buffer is with the device now; the first bytes take it, and it is not given back.
    let bytes = pattern(8 << 20);
    let written = client.write_all_there_is_room_for(&bytes);
    guest.quiesce();
    let more = client.write_all_there_is_room_for(&bytes[written..]);
    let written = written + more;
    assert!(written < bytes.len(), "{written} bytes were taken with no buffer of the guest's");
    assert_eq!(socket.read(&mut guest, written), &bytes[..written]);
}

#[test]
fn a_connection_with_much_to_send_does_not_keep_another_waiting() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    guest.give_buffers(4, &[BUFFER]);
    let (loud, mut loud_client) = guest.connection_from_host(1);
    let (quiet, mut quiet_client) = guest.connection_from_host(2);
    let states = guest.stop();
    loud_client.write_all_there_is_room_for(&pattern(150_000));
    quiet_client.write(b"me too");
    guest.start(states);
    let first_packets: Vec<u32> = (0..4).map(|_| guest.receive().header.source_port).collect();
    assert!(first_packets.contains(&quiet.host_port), "{first_packets:?}");
    assert!(first_packets.contains(&loud.host_port), "{first_packets:?}");
}

#[test]
fn a_packet_fills_the_buffer_that_it_goes_into_whatever_its_pieces() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    guest.give_buffers(1, &[10, 34, 1, 4000, 20_000]);
    let (mut socket, mut client) = guest.connection_from_host(52);
    let bytes = pattern(50_000);
    let states = guest.stop();
    client.write(&bytes);
    guest.start(states);
    let packet = guest.receive();
    assert_eq!(packet.payload.len(), 24_001);
    socket.take_packet(packet);
    assert_eq!(socket.read(&mut guest, bytes.len()), bytes);
}

#[test]
fn a_header_and_its_payload_may_lie_in_one_descriptor() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let header = Header { length: 5, ..socket.header(Operation::ReadWrite) };
    let mut bytes = header.bytes().to_vec();
    bytes.extend(b"whole");
    let address = guest.memory.allocate_bytes(&bytes);
    guest.transmit.add(&[Buffer::readable(address, 49)]);
    guest.transmit.kick();
    guest.transmit.wait_used();
    assert_eq!(client.read(5), b"whole");
    // And the header in two.
    guest.transmit.add(&[
        Buffer::readable(address, 3),
        Buffer::readable(address + 3, 43),
        Buffer::readable(address + 46, 3),
    ]);
    guest.transmit.kick();
    guest.transmit.wait_used();
    assert_eq!(client.read(5), b"whole");
    socket.sent += 10;
}

#[test]
fn answers_that_the_guest_has_no_buffer_for_stop_it_and_are_not_lost() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    let header = GuestSocket::new(9, 5000).header(Operation::ReadWrite);
    let address = guest.memory.allocate_bytes(&header.bytes());
    let mut posted: usize = 0;
    let mut used: usize = 0;
    for _ in 0..3 {
        while guest.transmit.free() > 0 {
            guest.transmit.add(&[Buffer::readable(address, 44)]);
            posted += 1;
        }
        guest.transmit.kick();
        guest.quiesce();
        while guest.transmit.try_used().is_some() {
            used += 1;
        }
    }
    assert!((1..=200).contains(&used), "{used} packets were taken and not answered");
    guest.give_buffers(32, &[64]);
    for _ in 0..posted {
        guest.expect(Operation::Reset);
    }
    guest.expect_silence();
}
