//! What happens to the VMs of a home, as it happens.
//!
//! The folders of the VMs tell that there is something to hear, and the monitors say what: each is subscribed to for as long
//! as it lives, so its death is heard at once, too. Nothing is polled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde::Serialize;
use snafu::ResultExt;
use vmm_sys::watch::{Changed, EntryWatch, WatchedFolder};
use vmm_sys::{Interest, Poller};

use super::error::SystemSnafu;
use super::info;
use super::link::ANSWER_TIMEOUT;
use super::{CancelToken, Error};
use crate::control::{Answer, Connection, ControlError, Event, MonitorLine, Request, Status};
use crate::home::{
    End, HealthReport, HealthStatus, Home, Timestamp, VmFolder, VmId, VmName, VmSpec, VmState,
};

/// Something that happened to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmEvent {
    /// When it was heard of.
    pub time: Timestamp,
    /// The VM.
    pub id: VmId,
    /// Its name, if it has one.
    pub name: Option<VmName>,
    /// What happened.
    #[serde(flatten)]
    pub what: Happened,
}

/// What can happen to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Happened {
    /// It is there now.
    Created,
    /// It does something else now.
    State {
        /// What it does.
        state: VmState,
    },
    /// Its health check says something else now.
    Health {
        /// What it came to.
        health: HealthReport,
    },
    /// It ended.
    Ended {
        /// How.
        end: End,
    },
    /// It has another name.
    Renamed,
    /// It is gone, with its disk.
    Removed,
}

/// What happens to the VMs of a home from now on: an iterator that waits for the next event, until it is cancelled. A
/// thread of its own listens, so nothing is missed by whoever takes time for an event.
///
/// ```no_run
/// let home = vmm::Home::open_default()?;
/// for event in vmm::Sandbox::events(&home, None)? {
///     let event = event?;
///     println!("{}: {:?}", event.id, event.what);
/// }
/// # Ok::<(), vmm::Error>(())
/// ```
#[derive(Debug)]
pub struct Events {
    told: Receiver<Result<VmEvent, Error>>,
    stop: Arc<vmm_sys::Event>,
    listener: Option<JoinHandle<()>>,
}

impl Events {
    pub(super) fn new(home: &Home, cancel: Option<&CancelToken>) -> Result<Self, Error> {
        let what = "listen to what happens to VMs";
        let stop = Arc::new(vmm_sys::Event::new().context(SystemSnafu { what })?);
        let (teller, told) = mpsc::channel();
        let listener = Listener::new(home, cancel.cloned(), Arc::clone(&stop), teller)?;
        let thread = thread::Builder::new().name("vmm-events".to_owned());
        let thread = thread.spawn(move || listener.run()).context(SystemSnafu { what })?;
        Ok(Self { told, stop, listener: Some(thread) })
    }
}

impl Iterator for Events {
    type Item = Result<VmEvent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.told.recv().ok()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It ends by itself where it cannot be told to.
        if self.stop.notify().is_ok()
            && let Some(listener) = self.listener.take()
        {
            let _ = listener.join();
        }
    }
}

/// Listens to monitors and folders.
struct Listener {
    home: Home,
    /// What ends it, kept open for the poller.
    _enders: (Option<CancelToken>, Arc<vmm_sys::Event>),
    /// `None` while what there is already is found, which is no news.
    teller: Option<Sender<Result<VmEvent, Error>>>,
    watch: EntryWatch,
    /// The folder that has the folders of all VMs.
    vms: WatchedFolder,
    poller: Poller,
    watched: BTreeMap<VmId, Watched>,
    next_token: u64,
}

/// A VM that is listened to.
#[derive(Debug)]
struct Watched {
    folder: VmFolder,
    entry: WatchedFolder,
    token: u64,
    /// There is a VM in the folder: it is complete.
    name: Option<Option<VmName>>,
    connection: Option<Connection>,
    state: Option<VmState>,
    health: Option<HealthStatus>,
    /// The end that was told last.
    ended: Option<Timestamp>,
    /// Its folder is not there any more.
    gone: bool,
}

const FOLDERS: u64 = 0;
const STOP: u64 = 1;
const FIRST_VM: u64 = 2;

