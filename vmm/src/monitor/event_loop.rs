//! The monitor's one thread that waits for everything, and does what `life` says.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use snafu::{OptionExt, ResultExt};
use vmm_disk::{LayerSpec, LiveDisk};
use vmm_sys::signals::{Signals, Termination};
use vmm_sys::{Event, Interest, Poller, Ready};

use super::client::{Asked, Client};
use super::console::{Console, Found};
use super::console_clients::{self, ConsoleClients};
use super::guest;
use super::health::{Attempt, HealthWatch};
use super::launcher::{LaunchFailure, Launcher};
use super::layer::{self, NewTop, Recorded};
use super::life::{Action, Life, Progress, Stopper};
use super::machine::{Launched, MachineThread, Order};
use super::pause::{AskedBy, Standstill};
use super::process::{MonitorError, NoSpecSnafu, Process, Start, SystemSnafu};
use crate::agent::boot::{BootError, BootReport};
use crate::control::{Answer, Balloon, Goal, Refusal, RefusalCode, Request, StartRequest, Status};
use crate::engine::MachineEnd;
use crate::home::{
    End, GuestTimings, HeldVm, HomeError, Snapshot, StateRecord, Timestamp, Timings, VmFolder, VmName,
    VmSpec, VmState,
};
use crate::machine::{Exits, RunExits};
use crate::threads::{self, Role};

/// More clients than this wait in the socket's queue.
const MOST_CLIENTS: usize = 64;

/// How long the thread of a machine that has ended may take to let go of it.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a layer that is being added to the disk of a machine that has ended may take to be given up.
const LAYER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what a guest's agent said last may take to arrive.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long clients may take to read how it ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

const SIGNALS: u64 = 0;
const POSTED: u64 = 1;
const CONTROL: u64 = 2;
const CONSOLE: u64 = 3;
const BOOT: u64 = 4;
/// The starter's token; other clients have later ones.
const STARTER: u64 = 16;

/// What the other threads report.
pub(super) enum Happening {
    /// The engine is chosen, disks are open, devices are made; with a hold on the root disk.
    MachineBuilt(Weak<LiveDisk>),
    /// The machine runs.
    Launched(Launched),
    /// It does not.
    LaunchFailed(LaunchFailure),
    /// It has ended.
    MachineEnded(MachineEnd),
    /// Nothing of it is held any more.
    MachineGone,
    /// An agent that called is ready, or will never be.
    Boot(Result<(UnixStream, BootReport), BootError>),
    /// The agent could not be asked to shut down.
    ShutdownFailed(String),
    /// The machine's processors stand still now, or go on; or why they do not.
    StandsStill(Result<bool, String>),
    /// The guest that goes on was told what time it is, as far as it would hear it.
    ClockSet(Option<AskedBy>),
    /// The guest's health was checked.
    Checked(Attempt),
    /// The layer that is being added is to be recorded now.
    RecordLayer(Recorded),
    /// The layer was added, and so long the guest stood still; or why it was not.
    LayerAdded(Result<Duration, String>),
}

/// A layer that is being added.
struct Adding {
    /// Who asked for it, and by which request.
    client: u64,
    request: u64,
    layer: LayerSpec,
    snapshot: Option<VmName>,
}

/// The way for other threads to report.
#[derive(Clone)]
pub(super) struct Post {
    sender: mpsc::Sender<Happening>,
    event: Arc<Event>,
}

impl Post {
    /// Reports. A monitor that is ending listens no more.
    pub(super) fn send(&self, happening: Happening) {
        if self.sender.send(happening).is_ok() {
            let _ = self.event.notify();
        }
    }
}

