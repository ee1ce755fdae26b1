//! Who is measured: ourselves and the others, each in a file, behind one trait.

pub(crate) mod cloud_hypervisor;
pub(crate) mod console;
pub(crate) mod container;
pub(crate) mod firecracker;
pub(crate) mod guest_files;
pub(crate) mod ours;
pub(crate) mod qemu;
pub(crate) mod quicksand;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm::{CancelToken, Home};

use crate::bounded::Limit;
use crate::report::Absent;
use crate::trouble::Trouble;

use self::guest_files::GuestFiles;

/// What all subjects get alike.
pub(crate) struct Context {
    pub(crate) cancel: CancelToken,
    pub(crate) home: Home,
    /// The executable of ours.
    pub(crate) vmm: PathBuf,
    pub(crate) image: String,
    /// A folder for files of this run.
    pub(crate) folder: PathBuf,
    /// Programs that the user has named, by the peer's name.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// Whether our engine is hardware's; others then use it, too.
    pub(crate) hardware: bool,
    /// A kernel, a root disk and an initramfs for monitors that bring none.
    pub(crate) guest_files: Result<GuestFiles, String>,
    /// How long a single step may take.
    pub(crate) patience: Duration,
}

impl Context {
    pub(crate) fn limit(&self) -> Limit {
        Limit::new(&self.cancel, self.patience)
    }

    /// The program of a peer: named by the user, or of one of these names on the path.
    fn program(&self, peer: &str, names: &[&str]) -> Option<PathBuf> {
        if let Some(named) = self.programs.get(peer) {
            return Some(named.clone());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        names
            .iter()
            .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
            .find(|file| file.is_file())
    }

    /// The files for a monitor that brings none of its own.
    fn guest_files(&self) -> Result<&GuestFiles, Trouble> {
        self.guest_files.as_ref().map_err(|why| Trouble::Failed(why.clone()))
    }
}

/// One start, from the beginning of a process to its end, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Until the first answer of a command in the guest.
    pub(crate) answer: f64,
    /// Until everything was cleaned up.
    pub(crate) whole: f64,
}

/// A machine that runs, and how many milliseconds that took from the beginning of a process.
pub(crate) type Booted = (Box<dyn Machine>, f64);

/// A subject.
pub(crate) trait Peer: Sync {
    /// Its name in lists and files.
    fn name(&self) -> &'static str;

    /// Its name for people.
    fn title(&self) -> &'static str;

    /// What a reader must know of how it is measured.
    fn note(&self) -> &'static str;

    /// Its version, if it is here and can run.
    fn look(&self, context: &Context) -> Result<String, Absent>;

    /// Starts a machine with so many MiB for one command, and waits until nothing is left of it.
    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble>;

    /// Starts a machine that stays. Dropping it ends it.
    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble>;
}

/// A machine that runs. What is measured is in milliseconds.
pub(crate) trait Machine: Send {
    /// Runs `true` so many times, one after the other; each one's time.
    fn exec(&mut self, count: usize, limit: &Limit) -> Result<Vec<f64>, Trouble>;

    /// Runs `true` so many times, so many of them at once; the time of all.
    fn exec_many(&mut self, count: usize, at_once: usize, limit: &Limit) -> Result<f64, Trouble>;

    /// Runs a line of the shell's that must succeed; its time.
    fn shell(&mut self, script: &str, limit: &Limit) -> Result<f64, Trouble>;

    /// Copies a file or a folder into its guest; the time.
    fn copy_in(&mut self, from: &Path, to: &str, limit: &Limit) -> Result<f64, Trouble>;

    /// Copies one out of it; the time.
    fn copy_out(&mut self, from: &str, to: &Path, limit: &Limit) -> Result<f64, Trouble>;

    /// Whether it has a kernel of its own, whose caches can be emptied.
    fn has_own_kernel(&self) -> bool {
        true
    }

    /// The host's processes that are this machine.
    fn processes(&mut self, limit: &Limit) -> Result<Vec<u32>, Trouble>;

    /// Shuts it down in order; the time until nothing runs.
    fn stop(self: Box<Self>, limit: &Limit) -> Result<f64, Trouble>;
}

/// Ourselves, with the image's kernel and with that which is named.
pub(crate) fn ourselves(kernel: Option<&str>) -> Vec<Box<dyn Peer>> {
    let own = |kernel| Box::new(ours::Ours { kernel }) as Box<dyn Peer>;
    [None].into_iter().chain(kernel.map(|kernel| Some(kernel.to_owned()))).map(own).collect()
}

/// All others that we know.
pub(crate) fn others() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(quicksand::Quicksand),
        Box::new(qemu::Qemu),
        Box::new(firecracker::Firecracker),
        Box::new(cloud_hypervisor::CloudHypervisor),
        Box::new(container::DOCKER),
        Box::new(container::PODMAN),
    ]
}

/// The names of all peers, ourselves not among them.
pub fn names() -> Vec<&'static str> {
    others().iter().map(|peer| peer.name()).collect()
}

/// Does a thing so many times, so many of them at once; how many milliseconds all of it took.
fn many(
    count: usize,
    at_once: usize,
    thing: impl Fn() -> Result<f64, Trouble> + Sync,
) -> Result<f64, Trouble> {
    let left = AtomicUsize::new(count);
    let trouble = Mutex::new(None);
    let work = || {
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            if let Err(failed) = thing() {
                left.store(0, Ordering::Relaxed);
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
            }
        }
    };
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let took = milliseconds(began.elapsed());
    trouble.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(took), Err)
}

/// What a command in the guest answers, for whoever listens.
const ANSWER: &str = "vmm-bench-answer";

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn absent(why: impl Into<String>, get: impl Into<String>) -> Absent {
    Absent { why: why.into(), get: get.into() }
}

/// A peer that runs on the hardware's virtualization only.
fn needs_hardware(context: &Context) -> Result<(), Absent> {
    if context.hardware {
        return Ok(());
    }
    Err(absent(
        "it needs hardware virtualization, which this machine does not have",
        "run where /dev/kvm works",
    ))
}
