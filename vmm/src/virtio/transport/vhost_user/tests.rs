//! The transport seen from its front end, with the entropy device behind it and one that records.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vmm_sys::{Event, Interest, Poller};

use super::{SessionEnd, VhostUserError, VhostUserServer};
use crate::virtio::entropy::Entropy;
use crate::virtio::testing::{
    Buffer, FrontEnd, GuestQueue, PATIENCE, TestMemory, USER_OFFSET, memory_table, pair,
};
use crate::virtio::{DeviceError, DeviceType, Interrupt, QueueResources, QueueState, Vector, VirtioDevice};

const MEMORY: usize = 1 << 20;
const PROTOCOL_FEATURES: u64 = 1 << 30;

fn serve(device: impl VirtioDevice + 'static) -> (VhostUserServer, FrontEnd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = VhostUserServer::start(Box::new(device), ours, "test").unwrap();
    (server, FrontEnd::new(theirs))
}

fn wait_for_end(server: &VhostUserServer) -> &SessionEnd {
    let mut poller = Poller::new().unwrap();
    poller.add(server.ended(), 0, Interest::READ).unwrap();
    assert_eq!(poller.wait(Some(PATIENCE)).unwrap().count(), 1, "the session goes on");
    server.end().unwrap()
}

/// A device of two queues that serves nothing and notes what is done to it.
#[derive(Default)]
struct Recorder {
    log: Arc<Mutex<Vec<String>>>,
    interrupt: Arc<Mutex<Option<Arc<dyn Interrupt>>>>,
    config: [u8; 8],
}

impl Recorder {
    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }
}

impl VirtioDevice for Recorder {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        1 << 9
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 16]
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let rest = self.config.iter().skip(usize::try_from(offset).unwrap()).copied();
        bytes.iter_mut().zip(rest.chain(std::iter::repeat(0))).for_each(|(byte, value)| *byte = value);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        self.config[usize::try_from(offset).unwrap()..][..bytes.len()].copy_from_slice(bytes);
    }

    fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<(), DeviceError> {
        let base = state.unwrap();
        self.note(format!(
            "start {index} features {features:#x} at {}/{}",
            base.next_available, base.next_used
        ));
        *self.interrupt.lock().unwrap() = Some(resources.interrupt);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.note(format!("stop {index}"));
        Some(QueueState { next_available: 7, next_used: 7 })
    }

    fn reset(&mut self) {
        self.note("reset".to_owned());
    }
}

#[test]
fn a_front_end_gets_entropy_through_a_queue_in_shared_memory() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let mut queue = GuestQueue::new(&mut memory, 16);
    queue.use_event_index();
    let (mut server, front_end) = serve(Entropy::new());
    front_end.negotiate(0);
    assert!(front_end.share_memory(MEMORY, &file));
    front_end.set_ring(0, &queue, 0);
    assert!(front_end.enable_ring(0, true));

    let address = memory.allocate(32);
    queue.add(&[Buffer::writable(address, 32)]);
    queue.kick();
    assert_eq!(queue.wait_used().written, 32);
    assert_ne!(memory.read(address, 32), [0; 32]);

    // It stops with its place, and goes on from there.
    assert_eq!(front_end.stop_ring(0), 1);
    queue.add(&[Buffer::writable(address, 32)]);
    front_end.set_ring(0, &queue, 1);
    assert_eq!(queue.wait_used().written, 32);

    // The memory table is replaced while the queue runs.
    assert!(front_end.share_memory(MEMORY, &file));
    queue.add(&[Buffer::writable(address, 32)]);
    queue.kick();
    assert_eq!(queue.wait_used().written, 32);

    server.stop();
    assert!(matches!(server.end(), Some(SessionEnd::Stopped)));
    front_end.wait_for_close();
}

#[test]
fn a_front_end_without_protocol_features_finds_its_rings_enabled() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let mut queue = GuestQueue::new(&mut memory, 16);
    queue.use_event_index();
    let (_server, front_end) = serve(Entropy::new());
    front_end.negotiate(PROTOCOL_FEATURES);
    assert!(front_end.share_memory(MEMORY, &file));
    let address = memory.allocate(32);
    queue.add(&[Buffer::writable(address, 32)]);
    front_end.set_ring(0, &queue, 0);
    assert_eq!(queue.wait_used().written, 32);
}