/// The monitor of one VM.
pub(super) struct Monitor {
    held: HeldVm,
    spec: VmSpec,
    request: StartRequest,
    pub(super) vsock_socket: PathBuf,
    poller: Poller,
    signals: Signals,
    listener: UnixListener,
    boot_listener: UnixListener,
    console: Console,
    console_clients: ConsoleClients,
    console_of_machine: Option<OwnedFd>,
    pub(super) post: Post,
    posted: mpsc::Receiver<Happening>,
    pub(super) clients: BTreeMap<u64, Client>,
    next_token: u64,
    pub(super) machine: Option<MachineThread>,
    /// The root disk. Whoever drops a disk writes to it, which this thread must not: so it has no part in it.
    disk: Weak<LiveDisk>,
    adding: Option<Adding>,
    pub(super) standstill: Standstill,
    pub(super) health: Option<HealthWatch>,
    launched: Launched,
    pub(super) life: Life,
    started: Timestamp,
    timings: Timings,
    exits_until_ready: Option<Box<Exits>>,
    /// An agent is being answered.
    booting: bool,
    /// The agent's connection: its end is the agent's.
    _agent: Option<UnixStream>,
    finished: Option<End>,
}

impl Monitor {
    /// Opens everything that it will wait for.
    pub(super) fn new(process: Process, start: Start) -> Result<Self, MonitorError> {
        let Start { request_id, request, held } = start;
        let mut spec = held.folder().spec()?.context(NoSpecSnafu)?;
        let sockets = held.make_sockets_folder()?;
        let listen = |path: PathBuf| -> Result<UnixListener, MonitorError> {
            vmm_sys::unix_socket::listen_privately(&path).context(SystemSnafu { what: "listen on a socket" })
        };
        let vsock_socket = VmFolder::vsock_socket(&sockets);
        // Another session of the user has another runtime folder perhaps.
        spec.machine.vsock.socket.clone_from(&vsock_socket);
        let listener = listen(VmFolder::control_socket(&sockets))?;
        let boot_listener = listen(guest::boot_socket(&vsock_socket))?;
        let what = "record the console";
        let (ours, console_of_machine) = UnixStream::pair().context(SystemSnafu { what })?;
        let console = Console::new(ours.into(), held.folder()).context(SystemSnafu { what })?;
        let what = "wait for events";
        let event = Arc::new(Event::new().context(SystemSnafu { what })?);
        let (sender, posted) = mpsc::channel();
        let starter = Client::starter(process.starter, request_id).context(SystemSnafu { what })?;
        let poller = Poller::new().context(SystemSnafu { what })?;
        let added = poller
            .add(&process.signals, SIGNALS, Interest::READ)
            .and_then(|()| poller.add(&*event, POSTED, Interest::READ))
            .and_then(|()| poller.add(&listener, CONTROL, Interest::READ))
            .and_then(|()| poller.add(&console, CONSOLE, Interest::READ))
            .and_then(|()| poller.add(&boot_listener, BOOT, Interest::READ))
            .and_then(|()| poller.add(&starter, STARTER, Interest::READ));
        added.context(SystemSnafu { what })?;
        let ready_timeout = Duration::from_millis(request.ready_timeout_ms);
        let life = Life::new(Instant::now(), ready_timeout, spec.ephemeral(), spec.stop_grace());
        let mut monitor = Self {
            held,
            spec,
            request,
            vsock_socket,
            poller,
            signals: process.signals,
            listener,
            boot_listener,
            console,
            console_clients: ConsoleClients::new(),
            console_of_machine: Some(console_of_machine.into()),
            post: Post { sender, event },
            posted,
            clients: BTreeMap::from([(STARTER, starter)]),
            next_token: STARTER + 1,
            machine: None,
            disk: Weak::new(),
            adding: None,
            standstill: Standstill::default(),
            health: None,
            launched: Launched::default(),
            life,
            started: Timestamp::now(),
            timings: Timings::default(),
            exits_until_ready: None,
            booting: false,
            _agent: None,
            finished: None,
        };
        let asked_at_us = monitor.request.asked_at_us;
        monitor.timings.described =
            monitor.request.described_at_us.and_then(|described| described.checked_sub(asked_at_us));
        monitor.timings.monitor = monitor.elapsed();
        Ok(monitor)
    }

