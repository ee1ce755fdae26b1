//! What a kernel that is told `initcall_debug` says of its own steps.

use crate::agent::{KernelRecord, printable};

/// A step of the kernel's, in microseconds on the guest's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelStep {
    pub(super) name: String,
    pub(super) from_us: i64,
    pub(super) to_us: i64,
}

/// The step whose end a line tells: `initcall pci_driver_init+0x0/0x20 returned 0 after 171 usecs`, or
/// `probe of virtio0 returned 0 after 2611 usecs` (`init/main.c`, `drivers/base/dd.c` of Linux).
pub(super) fn step(record: &KernelRecord) -> Option<KernelStep> {
    let text = std::str::from_utf8(record.text.as_bytes()).ok()?;
    // A probe's line may begin with its driver and device.
    let begin = ["initcall ", "probe of "].iter().find_map(|begin| text.find(begin))?;
    let (name, outcome) = text[begin..].split_once(" returned ")?;
    let (_, after) = outcome.split_once(" after ")?;
    let took: u32 = after.strip_suffix(" usecs")?.parse().ok()?;
    let name = name.strip_prefix("initcall ").unwrap_or(name);
    // `+0x0/0x20` is where in the function, and of what size that is.
    let name = name.find('+').map_or_else(
        || name.to_owned(),
        |plus| {
            let module = name[plus..].find(" [").map_or("", |module| &name[plus + module..]);
            format!("{}{module}", &name[..plus])
        },
    );
    Some(KernelStep {
        name: printable(&name),
        from_us: record.at_us.saturating_sub(i64::from(took)),
        to_us: record.at_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step_of(text: &str) -> Option<KernelStep> {
        step(&KernelRecord { at_us: 5_000, level: 7, text: text.into() })
    }

    #[test]
    fn steps_of_the_kernel_and_its_drivers_are_found() {
        let found = step_of("initcall acpi_init+0x0/0x7b0 returned 0 after 1200 usecs").unwrap();
        assert_eq!((found.name.as_str(), found.from_us, found.to_us), ("acpi_init", 3_800, 5_000));
        let found = step_of("initcall ext4_init_fs+0x0/0x1000 [ext4] returned 0 after 7 usecs").unwrap();
        assert_eq!(found.name, "ext4_init_fs [ext4]");
        let found = step_of("virtio_blk virtio0: probe of virtio0 returned 0 after 2611 usecs").unwrap();
        assert_eq!((found.name.as_str(), found.from_us), ("probe of virtio0", 2_389));
    }

    #[test]
    fn other_lines_tell_of_no_step() {
        for text in
            ["calling  acpi_init+0x0/0x7b0 @ 1", "initcall x returned 0 after -1 usecs", "Run /init", ""]
        {
            assert_eq!(step_of(text), None, "{text}");
        }
        let far = KernelRecord {
            at_us: i64::MIN,
            level: 7,
            text: "initcall x+0x0/0x1 returned 0 after 9 usecs".into(),
        };
        assert_eq!(step(&far).unwrap().from_us, i64::MIN);
    }
}
