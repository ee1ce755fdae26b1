//! Connections from both sides: how they begin, how they end, and how many there can be.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::num::NonZeroU16;

use super::*;

#[test]
fn a_host_client_talks_to_the_guest_in_both_directions() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    assert_eq!(socket.guest_port, 52);
    client.write(b"hello guest");
    assert_eq!(socket.read(&mut guest, 11), b"hello guest");
    socket.write(&mut guest, b"hello host");
    assert_eq!(client.read(10), b"hello host");
}

#[test]
fn a_guest_client_talks_to_the_host_in_both_directions() {
    let mut guest = Guest::new();
    let (mut socket, mut service) = guest.connection_to_host(1024);
    socket.write(&mut guest, b"hello host");
    assert_eq!(service.read(10), b"hello host");
    service.write(b"hello guest");
    assert_eq!(socket.read(&mut guest, 11), b"hello guest");
}

#[test]
fn bytes_that_a_client_wrote_behind_its_line_reach_the_guest() {
    let mut guest = Guest::new();
    let mut client = Client::silent(&guest.socket());
    client.write(b"CONNECT 52\nearly");
    let mut socket = GuestSocket::accept(&mut guest);
    assert_eq!(socket.read(&mut guest, 5), b"early");
    assert!(client.read_line().starts_with("OK "));
}

#[test]
fn a_client_that_the_guest_refuses_sees_its_connection_closed() {
    let mut guest = Guest::new();
    let mut client = guest.client(52);
    let request = guest.expect(Operation::Request);
    let mut socket = GuestSocket::new(request.source_port, 52);
    socket.send(&mut guest, Operation::Reset);
    assert_eq!(client.read_to_end(), b"");
    guest.expect_silence();
}

#[test]
fn a_client_that_says_something_else_sees_its_connection_closed() {
    let mut guest = Guest::new();
    let mut client = Client::silent(&guest.socket());
    client.write(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(client.stream.read(&mut [0]), Ok(0) | Err(_)));
    guest.expect_silence();
}

#[test]
fn a_guest_client_is_refused_where_nobody_listens() {
    let mut guest = Guest::new();
    GuestSocket::new(9, 5000).send(&mut guest, Operation::Request);
    let reset = guest.expect(Operation::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (9, 5000));
    guest.expect_health();
}

#[test]
fn a_guest_client_is_refused_when_the_socket_of_its_port_is_dead() {
    let mut guest = Guest::new();
    drop(guest.service(9));
    GuestSocket::new(9, 5000).send(&mut guest, Operation::Request);
    guest.expect(Operation::Reset);
}

#[test]
fn a_client_that_ends_its_writing_still_reads_what_the_guest_answers() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    client.write(b"question");
    client.socket().shutdown(Shutdown::Write).unwrap();
    assert_eq!(socket.read(&mut guest, 8), b"question");
    assert_eq!(guest.expect(Operation::Shutdown).flags, 2);
    socket.write(&mut guest, b"a long ");
    socket.write(&mut guest, b"answer");
    socket.shut_down(&mut guest, 3);
    guest.expect(Operation::Reset);
    assert_eq!(client.read_to_end(), b"a long answer");
}

#[test]
fn a_guest_that_ends_its_sending_still_receives() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    socket.write(&mut guest, b"question");
    socket.shut_down(&mut guest, 2);
    assert_eq!(client.read_to_end(), b"question");
    client.write(b"answer");
    assert_eq!(socket.read(&mut guest, 6), b"answer");
    drop(client);
    let mut told = guest.expect(Operation::Shutdown).flags;
    while told != 3 {
        told = guest.expect(Operation::Shutdown).flags;
    }
    socket.send(&mut guest, Operation::Reset);
    guest.expect_silence();
}

#[test]
fn a_guest_that_ends_its_receiving_breaks_the_clients_pipe_and_can_still_send() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    socket.shut_down(&mut guest, 1);
    guest.quiesce();
    assert!(client.stream.get_mut().write(b"unwanted").is_err());
    socket.write(&mut guest, b"still here");
    assert_eq!(client.read(10), b"still here");
}

#[test]
fn a_client_that_ends_its_reading_is_carried_over_to_the_guest() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    client.socket().shutdown(Shutdown::Read).unwrap();
    socket.write(&mut guest, b"unwanted");
    assert_eq!(guest.expect(Operation::Shutdown).flags, 1);
    client.write(b"still here");
    assert_eq!(socket.read(&mut guest, 10), b"still here");
}

#[test]
fn everything_that_a_client_wrote_before_it_left_reaches_the_guest() {
    let mut guest = Guest::bare(ConnectionLimit::default());
    guest.give_buffers(2, &[BUFFER]);
    let (mut socket, mut client) = guest.connection_from_host(52);
    let bytes = pattern(100_000);
    client.write(&bytes);
    drop(client);
    assert_eq!(socket.read(&mut guest, bytes.len()), bytes);
    let mut told = guest.expect(Operation::Shutdown).flags;
    while told != 3 {
        told = guest.expect(Operation::Shutdown).flags;
    }
}

