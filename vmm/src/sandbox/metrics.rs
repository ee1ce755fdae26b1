//! What VMs cost in Prometheus's text format, and a server that answers with it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use snafu::ResultExt;
use vmm_protocol::DiskUse;
use vmm_sys::unix_socket::listen_privately;
use vmm_sys::{Interest, Poller};

use super::error::SystemSnafu;
use super::{CancelToken, Error, Health, HealthStatus, Sandbox, VmStats};
use crate::home::Home;

/// A collector that says nothing for so long is let go.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// No request that a collector makes is longer.
const LONGEST_REQUEST: usize = 8 << 10;

/// Where collectors of metrics are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsPlace {
    /// A Unix socket, which only our own user can connect to.
    Unix(PathBuf),
    /// An address and a port.
    Tcp(SocketAddr),
}

impl FromStr for MetricsPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "{text:?} is no place to answer at: write unix:PATH or ADDRESS:PORT, as 127.0.0.1:9317"
                )
            }),
        }
    }
}

/// Each metric: its name, its kind, what it is, and where its value comes from.
type Metric = (&'static str, &'static str, &'static str, fn(&VmStats) -> Option<f64>);

/// A number as Prometheus takes all numbers.
#[expect(clippy::cast_precision_loss, reason = "a double is what the format has")]
fn number(value: u64) -> f64 {
    value as f64
}

fn guest(stats: &VmStats, value: impl Fn(&Health) -> u64) -> Option<f64> {
    stats.guest.as_ref().map(|guest| number(value(guest)))
}

const METRICS: &[Metric] = &[
    ("vmm_vm_cpu_seconds_total", "counter", "Processor time of the VM's processes.", |vm| {
        Some(number(vm.host.processor_us) / 1e6)
    }),
    ("vmm_vm_memory_bytes", "gauge", "Memory of the VM's processes, the guest's included.", |vm| {
        Some(number(vm.host.memory))
    }),
    ("vmm_vm_own_memory_bytes", "gauge", "Memory of the VM's processes, the guest's apart.", |vm| {
        Some(number(vm.host.monitor_memory))
    }),
    ("vmm_vm_disk_read_bytes_total", "counter", "Bytes read from the host's disks.", |vm| {
        Some(number(vm.host.disk_read))
    }),
    ("vmm_vm_disk_written_bytes_total", "counter", "Bytes written to the host's disks.", |vm| {
        Some(number(vm.host.disk_written))
    }),
    ("vmm_vm_threads", "gauge", "Threads of the VM's processes.", |vm| Some(number(vm.host.threads.into()))),
    ("vmm_vm_restarts", "gauge", "How many times in a row the VM was started again.", |vm| {
        Some(number(vm.vm.restarts.into()))
    }),
    ("vmm_vm_healthy", "gauge", "Whether the VM's health check succeeds: 1 or 0.", |vm| {
        let health = vm.vm.health.as_ref()?;
        Some(number(u64::from(health.status == HealthStatus::Healthy)))
    }),
    ("vmm_guest_load1", "gauge", "The guest's load over a minute.", |vm| {
        guest(vm, |guest| guest.load_hundredths[0].into()).map(|load| load / 100.0)
    }),
    ("vmm_guest_memory_bytes", "gauge", "Memory that the guest's kernel has.", |vm| {
        guest(vm, |guest| guest.memory.total)
    }),
    ("vmm_guest_memory_available_bytes", "gauge", "Memory that the guest's programs could have.", |vm| {
        guest(vm, |guest| guest.memory.available)
    }),
    ("vmm_guest_uptime_seconds", "gauge", "Time since the guest's kernel started.", |vm| {
        guest(vm, |guest| guest.uptime_ms).map(|time| time / 1e3)
    }),
    ("vmm_guest_processes", "gauge", "Processes that vmm started in the guest and that run.", |vm| {
        guest(vm, |guest| guest.processes.into())
    }),
];

/// The same of each file system in the guest, all of them gauges.
type DiskMetric = (&'static str, &'static str, fn(&DiskUse) -> u64);

const DISK_METRICS: &[DiskMetric] = &[
    ("vmm_guest_disk_bytes", "The size of a file system in the guest.", |disk| disk.total),
    ("vmm_guest_disk_available_bytes", "What is free of it.", |disk| disk.available),
];

/// What is known of VMs in Prometheus's text format.
pub fn prometheus_text(all: &[VmStats]) -> String {
    let mut text = String::new();
    let labels: Vec<_> = all.iter().map(labels).collect();
    heading(&mut text, "vmm_vm_info", "gauge", "The VMs that run.");
    for (stats, labels) in all.iter().zip(&labels) {
        let engine = stats.vm.engine.as_deref().unwrap_or_default();
        let more = [("image", stats.vm.image.as_str()), ("engine", engine), ("state", stats.vm.state.name())];
        let more: String = more.map(|(name, value)| format!(",{name}=\"{}\"", escaped(value))).concat();
        let _ = writeln!(text, "vmm_vm_info{{{labels}{more}}} 1");
    }
    for (name, kind, help, value) in METRICS {
        heading(&mut text, name, kind, help);
        for (stats, labels) in all.iter().zip(&labels) {
            if let Some(value) = value(stats) {
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
    }
    for (name, help, value) in DISK_METRICS {
        heading(&mut text, name, "gauge", help);
        for (stats, labels) in all.iter().zip(&labels) {
            for disk in stats.guest.iter().flat_map(|guest| &guest.disks) {
                let place = escaped(&disk.mount_point);
                let _ = writeln!(text, "{name}{{{labels},mount_point=\"{place}\"}} {}", value(disk));
            }
        }
    }
    text
}

fn heading(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labels(stats: &VmStats) -> String {
    let name = stats.vm.name.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("id=\"{}\",name=\"{name}\"", stats.vm.id)
}

/// A label's value, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Answers those who collect metrics, over HTTP, until it is cancelled. `listening` is told the address once it can be
/// connected to.
pub fn serve_metrics(
    home: &Home,
    place: &MetricsPlace,
    cancel: &CancelToken,
    listening: impl FnOnce(&MetricsPlace),
) -> Result<(), Error> {
    match place {
        MetricsPlace::Tcp(address) => {
            let what = || format!("listen at {address}");
            let bound = TcpListener::bind(address).and_then(|listener| {
                let address = listener.local_addr()?;
                Ok((listener, address))
            });
            let (listener, address) = bound.with_context(|_| SystemSnafu { what: what() })?;
            listening(&MetricsPlace::Tcp(address));
            let served = accept(&listener, cancel, home, || Ok(listener.accept()?.0.into()));
            served.with_context(|_| SystemSnafu { what: what() })
        }
        MetricsPlace::Unix(path) => {
            let what = || format!("listen at {}", path.display());
            let listener = listen(path).with_context(|_| SystemSnafu { what: what() })?;
            listening(place);
            let served = accept(&listener, cancel, home, || Ok(listener.accept()?.0.into()));
            // A socket that nobody listens at tells so to whoever tries.
            let _ = std::fs::remove_file(path);
            served.with_context(|_| SystemSnafu { what: what() })
        }
    }
}

/// Listens at a path. What an earlier server left there, at which nobody listens any more, is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match listen_privately(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let dead = UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !dead {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            listen_privately(path)
        }
        listener => listener,
    }
}

/// Takes one collector after the other: each is answered within a bound, and they come seldom.
fn accept(
    listener: &impl AsFd,
    cancel: &CancelToken,
    home: &Home,
    next: impl Fn() -> io::Result<OwnedFd>,
) -> io::Result<()> {
    let mut poller = Poller::new()?;
    poller.add(listener, 0, Interest::READ)?;
    poller.add(cancel, 1, Interest::READ)?;
    loop {
        let ready = poller.wait(None)?.count();
        if cancel.is_cancelled() {
            return Ok(());
        }
        // Whatever kind of socket it is: reading and writing are the same.
        if ready > 0
            && let Err(error) = next().map(UnixStream::from).and_then(|stream| answer(&stream, home))
        {
            tracing::debug!("a collector went away: {error}");
        }
    }
}

/// Answers one request (RFC 9112).
fn answer(mut stream: &UnixStream, home: &Home) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    // One deadline for all that it says, however slowly.
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let count = stream.read(&mut buffer)?;
        if count == 0 || left.is_zero() || request.len() + count > LONGEST_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..count]);
    }
    let (status, body) = match request_target(&request) {
        Some("/" | "/metrics") => match Sandbox::stats_of_all(home) {
            Ok(all) => ("200 OK", prometheus_text(&all)),
            Err(error) => ("500 Internal Server Error", format!("{error}\n")),
        },
        Some(_) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        None => ("405 Method Not Allowed", "GET /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// What a GET asks for.
fn request_target(request: &[u8]) -> Option<&str> {
    let line = request.split(|&byte| byte == b'\r').next()?;
    let target = std::str::from_utf8(line).ok()?.strip_prefix("GET ")?.split(' ').next()?;
    Some(target.split('?').next().unwrap_or(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_an_address() {
        assert!(matches!("unix:/run/x".parse(), Ok(MetricsPlace::Unix(path)) if path == Path::new("/run/x")));
        assert!(matches!("127.0.0.1:9317".parse(), Ok(MetricsPlace::Tcp(_))));
        for text in ["", "unix:", "9317", "/run/x"] {
            assert!(text.parse::<MetricsPlace>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_metrics_can_be_had() {
        assert_eq!(request_target(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some("/metrics"));
        assert_eq!(request_target(b"POST /metrics HTTP/1.1\r\n\r\n"), None);
        assert_eq!(request_target(b"\xff\xff"), None);
    }

    #[test]
    fn a_label_cannot_end_itself() {
        assert_eq!(escaped("a\"} 1\n\\"), "a\\\"} 1\\n\\\\");
    }
}
