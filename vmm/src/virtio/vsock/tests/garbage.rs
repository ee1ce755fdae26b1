//! What a broken or hostile driver sends: each packet is dropped or answered by a reset, and the device goes on.

use super::*;

#[test]
fn a_packet_shorter_than_a_header_is_dropped() {
    let mut guest = Guest::new();
    for length in [1, 43] {
        guest.send_raw(&vec![0xff; length]);
    }
    guest.expect_silence();
    guest.expect_health();
}

#[test]
fn a_chain_without_anything_to_read_is_dropped() {
    let mut guest = Guest::new();
    let address = guest.memory.allocate(64);
    guest.transmit.add(&[Buffer::writable(address, 64)]);
    guest.transmit.kick();
    assert_eq!(guest.transmit.wait_used().written, 0);
    guest.expect_health();
}

#[test]
fn a_packet_that_is_shorter_than_it_says_resets_its_connection() {
    for length in [6, 1 << 20, u32::MAX] {
        let mut guest = Guest::new();
        let (socket, mut client) = guest.connection_from_host(52);
        let header = Header { length, ..socket.header(Operation::ReadWrite) };
        guest.send(&header, b"short");
        guest.expect(Operation::Reset);
        assert_eq!(client.read_to_end(), b"");
        guest.expect_health();
    }
}

#[test]
fn bytes_beyond_a_packets_length_are_not_sent_on() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let header = Header { length: 5, ..socket.header(Operation::ReadWrite) };
    guest.send(&header, b"right and wrong");
    socket.sent += 5;
    socket.shut_down(&mut guest, 3);
    assert_eq!(client.read_to_end(), b"right");
}

#[test]
fn a_packet_for_no_connection_is_answered_by_a_reset_unless_it_is_one() {
    let mut guest = Guest::new();
    let mut socket = GuestSocket::new(9, 5000);
    for operation in [
        Operation::Response,
        Operation::Shutdown,
        Operation::ReadWrite,
        Operation::CreditUpdate,
        Operation::CreditRequest,
    ] {
        socket.send(&mut guest, operation);
        let reset = guest.expect(Operation::Reset);
        assert_eq!((reset.source_port, reset.destination_port), (9, 5000), "{operation:?}");
    }
    for number in [0, 8, u16::MAX] {
        guest.send(&Header { operation: number, ..socket.header(Operation::Reset) }, &[]);
        guest.expect(Operation::Reset);
    }
    socket.send(&mut guest, Operation::Reset);
    guest.expect_silence();
}

#[test]
fn an_operation_that_there_is_not_resets_its_connection() {
    for number in [0, 8, u16::MAX] {
        let mut guest = Guest::new();
        let (socket, mut client) = guest.connection_from_host(52);
        guest.send(&Header { operation: number, ..socket.header(Operation::Reset) }, &[]);
        guest.expect(Operation::Reset);
        assert_eq!(client.read_to_end(), b"");
        guest.expect_health();
    }
}

#[test]
fn another_type_of_socket_is_refused_with_its_own_type() {
    let mut guest = Guest::new();
    let service = guest.service(1024);
    for socket_type in [0, 2, 3, u16::MAX] {
        let request = GuestSocket::new(1024, 5000).header(Operation::Request);
        guest.send(&Header { socket_type, ..request }, &[]);
        assert_eq!(guest.expect(Operation::Reset).socket_type, socket_type);
    }
    service.set_nonblocking(true).unwrap();
    assert!(service.accept().is_err());
    guest.expect_health();
}

#[test]
fn a_packet_to_another_machine_is_refused_in_its_name() {
    let mut guest = Guest::new();
    let _service = guest.service(1024);
    let request = GuestSocket::new(1024, 5000).header(Operation::Request);
    for destination_cid in [0, 1, 3, 4, 1 << 32 | 2] {
        guest.send(&Header { destination_cid, ..request }, &[]);
        let used = guest.receive.wait_used();
        let pieces = guest.buffers.remove(&used.head).unwrap();
        let header = Header::parse(&guest.memory.read(pieces[0].address, 44).try_into().unwrap());
        assert_eq!(header.operation, Operation::Reset as u16);
        assert_eq!((header.source_cid, header.destination_cid), (destination_cid, CID));
    }
}

#[test]
fn a_packet_from_a_false_address_is_dropped() {
    let mut guest = Guest::new();
    let _service = guest.service(1024);
    let request = GuestSocket::new(1024, 5000).header(Operation::Request);
    for source_cid in [0, 2, 4, 1 << 32 | 3] {
        guest.send(&Header { source_cid, ..request }, &[]);
    }
    guest.expect_silence();
}

#[test]
fn data_after_the_guests_own_end_resets_the_connection() {
    let mut guest = Guest::new();
    let (mut socket, _client) = guest.connection_from_host(52);
    socket.shut_down(&mut guest, 2);
    socket.write(&mut guest, b"one more thing");
    guest.expect(Operation::Reset);
}

#[test]
fn credit_for_bytes_that_were_never_sent_resets_the_connection() {
    let mut guest = Guest::new();
    let (mut socket, _client) = guest.connection_from_host(52);
    socket.forwarded = 1;
    socket.send(&mut guest, Operation::CreditUpdate);
    guest.expect(Operation::Reset);
    let _service = guest.service(1024);
    let mut socket = GuestSocket::new(1024, 5000);
    socket.forwarded = 1;
    socket.send(&mut guest, Operation::Request);
    guest.expect(Operation::Reset);
}

#[test]
fn an_answer_that_nobody_asked_for_resets_the_connection() {
    let mut guest = Guest::new();
    let client = guest.client(52);
    let request = guest.expect(Operation::Request);
    let mut socket = GuestSocket::new(request.source_port, 52);
    socket.send(&mut guest, Operation::ReadWrite);
    guest.expect(Operation::Reset);
    drop(client);
    guest.expect_health();
}

#[test]
fn receive_buffers_that_hold_no_packet_are_given_back_empty() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    let _client = guest.client(52);
    for length in [1, 43] {
        guest.give_buffers(1, &[length]);
        assert_eq!(guest.receive.wait_used().written, 0);
    }
    // Nothing to write at all.
    let address = guest.memory.allocate(64);
    guest.receive.add(&[Buffer::readable(address, 64)]);
    guest.receive.kick();
    assert_eq!(guest.receive.wait_used().written, 0);
    guest.give_buffers(1, &[44]);
    GuestSocket::accept(&mut guest);
}

#[test]
fn a_receive_buffer_without_room_for_data_is_given_back_and_the_data_waits() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    guest.give_buffers(1, &[44]);
    let mut client = guest.client(52);
    let request = guest.receive.wait_used();
    let (packet, _) = guest.take_out(request.head, 44);
    let mut socket = GuestSocket::new(packet.header.source_port, 52);
    socket.send(&mut guest, Operation::Response);
    client.write(b"data");
    guest.give_buffers(1, &[44]);
    assert_eq!(guest.receive.wait_used().written, 0);
    guest.give_buffers(1, &[44, 2]);
    assert_eq!(socket.read(&mut guest, 4), b"data");
}

#[test]
fn a_queue_whose_rules_the_driver_breaks_is_given_up_and_the_others_are_not() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    guest.transmit.raw_available_index(40_000);
    guest.transmit.kick();
    guest.transmit.wait_broken();
    client.write(b"still");
    assert_eq!(socket.read(&mut guest, 5), b"still");
}
