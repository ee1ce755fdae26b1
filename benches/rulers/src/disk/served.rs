//! The two processes that serve a disk each.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::Pid;

use super::layers::Layers;

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the peer reads and writes, through the host's page cache as we do. Its pool of threads, which is its default, takes
/// several times as long as its io_uring where that cache has what is wanted; `VMM_BENCH_PEER_AIO=threads` shows it.
const PEER_AIO: &str = "io_uring";

const PEER: &str = "qemu-storage-daemon";

/// Who serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Ours,
    Peer,
}

impl Server {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Peer];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "theirs",
        }
    }

    /// What the program says of its version, and how it is run.
    pub(crate) fn version(self) -> Option<String> {
        let program = match self {
            Self::Ours => return None,
            Self::Peer => PEER,
        };
        let output = Command::new(program).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned();
        Some(format!("{said}, aio={}", peer_aio()))
    }
}

fn peer_aio() -> String {
    std::env::var("VMM_BENCH_PEER_AIO").unwrap_or_else(|_| PEER_AIO.to_owned())
}

/// A process that serves a disk. Dropping it ends it.
pub(crate) struct Served {
    pub(crate) socket: PathBuf,
    pub(crate) top: PathBuf,
    process: Child,
    clock: ClockId,
}

impl Served {
    /// Starts both, each on an overlay of its own.
    pub(crate) fn both(layers: &Layers) -> Result<[Self; 2], Box<dyn Error>> {
        let [ours, theirs] = Server::BOTH;
        Ok([Self::start(ours, layers)?, Self::start(theirs, layers)?])
    }

    fn start(server: Server, layers: &Layers) -> Result<Self, Box<dyn Error>> {
        let name = server.name();
        let top = layers.overlay(&format!("{name}.qcow2"))?;
        let socket = layers.beside(&format!("{name}.socket"));
        let ready = match server {
            Server::Ours => socket.clone(),
            Server::Peer => layers.beside(&format!("{name}.pid")),
        };
        for leftover in [&socket, &ready] {
            let _there_or_not = fs::remove_file(leftover);
        }
        let mut command = match server {
            Server::Ours => ours(&socket, &layers.base(), &top)?,
            Server::Peer => peer(&socket, &ready, &layers.base(), &top),
        };
        let process = command.stdin(Stdio::null()).spawn()?;
        let pid = Pid::from_raw(i32::try_from(process.id())?);
        let mut served = Self { socket, top, process, clock: ClockId::pid_cpu_clock_id(pid)? };
        served.wait_for(&ready)?;
        Ok(served)
    }

    /// Returns when the file is there.
    fn wait_for(&mut self, ready: &Path) -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        while !ready.exists() {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("the process that serves {} ended: {status}", self.top.display()).into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("nobody listens at {}", self.socket.display()).into());
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the peer tells by a file that it is ready, and only so"
            )]
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What all threads of the process have had of the host's processors, those that have ended included.
    pub(crate) fn processor_time(&self) -> Result<Duration, Box<dyn Error>> {
        Ok(Duration::from(self.clock.now()?))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended with its front end.
        let _ended_or_not = self.process.kill();
        let _whatever_it_was = self.process.wait();
    }
}

fn ours(socket: &Path, base: &Path, top: &Path) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve-disk").args([socket, base, top]);
    Ok(command)
}

fn peer(socket: &Path, ready: &Path, base: &Path, top: &Path) -> Command {
    let aio = peer_aio();
    let file = |node: &str, path: &Path| {
        format!("driver=file,node-name={node},filename={},aio={aio},cache.direct=off", path.display())
    };
    let mut command = Command::new(PEER);
    command.args(["--blockdev", &format!("{},read-only=on", file("base-file", base))]);
    command.args(["--blockdev", "driver=qcow2,node-name=base,file=base-file,read-only=on"]);
    command.args(["--blockdev", &file("top-file", top)]);
    command.args(["--blockdev", "driver=qcow2,node-name=top,file=top-file,backing=base"]);
    let address = format!("addr.type=unix,addr.path={}", socket.display());
    command.args(["--export", &format!("type=vhost-user-blk,id=export,node-name=top,writable=on,{address}")]);
    command.arg("--pidfile").arg(ready);
    command
}
