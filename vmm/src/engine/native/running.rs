//! A machine that runs on the host's processors: its life until its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::board::Board;
use super::control::Control;
use super::exits::Counter;
use crate::engine::{EngineError, ExitCounter, LaunchReport, MachineEnd, RunningMachine};
use crate::machine::BalloonControl;
use crate::threads::{self, Role};

/// A machine of the native engine.
pub(super) struct NativeMachine {
    control: Arc<Control>,
    console: OwnedFd,
    report: LaunchReport,
    exits: Arc<Counter>,
    balloon: Option<BalloonControl>,
    watcher: Option<JoinHandle<()>>,
    keyboard: Option<JoinHandle<()>>,
}

/// What runs when the machine does.
pub(super) struct MachineThreads {
    /// The threads of the processors, which wait to be let go.
    pub(super) processors: Vec<JoinHandle<()>>,
    /// What can be done when the guest has begun already. It ends soon when the machine does.
    pub(super) beside: Box<dyn FnOnce() + Send>,
    /// Who hears of the end.
    pub(super) ended: Box<dyn FnOnce(MachineEnd) + Send>,
}

impl NativeMachine {
    /// Lets the processors go, and waits for their end on a thread of its own.
    pub(super) fn new(
        control: Arc<Control>,
        board: Arc<Board>,
        console: OwnedFd,
        MachineThreads { processors, beside, ended }: MachineThreads,
        exits: Counter,
        report: LaunchReport,
    ) -> io::Result<Self> {
        let exits = Arc::new(exits);
        let (its_control, its_exits) = (Arc::clone(&control), Arc::clone(&exits));
        let watch = move || {
            beside();
            for processor in processors {
                if processor.join().is_err() {
                    // It said why where panics are told.
                    its_control.end(MachineEnd::Failed("a processor's thread died".to_owned()));
                }
            }
            board.stop();
            drop(board);
            let end = its_control.how_it_ended();
            tracing::info!(?end, exits = %its_exits.exits(), "the machine has ended");
            ended(end);
        };
        let watcher = threads::spawn(Role::Watcher, "engine", watch)?;
        control.resume();
        Ok(Self { control, console, report, exits, balloon: None, watcher: Some(watcher), keyboard: None })
    }

    /// With the hold on the balloon that is among its devices.
    pub(super) fn with_balloon(mut self, balloon: Option<BalloonControl>) -> Self {
        self.balloon = balloon;
        self
    }

    /// With the thread that types on its serial port, if there is one.
    pub(super) fn with_keyboard(mut self, keyboard: Option<JoinHandle<()>>) -> Self {
        self.keyboard = keyboard;
        self
    }
}

impl RunningMachine for NativeMachine {
    fn pause(&mut self) -> Result<(), EngineError> {
        self.control.pause();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.control.resume();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), EngineError> {
        self.control.end(MachineEnd::Stopped);
        // A processor may wait for somebody to read what the guest wrote.
        let _ = rustix::net::shutdown(&self.console, rustix::net::Shutdown::Both);
        Ok(())
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn report(&self) -> &LaunchReport {
        &self.report
    }

    fn exits(&self) -> Option<Arc<dyn ExitCounter>> {
        Some(Arc::clone(&self.exits) as Arc<dyn ExitCounter>)
    }

    fn balloon(&self) -> Option<BalloonControl> {
        self.balloon.clone()
    }
}

impl Drop for NativeMachine {
    fn drop(&mut self) {
        let _ = self.stop();
        if let Some(watcher) = self.watcher.take()
            && watcher.thread().id() != thread::current().id()
        {
            let _ = watcher.join();
        }
        if let Some(keyboard) = self.keyboard.take() {
            // The console was shut down.
            let _ = keyboard.join();
        }
    }
}
