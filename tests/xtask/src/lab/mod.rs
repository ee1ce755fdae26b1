//! `cargo lab`: the laboratory, a machine whose processor is emulated with its virtualization. In it `/dev/kvm` is real,
//! so the KVM engine can be tested where there is none, or where nobody may have it.

mod alpine;
mod archive;
mod baseline;
mod build;
mod compare;
mod emulator;
mod frozen;
mod initramfs;
mod kept;
mod libraries;
mod order;
mod programs;
mod qmp;
mod session;
mod suite;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use laboratory::LIBRARIES;
use vmm_sys::FileLock;

use crate::failure::{Failure, Outcome};
use crate::{project, setup};
use alpine::Alpine;
use emulator::{Emulator, Parts, Start};
use initramfs::Initramfs;
use kept::{make_folder, remove_if_there, touch};
use session::Session;
pub(crate) use suite::{SELF_TEST, Suite, run_test};
use terminal::RawTerminal;

const USAGE: &str = "\
The laboratory, a machine in which /dev/kvm is real:

  cargo lab run [OPTIONS] -- COMMAND...   run a command in it: its output and status are ours
  cargo lab shell                         look around in it
  cargo lab test [NAME]                   run the system tests in it, each in a laboratory of its own
  cargo lab baseline                      measure anew what boots cost in exits, into tests/boot-costs.json
  cargo lab compare [OPTIONS]             what a boot costs under vmm and under others (`--help` says more)
Options of run:
  --limit SECONDS   end the command after this time (300)
  --with FILE       take a program along, to be found on the path; as often as there are programs
  --instruction-clock
                    in a laboratory whose time is the number of its one processor's instructions, a nanosecond each;
                    it may hang, since one in some does
  --verbose         say how long it took, and what the laboratory's kernel said
";

/// Whether what this machine builds runs in it.
pub(crate) const IS_POSSIBLE: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// How long a command may take where nothing else is said.
const LIMIT: Duration = Duration::from_secs(300);

/// How long a laboratory on the instruction clock may take to be up.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// How long someone may look around.
const SHELL_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    limit: Duration,
    with: Vec<&'a str>,
    instruction_clock: bool,
    verbose: bool,
    command: &'a [&'a str],
}

/// Runs one of the commands; gives the status to end with.
pub(crate) fn run(arguments: &[&str]) -> Outcome<ExitCode> {
    match arguments {
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        ["run", rest @ ..] => run_command(&options(rest)?),
        ["shell"] => shell(),
        ["baseline"] => baseline::run(),
        ["compare", rest @ ..] => compare::run(rest),
        ["test", option, ..] if option.starts_with('-') => Err(Failure::new("no such option").hint(USAGE)),
        ["test"] => suite::run(None).map(|()| ExitCode::SUCCESS),
        ["test", filter] => suite::run(Some(filter)).map(|()| ExitCode::SUCCESS),
        _ => Err(Failure::new("cargo lab does not know what to do").hint(USAGE)),
    }
}

