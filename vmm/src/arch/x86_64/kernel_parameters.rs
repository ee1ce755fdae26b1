//! What the native engine adds to the kernel's command line.

/// Parameters for every kernel.
///
/// - `pci=off`: there is no PCI, and nothing else tells the kernel before it has tried the configuration ports, walked
///   bus 0 for quirks and, on AMD processors, for bridges and GARTs: a hundred and more port accesses. Two are left,
///   a look for a graphics chip of Intel's from before the command line is read.
/// - `swiotlb=noforce`: a guest with memory above 4 GiB would set 64 MiB aside, and clear them, for PCI devices that
///   cannot reach so high. Saves no exits, but the memory and the time.
///
/// What others set is not needed here. `no_timer_check`, `tsc_early_khz`, `lpj`: kvmclock tells the rate, and a
/// hardware-reduced machine has no timer to check. `i8042.*`: the ACPI tables say that there is no controller.
/// `noapic`, `acpi=off`: the devices and the power-off are found through ACPI.
pub const KERNEL_PARAMETERS: &str = "pci=off swiotlb=noforce";
