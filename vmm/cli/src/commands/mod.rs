//! One file per command.

mod attach;
mod balloon;
mod bench;
mod clone;
mod commit;
mod compact;
mod completion;
mod console;
mod cp;
mod destroy;
mod disk;
mod doctor;
mod down;
mod edit;
mod events;
mod exec;
mod flatten;
mod help;
mod images;
mod init;
mod inspect;
pub(crate) mod internal;
mod kernel;
mod kill;
mod logs;
mod man;
mod mcp;
mod pause;
mod processes;
mod project;
mod prune;
mod ps;
mod pull;
mod rename;
mod restart;
mod rm;
mod run;
mod service;
mod shell;
mod snapshot;
mod start;
mod stats;
mod status;
mod stop;
mod timings;
mod top;
mod up;
mod upkeep;
mod version;
mod wait;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Serialize;
use vmm::home::End;
use vmm::{CancelToken, Home, Sandbox, VmId};

use crate::error::Failure;
use crate::values;

#[derive(Subcommand)]
// Only the parser of the command that is given is made: those of all would be half of the work of a short one.
#[command(defer = true)]
pub(crate) enum Command {
    /// Start a new VM and run a command in it
    ///
    /// Without a command it is a login shell. Without --name the VM leaves nothing behind when it ends; with one its
    /// disk is kept, and `vmm start` starts it again. With -d the VM stays until `vmm stop`, a command runs in it by
    /// itself, and its name is printed.
    Run(Box<run::Run>),
    /// Run a command in a VM that runs
    ///
    /// Without a command it is a login shell. With -d the command goes on by itself, and its id is printed.
    Exec(exec::Exec),
    /// List the commands that were started in a VM: those that run, and those that ended last
    Processes(processes::Processes),
    /// Go back to a command that runs in a VM
    ///
    /// What it wrote last is shown again, then what it writes. Whoever was attached to it before is let go. Ctrl-C leaves it
    /// running; where the command has a terminal, to which Ctrl-C belongs, Ctrl-] does.
    Attach(attach::Attach),
    /// Copy files and trees into a VM or out of it
    ///
    /// Targets and slashes at the end mean what they mean to `cp -a`, and as much is kept: modes, times, links, holes and
    /// extended attributes. A path in a VM that does not begin with a slash begins in root's home. Copies belong to root in
    /// the VM and to you here, unless you are root, who keeps their owners.
    Cp(cp::Cp),
    /// Edit a file in a VM with your own editor
    ///
    /// What VISUAL or EDITOR names, or vi, gets a copy, which is written back if it was changed, with the owner and the mode that
    /// the file has. A file that has changed in the guest meanwhile is left alone; what was edited is then kept, as after any
    /// failure, and you are told where.
    Edit(edit::Edit),
    /// List what runs in a VM, whoever started it
    Top(top::Top),
    /// List the VMs
    #[command(visible_alias = "list")]
    Ps(ps::Ps),
    /// Print all that is known of VMs, as JSON: what they are, disks and layers, sockets, processes, how they ended
    Inspect(inspect::Inspect),
    /// Start VMs that were stopped; they run in the background
    Start(start::Start),
    /// Shut VMs down in order
    Stop(stop::Stop),
    /// Shut VMs down in order and start them again; those that do not run are started
    Restart(restart::Restart),
    /// Have the processors of VMs stand still; they keep their memory, and cost no processor time
    Pause(pause::Pause),
    /// Let VMs go on that were paused
    Resume(pause::Pause),
    /// Wait until VMs have ended, or a command in one
    ///
    /// The status is 0 when they ended as they were asked to, or by themselves. With --process it is that of the command.
    Wait(wait::Wait),
    /// Stop VMs at once, as by pulling the plug
    Kill(kill::Kill),
    /// Remove VMs, with their disks and logs
    Rm(rm::Rm),
    /// Give a VM another name
    ///
    /// One that runs keeps running; its guest calls itself by the new name after its next start.
    Rename(rename::Rename),
    /// Remove all VMs that do not run, and what nothing needs any more
    ///
    /// That is VMs with their disks, for which you are asked, then what `vmm images prune` removes: downloads, remains of
    /// what was cut off, layers that neither an image nor a VM needs. Images stay, and so do the VMs of projects, which
    /// `vmm destroy` removes.
    Prune(prune::Prune),
    /// Make a VM that starts from what is on the disk of another one
    ///
    /// It takes no time however large the disk is: both share what is on it now, and what either writes is its own. A VM
    /// that runs writes back what it has and stands still for a moment, so its clone finds its file systems in order; what
    /// programs keep in memory is not cloned.
    Clone(clone::Clone),
    /// Make an image of what is on a VM's disk
    ///
    /// The image boots as the VM does: with the kernel and the modules of the image that this was made from. The two share
    /// what is on the disk; nothing is copied. A VM that runs writes back what it has and stands still for a moment. Disks that
    /// were given with --disk are no part of the image.
    Commit(commit::Commit),
    /// Keep states of a VM's disk, and go back to them
    ///
    /// A snapshot takes no time and no space of its own; what is written after it does. It can be made while the VM runs,
    /// which then writes back what it has and stands still for a moment; for all else the VM must be stopped.
    Snapshot(snapshot::Snapshot),
    /// Make one layer of those that a VM's disk has above its image
    ///
    /// Snapshots, clones and larger disks put layers upon layers. This writes what they hold together into one, without what
    /// the guest has discarded or zeroed, and removes the others; those that a snapshot or another VM needs stay. An overlay
    /// in a file of your own stays in it. It needs room for the new layer meanwhile. The VM must be stopped.
    Flatten(flatten::Flatten),
    /// Give back to the host what a VM's disk holds in vain
    ///
    /// The layer that the VM writes to is written anew without what the guest has discarded or zeroed. What a guest discards
    /// while it runs (`fstrim /`) goes back by itself, with its next flush. The VM must be stopped.
    Compact(compact::Compact),
    /// Make disk files and look after them
    ///
    /// A VM gets one by `vmm run --disk FILE`, or later by `vmm start --disk FILE`. The format is what the file's name says,
    /// .qcow2, or .raw and .img, if the contents look like it; otherwise --format says it.
    Disk(disk::Disk),
    /// Tell what happens to VMs as it happens: created, running, unhealthy, ended
    Events(events::Events),
    /// Show what VMs cost and how their guests are: processors, memory, disks, load
    Stats(stats::Stats),
    /// Print what a VM wrote to its console
    Logs(logs::Logs),
    /// Sit down at a VM's console, beside others perhaps
    ///
    /// What the guest wrote last is shown, then what it writes; what you type is typed there. Whether somebody reads it is
    /// the guest's business: with `--init image` there usually is a login. Ctrl-] leaves the console; the VM goes on.
    Console(console::ConsoleCommand),
    /// Ask a guest to do without some of its memory, or print how much it does without
    ///
    /// The VM must have been created with `vmm run --balloon`. Memory that such a guest frees goes back to the host by
    /// itself; a balloon takes more, which the guest must first free. The guest takes its time, and takes memory back by
    /// itself before it runs out.
    Balloon(balloon::Balloon),
    /// Print or install a unit with which systemd starts a VM at boot and stops it in order at shutdown
    Service(service::Service),
    /// Start the VMs of this folder, as its vmm.toml says; without one, an Alpine with a disk of the folder's own
    ///
    /// What runs as described is left alone. What has to change is told before it is done: most changes restart a VM, which
    /// keeps its disk; another image needs a new disk, for which you are asked.
    Up(up::Up),
    /// Shut the VMs of this folder down in order; their disks are kept for the next vmm up
    Down(down::Down),
    /// Say what the VMs of this folder do, and whether they are as its vmm.toml says
    Status(status::Status),
    /// Open a shell in a VM of this folder
    Shell(shell::Shell),
    /// Remove the VMs of this folder with their disks, and forget what was remembered of them
    Destroy(destroy::Destroy),
    /// Write a vmm.toml into this folder, with every key and what it does
    Init(init::Init),
    /// Fetch images, verify them and make them ready to boot
    Pull(pull::Pull),
    /// List, fetch and care for images
    #[command(visible_alias = "image")]
    Images(images::Images),
    /// Check kernels, build them, and choose which one boots what
    #[command(visible_alias = "kernels")]
    Kernel(kernel::Kernel),
    /// Give agents sandboxes, by the Model Context Protocol on standard input and output
    ///
    /// Its tools make sandboxes, run commands in them, and read and write files there, all within the limits that are said
    /// here. The sandboxes are gone when the client is.
    Mcp(mcp::Mcp),
    /// Measure what VMs cost on this machine, beside other people's: starts, commands, files, disks, memory
    ///
    /// Rounds of all that is there in turn, and a winner only where the measurements name one. Ctrl-C ends it and leaves
    /// nothing running. The memory of many VMs and a storm of 50 starts take long without hardware virtualization.
    Bench(bench::Bench),
    /// Say what this machine can do for vmm, and what to do about what is missing
    ///
    /// The status is 0 when some engine can run VMs.
    Doctor(doctor::Doctor),
    /// Print the version
    Version(version::Version),
    /// Print the completion script of a shell
    Completion(completion::Completion),
    /// Print or write the pages of the manual
    Man(man::Manual),
    /// Print the help of a command, or a text about a topic; `vmm help topics` lists those
    Help(help::Help),
}