#[test]
fn rings_start_when_all_is_known_and_stop_one_by_one() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let queues = [GuestQueue::new(&mut memory, 16), GuestQueue::new(&mut memory, 8)];
    let recorder = Recorder::default();
    let log = Arc::clone(&recorder.log);
    let (_server, front_end) = serve(recorder);
    let features = front_end.negotiate(0);
    assert_eq!(front_end.ask_u64(17), 2);
    assert!(front_end.share_memory(MEMORY, &file));
    front_end.set_ring(0, &queues[0], 3);
    front_end.set_ring(1, &queues[1], 0);
    assert!(log.lock().unwrap().is_empty());
    assert!(front_end.enable_ring(1, true));
    assert!(front_end.enable_ring(0, true));
    assert!(front_end.enable_ring(1, false));
    assert!(front_end.enable_ring(1, true));
    assert_eq!(front_end.stop_ring(0), 7);
    assert_eq!(front_end.stop_ring(0), 7);
    assert!(front_end.acknowledged(34, &[], &[]));
    let expected = [
        format!("start 1 features {features:#x} at 0/0"),
        format!("start 0 features {features:#x} at 3/0"),
        "stop 1".to_owned(),
        format!("start 1 features {features:#x} at 7/0"),
        "stop 0".to_owned(),
        "stop 1".to_owned(),
        "reset".to_owned(),
    ];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn the_configuration_is_read_and_written_and_its_change_is_told() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let queue = GuestQueue::new(&mut memory, 16);
    let recorder = Recorder::default();
    let interrupt = Arc::clone(&recorder.interrupt);
    let (_server, front_end) = serve(recorder);
    front_end.negotiate(0);
    let config = |offset: u32, bytes: &[u8]| {
        let size = u32::try_from(bytes.len()).unwrap();
        [[offset, size, 0].map(u32::to_ne_bytes).as_flattened(), bytes].concat()
    };
    assert!(front_end.acknowledged(25, &config(2, b"abc"), &[]));
    assert_eq!(front_end.ask(24, &config(1, &[0; 9])), config(1, b"\0abc\0\0\0\0\0"));

    let (ours, theirs) = UnixStream::pair().unwrap();
    assert!(front_end.acknowledged(21, &[], &[theirs.as_fd()]));
    assert!(front_end.share_memory(MEMORY, &file));
    front_end.set_ring(0, &queue, 0);
    assert!(front_end.enable_ring(0, true));
    let interrupt = interrupt.lock().unwrap().take().unwrap();
    interrupt.trigger(Vector::Config).unwrap();
    let mut message = [0; 12];
    std::io::Read::read_exact(&mut &ours, &mut message).unwrap();
    assert_eq!(message, *[2u32, 1, 0].map(u32::to_ne_bytes).as_flattened());

    // A front end that does not read cannot hold the device up.
    for _ in 0..10_000 {
        interrupt.trigger(Vector::Config).unwrap();
    }
}

#[test]
fn an_interrupt_before_its_event_is_known_is_raised_later() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let queue = GuestQueue::new(&mut memory, 16);
    let recorder = Recorder::default();
    let interrupt = Arc::clone(&recorder.interrupt);
    let (_server, front_end) = serve(recorder);
    front_end.negotiate(0);
    assert!(front_end.share_memory(MEMORY, &file));
    front_end.set_ring(0, &queue, 0);
    assert!(front_end.enable_ring(0, true));
    // No descriptor: the front end would look at the ring itself.
    assert!(front_end.acknowledged(13, &0x100u64.to_ne_bytes(), &[]));
    interrupt.lock().unwrap().as_ref().unwrap().trigger(Vector::Queue(0)).unwrap();
    let call = Event::new().unwrap();
    assert!(front_end.acknowledged(13, &0u64.to_ne_bytes(), &[call.as_fd()]));
    assert!(call.clear().unwrap());
}

#[test]
fn a_queue_that_the_guest_misplaced_is_reported_and_the_session_goes_on() {
    let (mut memory, file) = TestMemory::shared(16 * MEMORY);
    // Larger than any queue is.
    let queue = GuestQueue::new(&mut memory, 2048);
    let (_server, front_end) = serve(Entropy::new());
    front_end.negotiate(0);
    assert!(front_end.share_memory(16 * MEMORY, &file));
    let error = Event::new().unwrap();
    assert!(front_end.acknowledged(14, &0u64.to_ne_bytes(), &[error.as_fd()]));
    front_end.set_ring(0, &queue, 0);
    assert!(front_end.enable_ring(0, true));
    assert!(error.clear().unwrap());
}

/// Sends one message after a proper start, and returns why the session ended.
fn end_after(send: impl FnOnce(&FrontEnd)) -> String {
    let (server, front_end) = serve(Recorder::default());
    front_end.negotiate(0);
    send(&front_end);
    let end = wait_for_end(&server);
    assert!(matches!(end, SessionEnd::Failed(_)), "{end}");
    front_end.wait_for_close();
    end.to_string()
}