    /// Runs the VM to its end.
    pub(super) fn run(mut self, launcher: Arc<dyn Launcher>) -> Result<(), MonitorError> {
        self.record(None);
        let what = "start a thread for the machine";
        let (may_start, told) = mpsc::channel();
        if let Some(console) = self.console_of_machine.take() {
            let spec = self.spec.clone();
            let home = self.held.folder().home().clone();
            let thread = MachineThread::start(launcher, home, spec, console, &self.post, told);
            self.machine = Some(thread.context(SystemSnafu { what })?);
        }
        // The machine's thread, which starts processes, must not inherit this; and no guest runs before it.
        threads::enter(Role::EventLoop)
            .context(SystemSnafu { what: "hold the monitor to its system calls" })?;
        // Whoever is told may be gone: then its failure was posted.
        let _ = may_start.send(());
        while self.finished.is_none() {
            self.wait()?;
        }
        self.finish();
        Ok(())
    }

    /// Waits for something to happen, and does what follows.
    fn wait(&mut self) -> Result<(), MonitorError> {
        let left = self.life.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = self.poller.wait(left).context(SystemSnafu { what: "wait for events" })?;
        let ready: Vec<Ready> = ready.collect();
        for ready in ready {
            match ready.token {
                SIGNALS => self.take_signals(),
                POSTED => self.take_posted(),
                CONTROL => self.accept_client(),
                CONSOLE => self.take_console(ready),
                BOOT => self.accept_agent(),
                console_clients::FIRST_TOKEN.. => self.serve_console_client(ready),
                token => self.serve(token, ready),
            }
        }
        let now = Instant::now();
        if self.finished.is_none() && self.life.deadline().is_some_and(|deadline| deadline <= now) {
            let progress = Progress {
                launched: self.timings.launched.is_some(),
                console: self.timings.console.is_some(),
                agent: self.timings.agent.is_some(),
            };
            let action = self.life.deadline_passed(now, progress);
            self.act(action);
        }
        Ok(())
    }

    /// Microseconds since the start was asked for.
    fn elapsed(&self) -> Option<u64> {
        vmm_sys::clock::monotonic_us().checked_sub(self.request.asked_at_us)
    }

    pub(super) fn status(&self) -> Status {
        Status {
            id: self.spec.id.clone(),
            state: self.life.state(),
            monitor_pid: std::process::id(),
            processes: self.launched.processes.clone(),
            engine: Some(self.launched.engine.clone()).filter(|engine| !engine.is_empty()),
            seccomp: threads::are_confined(),
            started: self.started,
            timings: self.timings.clone(),
            exits: RunExits { until_ready: self.exits_until_ready.clone(), in_all: self.exits() },
            health: self.health.as_ref().map(|watch| watch.report().clone()),
        }
    }

    /// How often its processors left the guest until now.
    fn exits(&self) -> Option<Box<Exits>> {
        self.launched.exits.as_ref().map(|counter| Box::new(counter.exits()))
    }

    /// Writes `state.json`. A full disk must not end a VM that runs.
    fn record(&self, end: Option<End>) {
        let status = self.status();
        let record = StateRecord {
            version: StateRecord::VERSION,
            state: status.state,
            monitor_pid: status.monitor_pid,
            sockets: self.held.folder().sockets(),
            engine: status.engine,
            started: self.started,
            timings: self.timings.clone(),
            exits: status.exits,
            end,
        };
        if let Err(error) = self.held.write_state(&record) {
            tracing::warn!("cannot record the VM's state: {}", crate::engine::chain(&error));
        }
    }

