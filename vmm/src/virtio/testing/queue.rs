//! The driver's side of a split virtqueue.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys::Event;

use super::{FakeInterrupt, PATIENCE, TestMemory};
use crate::memory::GuestMemory;
use crate::virtio::{QueueLayout, QueueResources};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;

/// A piece of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where it begins.
    pub address: u64,
    /// Its length.
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

impl Buffer {
    /// A piece that the device reads.
    pub fn readable(address: u64, length: u32) -> Self {
        Self { address, length, writable: false }
    }

    /// A piece that the device writes.
    pub fn writable(address: u64, length: u32) -> Self {
        Self { address, length, writable: true }
    }
}

/// An entry of a descriptor table, as it lies in memory; nothing of it needs to make sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawDescriptor {
    /// The address.
    pub address: u64,
    /// The length.
    pub length: u32,
    /// `NEXT` is 1, `WRITE` 2, `INDIRECT` 4.
    pub flags: u16,
    /// The next descriptor, if the flags say that there is one.
    pub next: u16,
}

impl RawDescriptor {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// What the device said about a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The descriptor by which the chain was added.
    pub head: u16,
    /// How many bytes the device says that it wrote.
    pub written: u32,
}

/// A driver's queue. It keeps to the rules as long as only [`GuestQueue::add`] and [`GuestQueue::add_indirect`] are
/// used; the methods that begin with `raw` do as they are told.
///
/// It speaks the event index if it is told so by [`GuestQueue::use_event_index`], and flags otherwise.
pub struct GuestQueue {
    memory: GuestMemory,
    layout: QueueLayout,
    kick: Event,
    interrupt: Arc<FakeInterrupt>,
    event_index: bool,
    free: Vec<u16>,
    /// The descriptors of each chain that is with the device, by its head.
    chains: Vec<Vec<u16>>,
    tables: u64,
    table_room: usize,
    next_available: u16,
    last_used: u16,
}

/// The most descriptors that a table of [`GuestQueue::add_indirect`] has room for, unless a test says otherwise.
const TABLE_ROOM: usize = 256;

impl GuestQueue {
    /// Lays a queue of so many descriptors out in memory.
    pub fn new(memory: &mut TestMemory, size: u16) -> Self {
        Self::with_table_room(memory, size, TABLE_ROOM)
    }