#[test]
fn messages_that_break_the_protocol_end_the_session_and_say_why() {
    let file = TestMemory::shared(MEMORY).1;
    let region = [0, MEMORY as u64, USER_OFFSET, 0];
    let past_the_end = [0, MEMORY as u64, USER_OFFSET, 0x1000];
    let config = [0u32, 257, 0].map(u32::to_ne_bytes).as_flattened().to_vec();
    let cases: [(&str, u32, Vec<u8>, usize); 17] = [
        ("request 99, which it was not offered", 99, vec![], 0),
        ("request 6, which it was not offered", 6, vec![0; 16], 0),
        ("request 2 with a payload of 4 bytes", 2, vec![0; 4], 0),
        ("request 2 with a payload of 12 bytes", 2, vec![0; 12], 0),
        ("request 1 with the wrong number of descriptors", 1, vec![], 1),
        ("request 5 with a payload of 8 bytes", 5, pair(1, 0), 1),
        ("request 5 with the wrong number of descriptors", 5, memory_table(&[region]), 0),
        ("request 5 with the wrong number of descriptors", 5, memory_table(&[region]), 2),
        ("request 5 with 0x0 in a field", 5, pair(0, 0), 0),
        ("request 5 with 0x9 in a field", 5, memory_table(&[region; 9]), 9),
        ("past the end of its file", 5, memory_table(&[past_the_end]), 1),
        ("named ring 2, of a device that has 2", 8, pair(2, 16), 0),
        ("named ring 255, of a device that has 2", 12, 0x1ffu64.to_ne_bytes().to_vec(), 0),
        ("request 12 with the wrong number of descriptors", 12, vec![0; 8], 0),
        ("request 18 with 0x2 in a field", 18, pair(0, 2), 0),
        ("request 24 with 0x101 in a field", 24, config, 0),
        ("of which 0x8000000000000000 were not offered", 2, (1u64 << 63).to_ne_bytes().to_vec(), 0),
    ];
    for (reason, code, payload, files) in cases {
        let end = end_after(|front_end| front_end.send(code, &payload, &vec![file.as_fd(); files]));
        assert!(end.contains(reason), "{end:?} instead of {reason:?}");
    }
}

#[test]
fn a_header_that_is_no_request_ends_the_session() {
    for flags in [0, 2, 1 | 1 << 2] {
        let end = end_after(|front_end| {
            front_end.send_with_flags(1, flags, &[], &[]).unwrap();
        });
        assert!(end.contains("flags"), "{end}");
    }
    let end = end_after(|front_end| {
        let header = [1u32, 1, 0xffff_ffff].map(u32::to_ne_bytes);
        std::io::Write::write_all(&mut front_end.socket(), header.as_flattened()).unwrap();
    });
    assert!(end.contains("a payload of 4294967295 bytes"), "{end}");
}

#[test]
fn a_connection_that_ends_within_a_message_is_told_from_one_that_ends_after_it() {
    let (server, front_end) = serve(Recorder::default());
    front_end.negotiate(0);
    drop(front_end);
    assert!(matches!(wait_for_end(&server), SessionEnd::Disconnected));

    let (server, front_end) = serve(Recorder::default());
    std::io::Write::write_all(&mut front_end.socket(), &[1, 0, 0]).unwrap();
    drop(front_end);
    assert!(matches!(wait_for_end(&server), SessionEnd::Failed(VhostUserError::Truncated)));
}

#[test]
fn a_ring_that_runs_is_not_moved() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let queue = GuestQueue::new(&mut memory, 16);
    let end = end_after(|front_end| {
        assert!(front_end.share_memory(MEMORY, &file));
        front_end.set_ring(0, &queue, 0);
        assert!(front_end.enable_ring(0, true));
        assert!(!front_end.acknowledged(8, &pair(0, 8), &[]));
    });
    assert!(end.contains("changed ring 0 while it runs"), "{end}");
}

#[test]
fn a_ring_outside_the_shared_memory_ends_the_session() {
    let (mut memory, file) = TestMemory::shared(MEMORY);
    let queue = GuestQueue::new(&mut memory, 16);
    let end = end_after(|front_end| {
        let elsewhere = [0, MEMORY as u64, 0x1000, 0];
        assert!(front_end.acknowledged(5, &memory_table(&[elsewhere]), &[file.as_fd()]));
        front_end.set_ring(0, &queue, 0);
        front_end.enable_ring(0, true);
    });
    assert!(end.contains("outside the memory it shares"), "{end}");
}

#[test]
fn a_silent_front_end_does_not_hold_up_the_stop() {
    let (mut server, front_end) = serve(Entropy::new());
    std::io::Write::write_all(&mut front_end.socket(), &[1, 0, 0, 0, 1]).unwrap();
    server.stop();
    assert!(matches!(server.end(), Some(SessionEnd::Stopped)));
}
