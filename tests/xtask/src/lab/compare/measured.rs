//! What was measured of each monitor, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One boot.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    /// On the instruction clock, from the start of the process.
    seconds: f64,
    /// Of the process, the guest's time among it.
    processor_seconds: Option<f64>,
    private_kib: Option<u64>,
    shared_kib: Option<u64>,
    /// KVM's counters, or our own.
    exits: BTreeMap<String, u64>,
}

impl Run {
    /// What `laboratory-watch` or `vmm ps --json` said of a run, in a line.
    pub(super) fn read(line: &str) -> Option<Self> {
        let said: Value = serde_json::from_str(line).ok()?;
        match said.get(0) {
            Some(vm) => Self::of_vm(vm),
            None => Self::of_watched(&said),
        }
    }

    fn of_watched(said: &Value) -> Option<Self> {
        let exits = said.get("exits")?.as_object()?;
        let exits = exits.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect();
        Some(Self {
            seconds: said.get("seconds")?.as_f64()?,
            processor_seconds: said.get("processor_seconds").and_then(Value::as_f64),
            private_kib: said.get("private_kib").and_then(Value::as_u64),
            shared_kib: said.get("shared_kib").and_then(Value::as_u64),
            exits,
        })
    }

    fn of_vm(vm: &Value) -> Option<Self> {
        let microseconds = u32::try_from(vm.pointer("/timings/ready")?.as_u64()?).ok()?;
        let total = vm.pointer("/exits/until_ready/total")?.as_u64()?;
        let exits = BTreeMap::from([("handled".to_owned(), total)]);
        Some(Self { seconds: f64::from(microseconds) / 1e6, exits, ..Self::default() })
    }
}

/// What was measured of a monitor.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) runs: Vec<Run>,
    /// How often its laboratory hung.
    pub(super) restarts: u32,
}

impl Measured {
    /// The least and the most of a figure over all runs; `None` if it was not measured.
    fn range<T: PartialOrd + Copy>(&self, figure: impl Fn(&Run) -> Option<T>) -> Option<(T, T)> {
        let figures: Option<Vec<T>> = self.runs.iter().map(figure).collect();
        figures?.into_iter().map(|one| (one, one)).reduce(|(least, most), (one, _)| {
            (if one < least { one } else { least }, if one > most { one } else { most })
        })
    }

    fn row(&self) -> String {
        let exits = |name: &str| whole(self.range(|run| run.exits.get(name).copied()));
        let handled = match exits("handled") {
            all if all == NONE => exits("io_exits"),
            all => all,
        };
        let seconds = self
            .range(|run| Some(run.seconds))
            .map_or(NONE.to_owned(), |(least, most)| format!("{least:.3} to {most:.3}"));
        let processor = self
            .range(|run| run.processor_seconds)
            .map_or(NONE.to_owned(), |(least, most)| format!("{least:.2} to {most:.2}"));
        format!(
            "| {} | {seconds} | {handled} | {} | {} | {} | {processor} | {} of {} |\n",
            self.name,
            exits("mmio_exits"),
            whole(self.range(|run| run.private_kib)),
            whole(self.range(|run| run.shared_kib)),
            self.restarts,
            self.runs.len(),
        )
    }
}

const NONE: &str = "-";

fn whole(range: Option<(u64, u64)>) -> String {
    match range {
        None => NONE.to_owned(),
        Some((least, most)) if least == most => least.to_string(),
        Some((least, most)) => format!("{least} to {most}"),
    }
}

/// A table for people.
pub(super) fn table(all: &[Measured]) -> String {
    let mut table =
        "| monitor | s, instruction clock | port exits | MMIO exits | own memory, KiB | shared, KiB | \
                     processor, s | restarts, of runs |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    all.iter().for_each(|measured| table += &measured.row());
    table += "\nThe least and the most of all runs. Port exits are KVM's count of instructions, whoever has the device; \
              MMIO exits those that left the kernel; where vmm counts itself, all of both that it handled. Processor \
              time is the whole process's, the guest's among it.\n";
    table
}

/// The same for programs.
pub(super) fn json(all: &[Measured]) -> Value {
    let run = |run: &Run| {
        json!({
            "seconds": run.seconds, "processor_seconds": run.processor_seconds,
            "private_kib": run.private_kib, "shared_kib": run.shared_kib, "exits": run.exits,
        })
    };
    let measured = |measured: &Measured| {
        let runs: Vec<Value> = measured.runs.iter().map(run).collect();
        json!({ "name": measured.name, "restarts": measured.restarts, "runs": runs })
    };
    all.iter().map(measured).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHED: &str = r#"{"seconds":0.61,"private_kib":900,"shared_kib":20,"processor_seconds":0.6,"exits":{"io_exits":1010,"mmio_exits":0}}"#;
    const VM: &str = r#"[{"timings":{"ready":900000},"exits":{"until_ready":{"total":212}}}]"#;

    #[test]
    fn what_is_said_of_a_run_is_read() {
        let run = Run::read(WATCHED).unwrap();
        assert_eq!((run.seconds, run.private_kib, run.exits["io_exits"]), (0.61, Some(900), 1010));
        let run = Run::read(VM).unwrap();
        assert_eq!((run.seconds, run.private_kib, run.exits["handled"]), (0.9, None, 212));
        assert_eq!(Run::read("the guest said something"), None);
        assert_eq!(Run::read("[]"), None);
    }

    #[test]
    fn a_row_shows_ranges_and_what_was_not_measured() {
        let runs =
            vec![Run::read(WATCHED).unwrap(), Run { private_kib: Some(950), ..Run::read(WATCHED).unwrap() }];
        let row = Measured { name: "a".to_owned(), runs, restarts: 1 }.row();
        assert_eq!(row, "| a | 0.610 to 0.610 | 1010 | 0 | 900 to 950 | 20 | 0.60 to 0.60 | 1 of 2 |\n");
        let row = Measured { name: "b".to_owned(), runs: vec![Run::read(VM).unwrap()], restarts: 0 }.row();
        assert_eq!(row, "| b | 0.900 to 0.900 | 212 | - | - | - | - | 0 of 1 |\n");
    }
}
