//! A pool of machines that are warm: whoever needs one does not wait for its start.
//!
//! For each machine there is a thread that starts it, waits until it is taken or ends, and starts the next. Nothing polls.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys::Event;

use super::{CancelToken, Error, Sandbox, SandboxBuilder, start};
use crate::home::VmState;

/// After a start that failed the next one waits, for longer each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Starts a machine, unless it is cancelled.
type Start = Box<dyn Fn(&CancelToken) -> Result<Sandbox, Error> + Send + Sync>;

/// Prepares a machine that has started.
type Prepare = Box<dyn Fn(&Sandbox) -> Result<(), Error> + Send + Sync>;

/// How a pool is made.
#[must_use = "there is no pool until it is opened"]
pub struct PoolBuilder {
    machine: SandboxBuilder,
    size: usize,
    starts_at_once: usize,
    prepare: Option<Prepare>,
}

impl PoolBuilder {
    /// How many machines are kept ready; one where nothing is said.
    pub fn size(mut self, machines: usize) -> Self {
        self.size = machines;
        self
    }

    /// How many machines start at the same time at most; as many as the host has processors where nothing is said.
    pub fn starts_at_once(mut self, machines: usize) -> Self {
        self.starts_at_once = machines;
        self
    }

    /// What is done with each machine before it is ready, such as to copy files into it. Several threads do it at once; a
    /// failure counts as one of the start.
    pub fn prepare(
        mut self,
        prepare: impl Fn(&Sandbox) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        self.prepare = Some(Box::new(prepare));
        self
    }

    /// Begins to start the machines, and does not wait for them.
    pub fn open(self) -> Result<SandboxPool, Error> {
        let Self { machine, size, starts_at_once, prepare } = self;
        let invalid = |message: &str| Err(Error::Invalid { message: message.to_owned() });
        if size == 0 || starts_at_once == 0 {
            return invalid("a pool has at least one machine, and starts at least one at once");
        }
        if machine.name.is_some() || machine.overlay.is_some() {
            return invalid(
                "the machines of a pool have no name, and no overlay of their own: there are several",
            );
        }
        if machine.options.detached || machine.options.cancel.is_some() {
            return invalid("the machines of a pool are the pool's: they are neither detached nor cancelled");
        }
        start::check(&machine)?;
        SandboxPool::with(size, starts_at_once, move |cancel| {
            let sandbox = machine.clone().cancel_token(cancel).start()?;
            if let Some(prepare) = &prepare {
                prepare(&sandbox)?;
            }
            Ok(sandbox)
        })
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, size, starts_at_once, .. } = self;
        f.debug_struct("PoolBuilder")
            .field("machine", machine)
            .field("size", size)
            .field("starts_at_once", starts_at_once)
            .finish_non_exhaustive()
    }
}

/// A number of machines that are kept ready. It serves any number of threads.
///
/// A machine that was taken is its taker's alone, and another is started in its place; so is one for a machine that ends in
/// the pool. Dropping the pool, also in a panic, ends the machines that were not taken, and returns when they are gone.
///
/// ```no_run
/// use std::time::Duration;
/// use vmm::{Sandbox, SandboxPool};
///
/// let pool = SandboxPool::builder(Sandbox::builder("alpine")).size(3).open()?;
/// for task in ["echo one", "echo two"] {
///     let sandbox = pool.take(Some(Duration::from_secs(60)), None)?;
///     let output = sandbox.command(["sh", "-c", task]).output()?;
///     print!("{}", String::from_utf8_lossy(&output.stdout));
/// } // and dropped: no task finds what another left behind
/// # Ok::<(), vmm::Error>(())
/// ```
#[derive(Debug)]
pub struct SandboxPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    owner: u32,
}

impl SandboxPool {
    /// Describes a pool of such machines, to be opened with [`PoolBuilder::open`].
    pub fn builder(machine: SandboxBuilder) -> PoolBuilder {
        let starts_at_once = thread::available_parallelism().map_or(1, Into::into);
        PoolBuilder { machine, size: 1, starts_at_once, prepare: None }
    }