fn options<'a>(mut words: &'a [&'a str]) -> Outcome<Options<'a>> {
    let mut options =
        Options { limit: LIMIT, with: Vec::new(), instruction_clock: false, verbose: false, command: &[] };
    loop {
        words = match words {
            ["--limit", seconds, rest @ ..] => {
                let seconds = seconds.parse().map_err(|_| Failure::new("--limit takes seconds"))?;
                options.limit = Duration::from_secs(seconds);
                rest
            }
            ["--with", file, rest @ ..] => {
                options.with.push(file);
                rest
            }
            ["--instruction-clock", rest @ ..] => {
                options.instruction_clock = true;
                rest
            }
            ["--verbose", rest @ ..] => {
                options.verbose = true;
                rest
            }
            ["--", command @ ..] if !command.is_empty() => {
                options.command = command;
                return Ok(options);
            }
            _ => return Err(Failure::new("cargo lab run needs a command behind `--`").hint(USAGE)),
        };
    }
}

fn run_command(options: &Options<'_>) -> Outcome<ExitCode> {
    let with = options.with.iter().map(|file| {
        let path = PathBuf::from(file);
        (PathBuf::from(path.file_name().unwrap_or_default()), path)
    });
    let locked = lock()?;
    let (began, mut session) = if options.instruction_clock {
        let ingredients = Ingredients::prepare(with)?;
        drop(locked);
        (Instant::now(), ingredients.start_on_instruction_clock()?)
    } else {
        let laboratory = Laboratory::prepare(with)?;
        drop(locked);
        (Instant::now(), laboratory.start()?)
    };
    let started = began.elapsed();
    let outcome = session.run_as_ours(&order::with_pipes(options.command), options.limit);
    if options.verbose {
        let ran = began.elapsed() - started;
        eprintln!(
            "The laboratory was back after {} ms; the command took {} ms.",
            started.as_millis(),
            ran.as_millis()
        );
        eprint!("{}", session.console());
    }
    Ok(status(outcome?))
}

fn shell() -> Outcome<ExitCode> {
    let locked = lock()?;
    let laboratory = Laboratory::prepare([])?;
    drop(locked);
    let order = order::on_terminal(&["sh", "-l"], RawTerminal::size());
    let mut session = laboratory.start()?;
    let terminal = RawTerminal::new()?;
    let outcome = session.run_as_ours(&order, SHELL_LIMIT);
    drop(terminal);
    Ok(status(outcome?))
}

fn status(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}

/// What a run needs.
struct Laboratory {
    parts: Parts,
    /// The folder of the frozen laboratory.
    frozen: PathBuf,
}

/// What every laboratory is made of.
struct Ingredients {
    parts: Parts,
    initramfs: Initramfs,
    alpine: Alpine,
}

impl Ingredients {
    /// Builds all it is made of, and puts `vmm` with other programs (names and files) on its disk. What is said on the
    /// way goes to standard error: the output is the command's.
    fn prepare(others: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Outcome<Self> {
        if !IS_POSSIBLE {
            return Err(Failure::new(
                "the laboratory is an x86_64, and this machine builds no programs for one",
            ));
        }
        setup::require(setup::TO_TEST)?;
        let built = build::product()?;
        let alpine = Alpine::pull(&built.vmm)?;
        let mut content =
            vec![(PathBuf::from("vmm"), built.vmm.clone()), (PathBuf::from("laboratory-watch"), built.watch)];
        content.extend(others);
        let needed = libraries::of(content.iter().map(|(_, path)| path.as_path()))?;
        content.extend(needed.into_iter().filter_map(in_its_place));
        let programs = programs::disk(&folder()?.join("programs"), &content)?;
        let parts = Parts { kernel: alpine.kernel(), root: alpine.root_disk(), programs };
        let initramfs = Initramfs::new(built.init, built.vmm, &alpine)?;
        Ok(Self { parts, initramfs, alpine })
    }

    /// One that boots now, on the instruction clock, and waits for its command.
    fn start_on_instruction_clock(&self) -> Outcome<Session> {
        let folder = folder()?;
        let file = folder.join("initramfs-of-clock");
        let failed = |error| Failure::new(format!("cannot replace {}: {error}", file.display()));
        remove_if_there(&file).map_err(failed)?;
        self.initramfs.write(&file)?;
        let start = Start::Measure { initramfs: &file, folder: &folder };
        Session::boot(Emulator::start(&self.parts, &start)?, BOOT_LIMIT)
    }
}

/// A file, to be found inside at the path that it has here.
fn in_its_place(path: PathBuf) -> Option<(PathBuf, PathBuf)> {
    Some((PathBuf::from(LIBRARIES).join(libraries::beneath_root(&path)?), path))
}

impl Laboratory {
    /// One with these programs, frozen.
    fn prepare(others: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Outcome<Self> {
        let Ingredients { parts, initramfs, .. } = Ingredients::prepare(others)?;
        let frozen = frozen::find_or_make(&folder()?.join("frozen"), &parts, &initramfs)?;
        Ok(Self { parts, frozen })
    }

    /// One that waits for its command.
    fn start(&self) -> Outcome<Session> {
        // A long suite goes on using what others may have replaced by then.
        touch(&self.parts.programs)?;
        touch(&self.frozen)?;
        Session::thaw(&self.parts, &self.frozen)
    }
}

/// Others may prepare a laboratory at the same moment, perhaps of another state of the code in the same folder: one
/// after the other.
fn lock() -> Outcome<FileLock> {
    let path = folder()?.join("lock");
    FileLock::exclusive(&path)
        .map_err(|error| Failure::new(format!("cannot lock {}: {error}", path.display())))
}

/// Where everything of the laboratory lies.
fn folder() -> Outcome<PathBuf> {
    let folder = project::target().join("lab");
    make_folder(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_the_command_and_its_own_are_left_alone() {
        let words = ["--limit", "5", "--with", "a/b", "--with", "c", "--", "sh", "--limit", "--"];
        let options = options(&words).unwrap();
        assert_eq!(options.limit, Duration::from_secs(5));
        assert_eq!(options.with, ["a/b", "c"]);
        assert_eq!(options.command, ["sh", "--limit", "--"]);
        assert!(!options.verbose);
    }

    #[test]
    fn a_command_line_without_a_command_is_refused() {
        for words in [&[][..], &["--"], &["true"], &["--limit", "soon", "--", "true"], &["--verbose"]] {
            assert!(options(words).is_err(), "{words:?}");
        }
    }
}
