//! What each message of the front end does to the device.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use snafu::{OptionExt, ResultExt, ensure};
use vm_memory::{GuestAddress, GuestAddressSpace};
use vmm_sys::Event;

use super::error::{
    EventSnafu, FeaturesSnafu, MemorySnafu, NoSuchRingSnafu, RingOutsideMemorySnafu, RingRunsSnafu,
    StartSnafu, VhostUserError,
};
use super::interrupt::CallEvents;
use super::message::{Connection, Message, Request, RingAddresses, TableRegion};
use crate::memory::{GuestMemory, Regions, map_shared_regions};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{
    DeviceError, DeviceType, Interrupt, QueueLayout, QueueResources, QueueState, RING_EVENT_INDEX,
    RING_INDIRECT_DESCRIPTORS, VERSION_1, VirtioDevice, queue,
};

static REFUSED_LAYOUT: LogLimit = LogLimit::new();

/// `VHOST_USER_F_PROTOCOL_FEATURES`, a bit among the device's features that the guest never sees.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The protocol features.
mod protocol {
    pub(super) const MULTIQUEUE: u64 = 1 << 0;
    pub(super) const REPLY_ACK: u64 = 1 << 3;
    pub(super) const BACK_END_CHANNEL: u64 = 1 << 5;
    pub(super) const CONFIG: u64 = 1 << 9;
    pub(super) const RESET_DEVICE: u64 = 1 << 13;
}

/// A ring, as far as the front end has described it.
#[derive(Default)]
struct Ring {
    size: u32,
    addresses: Option<RingAddresses>,
    base: u16,
    kick: Option<Event>,
    enabled: bool,
    runs: bool,
}

/// One front end's use of the device.
pub(super) struct Session {
    device: Box<dyn VirtioDevice>,
    interrupt: Arc<CallEvents>,
    memory: GuestMemory,
    /// Where the front end sees its regions, and where the guest does.
    translations: Vec<Translation>,
    features: u64,
    protocol_features: u64,
    rings: Vec<Ring>,
}

struct Translation {
    user_address: u64,
    guest_address: u64,
    size: u64,
}