    /// Records and tells that the VM does something else.
    pub(super) fn changed(&mut self, ready: bool) {
        self.record(None);
        let status = self.status();
        for client in self.clients.values_mut() {
            client.tell(&status, ready);
        }
        self.update_interests();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::None => {}
            Action::ShutDown(grace) => {
                self.go_on();
                self.changed(false);
                if let Err(error) = guest::shut_down(self.vsock_socket.clone(), grace, &self.post) {
                    self.post.send(Happening::ShutdownFailed(error.to_string()));
                }
            }
            Action::PullPlug => {
                self.changed(false);
                if let Some(machine) = &self.machine {
                    machine.order(Order::PullPlug);
                }
            }
            Action::GiveUp => {
                tracing::error!("the engine does not end the machine");
                self.end(None);
            }
        }
    }

    /// The machine has ended.
    fn end(&mut self, end: Option<MachineEnd>) {
        // An agent that gives up says why, then ends the machine: its word may still be on the way.
        let deadline = Instant::now() + LAST_WORD_TIMEOUT;
        while self.booting {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.posted.recv_timeout(left) {
                Ok(Happening::Boot(Err(error))) => {
                    self.booting = false;
                    self.life.boot_failed(Instant::now(), &error);
                }
                Ok(Happening::Boot(Ok(_))) | Err(_) => self.booting = false,
                Ok(Happening::Launched(launched)) => self.launched = launched,
                Ok(other) => self.take_at_the_end(other),
            }
        }
        self.console.drain(|bytes| self.console_clients.hear(&self.poller, bytes));
        let tail = self.console.tail();
        self.finished = Some(self.life.machine_ended(end, self.console.has_panicked(), tail));
    }

    fn stop(&mut self, stopper: Stopper, grace: Option<Duration>) {
        let action = self.life.stop(Instant::now(), stopper, grace);
        self.act(action);
    }

    fn take_signals(&mut self) {
        // The end of a terminal is nothing to a process with a session of its own.
        if self.signals.take().unwrap_or_default().contains(&Termination::Terminate) {
            self.stop(Stopper::Signal, None);
        }
    }

    fn take_posted(&mut self) {
        let _ = self.post.event.clear();
        while self.finished.is_none() {
            let Ok(happening) = self.posted.try_recv() else { break };
            match happening {
                Happening::MachineBuilt(disk) => {
                    self.timings.built = self.elapsed();
                    self.disk = disk;
                }
                Happening::RecordLayer(recorded) => {
                    // Whoever asks waits for it.
                    let _ = recorded.send(self.record_layer());
                }
                Happening::LayerAdded(outcome) => self.layer_added(outcome),
                Happening::Launched(launched) => {
                    self.timings.launched = self.elapsed();
                    self.timings.processor = launched.processor_us;
                    self.launched = launched;
                    if self.life.was_ready() {
                        // A quick guest: it was ready before we heard that it runs.
                        self.exits_until_ready = self.exits();
                    }
                    self.changed(false);
                }
                Happening::LaunchFailed(failure) => {
                    self.machine = None;
                    self.finished = Some(self.life.launch_failed(failure));
                }
                Happening::MachineEnded(end) => self.end(Some(end)),
                Happening::MachineGone => {}
                Happening::Boot(outcome) => self.booted(outcome),
                Happening::Checked(attempt) => self.checked(attempt),
                Happening::StandsStill(outcome) => self.stands_still(outcome),
                Happening::ClockSet(asked_by) => self.clock_set(asked_by),
                Happening::ShutdownFailed(why) => {
                    let action = self.life.shutdown_failed(Instant::now(), &why);
                    self.act(action);
                }
            }
        }
    }

    fn booted(&mut self, outcome: Result<(UnixStream, BootReport), BootError>) {
        self.booting = false;
        match outcome {
            Ok((stream, report)) => {
                self._agent = Some(stream);
                if self.life.ready() {
                    self.timings.ready = self.elapsed();
                    // Nothing of the guest is older than its monitor.
                    let earliest = self.timings.monitor.unwrap_or_default();
                    let heard = report.heard_us.map(|at| at.saturating_sub(self.request.asked_at_us));
                    self.timings.guest =
                        GuestTimings::aligned(&report.ready.timings, heard, earliest).map(Box::new);
                    self.exits_until_ready = self.exits();
                    tracing::info!(agent = report.hello.agent, kernel = report.hello.kernel, "ready");
                    self.watch_health();
                    self.changed(true);
                    self.release_starter();
                }
            }
            Err(error) => {
                let action = self.life.boot_failed(Instant::now(), &error);
                self.act(action);
            }
        }
    }

    /// Begins with the health check, if the VM has one.
    fn watch_health(&mut self) {
        let Some(check) = &self.spec.health_check else { return };
        match HealthWatch::start(check, self.vsock_socket.clone(), &self.post, Instant::now()) {
            Ok(watch) => self.health = Some(watch),
            Err(error) => tracing::error!("cannot check the VM's health: {error}"),
        }
    }

    fn checked(&mut self, attempt: Attempt) {
        // One that is ending may fail its check.
        if self.life.state() == VmState::Running
            && let Some(watch) = &mut self.health
            && watch.take(attempt, Instant::now())
        {
            let report = watch.report();
            tracing::info!(failures = report.failures, "the VM is {}", report.status);
            self.changed(false);
        }
    }

    /// Whoever started a VM that is detached is a client like another from now on.
    fn release_starter(&mut self) {
        if self.request.detached
            && let Some(starter) = self.clients.remove(&STARTER)
        {
            let token = self.next_token;
            self.next_token += 1;
            let _ = self.poller.delete(&starter);
            let _ = self.poller.add(&starter, token, Interest::READ);
            self.clients.insert(token, starter);
        }
    }

    fn accept_agent(&mut self) {
        let Ok((stream, _)) = self.boot_listener.accept() else { return };
        // One at a time: a guest that calls again and again gets no threads by it. And none once the agent is ready:
        // any user of the guest can call, and what the machine is told is for the agent alone.
        if self.booting || self.life.was_ready() || self.finished.is_some() {
            return;
        }
        self.timings.agent = self.timings.agent.or(self.elapsed());
        // The life's own deadline says why.
        let margin = Duration::from_secs(5);
        let deadline = self.life.deadline().unwrap_or_else(|| Instant::now() + margin) + margin;
        let configuration = self.spec.configuration.clone();
        match guest::configure(stream, configuration, deadline, &self.post) {
            Ok(()) => self.booting = true,
            Err(error) => tracing::error!("cannot answer the agent: {error}"),
        }
    }

    fn take_console(&mut self, ready: Ready) {
        if ready.writable {
            self.console_clients.type_on(&self.poller, self.console.as_fd());
            self.update_console();
        }
        if !ready.readable {
            return;
        }
        match self.console.read(|bytes| self.console_clients.hear(&self.poller, bytes)) {
            Found::Output => self.timings.console = self.timings.console.or(self.elapsed()),
            Found::Nothing => {}
            Found::End => drop(self.poller.delete(&self.console)),
        }
    }

    fn serve_console_client(&mut self, ready: Ready) {
        self.console_clients.serve(&self.poller, ready, self.console.as_fd());
        self.update_console();
    }

    /// Waits for the machine to take what was typed, if there is something.
    fn update_console(&self) {
        let interest = if self.console_clients.wait_for_machine() { Interest::BOTH } else { Interest::READ };
        // One that the machine has closed is waited for no more.
        let _ = self.poller.modify(&self.console, CONSOLE, interest);
    }

    /// Joins a client's socket to the console; says whether the guest gets what is typed.
    fn join_console(&mut self, files: Vec<OwnedFd>) -> Result<(), Refusal> {
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(files) else {
            return Err(invalid("a client of the console comes with one open socket".to_owned()));
        };
        if self.console_clients.are_many() {
            return Err(out_of_place("too many sit at the VM's console already"));
        }
        let joined = self.console_clients.add(&self.poller, socket, self.console.last());
        joined.map_err(|error| invalid(format!("cannot wait for what is typed: {error}")))
    }

    fn accept_client(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let us = rustix::process::geteuid().as_raw();
        if vmm_sys::peer::user(&stream).ok() != Some(us) {
            return;
        }
        let token = self.next_token;
        let Ok(client) = Client::new(stream) else { return };
        if self.poller.add(&client, token, Interest::READ).is_ok() {
            self.next_token += 1;
            self.clients.insert(token, client);
        }
        self.listen_for_clients();
    }

    /// Listens only while there is room: whoever is turned away would take that for the VM's end.
    fn listen_for_clients(&self) {
        let room = self.clients.len() < MOST_CLIENTS;
        let _ =
            self.poller.modify(&self.listener, CONTROL, if room { Interest::READ } else { Interest::NONE });
    }

    fn serve(&mut self, token: u64, ready: Ready) {
        let Some(mut client) = self.clients.remove(&token) else { return };
        if ready.writable {
            client.flush();
        }
        let mut stops = Vec::new();
        if ready.readable && !client.is_deaf() {
            for asked in client.read() {
                self.request(&mut client, token, asked, &mut stops);
            }
        }
        // Hung up: both directions are closed. One that has only ended its side may still wait for an answer.
        let lifeline_broke = token == STARTER && (client.is_deaf() || ready.hangup);
        let interest = interest_in(&client);
        if client.is_done() || ready.hangup {
            let _ = self.poller.delete(&client);
            self.listen_for_clients();
        } else {
            let _ = self.poller.modify(&client, token, interest);
            self.clients.insert(token, client);
        }
        for grace in stops {
            self.stop(Stopper::Client, Some(grace));
        }
        if lifeline_broke {
            self.stop(Stopper::StarterGone, None);
        }
    }

    fn request(&mut self, client: &mut Client, token: u64, asked: Asked, stops: &mut Vec<Duration>) {
        let Asked { id, what, files } = asked;
        match what {
            Request::Status => client.answer(id, Answer::Status(self.status())),
            Request::Subscribe => {
                client.subscribe();
                client.answer(id, Answer::Status(self.status()));
            }
            Request::Wait { goal: Goal::Ready } if self.life.was_ready() => {
                client.answer(id, Answer::Ready(self.status()));
            }
            Request::Wait { goal } => client.wait(id, goal),
            Request::Stop { grace_ms } => {
                client.wait(id, Goal::Ended);
                stops.push(Duration::from_millis(grace_ms));
            }
            Request::Balloon { target } => {
                client.answer(id, self.balloon(target).map_or_else(Answer::Refused, Answer::Balloon));
            }
            Request::Pause => self.stand_still(client, token, id, true),
            Request::Resume => self.stand_still(client, token, id, false),
            Request::OwnLayer { folder } => {
                let owned = self.own_layer(&folder);
                client.answer(id, owned.map_or_else(Answer::Refused, |()| Answer::Owned));
            }
            Request::AddLayer { layer, snapshot } => {
                let adding = Adding { client: token, request: id, layer, snapshot };
                if let Err(refusal) = self.add_layer(adding, files) {
                    client.answer(id, Answer::Refused(refusal));
                }
            }
            Request::Console => {
                let joined = self.join_console(files);
                client.answer(id, joined.map_or_else(Answer::Refused, |()| Answer::Console));
            }
            Request::Rename { name } => {
                let renamed = self.rename(&name);
                client.answer(id, renamed.map_or_else(Answer::Refused, |()| Answer::Renamed));
            }
            Request::Start(_) => {
                client.answer(id, Answer::Refused(out_of_place("this monitor has its VM already")));
            }
        }
    }

    /// Writes down what the VM is called from now on.
    fn rename(&mut self, name: &VmName) -> Result<(), Refusal> {
        let renamed = self.described().and_then(|mut spec| {
            spec.rename(name);
            self.held.write_spec(&spec)
        });
        renamed.map_err(|error| invalid(crate::engine::chain(&error)))?;
        self.spec.rename(name);
        Ok(())
    }

    /// Sets how much the guest is to do without, if that is asked, and tells of its balloon.
    fn balloon(&self, target: Option<u64>) -> Result<Balloon, Refusal> {
        let Some(balloon) = &self.launched.balloon else {
            let has_one = self.spec.machine.balloon && self.life.state() == VmState::Starting;
            return Err(out_of_place(if has_one {
                "the VM is still starting"
            } else {
                "the VM has no balloon"
            }));
        };
        if let Some(bytes) = target {
            self.spec.machine.check_balloon(bytes).map_err(|error| invalid(error.to_string()))?;
            balloon.set_target(bytes).map_err(|error| invalid(format!("cannot tell the guest: {error}")))?;
        }
        Ok(Balloon { target: balloon.target(), actual: balloon.actual() })
    }

    /// Records a layer that is to be made. What an earlier one left that was given up goes.
    fn own_layer(&self, folder: &Path) -> Result<(), Refusal> {
        self.may_add_layer()?;
        let described = self.described().and_then(|spec| {
            self.held.disown_unneeded(&spec)?;
            self.held.will_own(folder)
        });
        described.map_err(|error| invalid(crate::engine::chain(&error)))
    }

    fn may_add_layer(&self) -> Result<(), Refusal> {
        match self.life.state() {
            _ if self.adding.is_some() => {
                Err(out_of_place("the VM's disk is being changed for somebody else"))
            }
            VmState::Running => Ok(()),
            VmState::Starting => Err(out_of_place("the VM is still starting")),
            VmState::Paused => Err(out_of_place("the VM is paused")),
            _ => Err(out_of_place("the VM is ending")),
        }
    }

    /// Begins to add a layer. It is answered when that is done.
    fn add_layer(&mut self, adding: Adding, files: Vec<OwnedFd>) -> Result<(), Refusal> {
        self.may_add_layer()?;
        let Ok([file, old]) = <[OwnedFd; 2]>::try_from(files) else {
            return Err(invalid("a new layer comes with two open files".to_owned()));
        };
        let owned = self.held.folder().owned().unwrap_or_default();
        if !owned.iter().any(|owned| Some(owned.as_path()) == adding.layer.path.parent()) {
            return Err(invalid("the new layer is none of the VM's own".to_owned()));
        }
        let layer = adding.layer.clone();
        let (disk, vsock_socket) = (self.disk.clone(), self.vsock_socket.clone());
        let started = layer::add(NewTop { disk, vsock_socket, layer, file, old }, &self.post);
        started.map_err(|error| invalid(format!("cannot start a thread for it: {error}")))?;
        self.adding = Some(adding);
        Ok(())
    }

    /// What the VM is, as it is recorded.
    fn described(&self) -> Result<VmSpec, HomeError> {
        let gone = || HomeError::NoSuchVm { wanted: self.spec.display_name().to_owned(), nearest: None };
        self.held.folder().spec()?.ok_or_else(gone)
    }

    /// Records that the VM's disk goes on with the layer that is being added. The disk waits for it, as this thread does
    /// here for the host's.
    fn record_layer(&self) -> Result<(), String> {
        let Some(Adding { layer, snapshot, .. }) = &self.adding else {
            return Err("no layer is being added".to_owned());
        };
        let before = self.described().map_err(|error| crate::engine::chain(&error))?;
        let mut spec = before.clone();
        let Some(root) = spec.machine.disks.first_mut() else { return Err("the VM has no disk".to_owned()) };
        let layers = root.layers.clone();
        root.layers.push(layer.clone());
        if let Some(name) = snapshot {
            spec.snapshots.push(Snapshot { name: name.clone(), created: Timestamp::now(), layers });
        }
        self.held.write_spec(&spec).map_err(|error| {
            // It may have its name already. The disk goes on as it was, and either description is right for that.
            let _ = self.held.write_spec(&before);
            crate::engine::chain(&error)
        })
    }

    /// Answers whoever had a layer added.
    fn layer_added(&mut self, outcome: Result<Duration, String>) {
        let Some(Adding { client, request, .. }) = self.adding.take() else { return };
        let answer = match outcome {
            Ok(frozen) => {
                tracing::info!(?frozen, "the disk has a new top layer");
                Answer::LayerAdded { frozen_us: u64::try_from(frozen.as_micros()).unwrap_or(u64::MAX) }
            }
            Err(message) => {
                tracing::warn!("the disk has no new top layer: {message}");
                let dropped = self.described().and_then(|spec| self.held.disown_unneeded(&spec));
                if let Err(error) = dropped {
                    tracing::warn!("cannot remove a layer: {}", crate::engine::chain(&error));
                }
                Answer::Refused(invalid(message))
            }
        };
        if let Some(client) = self.clients.get_mut(&client) {
            client.answer(request, answer);
        }
        self.update_interests();
    }

    /// What still counts when the machine has ended. A layer is not recorded any more: whoever waits for that hears it.
    fn take_at_the_end(&mut self, happening: Happening) {
        if let Happening::LayerAdded(outcome) = happening {
            self.layer_added(outcome);
        }
    }

    /// Waits until nobody is at work on the disk of a machine that has ended.
    fn settle_layer(&mut self) {
        let deadline = Instant::now() + LAYER_TIMEOUT;
        while self.adding.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.posted.recv_timeout(left) {
                Ok(happening) => self.take_at_the_end(happening),
                Err(_) => {
                    tracing::error!("the disk of the machine that has ended is still being changed");
                    return;
                }
            }
        }
    }

    pub(super) fn update_interests(&mut self) {
        for (token, client) in &self.clients {
            let _ = self.poller.modify(client, *token, interest_in(client));
        }
    }

    /// Clears everything away, then says that it is so.
    fn finish(mut self) {
        let Some(end) = self.finished.take() else { return };
        tracing::info!(reason = end.reason.code(), "{}", end.message);
        self.release_machine();
        self.settle_layer();
        self.record(Some(end.clone()));
        let given_up = self.request.fresh && !self.life.was_ready() && is_given_up(&end);
        let remove = self.spec.ephemeral() || given_up;
        let Self { held, listener, boot_listener, mut clients, .. } = self;
        drop((listener, boot_listener));
        let removed = if remove { held.remove() } else { held.remove_sockets_folder() };
        if let Err(error) = removed {
            tracing::error!("cannot clear the VM away: {}", crate::engine::chain(&error));
        }
        for client in clients.values_mut() {
            client.tell_end(&end);
        }
        farewell(clients);
    }

    /// Waits until the machine's thread has let go of disks and devices.
    fn release_machine(&mut self) {
        let Some(thread) = self.machine.take() else { return };
        drop(thread);
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.posted.recv_timeout(left) {
                Ok(Happening::MachineGone | Happening::LaunchFailed(_)) => return,
                // A machine that ended at once.
                Ok(Happening::Launched(launched)) => self.launched = launched,
                Ok(other) => self.take_at_the_end(other),
                Err(_) => {
                    tracing::error!("the machine's thread does not let go of it");
                    return;
                }
            }
        }
    }
}

