//! Leads the guest's accesses to ports or to addresses without memory to the device that is there.

use std::ops::Range;
use std::sync::Arc;

use snafu::{Snafu, ensure};

/// What an access does beyond its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest switches the machine off.
    PowerOff,
    /// The guest resets the machine.
    Reset,
}

/// Something on a bus. Called from any processor's thread, from several at once.
pub trait BusDevice: Send + Sync {
    /// The guest reads `width` bytes (1, 2, 4 or 8) at `offset`: their value, little-endian.
    fn read(&self, offset: u64, width: u8) -> u64;

    /// The guest writes `width` bytes (1, 2, 4 or 8) at `offset`.
    fn write(&self, offset: u64, width: u8, value: u64) -> Effect;
}

/// Devices at their addresses. It does not change once the machine runs, so no lock is needed to find one.
#[derive(Default)]
pub struct Bus {
    places: Vec<Place>,
}

struct Place {
    range: Range<u64>,
    number: usize,
    device: Arc<dyn BusDevice>,
}

/// Why a device cannot be put on a bus.
#[derive(Debug, PartialEq, Eq, Snafu)]
pub enum BusError {
    /// Another one is there, or the range is empty.
    #[snafu(display("a device cannot be put at {start:#x} to {end:#x}: the range is empty or taken"))]
    Taken {
        /// Where it was to begin.
        start: u64,
        /// Where it was to end.
        end: u64,
    },
}

impl Bus {
    /// Puts a device at a range of addresses that nobody has. Each access to it tells `number`, which is the caller's own.
    pub fn insert(
        &mut self,
        range: Range<u64>,
        number: usize,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let at = self.places.partition_point(|place| place.range.end <= range.start);
        let free = self.places.get(at).is_none_or(|next| range.end <= next.range.start);
        ensure!(range.start < range.end && free, TakenSnafu { start: range.start, end: range.end });
        self.places.insert(at, Place { range, number, device });
        Ok(())
    }

    /// Reads from the device at `address`: its number and the value. `None`: nothing is there.
    pub fn read(&self, address: u64, width: u8) -> Option<(usize, u64)> {
        let (place, offset) = self.find(address)?;
        Some((place.number, place.device.read(offset, width)))
    }

    /// Writes to the device at `address`: its number and what follows. `None`: nothing is there.
    pub fn write(&self, address: u64, width: u8, value: u64) -> Option<(usize, Effect)> {
        let (place, offset) = self.find(address)?;
        Some((place.number, place.device.write(offset, width, value)))
    }

    fn find(&self, address: u64) -> Option<(&Place, u64)> {
        let at = self.places.partition_point(|place| place.range.end <= address);
        let place = self.places.get(at).filter(|place| place.range.contains(&address))?;
        Some((place, address - place.range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u64);

    impl BusDevice for Echo {
        fn read(&self, offset: u64, width: u8) -> u64 {
            self.0 + offset * 16 + u64::from(width)
        }

        fn write(&self, offset: u64, _width: u8, _value: u64) -> Effect {
            if offset == 0 { Effect::Reset } else { Effect::None }
        }
    }

    #[test]
    fn an_access_reaches_the_device_that_is_there() {
        let mut bus = Bus::default();
        for (range, number) in [(0x200..0x300, 2), (0x100..0x200, 1), (0x400..0x401, 4)] {
            bus.insert(range, number, Arc::new(Echo(1000 * number as u64))).unwrap();
        }
        assert_eq!(bus.read(0x100, 1), Some((1, 1001)));
        assert_eq!(bus.read(0x1ff, 4), Some((1, 1000 + 255 * 16 + 4)));
        assert_eq!(bus.read(0x200, 2), Some((2, 2002)));
        assert_eq!(bus.read(0x300, 2), None);
        assert_eq!(bus.read(u64::MAX, 2), None);
        assert_eq!(bus.write(0x400, 1, 0), Some((4, Effect::Reset)));
        assert_eq!(bus.write(0x401, 1, 0), None);
    }

    #[test]
    fn no_two_devices_share_a_place() {
        let mut bus = Bus::default();
        bus.insert(0x100..0x200, 0, Arc::new(Echo(0))).unwrap();
        for range in [0x100..0x200, 0x1ff..0x201, 0x80..0x101, 0x110..0x120, 0x80..0x400, 0x300..0x300] {
            assert!(bus.insert(range.clone(), 0, Arc::new(Echo(0))).is_err(), "{range:?}");
        }
        bus.insert(0x200..0x201, 0, Arc::new(Echo(0))).unwrap();
        bus.insert(0x0..0x100, 0, Arc::new(Echo(0))).unwrap();
    }
}