    /// The same, with room for fewer or more descriptors in each indirect table.
    pub fn with_table_room(memory: &mut TestMemory, size: u16, table_room: usize) -> Self {
        let entries = usize::from(size);
        let layout = QueueLayout {
            size,
            descriptor_table: GuestAddress(memory.allocate(16 * entries)),
            available_ring: GuestAddress(memory.allocate(6 + 2 * entries)),
            used_ring: GuestAddress(memory.allocate(6 + 8 * entries)),
        };
        Self {
            memory: memory.handle(),
            layout,
            kick: Event::new().expect("an event"),
            interrupt: Arc::new(FakeInterrupt::new()),
            event_index: false,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); entries],
            tables: memory.allocate(16 * table_room * entries),
            table_room,
            next_available: 0,
            last_used: 0,
        }
    }

    /// From now on, say by the event index when to be interrupted, as a driver does that negotiated it.
    pub fn use_event_index(&mut self) {
        self.event_index = true;
    }

    /// Goes on as a driver whose queue has run for long: both indices stand here.
    pub fn start_at(&mut self, index: u16) {
        (self.next_available, self.last_used) = (index, index);
        self.raw_available_index(index);
        let used = GuestAddress(self.layout.used_ring.0 + 2);
        self.memory.memory().store(index.to_le(), used, Ordering::Release).expect("the used ring");
    }

    /// Where the queue lies; change it to lie.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// The interrupt that the device raises for this queue.
    pub fn interrupt(&self) -> &Arc<FakeInterrupt> {
        &self.interrupt
    }

    /// The event that is raised by a kick.
    pub fn kick_event(&self) -> &Event {
        &self.kick
    }

    /// What a device is given to serve the queue.
    pub fn resources(&self) -> QueueResources {
        self.resources_at(self.layout)
    }

    /// The same, with a layout that may be a lie.
    pub fn resources_at(&self, layout: QueueLayout) -> QueueResources {
        QueueResources {
            memory: self.memory.clone(),
            layout,
            kick: self.kick.try_clone().expect("an event"),
            interrupt: Arc::clone(&self.interrupt) as _,
        }
    }

    /// Makes a chain of descriptors available, without a kick; says its head.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        assert!(!buffers.is_empty(), "a chain has at least one descriptor");
        assert!(buffers.len() <= self.free.len(), "the queue is full");
        let indices: Vec<u16> = self.free.split_off(self.free.len() - buffers.len());
        for (at, buffer) in buffers.iter().enumerate() {
            let next = indices.get(at + 1).copied();
            self.raw_descriptor(indices[at], describe(*buffer, next));
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.make_available(head);
        head
    }

    /// Makes a chain in an indirect table available, without a kick; says its head.
    pub fn add_indirect(&mut self, buffers: &[Buffer]) -> u16 {
        assert!(
            (1..=TABLE_ROOM).contains(&buffers.len()),
            "an indirect table has 1 to {TABLE_ROOM} descriptors"
        );
        let head = self.free.pop().expect("the queue is full");
        let table = self.tables + u64::from(head) * 16 * self.table_room as u64;
        for (at, buffer) in buffers.iter().enumerate() {
            let next = u16::try_from(at + 1).ok().filter(|&next| usize::from(next) < buffers.len());
            self.write(table + 16 * at as u64, &describe(*buffer, next).bytes());
        }
        let length = 16 * u32::try_from(buffers.len()).unwrap();
        self.raw_descriptor(head, RawDescriptor { address: table, length, flags: INDIRECT, next: 0 });
        self.chains[usize::from(head)] = vec![head];
        self.make_available(head);
        head
    }

    /// How many descriptors are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Tells the device, whether it asked to be told or not.
    pub fn kick(&self) {
        self.kick.notify().expect("an event to raise");
    }

    /// Tells the device if it asked for it; says whether it did.
    pub fn kick_if_wanted(&self) -> bool {
        let wanted = self.device_wants_kick();
        if wanted {
            self.kick();
        }
        wanted
    }

    /// Takes the next chain that the device is done with, if there is one.
    pub fn try_used(&mut self) -> Option<Completion> {
        if self.used_index() == self.last_used {
            return None;
        }
        let at = u64::from(self.last_used % self.layout.size);
        let entry = self.layout.used_ring.0 + 4 + 8 * at;
        let memory = self.memory.memory();
        let id: u32 = memory.read_obj(GuestAddress(entry)).expect("the used ring");
        let written: u32 = memory.read_obj(GuestAddress(entry + 4)).expect("the used ring");
        self.last_used = self.last_used.wrapping_add(1);
        let head = u16::try_from(u32::from_le(id)).expect("the head of a chain");
        let indices = std::mem::take(&mut self.chains[usize::from(head)]);
        assert!(!indices.is_empty(), "the device used chain {head}, which it had not been given");
        self.free.extend(indices);
        Some(Completion { head, written: u32::from_le(written) })
    }

    /// Waits until the device is done with a chain, woken by its interrupt.
    pub fn wait_used(&mut self) -> Completion {
        loop {
            self.want_interrupt();
            if let Some(completion) = self.try_used() {
                return completion;
            }
            assert!(!self.interrupt.needs_reset(), "the device gave the queue up");
            self.interrupt.wait_for_queue();
        }
    }

    /// Waits until the device is done with a chain, by looking: it may be in no hurry to tell.
    #[expect(clippy::disallowed_methods, reason = "the device tells when it likes, and nothing else does")]
    pub fn look_for_used(&mut self) -> Completion {
        let began = Instant::now();
        loop {
            if let Some(completion) = self.try_used() {
                return completion;
            }
            assert!(!self.interrupt.needs_reset(), "the device gave the queue up");
            assert!(began.elapsed() < PATIENCE, "the device takes nothing");
            thread::sleep(Duration::from_micros(20));
        }
    }

    /// Waits until the device gives the queue up.
    pub fn wait_broken(&self) {
        while !self.interrupt.needs_reset() {
            self.interrupt.wait_for_queue();
        }
    }

    /// Asks for an interrupt for the next chain that is used.
    pub fn want_interrupt(&self) {
        if self.event_index {
            self.raw_used_event(self.last_used);
        } else {
            self.raw_available_flags(0);
        }
        fence(Ordering::SeqCst);
    }

    /// Asks for no interrupts, by the flag; with the event index there is always one for some entry.
    pub fn refuse_interrupts(&self) {
        self.raw_available_flags(NO_INTERRUPT);
        fence(Ordering::SeqCst);
    }

    /// The device's index in the used ring.
    pub fn used_index(&self) -> u16 {
        let address = GuestAddress(self.layout.used_ring.0 + 2);
        let index: u16 = self.memory.memory().load(address, Ordering::Acquire).expect("the used ring");
        u16::from_le(index)
    }

    /// Whether the device asked for a kick for the chain that was added last.
    pub fn device_wants_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        let used = self.layout.used_ring.0;
        let load = |address| -> u16 {
            let value = self.memory.memory().load(GuestAddress(address), Ordering::Relaxed);
            u16::from_le(value.expect("the used ring"))
        };
        if self.event_index {
            load(used + 4 + 8 * u64::from(self.layout.size)) == self.next_available.wrapping_sub(1)
        } else {
            load(used) & 1 == 0
        }
    }

    /// Writes an entry of the descriptor table.
    pub fn raw_descriptor(&self, index: u16, descriptor: RawDescriptor) {
        self.write(self.layout.descriptor_table.0 + 16 * u64::from(index), &descriptor.bytes());
    }

    /// Writes an entry of the available ring.
    pub fn raw_available_entry(&self, at: u16, head: u16) {
        self.write(
            self.layout.available_ring.0 + 4 + 2 * u64::from(at % self.layout.size),
            &head.to_le_bytes(),
        );
    }

    /// Writes the available ring's index.
    pub fn raw_available_index(&self, index: u16) {
        let address = GuestAddress(self.layout.available_ring.0 + 2);
        self.memory.memory().store(index.to_le(), address, Ordering::Release).expect("the available ring");
    }

    /// Writes the available ring's flags.
    pub fn raw_available_flags(&self, flags: u16) {
        let stored = self.memory.memory().store(flags.to_le(), self.layout.available_ring, Ordering::Relaxed);
        stored.expect("the available ring");
    }

    /// Writes the driver's event index.
    pub fn raw_used_event(&self, index: u16) {
        let address = GuestAddress(self.layout.available_ring.0 + 4 + 2 * u64::from(self.layout.size));
        self.memory.memory().store(index.to_le(), address, Ordering::Relaxed).expect("the available ring");
    }

    fn make_available(&mut self, head: u16) {
        self.raw_available_entry(self.next_available, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.raw_available_index(self.next_available);
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.memory().write_slice(bytes, GuestAddress(address)).expect("an address of the queue");
    }
}

fn describe(buffer: Buffer, next: Option<u16>) -> RawDescriptor {
    let flags = if buffer.writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
    RawDescriptor { address: buffer.address, length: buffer.length, flags, next: next.unwrap_or(0) }
}
