//! The host's client and the real agent, speaking over a Unix socket in place of vsock.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends there")]

mod files;
mod life;
mod protocol;
mod single;
mod streams;
mod terminal;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmm::agent::{AgentClient, AgentError, Collected, Connector, OutputLimits, ProcessSpec, binary};
use vmm::arch::Arch;

/// An agent that serves a socket, as long as this lives.
struct Agent {
    program: Child,
    folder: TempDir,
}

/// Connects to the agent's socket itself: there is no device between.
#[derive(Debug)]
struct Direct(PathBuf);

impl Connector for Direct {
    fn connect(&self, _port: u32, first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
        let mut stream = UnixStream::connect(&self.0)
            .map_err(|source| AgentError::Connect { path: self.0.clone(), source })?;
        stream.write_all(first).map_err(|source| AgentError::Connect { path: self.0.clone(), source })?;
        Ok(stream)
    }
}

/// The agent's program, written once: were it written while another test starts a process, that would hold it open for
/// writing a moment longer, and what is open for writing cannot be executed.
fn program_file() -> &'static Path {
    static FILE: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmm-agent");
        fs::write(&path, binary(Arch::host().unwrap()).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (folder, path)
    });
    &FILE.1
}

impl Agent {
    fn start() -> Self {
        Self::start_by("exec \"$0\" \"$@\"")
    }

    /// Starts it by a script, whose arguments are the agent's command.
    fn start_by(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let mut program = Command::new("sh");
        program.args(["-c", script]).arg(program_file()).arg("serve").stdin(OwnedFd::from(listener));
        let program = program.spawn().unwrap();
        Self { program, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    fn client(&self) -> AgentClient {
        AgentClient::with_connector(Arc::new(Direct(self.socket())))
    }

    /// The agent's memory that is really there, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends its processes when it is asked to end.
        let pid = rustix::process::Pid::from_child(&self.program);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.program.wait();
    }
}

/// Nothing here takes so long, even on a machine that does ten other things.
fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec::command(["sh", "-c", script])
}

fn run(client: &AgentClient, spec: &ProcessSpec) -> Collected {
    client.start(spec).unwrap().collect(b"", OutputLimits::default(), soon(), None).unwrap()
}