impl Listener {
    fn new(
        home: &Home,
        cancel: Option<CancelToken>,
        stop: Arc<vmm_sys::Event>,
        teller: Sender<Result<VmEvent, Error>>,
    ) -> Result<Self, Error> {
        let set_up = || {
            let (watch, poller) = (EntryWatch::new()?, Poller::new()?);
            poller.add(&watch, FOLDERS, Interest::READ)?;
            poller.add(&*stop, STOP, Interest::READ)?;
            if let Some(cancel) = &cancel {
                poller.add(cancel, STOP, Interest::READ)?;
            }
            let vms = watch.add(&home.vms())?;
            Ok((watch, poller, vms))
        };
        let what = "listen to what happens to VMs";
        let (watch, poller, vms) = set_up().context(SystemSnafu { what })?;
        let mut listener = Self {
            home: home.clone(),
            _enders: (cancel, stop),
            teller: None,
            watch,
            vms,
            poller,
            watched: BTreeMap::new(),
            next_token: FIRST_VM,
        };
        listener.look_at_all()?;
        listener.teller = Some(teller);
        Ok(listener)
    }

    fn run(mut self) {
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    if let Some(teller) = &self.teller {
                        let _ = teller.send(Err(error));
                    }
                    return;
                }
            }
        }
    }

    /// Hears what happens next. Says whether to go on.
    fn wait(&mut self) -> Result<bool, Error> {
        let what = "listen to what happens to VMs";
        let ready = self.poller.wait(None).context(SystemSnafu { what })?;
        let tokens: Vec<u64> = ready.map(|ready| ready.token).collect();
        for token in tokens {
            match token {
                STOP => return Ok(false),
                FOLDERS => match self.watch.take().context(SystemSnafu { what })? {
                    Changed::Anywhere => self.look_at_all()?,
                    Changed::Folders(folders) => {
                        if folders.contains(&self.vms) {
                            self.look_for_folders()?;
                        }
                        let changed = self.watched.iter().filter(|(_, vm)| folders.contains(&vm.entry));
                        let changed: Vec<_> = changed.map(|(id, _)| id.clone()).collect();
                        changed.iter().for_each(|id| self.look_at(id));
                    }
                },
                token => self.hear(token),
            }
        }
        Ok(true)
    }

    fn look_at_all(&mut self) -> Result<(), Error> {
        self.look_for_folders()?;
        let all: Vec<_> = self.watched.keys().cloned().collect();
        all.iter().for_each(|id| self.look_at(id));
        Ok(())
    }

    /// Finds the folders that came and went.
    fn look_for_folders(&mut self) -> Result<(), Error> {
        let folders = self.home.all_folders()?;
        let gone = |id: &&VmId| !folders.iter().any(|folder| folder.id() == *id);
        let gone: Vec<_> = self.watched.keys().filter(gone).cloned().collect();
        for id in gone {
            // Its monitor removes a VM without a name, and then tells how it ended.
            self.watched.entry(id.clone()).and_modify(|vm| vm.gone = true);
            self.hear_out(&id);
        }
        for folder in folders {
            if self.watched.contains_key(folder.id()) {
                continue;
            }
            // One that is gone again was nothing.
            let Ok(entry) = self.watch.add(&folder.path()) else { continue };
            let token = self.next_token;
            self.next_token += 1;
            let id = folder.id().clone();
            let vm = Watched {
                folder,
                entry,
                token,
                name: None,
                connection: None,
                state: None,
                health: None,
                ended: None,
                gone: false,
            };
            self.watched.insert(id.clone(), vm);
            self.look_at(&id);
        }
        Ok(())
    }

    /// Something was recorded of a VM: its monitor is asked, if it has one that is not listened to yet.
    fn look_at(&mut self, id: &VmId) {
        let Some(mut vm) = self.watched.remove(id) else { return };
        if let Ok(Some(spec)) = vm.folder.spec() {
            self.take_name(&mut vm, &spec);
            if vm.connection.is_none() {
                self.ask(&mut vm);
            }
        }
        self.watched.insert(id.clone(), vm);
        // What was said right behind an answer came with it, and wakes nobody.
        self.hear_out(id);
    }

    /// The VM's monitor is asked what it does, and listened to from now on; or where there is none, what was recorded.
    fn ask(&mut self, vm: &mut Watched) {
        self.connect(vm);
        if vm.connection.is_none() {
            self.take_record(vm);
        }
    }

    fn take_name(&mut self, vm: &mut Watched, spec: &VmSpec) {
        let before = vm.name.replace(spec.name.clone());
        match before {
            None => self.tell(vm.folder.id(), spec.name.clone(), Happened::Created),
            Some(before) if before != spec.name => {
                self.tell(vm.folder.id(), spec.name.clone(), Happened::Renamed);
            }
            Some(_) => {}
        }
    }

    fn connect(&mut self, vm: &mut Watched) {
        let sockets = vm.folder.state().ok().flatten().map(|record| record.sockets);
        let sockets = sockets.unwrap_or_else(|| vm.folder.sockets());
        let Ok(mut connection) = Connection::connect(&VmFolder::control_socket(&sockets)) else { return };
        match connection.ask(Request::Subscribe, Some(Instant::now() + ANSWER_TIMEOUT), None) {
            Ok(Answer::Status(status)) => self.take_status(vm, &status),
            // One that hangs may come to itself.
            Ok(_) | Err(ControlError::Unresponsive) => {}
            Err(_) => return,
        }
        if self.poller.add(&connection, vm.token, Interest::READ).is_ok() {
            vm.connection = Some(connection);
        }
    }

    /// The monitor is no more. Another one may be there already, and have told so before; it is asked once, for one that
    /// nobody understands would be asked without end.
    fn ask_the_next(&mut self, vm: &mut Watched, asked: &mut bool) {
        if let Some(mut connection) = vm.connection.take() {
            let _ = self.poller.delete(&connection);
            // Of one that died, the connection ends before its lock is free.
            connection.wait_for_exit(ANSWER_TIMEOUT);
        }
        if std::mem::replace(asked, true) {
            self.take_record(vm);
        } else {
            self.ask(vm);
        }
    }

    /// What is known of a VM whose monitor is not to be reached.
    fn take_record(&mut self, vm: &mut Watched) {
        if let Ok(Some(info)) = info::look_at(&vm.folder) {
            match info.end {
                Some(end) => self.take_end(vm, end),
                None if info.state.is_live() => self.take_state(vm, info.state),
                None => {}
            }
            // Or it was about to be started again, and is not any more.
            if info.state == VmState::Restarting || vm.state == Some(VmState::Restarting) {
                self.take_state(vm, info.state);
            }
        }
    }

    /// A monitor said something.
    fn hear(&mut self, token: u64) {
        let id = self.watched.iter().find(|(_, vm)| vm.token == token).map(|(id, _)| id.clone());
        if let Some(id) = id {
            self.hear_out(&id);
        }
    }

    /// Hears all that a monitor has said, and the next one if it ended.
    fn hear_out(&mut self, id: &VmId) {
        let Some(mut vm) = self.watched.remove(id) else { return };
        let mut asked = false;
        while let Some(connection) = &mut vm.connection {
            match connection.next(Some(Instant::now()), None) {
                Ok(
                    MonitorLine::Event(Event::State(status))
                    | MonitorLine::Answer { what: Answer::Status(status), .. },
                ) => self.take_status(&mut vm, &status),
                Ok(MonitorLine::Event(Event::Ended(end))) => {
                    self.take_end(&mut vm, end);
                    self.ask_the_next(&mut vm, &mut asked);
                }
                Ok(_) => {}
                // That was all.
                Err(ControlError::Unresponsive) => break,
                Err(_) => self.ask_the_next(&mut vm, &mut asked),
            }
        }
        if !vm.gone || vm.connection.is_some() {
            self.watched.insert(id.clone(), vm);
            return;
        }
        self.watch.remove(vm.entry);
        if let Some(name) = vm.name {
            self.tell(id, name, Happened::Removed);
        }
    }

    fn take_status(&mut self, vm: &mut Watched, status: &Status) {
        self.take_state(vm, status.state);
        let health = status.health.as_ref().map(|health| health.status);
        if let Some(report) = &status.health
            && vm.health != health
        {
            let name = vm.name.clone().flatten();
            self.tell(vm.folder.id(), name, Happened::Health { health: report.clone() });
        }
        vm.health = health;
    }

    fn take_state(&mut self, vm: &mut Watched, state: VmState) {
        if vm.state.replace(state) != Some(state) {
            let name = vm.name.clone().flatten();
            self.tell(vm.folder.id(), name, Happened::State { state });
        }
    }

    fn take_end(&mut self, vm: &mut Watched, end: End) {
        if vm.ended.replace(end.at) != Some(end.at) {
            (vm.health, vm.state) = (None, None);
            let name = vm.name.clone().flatten();
            self.tell(vm.folder.id(), name, Happened::Ended { end });
        }
    }

    fn tell(&mut self, id: &VmId, name: Option<VmName>, what: Happened) {
        if let Some(teller) = &self.teller {
            // Whoever listened no more has said so, too.
            let _ = teller.send(Ok(VmEvent { time: Timestamp::now(), id: id.clone(), name, what }));
        }
    }
}
