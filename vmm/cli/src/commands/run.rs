//! `vmm run`: a new VM, and a command in it.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use vmm::engine::{self, EngineOptions};
use vmm::home::End;
use vmm::image::{BaseFile, Format};
use vmm::{
    CancelToken, ConsoleKind, DiskSize, EngineChoice, ExtraDisk, Home, Init, MemorySize, RootWrites, Sandbox,
    Signal, Stdin, Step,
};

use super::timings::Timings;
use super::{print, print_json};
use crate::error::Failure;
use crate::progress;
use crate::session::{self, Streams};
use crate::signals::SignalForwarder;
use crate::{terminal, values};

#[derive(Args)]
#[command(after_help = "Examples:
  vmm run alpine
  vmm run alpine -- sh -c 'echo out; exit 7'
  tar c . | vmm run -i alpine -- tar t
  vmm run -d --name box --cpus 2 --memory 1G alpine
  vmm run ./disk.qcow2
  vmm run --read-only alpine -- sh -c 'rm -rf /usr'")]
pub(crate) struct Run {
    /// Pass standard input to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Leave the VM running in the background and print its name
    #[arg(short, long, conflicts_with_all = ["interactive", "tty", "timeout"])]
    detach: bool,
    /// Print JSON
    #[arg(long, requires = "detach")]
    json: bool,
    /// Name the VM and keep its disk
    #[arg(long)]
    name: Option<String>,
    /// Keep nothing of the VM when it ends, though it has a name
    #[arg(long)]
    rm: bool,
    /// How long the guest may take to shut down before its plug is pulled, where `vmm stop` does not say (default: 10s)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    stop_timeout: Option<Duration>,
    /// Processors
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// Memory, such as 512M or 2G
    #[arg(long, short, default_value_t, value_name = "SIZE")]
    memory: MemorySize,
    /// What runs the guest's processors: auto, kvm, hvf or software (default: auto)
    #[arg(long, value_name = "ENGINE", env = "VMM_ENGINE")]
    engine: Option<values::Engine>,
    /// Refuse an engine that is no hardware boundary
    #[arg(long)]
    require_hardware: bool,
    /// Let the guest run virtual machines itself; on the software engine it has one processor then
    #[arg(long)]
    nested: bool,
    /// What the guest's console is: serial, or virtio on hardware virtualization
    #[arg(long, default_value_t, value_name = "KIND")]
    console: ConsoleKind,
    /// Give memory that the guest frees back to the host, and more of it by `vmm balloon`; on hardware virtualization
    #[arg(long)]
    balloon: bool,
    /// Give the VM its memory in huge pages of this machine's: quicker to reach, but more of it is taken; on hardware
    /// virtualization
    #[arg(long)]
    huge_pages: bool,
    /// Who is PID 1 in the guest: agent (quickest) or image (its own init, such as OpenRC)
    #[arg(long, default_value = "agent", value_name = "WHO")]
    init: Init,
    /// Set a variable for every command in the VM; a bare KEY takes its value from here
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::environment)]
    env: Vec<(String, String)>,
    /// Folder in the guest that the command starts in
    #[arg(long, short, value_name = "FOLDER")]
    workdir: Option<String>,
    /// User in the guest, as name or number, perhaps with :group
    #[arg(long, short)]
    user: Option<String>,
    /// End the command after so long, with status 124
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Boot this kernel instead of the image's: one of `vmm kernel list`, or a file; `image` is the image's own
    #[arg(long, value_name = "NAME|FILE")]
    kernel: Option<PathBuf>,
    /// Of a disk file: take the kernel's modules from this initial file system (default: from the disk)
    #[arg(long, value_name = "FILE", conflicts_with = "modules")]
    initrd: Option<PathBuf>,
    /// Of a disk file: take the kernel's modules from this folder or tar archive; an empty folder, if it needs none
    #[arg(long, value_name = "FOLDER|FILE")]
    modules: Option<PathBuf>,
    /// Of a disk file: its format, raw or qcow2 (default: qcow2, which its first bytes tell)
    #[arg(long, value_name = "FORMAT", value_parser = values::format)]
    format: Option<Format>,
    /// Attach the root's disk read-only; what the guest writes goes to memory, or to a disk of its own with =disk
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_value = "no", default_missing_value = "memory")]
    read_only: RootWrites,
    /// Add kernel parameters
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// How large the disk is; its file system grows with it
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<DiskSize>,
    /// Add a disk file, which the guest finds as /dev/vdb and so on: FILE[,ro][,format=raw|qcow2]
    #[arg(long = "disk", value_name = "FILE", value_parser = ExtraDisk::parse)]
    disks: Vec<ExtraDisk>,
    #[command(flatten)]
    upkeep: super::upkeep::Upkeep,
    #[command(flatten)]
    timings: Timings,
    /// For debugging: do not hold the VM's monitor to the system calls that it needs
    #[arg(long)]
    no_seccomp: bool,
    /// The image, such as alpine or alpine:3.23, or a disk file, such as ./disk.qcow2, which stays as it is
    image: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self, quiet: bool, begun: Instant) -> Result<ExitCode, Failure> {
        let mut watch = self.timings.begin(begun)?;
        let streams = self.streams().check()?;
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let home = Home::open_default().map_err(vmm::Error::from)?;
        tell_of_engine(&home, self.engine(), quiet)?;
        let (observer, display) = progress::display(quiet);
        let started = watch
            .apply(self.builder(&home)?)
            .executable(std::env::current_exe()?)
            .cancel_token(&token)
            .progress(observer)
            .start();
        display.clear();
        let sandbox = match started {
            Err(vmm::Error::Cancelled) => return Ok(cancelled(&signals)),
            // Its name alone is no way to it.
            Err(error) if PathBuf::from(&self.image).is_file() && !self.image.contains('/') => {
                let hint = format!("if the file {0} here is meant, write ./{0}", self.image);
                return Err(Failure::from(error).with_hint(hint));
            }
            started => started?,
        };
        if self.detach {
            if !self.command.is_empty()
                && let Err(error) = self.command(&sandbox, streams).start_detached()
            {
                // Nobody has been told its name; what is to be said is why the command did not start.
                let _ = end(&sandbox, self.is_kept(), &CancelToken::new()?);
                return Err(error.into());
            }
            if self.json {
                print_json(&serde_json::json!({ "name": sandbox.name(), "id": sandbox.id() }))?;
            } else {
                print(&format!("{}\n", sandbox.name()))?;
            }
            watch.hear(&sandbox);
            watch.finish()?;
            return Ok(ExitCode::SUCCESS);
        }
        let stopping = CancelToken::new()?;
        let outcome = self.command(&sandbox, streams).spawn().map_err(Failure::from).and_then(|process| {
            watch.mark(Step::CommandStarted);
            session::join(process, streams, &signals, false)
        });
        watch.mark(Step::CommandDone);
        watch.hear(&sandbox);
        signals.cancel(&stopping);
        let ended = end(&sandbox, self.is_kept(), &stopping);
        if let Ok(Some(end)) = &ended {
            watch.stopped(end);
        }
        watch.mark(Step::Ended);
        let status = outcome?;
        ended?;
        watch.finish()?;
        Ok(status)
    }

    fn engine(&self) -> EngineChoice {
        values::Engine::of(self.engine).unwrap_or_default()
    }

    /// Whether its disk is there when it has ended.
    fn is_kept(&self) -> bool {
        self.name.is_some() && !self.rm
    }

    /// A person who names no command wants a shell, with the terminal if there is one.
    fn streams(&self) -> Streams {
        let shell = self.command.is_empty() && !self.detach;
        Streams {
            interactive: self.interactive || shell,
            terminal: self.tty || (shell && terminal::is_interactive()),
        }
    }

    /// A disk file is told from an image by the way to it: no image has a `/` in its name.
    fn base_file(&self) -> Result<Option<BaseFile>, Failure> {
        if self.image.contains('/') {
            let base = BaseFile::new(&self.image);
            let (initrd, modules) = (self.initrd.clone(), self.modules.clone());
            return Ok(Some(BaseFile { format: self.format, initrd, modules, ..base }));
        }
        if self.initrd.is_some() || self.modules.is_some() || self.format.is_some() {
            let message = "--format, --initrd and --modules are for a disk file";
            let hint = format!("if {0} is one, write it as ./{0}", self.image);
            return Err(Failure::usage(message).with_hint(&hint));
        }
        Ok(None)
    }

    fn builder(&self, home: &Home) -> Result<vmm::SandboxBuilder, Failure> {
        let mut builder = Sandbox::builder(&self.image)
            .root_writes(self.read_only)
            .home(home)
            .cpus(self.cpus)
            .memory(self.memory)
            .engine(self.engine())
            .require_hardware(self.require_hardware)
            .nested(self.nested)
            .console(self.console)
            .balloon(self.balloon)
            .huge_pages(self.huge_pages)
            .init(self.init)
            .seccomp(!self.no_seccomp)
            .detached(self.detach);
        if let Some(name) = &self.name {
            builder = builder.name(name).remove_at_end(self.rm);
        }
        if let Some(timeout) = self.stop_timeout {
            builder = builder.stop_timeout(timeout);
        }
        for (key, value) in &self.env {
            builder = builder.env(key, value);
        }
        if let Some(kernel) = &self.kernel {
            builder = builder.kernel(kernel);
        }
        if let Some(size) = self.disk_size {
            builder = builder.disk_size(size);
        }
        for disk in &self.disks {
            builder = builder.disk(disk.clone());
        }
        if let Some(parameters) = &self.cmdline {
            builder = builder.command_line(parameters);
        }
        if let Some(base) = self.base_file()? {
            builder = builder.base_file(base);
        }
        Ok(self.upkeep.apply(builder))
    }

    fn command<'a>(&self, sandbox: &'a Sandbox, streams: Streams) -> vmm::Command<'a> {
        let options = CommandOptions {
            env: &[],
            workdir: self.workdir.as_deref(),
            user: self.user.as_deref(),
            timeout: self.timeout,
        };
        options.command(sandbox, &self.command, streams)
    }
}

