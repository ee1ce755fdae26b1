//! The device's own life: its configuration, starting, stopping, reset, and the transport's reset.

use super::*;

#[test]
fn the_configuration_is_the_guests_address() {
    let folder = tempfile::tempdir().unwrap();
    let cid = GuestCid::try_from(0x0102_0304).unwrap();
    let mut device = VsockDevice::new(cid, &folder.path().join("vsock")).unwrap();
    let mut bytes = [0xff; 12];
    device.read_config(0, &mut bytes);
    assert_eq!(bytes, [4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    device.write_config(0, &[9; 8]);
    let mut bytes = [0xff; 4];
    device.read_config(2, &mut bytes);
    assert_eq!(bytes, [2, 1, 0, 0]);
    for offset in [8, u64::MAX] {
        let mut bytes = [0xff; 4];
        device.read_config(offset, &mut bytes);
        assert_eq!(bytes, [0; 4]);
    }
}

#[test]
fn reserved_addresses_are_no_guests() {
    for cid in [0, 1, 2, u32::MAX] {
        assert!(GuestCid::try_from(cid).is_err(), "{cid}");
    }
    assert_eq!(u64::from(GuestCid::try_from(u32::MAX - 1).unwrap()), 0xffff_fffe);
}

#[test]
fn the_socket_lives_as_long_as_the_device() {
    let guest = Guest::new();
    let socket = guest.socket();
    assert!(socket.exists());
    let Guest { device, folder, .. } = guest;
    drop(device);
    assert!(!socket.exists());
    drop(folder);
}

#[test]
fn queues_start_once_and_stop_once() {
    let mut guest = Guest::new();
    let resources = guest.receive.resources();
    let twice = guest.device.start_queue(RECEIVE, resources, FEATURES, None).unwrap_err();
    assert_eq!(twice.to_string(), "queue 0 runs already");
    let resources = guest.receive.resources();
    let unknown = guest.device.start_queue(3, resources, FEATURES, None).unwrap_err();
    assert_eq!(unknown.to_string(), "the device has no queue 3");
    assert!(guest.device.stop_queue(EVENT).is_some());
    assert!(guest.device.stop_queue(EVENT).is_none());
    guest.expect_health();
}

#[test]
fn connections_outlive_a_pause_of_the_queues() {
    let mut guest = Guest::new();
    let (mut socket, mut client) = guest.connection_from_host(52);
    let states = guest.stop();
    assert!(states.iter().all(Option::is_some));
    client.write(b"meanwhile");
    let used = guest.receive.used_index();
    let waiting = guest.client(53);
    assert_eq!(guest.receive.used_index(), used);
    guest.start(states);
    let (mut has_data, mut has_request) = (false, false);
    while !(has_data && has_request) {
        let packet = guest.receive();
        match packet.operation() {
            Operation::ReadWrite => {
                socket.take_packet(packet);
                has_data = socket.unread.len() == 9;
            }
            Operation::Request => has_request = packet.header.destination_port == 53,
            _ => panic!("{packet:?}"),
        }
    }
    drop(waiting);
}

#[test]
fn queues_may_start_in_any_order_and_without_the_event_queue() {
    let mut guest = Guest::new();
    guest.stop();
    guest.device.reset();
    let mut memory = TestMemory::new(4 << 20);
    guest.receive = GuestQueue::new(&mut memory, 64);
    guest.transmit = GuestQueue::new(&mut memory, 64);
    guest.outbox = memory.allocate(LARGEST_PACKET);
    guest.memory = memory;
    guest.buffers.clear();
    let _client = guest.client(52);
    let resources = guest.transmit.resources();
    // Without the event index, as an old driver would.
    guest.device.start_queue(TRANSMIT, resources, VERSION_1 | RING_INDIRECT_DESCRIPTORS, None).unwrap();
    let resources = guest.receive.resources();
    guest.device.start_queue(RECEIVE, resources, VERSION_1 | RING_INDIRECT_DESCRIPTORS, None).unwrap();
    guest.give_buffers(8, &[BUFFER]);
    GuestSocket::accept(&mut guest);
    guest.expect_health();
}

#[test]
fn a_reset_drops_every_connection() {
    let mut guest = Guest::new();
    let (_socket, mut client) = guest.connection_from_host(52);
    let (mut other, mut service) = guest.connection_to_host(1024);
    let states = guest.stop();
    guest.device.reset();
    assert_eq!(client.read_to_end(), b"");
    assert_eq!(service.read_to_end(), b"");
    guest.start(states);
    other.send(&mut guest, Operation::CreditUpdate);
    guest.expect(Operation::Reset);
    guest.expect_health();
}

#[test]
fn a_transport_reset_drops_every_connection_and_is_told_once() {
    let mut guest = Guest::new();
    let (_socket, mut client) = guest.connection_from_host(52);
    guest.device.reset_transport().unwrap();
    assert_eq!(client.read_to_end(), b"");
    let address = guest.memory.allocate_bytes(&[0xff; 8]);
    let tell = |guest: &mut Guest, length| {
        guest.event.add(&[Buffer::writable(address, length)]);
        guest.event.kick();
    };
    // A buffer too small for the event does not lose it.
    tell(&mut guest, 3);
    assert_eq!(guest.event.wait_used().written, 0);
    tell(&mut guest, 8);
    assert_eq!(guest.event.wait_used().written, 4);
    assert_eq!(guest.memory.read(address, 8), [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    tell(&mut guest, 8);
    guest.quiesce();
    assert!(guest.event.try_used().is_none());
    guest.expect_health();
}
