//! The machine that was measured on.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// What a reader must know to judge the figures.
pub(crate) fn describe() -> Value {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let memory_kib = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    json!({
        "processor": field(&cpus, "model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory_mib": memory_kib.map(|kib| kib / 1024),
        "kernel": said("uname", &["-sr"]),
        "qemu": said(&format!("qemu-system-{}", std::env::consts::ARCH), &["--version"]),
        "vmm": said("git", &["rev-parse", "--short", "HEAD"]),
        "load_before": load.split(' ').next(),
    })
}

/// The same in a line.
pub(crate) fn line(host: &Value) -> String {
    let text = |key: &str| host.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    let number = |key: &str| host.get(key).map_or("?".to_owned(), Value::to_string);
    format!(
        "{}, {} cores, {} MiB, {}, {}, load before {}",
        text("processor"),
        number("cores"),
        number("memory_mib"),
        text("kernel"),
        text("qemu"),
        text("load_before")
    )
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
