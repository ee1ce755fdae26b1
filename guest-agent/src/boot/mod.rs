//! From the kernel's first process to a guest that takes requests, and down again.
//!
//! The order is the shortest way to the host's first sign of life: what vsock needs, then `Hello`, then, while the host
//! answers, what the root needs. What nobody waits for comes after `Ready`.

mod configure;
mod keeper;
mod modules;
mod mounts;
mod power;
mod root;

use std::convert::Infallible;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::panic;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use vmm_protocol::{
    AGENT_PORT, AgentMessage, BOOT_PORT, Configuration, Failed, Hello, Init, Ready, ShutdownMode, Timings,
    header,
};
use vmm_sys::fork::{Fork, fork_single_threaded};

use self::modules::{Modules, Stage};
use crate::cgroup::Groups;
use crate::launch::Launcher;
use crate::listener::{Listener, dial_host};
use crate::server::{End, Place, Server, block_signals};
use crate::{clock, console, image_init};

/// Why the agent cannot go on.
#[derive(Debug)]
pub struct Fatal {
    what: String,
    why: String,
}

impl Fatal {
    fn new(what: impl Into<String>, why: impl Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

/// For `map_err`: what was tried.
fn trying<E: Display>(what: &str) -> impl FnOnce(E) -> Fatal + '_ {
    move |error| Fatal::new(what, error)
}

/// Is process 1 until the machine is off. Whatever goes wrong, it never returns: the kernel would panic.
pub fn run() -> ! {
    panic::set_hook(Box::new(|panic| {
        console::line(&format!("{panic}"));
        if rustix::process::getpid().is_init() {
            power::off(ShutdownMode::PowerOff);
        }
        std::process::abort();
    }));
    let mut host = None;
    let mode = match start_and_serve(&mut host) {
        Ok(mode) => mode,
        Err(Fatal { what, why }) => {
            console::line(&format!("cannot {what}: {why}"));
            if let Some(host) = &mut host {
                report(host, &AgentMessage::Failed(Failed { what, why }));
                wait_until_read(host);
            }
            ShutdownMode::PowerOff
        }
    };
    power::down(mode)
}

/// Boots and serves; says what is to come after.
fn start_and_serve(host: &mut Option<File>) -> Result<ShutdownMode, Fatal> {
    let mut timings = Timings { started_us: clock::monotonic_us(), ..Timings::default() };
    mounts::devices().map_err(trying("mount /dev"))?;
    let modules = Modules::read(Path::new("/vmm"))?;
    modules.load(Stage::Vsock)?;
    let listener = Listener::vsock(AGENT_PORT).map_err(trying("listen on the agent's vsock port"))?;
    let host = host.insert(dial_host(BOOT_PORT).map_err(trying("connect to the host"))?.into());
    timings.connected_us = clock::monotonic_us();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let hello = Hello { agent: env!("CARGO_PKG_VERSION").to_owned(), kernel };
    header::write(host, &AgentMessage::Hello(hello)).map_err(trying("greet the host"))?;
    modules.load(Stage::Root)?;
    timings.modules_us = clock::monotonic_us();
    let configuration: Configuration =
        header::read(host).map_err(trying("receive the machine's configuration"))?;
    timings.configured_us = clock::monotonic_us();
    let (expected, late) = (modules.open(Stage::Ready), modules.open(Stage::Late));
    root::wait_for_devices(&configuration.root)?;
    timings.root_device_us = clock::monotonic_us();
    root::enter(&configuration.root)?;
    timings.root_mounted_us = clock::monotonic_us();
    mounts::system(configuration.init);
    modules::load_for_this_processor(expected);
    configure::apply(&configuration);
    let mut generation = 0;
    let place = match configuration.init {
        Init::Agent => Place::Init,
        Init::Image => {
            image_init::mask(&configuration.mask_services);
            generation = beside_image_init()?;
            Place::BesideInit
        }
    };
    block_signals().map_err(trying("block signals"))?;
    power::take_ctrl_alt_del(place);
    let groups = Groups::beneath(Path::new("/sys/fs/cgroup")).unwrap_or_else(|error| {
        console::line(&format!("no control groups for processes: {error}"));
        Groups::default()
    });
    let launcher = Launcher::new(configuration.environment).map_err(trying("prepare to start processes"))?;
    let mut server =
        Server::new(place, listener, launcher, groups).map_err(trying("prepare to take requests"))?;
    server.follow(generation);
    // The host was told of the first, which has loaded the modules.
    if generation == 0 {
        timings.ready_us = clock::monotonic_us();
        report(host, &AgentMessage::Ready(Ready { timings }));
    }
    server.prepare();
    if generation == 0 {
        modules::load_in_background(late);
    }
    match server.run().map_err(trying("wait for requests"))? {
        End::ShutDown(mode) => Ok(mode),
        End::Terminated => Ok(ShutdownMode::PowerOff),
    }
}

/// The image's init becomes process 1, and we a process beside it. Says how many there were before us.
fn beside_image_init() -> Result<u32, Fatal> {
    match fork_single_threaded().map_err(trying("make a process beside the image's init"))? {
        Fork::Child => {
            let _ = rustix::process::setsid();
            keeper::keep().map_err(trying("make a process that keeps the agent"))
        }
        Fork::Parent(_) => {
            let error: std::io::Result<Infallible> = image_init::become_it();
            match error {
                Ok(never) => match never {},
                Err(error) => Err(Fatal::new("hand over to the image's init", error)),
            }
        }
    }
}

/// The host may be gone, which is its own affair: whoever stopped waiting stops the machine.
fn report(host: &mut File, message: &AgentMessage) {
    if let Ok(bytes) = header::encode(message) {
        let _ = host.write_all(&bytes);
    }
}

/// Gives the host the time to receive our last words before the machine is off.
fn wait_until_read(host: &File) {
    let patience = Timespec::try_from(Duration::from_secs(2)).ok();
    let _ = shutdown(host, Shutdown::Write);
    let _ = poll(&mut [PollFd::from_borrowed_fd(host.as_fd(), PollFlags::IN)], patience.as_ref());
}
