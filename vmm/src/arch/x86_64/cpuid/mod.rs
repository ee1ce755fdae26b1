//! What a guest's processors say of themselves: the host's abilities less what a virtual machine cannot or must not
//! see, and the machine's own shape.

mod features;
mod hypervisor;
#[cfg(test)]
mod tests;
mod topology;

/// In [`CpuidEntry::flags`]: the entry is for its index only. The value is KVM's.
pub const CPUID_SIGNIFICANT_INDEX: u32 = 1 << 0;

/// What the instruction CPUID answers to one question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers have the processor's own names")]
pub struct CpuidEntry {
    /// The question: what is in `eax`.
    pub function: u32,
    /// Its second part: what is in `ecx`, if that matters.
    pub index: u32,
    /// Whether it matters: [`CPUID_SIGNIFICANT_INDEX`].
    pub flags: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What a processor of the guest is to say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidPolicy {
    /// Which processor it is, from zero. It is the number of its APIC, too.
    pub cpu: u8,
    /// How many there are. All are cores of one package, with a thread each.
    pub cpus: u8,
    /// The rate of its time-stamp counter.
    pub tsc_kilohertz: u32,
    /// Whether the guest may run virtual machines itself.
    pub nested: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    /// AMD, and Hygon, whose processors are AMD's.
    Amd,
    Other,
}

impl CpuidPolicy {
    /// The guest's table, made from what the host's hypervisor supports. It depends on nothing else, so that the same
    /// guest on the same host always sees the same processor.
    pub fn apply(&self, host: &[CpuidEntry]) -> Vec<CpuidEntry> {
        let vendor = vendor(host);
        let mut table: Vec<_> =
            host.iter().filter(|entry| features::is_shown(entry, self.nested)).copied().collect();
        for entry in &mut table {
            features::restrict(entry, self.nested);
            topology::describe(entry, self, vendor);
        }
        features::measure_state(&mut table);
        let highest = highest_function(host);
        table.extend(topology::extended(self, highest));
        table.extend(hypervisor::leaves(self, host));
        table.extend(hypervisor::frequencies(self, vendor, highest));
        table
    }
}

/// How many bits of a physical address the host's processors have, and with them the guest's: its memory must end
/// below. 36 where they do not say.
pub fn physical_address_bits(host: &[CpuidEntry]) -> u8 {
    let said = find(host, 0x8000_0008).map(|entry| entry.eax.to_le_bytes()[0]);
    said.filter(|bits| *bits != 0).unwrap_or(36)
}

/// A processor's extension for running virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtualization {
    /// Intel's.
    Vmx,
    /// AMD's.
    Svm,
}

/// The extension that a host offers its guests. `None` where they cannot run virtual machines themselves.
pub fn virtualization(host: &[CpuidEntry]) -> Option<Virtualization> {
    let extensions = [Virtualization::Vmx, Virtualization::Svm];
    extensions.into_iter().find(|extension| features::offers(host, *extension))
}

fn find(table: &[CpuidEntry], function: u32) -> Option<&CpuidEntry> {
    table.iter().find(|entry| entry.function == function)
}

/// The highest of the basic functions.
fn highest_function(table: &[CpuidEntry]) -> u32 {
    find(table, 0).map_or(0, |entry| entry.eax)
}

fn vendor(table: &[CpuidEntry]) -> Vendor {
    let Some(entry) = find(table, 0) else { return Vendor::Other };
    match [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat().as_slice() {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
}

/// A number of so many bits as this range of a register has.
fn set_bits(register: &mut u32, bits: std::ops::Range<u32>, value: u32) {
    let mask = ((1_u32 << (bits.end - bits.start)) - 1) << bits.start;
    *register = *register & !mask | value << bits.start & mask;
}
