//! `vmm stats`: what VMs cost, and how their guests are; live, once, or for Prometheus.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use vmm::{CancelToken, Home, MetricsPlace, Sandbox, VmId, VmStats};

use super::{attach_all, print, print_json};
use crate::error::Failure;
use crate::sanitise::say;
use crate::signals::SignalForwarder;
use crate::{table, values};

#[derive(Args)]
#[command(after_help = "Examples:
  vmm stats                                  a live table of the VMs that run
  vmm stats --once --json box                one measurement for a script
  vmm stats --prometheus                     the same in Prometheus's text format
  vmm stats --serve unix:/run/vmm.sock       for a collector, on a socket
  vmm stats --serve 127.0.0.1:9317           the same on a port of this machine")]
pub(crate) struct Stats {
    /// Measure once and end; so it is where the output is no terminal
    #[arg(long)]
    once: bool,
    /// How long to wait between two measurements
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "1s")]
    interval: Duration,
    /// Print JSON: one measurement, an array
    #[arg(long)]
    json: bool,
    /// Print Prometheus's text format: one measurement
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
    /// Answer collectors at this place until Ctrl-C: unix:PATH or ADDRESS:PORT
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["json", "prometheus", "once", "vms"])]
    serve: Option<MetricsPlace>,
    /// Only these VMs: names, ids or the beginnings of ids
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

impl Stats {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let wanted: Vec<_> = attach_all(&home, &self.vms)?.iter().map(|vm| vm.id().clone()).collect();
        let measure = || -> Result<Vec<VmStats>, Failure> {
            let mut all = Sandbox::stats_of_all(&home)?;
            all.retain(|stats| wanted.is_empty() || wanted.contains(&stats.vm.id));
            Ok(all)
        };
        if let Some(place) = &self.serve {
            let token = CancelToken::new()?;
            let _signals = SignalForwarder::install(&token)?;
            vmm::serve_metrics(&home, place, &token, |place| match place {
                MetricsPlace::Unix(path) => say(&format!("vmm: unix:{}", path.display())),
                MetricsPlace::Tcp(address) => say(&format!("vmm: http://{address}/metrics")),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.json {
            print_json(&measure()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.prometheus {
            print(&vmm::prometheus_text(&measure()?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let token = CancelToken::new()?;
        let _signals = SignalForwarder::install(&token)?;
        let live = !self.once && io::stdout().is_terminal();
        // What a processor does now is seen between two measurements.
        let mut before = Seen::of(&measure()?);
        let mut wait = self.interval.min(Duration::from_millis(200));
        while !token.wait_for(wait)? {
            let measured = measure()?;
            let rows: Vec<_> = measured.iter().map(|stats| before.row(stats)).collect();
            let mut text = Vec::new();
            table::write(&mut text, &HEADING, &rows)?;
            if live {
                // The screen is cleared and the cursor goes home (ECMA-48, 8.3.39 and 8.3.21).
                io::stdout().write_all(b"\x1b[2J\x1b[H")?;
            }
            print(&String::from_utf8_lossy(&text))?;
            if !live {
                break;
            }
            before = Seen::of(&measured);
            wait = self.interval;
        }
        Ok(ExitCode::SUCCESS)
    }
}

const HEADING: [&str; 9] =
    ["NAME", "CPU", "LOAD", "GUEST MEMORY", "HOST MEMORY", "MONITOR", "DISK READ", "WRITTEN", "UPTIME"];

/// What was measured before, and when.
struct Seen {
    at: Instant,
    processor_us: HashMap<VmId, u64>,
}

impl Seen {
    fn of(all: &[VmStats]) -> Self {
        let times = all.iter().map(|stats| (stats.vm.id.clone(), stats.host.processor_us));
        Self { at: Instant::now(), processor_us: times.collect() }
    }

    fn row(&self, stats: &VmStats) -> Vec<String> {
        let before = self.processor_us.get(&stats.vm.id).copied().unwrap_or(stats.host.processor_us);
        let used = Duration::from_micros(stats.host.processor_us.saturating_sub(before));
        let share = 100.0 * used.as_secs_f64() / self.at.elapsed().as_secs_f64().max(0.001);
        let name = stats.vm.name.as_ref().map_or_else(|| stats.vm.id.to_string(), ToString::to_string);
        let unknown = || "-".to_owned();
        let guest = stats.guest.as_ref();
        vec![
            name,
            format!("{share:.1}%"),
            guest.map_or_else(unknown, |guest| {
                format!("{}.{:02}", guest.load_hundredths[0] / 100, guest.load_hundredths[0] % 100)
            }),
            guest.map_or_else(unknown, |guest| {
                let used = guest.memory.total.saturating_sub(guest.memory.available);
                format!("{} / {}", table::bytes(used), table::bytes(guest.memory.total))
            }),
            table::bytes(stats.host.memory),
            table::bytes(stats.host.monitor_memory),
            table::bytes(stats.host.disk_read),
            table::bytes(stats.host.disk_written),
            guest.map_or_else(unknown, |guest| table::age(Duration::from_millis(guest.uptime_ms))),
        ]
    }
}
