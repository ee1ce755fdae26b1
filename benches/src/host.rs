//! The machine that was measured on: what a reader must know to judge the figures.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A machine. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// The model of its processor.
    pub processor: Option<String>,
    /// What `uname -m` says.
    pub arch: String,
    /// Processors that we may use.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory_mib: Option<u64>,
    /// Its kernel.
    pub kernel: Option<String>,
    /// Its system.
    pub system: Option<String>,
    /// Its QEMU.
    pub qemu: Option<String>,
    /// The processes that wanted to run, on average over the last minute, before anything was measured.
    pub load_before: Option<f64>,
}

/// This machine.
pub fn describe() -> Host {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Host {
        processor: field(&cpus, "model name"),
        arch: std::env::consts::ARCH.to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: memory("MemTotal").map(|bytes| bytes >> 20),
        kernel: said("uname", &["-sr"]),
        system: system.map(|name| name.trim_matches('"').to_owned()),
        qemu: said(&format!("qemu-system-{}", std::env::consts::ARCH), &["--version"]),
        load_before: load(),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        write!(f, "{}, {} {}", known(&self.processor), self.cores, plural(self.cores, "core"))?;
        if let Some(memory) = self.memory_mib {
            write!(f, ", {memory} MiB")?;
        }
        write!(f, ", {}", known(&self.kernel))?;
        if let Some(qemu) = &self.qemu {
            write!(f, ", {qemu}")?;
        }
        if let Some(load) = self.load_before {
            write!(f, ", load before {load:.2}")?;
        }
        Ok(())
    }
}

/// `core` or `cores`.
pub(crate) fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// The load of the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// An amount in `/proc/meminfo`, in bytes.
pub(crate) fn memory(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = field(&text, name)?.split(' ').next()?.parse().ok()?;
    Some(kib << 10)
}

/// What a program says of itself, in its first line.
pub(crate) fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
