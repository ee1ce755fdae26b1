//! Accesses as no driver makes them.

use super::{Record, recorder, running_recorder};
use crate::virtio::testing::{MmioDriver, register};
use crate::virtio::transport::mmio::{QUEUE_NOTIFY, WINDOW_SIZE};

fn read(driver: &MmioDriver, offset: u64, width: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; width];
    driver.transport().read(offset, &mut bytes);
    bytes
}

/// The registers that can be read, with a value other than zero in a device that runs.
fn readable() -> Vec<u64> {
    let mut registers = vec![0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x44, 0x70, 0xfc];
    registers.extend([0xb0, 0xb4, 0xb8, 0xbc]);
    registers
}

#[test]
fn a_register_is_read_as_a_whole_or_not_at_all() {
    let (_record, driver, _queue) = running_recorder();
    driver.read(register::CONFIG_GENERATION);
    for offset in 0..register::CONFIG {
        for width in [0, 1, 2, 3, 5, 6, 7, 8, 16] {
            assert_eq!(read(&driver, offset, width), vec![0; width], "{width} bytes at {offset:#x}");
        }
        let is_set = read(&driver, offset, 4) != [0; 4];
        assert!(!is_set || readable().contains(&offset), "{offset:#x}");
    }
}

#[test]
fn shared_memory_does_not_exist() {
    let (_record, driver, _memory) = recorder();
    for region in [0, 1, u32::MAX] {
        driver.write(register::SHM_SEL, region);
        for half in 0..4 {
            assert_eq!(driver.read(register::SHM_LEN_LOW + 4 * half), u32::MAX);
        }
    }
}

/// What a driver can see of a device.
fn visible(record: &Record, driver: &MmioDriver) -> (Vec<Vec<u8>>, Vec<String>) {
    let words = (0..0x110).step_by(4).map(|offset| read(driver, offset, 4)).collect();
    (words, record.take())
}

#[test]
fn a_write_of_another_width_or_between_registers_or_to_one_that_is_read_changes_nothing() {
    let (record, driver, _queue) = running_recorder();
    let before = visible(&record, &driver);
    for offset in 0..register::CONFIG {
        for width in [0, 1, 2, 3, 5, 8, 16] {
            driver.transport().write(offset, &vec![0; width]);
            driver.transport().write(offset, &vec![0xff; width]);
        }
        let is_writable =
            [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac]
                .contains(&offset);
        if !is_writable {
            driver.write(offset, 0);
            driver.write(offset, 1);
            driver.write(offset, u32::MAX);
        }
    }
    assert_eq!(visible(&record, &driver), before);
    assert!(driver.transport().kicks().iter().all(|kick| !kick.clear().unwrap()));
}

#[test]
fn the_configuration_is_read_and_written_by_fields() {
    let (record, driver, _memory) = recorder();
    *record.config.lock().unwrap() = std::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    assert_eq!(driver.read_config::<1>(3), [4]);
    assert_eq!(driver.read_config::<2>(2), [3, 4]);
    assert_eq!(driver.read_config::<4>(4), [5, 6, 7, 8]);
    assert_eq!(driver.read_config::<8>(8), [9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(driver.read_config::<8>(0xef8), [0; 8]);
    for (offset, width) in [(1, 2), (2, 4), (4, 8), (0, 3), (0, 16), (0, 0)] {
        assert_eq!(read(&driver, register::CONFIG + offset, width), vec![0; width]);
        driver.transport().write(register::CONFIG + offset, &vec![1; width]);
    }
    assert!(record.take().is_empty());
    driver.transport().write(register::CONFIG + 6, &[1, 2]);
    driver.transport().write(register::CONFIG + 8, &[3; 8]);
    assert_eq!(record.take(), ["config 6 [1, 2]", "config 8 [3, 3, 3, 3, 3, 3, 3, 3]"]);
}

#[test]
fn there_is_nothing_past_the_window() {
    let (record, driver, _memory) = recorder();
    record.config.lock().unwrap().fill(1);
    for offset in [WINDOW_SIZE, WINDOW_SIZE + QUEUE_NOTIFY, 1 << 32, u64::MAX - 3, u64::MAX - 7] {
        for width in [1, 4, 8] {
            assert_eq!(read(&driver, offset, width), vec![0; width]);
            driver.transport().write(offset, &vec![0; width]);
        }
    }
    assert!(record.take().is_empty());
}

#[test]
fn a_device_that_was_shut_down_does_nothing_more() {
    let (record, driver, _queue) = running_recorder();
    driver.transport().shutdown();
    driver.transport().shutdown();
    assert_eq!(record.take(), ["stop 0"]);
    driver.write(register::STATUS, 0);
    driver.write(register::STATUS, 0xf);
    driver.transport().write(register::CONFIG, &[1]);
    driver.notify(0);
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.read_config::<8>(0), [0; 8]);
    assert_eq!(driver.read(register::MAGIC_VALUE).to_le_bytes(), *b"virt");
    drop(driver);
    assert!(record.take().is_empty());
}