/// The refusal of what cannot be.
pub(super) fn invalid(message: String) -> Refusal {
    Refusal { code: RefusalCode::Invalid, message }
}

/// The refusal of a request that is not for now.
pub(super) fn out_of_place(message: &str) -> Refusal {
    Refusal { code: RefusalCode::OutOfPlace, message: message.to_owned() }
}

/// Whether a start that ends so was given up by whoever asked for it.
fn is_given_up(end: &End) -> bool {
    use crate::home::EndReason::{Killed, StarterGone, Stopped};
    matches!(end.reason, StarterGone | Killed | Stopped)
}

fn interest_in(client: &Client) -> Interest {
    Interest { readable: !client.is_deaf(), writable: client.has_output() }
}

/// Lets clients read how it ended, but not forever.
fn farewell(mut clients: BTreeMap<u64, Client>) {
    let deadline = Instant::now() + FAREWELL_TIMEOUT;
    let Ok(mut poller) = Poller::new() else { return };
    for (token, client) in &clients {
        let _ = poller.add(client, *token, Interest::WRITE);
    }
    clients.retain(|_, client| client.has_output());
    while !clients.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(ready) = poller.wait(Some(left)).map(Iterator::collect::<Vec<_>>) else { return };
        if ready.is_empty() {
            return;
        }
        for ready in ready {
            if let Some(client) = clients.get_mut(&ready.token) {
                client.flush();
            }
        }
        clients.retain(|_, client| client.has_output());
    }
}
