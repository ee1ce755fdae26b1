//! A timeline in the format of Chrome's tracing, which Perfetto reads too ("Trace Event Format").

use std::time::Duration;

use serde_json::{Value, json};

use super::kernel::step;
use super::{Span, Step, Timeline, Track};
use crate::agent::{KernelRecord, printable};

/// The track of the kernel's own steps and lines.
const KERNEL: u64 = 4;

impl Timeline {
    /// It as a trace. `log` is what [`Sandbox::kernel_log`](crate::Sandbox::kernel_log) gave, or nothing: the lines of the
    /// guest's kernel become moments, and spans where it says how long something took, which it does of a VM built with
    /// [`SandboxBuilder::traced_kernel`](crate::SandboxBuilder::traced_kernel).
    pub fn trace(&self, log: &[KernelRecord]) -> Value {
        let mut events =
            vec![json!({ "ph": "M", "pid": 1, "name": "process_name", "args": { "name": "vmm" } })];
        for (number, name) in Track::ALL
            .map(|track| (number(track), track.name()))
            .into_iter()
            .chain([(KERNEL, "guest's kernel")])
        {
            events.push(json!({
                "ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": { "name": name },
            }));
        }
        for Span { track, name, from, to } in self.spans() {
            events.push(span(number(track), &name, signed(from), signed(to)));
        }
        // A line's place is known where the guest's clock is.
        if let Some(zero) = self.at(Step::KernelBegun).map(signed) {
            events.extend(log.iter().map(|record| match step(record) {
                Some(step) => span(
                    KERNEL,
                    &step.name,
                    zero.saturating_add(step.from_us),
                    zero.saturating_add(step.to_us),
                ),
                None => line(record, zero),
            }));
        }
        json!({ "displayTimeUnit": "ms", "traceEvents": events })
    }
}

fn number(track: Track) -> u64 {
    match track {
        Track::Program => 1,
        Track::Monitor => 2,
        Track::Guest => 3,
    }
}

fn signed(at: Duration) -> i64 {
    i64::try_from(at.as_micros()).unwrap_or(i64::MAX)
}

fn span(track: u64, name: &str, from: i64, to: i64) -> Value {
    let takes = to.saturating_sub(from);
    json!({ "ph": "X", "pid": 1, "tid": track, "name": name, "ts": from, "dur": takes })
}

fn line(record: &KernelRecord, zero: i64) -> Value {
    let text = printable(&String::from_utf8_lossy(record.text.as_bytes()));
    let at = zero.saturating_add(record.at_us);
    json!({ "ph": "i", "pid": 1, "tid": KERNEL, "name": text, "ts": at, "s": "t" })
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn the_guests_kernel_stands_on_the_clock_of_all() {
        let said = |at_us, text: &str| KernelRecord { at_us, level: 6, text: text.into() };
        let log = [
            said(-500, "Linux version 6.18"),
            said(9_000, "initcall acpi_init+0x0/0x7b0 returned 0 after 2000 usecs"),
        ];
        let trace = example().trace(&log);
        let events = trace["traceEvents"].as_array().unwrap();
        let find = |name: &str| events.iter().find(|event| event["name"] == name).unwrap();
        // The kernel's clock begins 21 ms after the timeline.
        assert_eq!(
            (&find("Linux version 6.18")["ts"], &find("Linux version 6.18")["ph"]),
            (&json!(20_500), &json!("i"))
        );
        assert_eq!((&find("acpi_init")["ts"], &find("acpi_init")["dur"]), (&json!(28_000), &json!(2_000)));
        assert_eq!((&find("root mounted")["ts"], &find("root mounted")["tid"]), (&json!(82_000), &json!(3)));
    }

    #[test]
    fn a_kernel_whose_clock_is_not_known_is_left_out() {
        let log = [KernelRecord { at_us: 1, level: 6, text: "somewhere".into() }];
        assert!(!Timeline::begin().trace(&log).to_string().contains("somewhere"));
    }
}