impl Command {
    pub(crate) fn run(self, quiet: bool, begun: Instant) -> Result<ExitCode, Failure> {
        match self {
            Self::Run(command) => command.run(quiet, begun),
            Self::Exec(command) => command.run(),
            Self::Processes(command) => command.run(),
            Self::Attach(command) => command.run(),
            Self::Cp(command) => command.run(quiet),
            Self::Edit(command) => command.run(),
            Self::Top(command) => command.run(),
            Self::Ps(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Start(command) => command.run(quiet),
            Self::Stop(command) => command.run(),
            Self::Restart(command) => command.run(quiet),
            Self::Pause(command) => command.pause(),
            Self::Resume(command) => command.resume(),
            Self::Wait(command) => command.run(),
            Self::Kill(command) => command.run(),
            Self::Rm(command) => command.run(),
            Self::Rename(command) => command.run(),
            Self::Prune(command) => command.run(),
            Self::Clone(command) => command.run(),
            Self::Commit(command) => command.run(quiet),
            Self::Snapshot(command) => command.run(),
            Self::Flatten(command) => command.run(),
            Self::Compact(command) => command.run(),
            Self::Disk(command) => command.run(),
            Self::Events(command) => command.run(),
            Self::Stats(command) => command.run(),
            Self::Logs(command) => command.run(),
            Self::Console(command) => command.run(),
            Self::Balloon(command) => command.run(),
            Self::Service(command) => command.run(quiet),
            Self::Up(command) => command.run(quiet),
            Self::Down(command) => command.run(quiet),
            Self::Status(command) => command.run(),
            Self::Shell(command) => command.run(),
            Self::Destroy(command) => command.run(quiet),
            Self::Init(command) => command.run(),
            Self::Pull(command) => command.run(quiet),
            Self::Images(command) => command.run(quiet),
            Self::Kernel(command) => command.run(quiet),
            Self::Mcp(command) => command.run(),
            Self::Bench(command) => command.run(quiet),
            Self::Doctor(command) => command.run(),
            Self::Version(command) => command.run(),
            Self::Completion(command) => command.run(),
            Self::Man(command) => command.run(),
            Self::Help(command) => command.run(),
        }
    }
}

/// Prints data for scripts.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::usage(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Prints text; a reader that has gone away is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What a command did to VMs: their names, a line each as soon as it is done, or all of them as JSON at the end.
struct Done {
    json: bool,
    vms: Vec<DoneTo>,
}

#[derive(Serialize)]
struct DoneTo {
    name: String,
    id: VmId,
    /// How it ended, where the command waited for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

impl Done {
    fn new(json: bool) -> Self {
        Self { json, vms: Vec::new() }
    }