    /// A pool of machines that are started in any way.
    pub(crate) fn with(
        size: usize,
        starts_at_once: usize,
        start: impl Fn(&CancelToken) -> Result<Sandbox, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let closing = CancelToken::new().map_err(no_event)?;
        let shared = Arc::new(Shared {
            start: Box::new(start),
            starts_at_once,
            closing,
            state: Mutex::default(),
            turn: Condvar::new(),
        });
        let mut pool = Self { shared, threads: Vec::new(), owner: std::process::id() };
        for _ in 0..size {
            let shared = pool.shared.clone();
            let thread =
                thread::Builder::new().name("vmm-pool".to_owned()).spawn(move || shared.keep_one_ready());
            let thread = thread
                .map_err(|source| Error::System { what: "start a thread of a pool".to_owned(), source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Takes a machine: one that is ready, or the next one. Who waits longest is served first.
    ///
    /// A start that failed is told to whoever waits, or comes next, once; the pool goes on trying, at longer and longer
    /// intervals.
    pub fn take(&self, timeout: Option<Duration>, cancel: Option<&CancelToken>) -> Result<Sandbox, Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if cancel.is_some_and(CancelToken::is_cancelled) {
                return Err(Error::Cancelled);
            }
            match self.shared.ask()? {
                Asked::Ready(machine) => {
                    // It may have ended a moment ago.
                    let runs = machine.sandbox.link.status();
                    if runs.is_ok_and(|status| status.state == VmState::Running) {
                        machine.taken.cancel();
                        return Ok(machine.sandbox);
                    }
                }
                Asked::Wait(waiter) => return self.shared.wait(&waiter, timeout.zip(deadline), cancel),
            }
        }
    }

    /// How many machines are ready.
    pub fn ready(&self) -> usize {
        self.shared.state().ready.len()
    }
}

impl Drop for SandboxPool {
    fn drop(&mut self) {
        // A process that was forked from ours has a copy of everything but the threads.
        if self.owner != std::process::id() {
            return;
        }
        self.shared.close();
        for thread in self.threads.drain(..) {
            // One that panicked has nothing left.
            let _ = thread.join();
        }
    }
}

/// What the threads share.
struct Shared {
    start: Start,
    starts_at_once: usize,
    /// The pool is being dropped.
    closing: CancelToken,
    state: Mutex<State>,
    /// Somebody may start a machine now.
    turn: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Machine>,
    waiters: VecDeque<Arc<Waiter>>,
    starting: usize,
    next_id: u64,
    /// Starts that failed in a row, when the next one may be tried, and why the last one failed, if nobody was told yet.
    failures: u32,
    not_before: Option<Instant>,
    untold: Option<Error>,
}

/// A machine that is ready.
#[derive(Debug)]
struct Machine {
    id: u64,
    sandbox: Sandbox,
    /// Tells its thread that it is not the pool's any more.
    taken: CancelToken,
}

/// Somebody who waits for a machine.
#[derive(Debug)]
struct Waiter {
    served: Event,
    with: Mutex<Option<Result<Sandbox, Error>>>,
}

impl Waiter {
    fn serve(&self, with: Result<Sandbox, Error>) {
        *self.with.lock().unwrap_or_else(PoisonError::into_inner) = Some(with);
        // A counter that cannot be raised is raised already.
        let _ = self.served.notify();
    }
}

enum Asked {
    Ready(Machine),
    Wait(Arc<Waiter>),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread: one machine after the other.
    fn keep_one_ready(&self) {
        while self.wait_for_turn() {
            let started =
                CancelToken::new().map_err(no_event).and_then(|taken| Ok((self.start_one()?, taken)));
            match started {
                Ok((sandbox, taken)) => {
                    let link = sandbox.link.clone();
                    let id = self.offer(sandbox, taken.clone());
                    // Until it ends, or somebody has it, or the pool closes.
                    let _ = link.wait(Some(&taken));
                    // What is still here has ended or is to end. Not while others wait for the lock.
                    let withdrawn = self.withdraw(id);
                    drop(withdrawn);
                }
                Err(error) => self.failed(error),
            }
        }
    }

    fn start_one(&self) -> Result<Sandbox, Error> {
        // What its user does with a machine must not make the pool smaller.
        let started = catch_unwind(AssertUnwindSafe(|| (self.start)(&self.closing)));
        started.unwrap_or_else(|_| {
            Err(Error::Invalid { message: "what prepares the pool's machines has panicked".to_owned() })
        })
    }

    /// Waits until a machine may be started. Not if the pool closes.
    fn wait_for_turn(&self) -> bool {
        let mut state = self.state();
        loop {
            if self.closing.is_cancelled() {
                return false;
            }
            let now = Instant::now();
            // After a failure one tries for all.
            let most = if state.failures > 0 { 1 } else { self.starts_at_once };
            match state.not_before.filter(|not_before| *not_before > now) {
                Some(not_before) => {
                    let waited = self.turn.wait_timeout(state, not_before - now);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None if state.starting < most => {
                    state.starting += 1;
                    return true;
                }
                None => state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Gives a machine to who waits for one, or keeps it for who comes.
    fn offer(&self, sandbox: Sandbox, taken: CancelToken) -> u64 {
        let mut state = self.state();
        state.starting -= 1;
        (state.failures, state.not_before, state.untold) = (0, None, None);
        state.next_id += 1;
        let id = state.next_id;
        if self.closing.is_cancelled() {
            taken.cancel();
        }
        match state.waiters.pop_front() {
            Some(waiter) => {
                waiter.serve(Ok(sandbox));
                taken.cancel();
            }
            None => state.ready.push_back(Machine { id, sandbox, taken }),
        }
        self.turn.notify_all();
        id
    }

    /// Takes a machine back that nobody took.
    fn withdraw(&self, id: u64) -> Option<Machine> {
        let mut state = self.state();
        let at = state.ready.iter().position(|machine| machine.id == id)?;
        state.ready.remove(at)
    }

    fn failed(&self, error: Error) {
        let mut state = self.state();
        state.starting -= 1;
        let now = Instant::now();
        // Those that began together fail together, and count once.
        if state.not_before.is_none_or(|not_before| not_before <= now) {
            let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16)).min(LONGEST_PAUSE);
            state.failures = state.failures.saturating_add(1);
            state.not_before = now.checked_add(pause);
        }
        match state.waiters.pop_front() {
            Some(waiter) => waiter.serve(Err(error)),
            None => state.untold = Some(error),
        }
        self.turn.notify_all();
    }

    fn ask(&self) -> Result<Asked, Error> {
        let mut state = self.state();
        if let Some(machine) = state.ready.pop_front() {
            return Ok(Asked::Ready(machine));
        }
        if let Some(error) = state.untold.take() {
            return Err(error);
        }
        let served = Event::new().map_err(no_event)?;
        let waiter = Arc::new(Waiter { served, with: Mutex::default() });
        state.waiters.push_back(waiter.clone());
        Ok(Asked::Wait(waiter))
    }

    /// Waits to be served.
    fn wait(
        &self,
        waiter: &Arc<Waiter>,
        deadline: Option<(Duration, Instant)>,
        cancel: Option<&CancelToken>,
    ) -> Result<Sandbox, Error> {
        let waited = wait_for(waiter, deadline, cancel);
        let mut state = self.state();
        // Served at the last moment is served.
        if let Some(with) = waiter.with.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return with;
        }
        state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        drop(state);
        Err(waited.err().unwrap_or(Error::Cancelled))
    }

    fn close(&self) {
        self.closing.cancel();
        let state = self.state();
        for machine in &state.ready {
            machine.taken.cancel();
        }
        self.turn.notify_all();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

fn wait_for(
    waiter: &Waiter,
    deadline: Option<(Duration, Instant)>,
    cancel: Option<&CancelToken>,
) -> Result<(), Error> {
    loop {
        let left = deadline.map(|(_, deadline)| deadline.saturating_duration_since(Instant::now()));
        if let (Some((timeout, _)), Some(Duration::ZERO)) = (deadline, left) {
            return Err(Error::PoolTimeout { timeout });
        }
        // A time that does not fit into the system's type is for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = vec![PollFd::new(&waiter.served, PollFlags::IN)];
        fds.extend(cancel.map(|cancel| PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
            Ok(_) if fds.get(1).is_some_and(|cancel| !cancel.revents().is_empty()) => {
                return Err(Error::Cancelled);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::System {
                    what: "wait for a machine of the pool".to_owned(),
                    source: errno.into(),
                });
            }
        }
    }
}

fn no_event(source: std::io::Error) -> Error {
    Error::System { what: "make an event".to_owned(), source }
}
