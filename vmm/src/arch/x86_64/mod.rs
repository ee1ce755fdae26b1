//! The x86_64 machine: what its guest finds where, as constants, tables and pure functions.
//!
//! It is a hardware-reduced ACPI machine (ACPI 6.5, 4.1): processors with local APICs, one IO-APIC, virtio-mmio
//! devices, a serial port, and a port that ends it. There is no interrupt controller, timer, real-time clock, keyboard
//! controller, screen or bus from before ACPI, and the tables say so, because a kernel that searches leaves the guest
//! with every access.

mod acpi;
mod boot_data;
mod boot_parameters;
mod cpuid;
mod devices;
mod kernel_parameters;
mod memory_map;
mod model_specific_registers;
mod paging;
mod registers;
mod segments;
pub mod trial_code;

pub use boot_data::{BootData, BootDataError, Placed};
pub use cpuid::{
    CPUID_SIGNIFICANT_INDEX, CpuidEntry, CpuidPolicy, Virtualization, physical_address_bits, virtualization,
};
pub use devices::{
    DeviceWindow, IO_APIC_PINS, MOST_DEVICES, POWER_CONTROL_PORT, POWER_OFF, POWER_STATUS_PORT, RESET,
    RESET_PORT, SERIAL_INTERRUPT, SERIAL_PORT, SERIAL_PORT_COUNT, TooManyDevices, device_windows,
};
pub use kernel_parameters::KERNEL_PARAMETERS;
pub use memory_map::{
    BOOT_PARAMETERS, IDENTITY_MAP_PAGE, IO_APIC, KERNEL_START, LOCAL_APIC, MemoryMap, TASK_STATE_PAGES,
};
pub use model_specific_registers::{ModelSpecificRegister, initial_registers};
pub use paging::MAPPED;
pub use registers::{ProcessorState, Registers, SpecialRegisters, entry_state};
pub use segments::{DescriptorTable, Segment};
