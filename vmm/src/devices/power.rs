//! The registers by which a guest ends itself: those of a hardware-reduced ACPI machine (ACPI 6.5, 4.8.3.6 and 4.8.3.7).

use super::{BusDevice, Effect};
use crate::arch::x86_64::{POWER_CONTROL_PORT, POWER_OFF, POWER_STATUS_PORT, RESET, RESET_PORT};

/// Sleep control, sleep status and reset, a byte each. They remember nothing.
#[derive(Debug, Default)]
pub struct PowerControl;

impl PowerControl {
    /// The first of its ports.
    pub const PORT: u16 = POWER_CONTROL_PORT;

    /// The number of them.
    pub const PORT_COUNT: u16 = 3;
}

const STATUS: u16 = POWER_STATUS_PORT - PowerControl::PORT;
const RESET_AT: u16 = RESET_PORT - PowerControl::PORT;
const _: () = assert!(STATUS < PowerControl::PORT_COUNT && RESET_AT < PowerControl::PORT_COUNT);

impl BusDevice for PowerControl {
    fn read(&self, _offset: u64, _width: u8) -> u64 {
        0
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Effect {
        match (u16::try_from(offset), width, value) {
            (Ok(0), 1, value) if value == u64::from(POWER_OFF) => Effect::PowerOff,
            (Ok(RESET_AT), 1, value) if value == u64::from(RESET) => Effect::Reset,
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_tables_say_ends_the_machine() {
        let power = PowerControl;
        assert_eq!(power.write(0, 1, POWER_OFF.into()), Effect::PowerOff);
        assert_eq!(power.write(2, 1, RESET.into()), Effect::Reset);
        for (offset, width, value) in [(0, 1, 0), (0, 4, 0x34), (1, 1, 0x34), (2, 1, 0), (3, 1, 1), (2, 2, 1)]
        {
            assert_eq!(power.write(offset, width, value), Effect::None, "{offset} {width} {value}");
        }
        assert_eq!(power.read(1, 1), 0);
    }
}