/// What `run` and `exec` can say of a command.
pub(super) struct CommandOptions<'a> {
    pub(super) env: &'a [(String, String)],
    pub(super) workdir: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) timeout: Option<Duration>,
}

impl CommandOptions<'_> {
    pub(super) fn command<'a>(
        &self,
        sandbox: &'a Sandbox,
        argv: &[OsString],
        streams: Streams,
    ) -> vmm::Command<'a> {
        let mut command = sandbox.command(argv.iter().map(OsString::as_os_str));
        if let Some(size) = streams.terminal_size() {
            command = command.terminal(size);
            if let Ok(term) = std::env::var("TERM") {
                command = command.env("TERM", term);
            }
        }
        command = command.envs(self.env.iter().cloned());
        if let Some(folder) = self.workdir {
            command = command.workdir(folder);
        }
        if let Some(user) = self.user {
            command = command.user(user);
        }
        if let Some(timeout) = self.timeout {
            command = command.timeout(timeout);
        }
        if streams.interactive { command.stdin(Stdin::Piped) } else { command }
    }
}

/// Says to a person, once for each boot of the host, that there is no hardware virtualization. Programs that read
/// standard error expect their command's words only.
pub(super) fn tell_of_engine(home: &Home, choice: vmm::EngineChoice, quiet: bool) -> Result<(), Failure> {
    if quiet || !io::stderr().is_terminal() {
        return Ok(());
    }
    let options = EngineOptions { cache: Some(home.cache()), ..EngineOptions::new(std::env::current_exe()?) };
    if let Some(notice) = engine::notice(choice, &options) {
        writeln!(io::stderr(), "vmm: {notice}")?;
    }
    Ok(())
}

/// A VM that is not kept need not shut down in order; one that is does, so that its disk is whole.
///
/// Returns how it ended, if that is known.
fn end(sandbox: &Sandbox, kept: bool, cancel: &CancelToken) -> Result<Option<End>, Failure> {
    let ended =
        if kept && !cancel.is_cancelled() { sandbox.stop(sandbox.stop_grace()?) } else { sandbox.kill() };
    match ended {
        Ok(end) => Ok(Some(end)),
        // The guest may have powered itself off before we could ask.
        Err(vmm::Error::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a shell would say of a program that the signal killed.
pub(super) fn cancelled(signals: &SignalForwarder) -> ExitCode {
    ExitCode::from(128 + signals.received().unwrap_or(Signal::INTERRUPT).number())
}
