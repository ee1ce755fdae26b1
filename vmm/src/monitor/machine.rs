//! The thread that has the machine: it launches it and pulls its plug, which both may take their time.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use super::event_loop::{Happening, Post};
use super::launcher::Launcher;
use crate::engine::{EngineError, ExitCounter, RunningMachine};
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

/// What the thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// End the machine, as soon as it is there.
    PullPlug,
    /// Have its processors stand still.
    Pause,
    /// Let them go on.
    Resume,
}

/// The way to the thread.
pub(super) struct MachineThread {
    orders: mpsc::Sender<Order>,
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
        let (orders, ordered) = mpsc::channel();
        let post = post.clone();
        let serve = move || {
            if told.recv().is_ok() {
                serve(launcher.as_ref(), &home, &spec, console, &post, &ordered);
            }
        };
        threads::spawn_without_role("machine", serve)?;
        Ok(Self { orders })
    }

    /// Tells the thread what to do.
    pub(super) fn order(&self, order: Order) {
        // A thread that is gone has no machine.
        let _ = self.orders.send(order);
    }
}

/// Runs until the other side of `ordered` is dropped; then the machine is dropped, and [`Happening::MachineGone`] told.
fn serve(
    launcher: &dyn Launcher,
    home: &Home,
    spec: &VmSpec,
    console: OwnedFd,
    post: &Post,
    ordered: &mpsc::Receiver<Order>,
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
            while let Ok(order) = ordered.recv() {
                obey(order, machine.as_mut(), post);
            }
            drop(machine);
            post.send(Happening::MachineGone);
        }
        Err(failure) => post.send(Happening::LaunchFailed(failure)),
    }
}

fn obey(order: Order, machine: &mut dyn RunningMachine, post: &Post) {
    let why = |error: EngineError| crate::engine::chain(&error);
    match order {
        Order::PullPlug => {
            if let Err(error) = machine.stop() {
                tracing::error!("cannot stop the machine: {}", why(error));
            }
        }
        Order::Pause => post.send(Happening::StandsStill(machine.pause().map(|()| true).map_err(why))),
        Order::Resume => post.send(Happening::StandsStill(machine.resume().map(|()| false).map_err(why))),
    }
}
