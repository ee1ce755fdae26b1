//! The thread that has the machine: it launches it and pulls its plug, which both may take their time.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use super::event_loop::{Happening, Post};
use super::launcher::Launcher;
use crate::engine::ExitCounter;
use crate::home::{Home, VmSpec};
use crate::machine::BalloonControl;
use crate::threads;

/// What is known of a machine that runs.
#[derive(Default)]
pub(super) struct Launched {
    /// The engine, by name.
    pub(super) engine: String,
    /// The processes beside our own.
    pub(super) processes: Vec<u32>,
    /// What tells its exits, where they are counted.
    pub(super) exits: Option<Arc<dyn ExitCounter>>,
    /// The hold on its balloon, if it has one.
    pub(super) balloon: Option<BalloonControl>,
    /// Processor time that it took to get there.
    pub(super) processor_us: Option<u64>,
}

/// The way to the thread.
pub(super) struct MachineThread {
    plug: mpsc::Sender<()>,
}

impl MachineThread {
    /// Starts the thread, which starts the machine when it is told to; never, when who would tell is gone.
    pub(super) fn start(
        launcher: Arc<dyn Launcher>,
        home: Home,
        spec: VmSpec,
        console: OwnedFd,
        post: &Post,
        told: mpsc::Receiver<()>,
    ) -> std::io::Result<Self> {
        let (plug, pulled) = mpsc::channel();
        let post = post.clone();
        let serve = move || {
            if told.recv().is_ok() {
                serve(launcher.as_ref(), &home, &spec, console, &post, &pulled);
            }
        };
        threads::spawn_without_role("machine", serve)?;
        Ok(Self { plug })
    }

    /// Ends the machine, as soon as it is there.
    pub(super) fn pull_plug(&self) {
        // A thread that is gone has no machine.
        let _ = self.plug.send(());
    }
}

/// Runs until the other side of `pulled` is dropped; then the machine is dropped, and [`Happening::MachineGone`] told.
fn serve(
    launcher: &dyn Launcher,
    home: &Home,
    spec: &VmSpec,
    console: OwnedFd,
    post: &Post,
    pulled: &mpsc::Receiver<()>,
) {
    let ended = post.clone();
    let built = |root| post.send(Happening::MachineBuilt(root));
    let ended = Box::new(move |end| ended.send(Happening::MachineEnded(end)));
    match launcher.launch(home, spec, console, &built, ended) {
        Ok(mut machine) => {
            let engine = machine.report().engine.to_string();
            let (processes, exits, balloon) = (machine.processes(), machine.exits(), machine.balloon());
            let processor_us = machine.report().processor_us;
            post.send(Happening::Launched(Launched { engine, processes, exits, balloon, processor_us }));
            while pulled.recv().is_ok() {
                if let Err(error) = machine.stop() {
                    tracing::error!("cannot stop the machine: {}", crate::engine::chain(&error));
                }
            }
            drop(machine);
            post.send(Happening::MachineGone);
        }
        Err(failure) => post.send(Happening::LaunchFailed(failure)),
    }
}