#[test]
fn everything_that_the_guest_sent_before_it_closed_reaches_the_client() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let bytes = pattern(256 << 10);
    for piece in bytes.chunks(60_000) {
        socket.write(&mut guest, piece);
    }
    socket.shut_down(&mut guest, 3);
    while guest.receive().operation() != Operation::Reset {}
    assert_eq!(client.read_to_end(), bytes);
}

#[test]
fn a_client_with_unread_input_still_sees_the_end_and_no_error() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    socket.allocation = 0;
    socket.send(&mut guest, Operation::CreditUpdate);
    client.write(b"never read by anyone");
    socket.write(&mut guest, b"bye");
    socket.shut_down(&mut guest, 3);
    assert_eq!(client.read_to_end(), b"bye");
}

#[test]
fn a_client_that_leaves_before_the_guest_answers_takes_its_request_back() {
    let mut guest = Guest::new();
    let client = guest.client(52);
    let request = guest.expect(Operation::Request);
    drop(client);
    let reset = guest.expect(Operation::Reset);
    assert_eq!(reset.source_port, request.source_port);
    // The guest's answer has crossed it.
    GuestSocket::new(request.source_port, 52).send(&mut guest, Operation::Response);
    guest.expect(Operation::Reset);
    guest.expect_silence();
}

#[test]
fn a_request_for_ports_in_use_resets_their_connection() {
    let mut guest = Guest::new();
    let (mut socket, mut service) = guest.connection_to_host(1024);
    socket.send(&mut guest, Operation::Request);
    guest.expect(Operation::Reset);
    assert_eq!(service.read_to_end(), b"");
    guest.expect_health();
}

#[test]
fn ports_are_free_as_soon_as_the_guest_is_through_with_them() {
    let mut guest = Guest::new();
    let service = guest.service(1024);
    for _ in 0..3 {
        let mut socket = GuestSocket::new(1024, 5000);
        socket.send(&mut guest, Operation::Request);
        guest.expect(Operation::Response);
        let mut accepted = Client::from_stream(service.accept().unwrap().0);
        socket.write(&mut guest, b"x");
        socket.send(&mut guest, Operation::Reset);
        assert_eq!(accepted.read_to_end(), b"x");
    }
}

#[test]
fn three_hundred_connections_are_served_at_once() {
    let mut guest = Guest::new();
    let mut clients: Vec<Client> = (0..300).map(|_| guest.client(52)).collect();
    let mut sockets: HashMap<u32, GuestSocket> = HashMap::new();
    for _ in 0..300 {
        let socket = GuestSocket::accept(&mut guest);
        assert!(sockets.insert(socket.host_port, socket).is_none(), "a port was given twice");
    }
    let mut ports = Vec::new();
    for (number, client) in (0..300u32).zip(&mut clients) {
        let line = client.read_line();
        ports.push(line.strip_prefix("OK ").unwrap().trim_end().parse::<u32>().unwrap());
        client.write(&number.to_le_bytes());
    }
    for _ in 0..300 {
        let packet = guest.receive();
        let socket = sockets.get_mut(&packet.header.source_port).unwrap();
        socket.take_packet(packet);
        let bytes = socket.take_unread(4);
        socket.write(&mut guest, &bytes);
    }
    for (number, client) in (0..300u32).zip(&mut clients) {
        assert_eq!(client.read(4), number.to_le_bytes());
    }
    drop(clients);
    for _ in 0..300 {
        let port = guest.expect(Operation::Shutdown).source_port;
        sockets.get_mut(&port).unwrap().send(&mut guest, Operation::Reset);
    }
    guest.expect_silence();
}

#[test]
fn over_the_limit_both_sides_are_refused_until_a_connection_ends() {
    let mut guest = Guest::bare(ConnectionLimit::new(NonZeroU16::new(2).unwrap()));
    guest.give_buffers(8, &[BUFFER]);
    let (mut first, _first_client) = guest.connection_from_host(52);
    let (_second, _second_client) = guest.connection_from_host(52);
    assert_eq!(guest.client(52).read_to_end(), b"");
    let _service = guest.service(1024);
    let mut third = GuestSocket::new(1024, 5000);
    third.send(&mut guest, Operation::Request);
    guest.expect(Operation::Reset);
    first.send(&mut guest, Operation::Reset);
    third.send(&mut guest, Operation::Request);
    guest.expect(Operation::Response);
}

#[test]
fn clients_that_say_nothing_keep_nobody_from_connecting() {
    let mut guest = Guest::bare(ConnectionLimit::new(NonZeroU16::new(4).unwrap()));
    guest.give_buffers(8, &[BUFFER]);
    let mut silent: Vec<Client> = (0..20).map(|_| Client::silent(&guest.socket())).collect();
    guest.expect_health();
    // The first of them made room for the last.
    assert_eq!(silent[0].read_to_end(), b"");
    silent[19].write(b"CONNECT 52\n");
    GuestSocket::accept(&mut guest);
    assert!(silent[19].read_line().starts_with("OK "));
}