    /// It is done to this one.
    fn vm(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        self.tell(sandbox, None)
    }

    /// The same of one that has ended by it.
    fn ended(&mut self, sandbox: &Sandbox, end: End) -> Result<(), Failure> {
        self.tell(sandbox, Some(end))
    }

    /// Waits until it has ended. A crash is told as a failure.
    fn when_ended(&mut self, sandbox: &Sandbox, cancel: &CancelToken) -> Result<(), Failure> {
        let end = match sandbox.wait(Some(cancel)) {
            Err(vmm::Error::Cancelled) => return Ok(()),
            end => end?,
        };
        let crash = end.reason.is_crash().then(|| vmm::Error::Ended { end: Box::new(end.clone()) });
        if self.json || crash.is_none() {
            self.ended(sandbox, end)?;
        }
        crash.map_or(Ok(()), |crash| Err(crash.into()))
    }

    fn tell(&mut self, sandbox: &Sandbox, end: Option<End>) -> Result<(), Failure> {
        if !self.json {
            return print(&format!("{}\n", sandbox.name()));
        }
        self.vms.push(DoneTo { name: sandbox.name().to_owned(), id: sandbox.id().clone(), end });
        Ok(())
    }

    /// That was all.
    fn finish(self, status: ExitCode) -> Result<ExitCode, Failure> {
        if self.json {
            print_json(&self.vms)?;
        }
        Ok(status)
    }
}

/// Prints rows below a heading.
fn print_table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut text = Vec::new();
    crate::table::write(&mut text, heading, rows)?;
    print(&String::from_utf8_lossy(&text))
}

/// Says how long a guest stood still, if it did, to who looks on.
fn tell_frozen(vm: &str, frozen: Option<Duration>) {
    if let (Some(frozen), true) = (frozen, std::io::stderr().is_terminal()) {
        crate::sanitise::say(&format!("{vm} stood still for {} ms", values::milliseconds(frozen)));
    }
}

/// Handles on several VMs. A name that is none is told before anything is done to the others.
fn attach_all(home: &Home, vms: &[String]) -> Result<Vec<Sandbox>, Failure> {
    vms.iter().map(|vm| Ok(Sandbox::attach(home, vm)?)).collect()
}

/// Does something to each of several VMs or images; a failure is told and the rest still done.
fn for_each<T>(
    things: impl IntoIterator<Item = T>,
    mut action: impl FnMut(T) -> Result<(), Failure>,
) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for thing in things {
        if let Err(failure) = action(thing) {
            status = failure.report();
        }
    }
    status
}