impl Session {
    pub(super) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let count = device.queue_sizes().len();
        Self {
            device,
            interrupt: Arc::new(CallEvents::new(count)),
            memory: GuestMemory::new(Regions::default()),
            translations: Vec::new(),
            features: 0,
            protocol_features: 0,
            rings: (0..count).map(|_| Ring::default()).collect(),
        }
    }

    /// Does what the messages ask for, until the front end closes the connection.
    pub(super) fn run(&mut self, connection: &Connection) -> Result<(), VhostUserError> {
        while let Some(Message { code, need_reply, request }) = connection.receive()? {
            let result = self.handle(connection, code, request);
            // A request with an answer of its own gets no other. One that failed is answered before the session
            // ends, so that the front end need not guess.
            let answered = matches!(result, Ok(Answer::Given));
            if need_reply && !answered && self.protocol_features & protocol::REPLY_ACK != 0 {
                connection.reply_u64(code, u64::from(result.is_err()))?;
            }
            result?;
        }
        Ok(())
    }

    /// Stops every queue.
    pub(super) fn stop_queues(&mut self) {
        for ring in 0..self.rings.len() {
            self.stop_ring(ring);
        }
    }

    fn handle(
        &mut self,
        connection: &Connection,
        code: u32,
        request: Request,
    ) -> Result<Answer, VhostUserError> {
        match request {
            Request::GetFeatures => return answer(connection.reply_u64(code, self.offered_features())),
            Request::GetProtocolFeatures => {
                return answer(connection.reply_u64(code, self.offered_protocol_features()));
            }
            Request::GetQueueCount => return answer(connection.reply_u64(code, self.rings.len() as u64)),
            Request::GetRingBase { ring } => {
                let index = self.index(ring)?;
                self.stop_ring(index);
                // It starts again with the next kick event, not with the next message about this one.
                self.rings[index].kick = None;
                let base = u32::from(self.rings[index].base);
                return answer(connection.reply(code, &[&ring.to_ne_bytes(), &base.to_ne_bytes()]));
            }
            Request::GetConfig { offset, size, flags } => {
                let mut bytes = vec![0; size as usize];
                self.device.read_config(offset.into(), &mut bytes);
                let head = [offset, size, flags].map(u32::to_ne_bytes);
                return answer(connection.reply(code, &[head.as_flattened(), &bytes]));
            }
            Request::SetOwner => {}
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) => {
                let unknown = features & !self.offered_protocol_features();
                ensure!(unknown == 0, FeaturesSnafu { features, unknown });
                self.protocol_features = features;
            }
            Request::SetMemoryTable(table) => self.set_memory(table)?,
            Request::SetRingSize { ring, size } => self.stopped_ring(ring)?.size = size,
            Request::SetRingAddresses { ring, addresses } => {
                self.stopped_ring(ring)?.addresses = Some(addresses);
            }
            Request::SetRingBase { ring, base } => {
                // The rest of the number belongs to packed rings.
                self.stopped_ring(ring)?.base = u16::try_from(base & 0xffff).unwrap_or_default();
            }
            Request::SetRingKick { ring, file } => {
                let index = self.index(ring)?;
                self.stop_ring(index);
                self.rings[index].kick = event(file)?;
                self.start_if_ready(ring)?;
            }
            Request::SetRingCall { ring, file } => {
                self.interrupt.set_call(self.index(ring)?, event(file)?).context(EventSnafu)?;
            }
            Request::SetRingError { ring, file } => {
                self.interrupt.set_error(self.index(ring)?, event(file)?);
            }
            Request::SetRingEnabled { ring, enabled } => {
                let index = self.index(ring)?;
                self.rings[index].enabled = enabled;
                if enabled {
                    self.start_if_ready(ring)?;
                } else {
                    self.stop_ring(index);
                }
            }
            Request::SetBackEndChannel(channel) => self.interrupt.set_channel(channel),
            Request::SetConfig { offset, bytes } => self.device.write_config(offset.into(), &bytes),
            Request::ResetDevice | Request::ResetOwner => self.reset(),
        }
        Ok(Answer::NotGiven)
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | VERSION_1 | RING_EVENT_INDEX | RING_INDIRECT_DESCRIPTORS | PROTOCOL_FEATURES
    }

    fn offered_protocol_features(&self) -> u64 {
        let always = protocol::MULTIQUEUE | protocol::REPLY_ACK | protocol::RESET_DEVICE;
        // QEMU warns where a device without a configuration space says that it can read one.
        match self.device.device_type() {
            DeviceType::Entropy => always,
            DeviceType::Balloon | DeviceType::Block | DeviceType::Console | DeviceType::Vsock => {
                always | protocol::CONFIG | protocol::BACK_END_CHANNEL
            }
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), VhostUserError> {
        let unknown = features & !self.offered_features();
        ensure!(unknown == 0, FeaturesSnafu { features, unknown });
        self.features = features;
        Ok(())
    }

    /// Replaces the guest's memory. Queues that run see it with their next chain: where a region stays, the old
    /// mapping and the new one are of the same file.
    fn set_memory(&mut self, table: Vec<TableRegion>) -> Result<(), VhostUserError> {
        let translate = |entry: &TableRegion| Translation {
            user_address: entry.user_address,
            guest_address: entry.region.guest_address,
            size: entry.region.size,
        };
        let translations = table.iter().map(translate).collect();
        let regions = table.into_iter().map(|entry| entry.region).collect();
        let regions = map_shared_regions(regions).context(MemorySnafu)?;
        self.translations = translations;
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(regions);
        Ok(())
    }

    fn index(&self, ring: u32) -> Result<usize, VhostUserError> {
        let count = self.rings.len();
        usize::try_from(ring).ok().filter(|&index| index < count).context(NoSuchRingSnafu { ring, count })
    }

    fn stopped_ring(&mut self, ring: u32) -> Result<&mut Ring, VhostUserError> {
        let index = self.index(ring)?;
        let state = &mut self.rings[index];
        ensure!(!state.runs, RingRunsSnafu { ring });
        Ok(state)
    }

    /// Starts a ring once all of it is known and it is enabled. Rings start enabled where the front end knows no
    /// protocol features, and with it says which are.
    fn start_if_ready(&mut self, ring: u32) -> Result<(), VhostUserError> {
        let index = self.index(ring)?;
        let state = &self.rings[index];
        let enabled = state.enabled || self.features & PROTOCOL_FEATURES == 0;
        let (Some(addresses), Some(kick)) = (state.addresses, &state.kick) else { return Ok(()) };
        if state.runs || !enabled || state.size == 0 {
            return Ok(());
        }
        let layout = QueueLayout {
            // A size that does not fit is none that a device has.
            size: u16::try_from(state.size).unwrap_or(u16::MAX),
            descriptor_table: self.translate(ring, addresses.descriptor_table)?,
            available_ring: self.translate(ring, addresses.available_ring)?,
            used_ring: self.translate(ring, addresses.used_ring)?,
        };
        // The front end tells where the driver's ring goes on; ours is in the guest's memory. What cannot be read
        // there is not where a queue can be, and the device says so.
        let next_used = queue::used_index(&layout, &self.memory.memory()).unwrap_or(state.base);
        let resources = QueueResources {
            memory: self.memory.clone(),
            layout,
            kick: kick.try_clone().context(EventSnafu)?,
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
        };
        let base = QueueState { next_available: state.base, next_used };
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        match self.device.start_queue(number, resources, self.features, Some(base)) {
            Ok(()) => self.rings[index].runs = true,
            Err(error @ DeviceError::BadLayout { .. }) => {
                // The guest's doing: its device is broken until it resets it, and the session goes on.
                if let Some(left_out) = REFUSED_LAYOUT.permit() {
                    tracing::warn!(%error, left_out, "refused a queue");
                }
                self.interrupt.needs_reset(number);
            }
            Err(source) => return Err(source).context(StartSnafu { ring }),
        }
        Ok(())
    }

    fn stop_ring(&mut self, index: usize) {
        let state = &mut self.rings[index];
        if !std::mem::take(&mut state.runs) {
            return;
        }
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        match self.device.stop_queue(number) {
            Some(stopped) => state.base = stopped.next_available,
            None => tracing::error!(queue = number, "a queue's state was lost"),
        }
    }

    /// As after a power-on, but for the features, the memory and the descriptors, which the front end keeps.
    fn reset(&mut self) {
        self.stop_queues();
        for ring in &mut self.rings {
            ring.enabled = false;
            ring.kick = None;
        }
        self.device.reset();
    }

    /// From the front end's address space to the guest's.
    fn translate(&self, ring: u32, address: u64) -> Result<GuestAddress, VhostUserError> {
        let within = |region: &Translation| {
            let offset = address.checked_sub(region.user_address)?;
            (offset < region.size).then_some(region.guest_address.checked_add(offset)?)
        };
        let guest_address = self.translations.iter().find_map(within);
        guest_address.map(GuestAddress).context(RingOutsideMemorySnafu { ring, address })
    }
}

/// Whether a request's own answer was sent.
enum Answer {
    Given,
    NotGiven,
}

fn answer(sent: Result<(), VhostUserError>) -> Result<Answer, VhostUserError> {
    sent.map(|()| Answer::Given)
}

fn event(file: Option<OwnedFd>) -> Result<Option<Event>, VhostUserError> {
    file.map(Event::from_fd).transpose().context(EventSnafu)
}
