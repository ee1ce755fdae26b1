//! Building a kernel: the fragments over a configuration that has nothing else, always the same bits from the same source
//! and tools.
//!
//! What a build makes lies in a folder `.partial` until all of it is there and has been checked. One that dies leaves that,
//! and the next one clears it away.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use snafu::{OptionExt, ResultExt, ensure};
use vmm_sys::child::die_with_parent;

use super::check::{Modules, Subject};
use super::configuration::Configuration;
use super::error::{
    BuildSnafu, CancelledSnafu, NoConfigurationSnafu, ReadSnafu, RefusedSnafu, Result, SystemSnafu,
    UnfitSnafu,
};
use super::fragments::{self, Purpose};
use super::name::KernelName;
use super::source::{self, Source};
use super::store::{CONFIGURATION, KERNEL, KernelStore, Record, StoredKernel};
use super::tools;
use crate::arch::Arch;
use crate::boot::Kernel;
use crate::home::Timestamp;
use crate::image::files;

/// What every build tells the kernel of itself: the same, whoever builds it, where and when.
const IDENTITY: [(&str, &str); 8] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "vmm"),
    ("KBUILD_BUILD_HOST", "vmm"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("SOURCE_DATE_EPOCH", "0"),
    // Set and empty: a tree with a history adds nothing to the release.
    ("LOCALVERSION", ""),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// What a build takes over from its user's environment.
const TAKEN_OVER: [&str; 3] = ["PATH", "HOME", "TMPDIR"];

/// How long a program may say nothing before it is looked whether it is still wanted.
const SILENCE: Duration = Duration::from_millis(200);

/// How many lines of a program's wait to be taken note of.
const LINES_AHEAD: usize = 64;

/// The longest line of a tool's that is told in an error.
const LONGEST_WORDS: usize = 200;

/// A kernel that is to be built.
#[derive(Clone, Debug)]
pub struct Build {
    /// A source tree, which stays as it is, or a tarball of one.
    pub source: PathBuf,
    /// What the kernel is called.
    pub name: KernelName,
    /// The machines that it is for.
    pub arch: Arch,
    /// What it is good for.
    pub purposes: Vec<Purpose>,
    /// How many files are compiled at once. None: as many as this machine has processors.
    pub jobs: Option<NonZeroUsize>,
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildStep {
    /// The source is read, to know it again.
    Reading,
    /// The tarball is unpacked.
    Unpacking,
    /// The configuration is made of the fragments.
    Configuring,
    /// So many files are made.
    Compiling(u64),
    /// The kernel is checked and put into the store.
    Finishing,
}

/// Who is told how far a build is, and can give it up.
pub trait BuildProgress {
    /// A step begins, or gets on.
    fn step(&self, _: BuildStep) {}

    /// Whether the build is to be given up.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody.
impl BuildProgress for () {}

impl KernelStore {
    /// Builds a kernel and puts it into the store.
    pub fn build(&self, build: &Build, progress: &dyn BuildProgress) -> Result<StoredKernel> {
        self.check_free(&build.name)?;
        source::check(&build.source, build.arch)?;
        let _lock = self.lock(&build.name)?;
        // Another one may have been at it meanwhile.
        self.check_free(&build.name)?;
        let partial = files::partial_of(&self.folder_of(&build.name));
        files::remove_folder(&partial)?;
        files::make_folder(&partial)?;
        let log = self.log_of(&build.name);
        let system = |what: &str| SystemSnafu { what: format!("{what} {}", log.display()) };
        let file = File::create(&log).with_context(|_| system("write"))?;
        let mut steps = Steps { progress, log: &log, file };
        let built = Work { build, partial: &partial }.run(&mut steps).and_then(|record| {
            ensure!(!progress.cancelled(), CancelledSnafu);
            self.publish(record, &partial)
        });
        // The log of a build that came to its end, or was not wanted, tells nothing.
        if matches!(built, Ok(_) | Err(super::KernelsError::Cancelled)) {
            files::remove_file(&log)?;
        }
        built.inspect_err(|_| {
            // The first error is the one to tell.
            let _ = files::remove_folder(&partial);
        })
    }
}

/// A build at work.
struct Work<'a> {
    build: &'a Build,
    partial: &'a Path,
}

impl Work<'_> {
    fn run(&self, steps: &mut Steps<'_>) -> Result<Record> {
        let (tree, objects) = (self.partial.join("source"), self.partial.join("build"));
        let source = source::prepare(&self.build.source, &tree, steps)?;
        fs::create_dir(&objects).context(SystemSnafu { what: "make a folder for the build" })?;
        self.configure(&source, &objects, steps)?;
        steps.begin(BuildStep::Compiling(0))?;
        let target = match self.build.arch {
            Arch::X86_64 => "vmlinux",
            Arch::Arm64 => "Image",
        };
        steps.run(self.make(&source, &objects).arg(target), "compiling the kernel")?;
        steps.begin(BuildStep::Finishing)?;
        self.take(&objects, steps)?;
        let release = self.check()?;
        // Nothing of what is only needed meanwhile goes into the store.
        files::remove_folder(&objects)?;
        files::remove_folder(&tree)?;
        Ok(Record {
            name: self.build.name.clone(),
            arch: self.build.arch,
            version: source.version,
            release,
            purposes: Purpose::ALL.into_iter().filter(|one| self.build.purposes.contains(one)).collect(),
            source: source.name,
            source_sha256: source.sha256,
            built: Timestamp::now(),
            files: Vec::new(),
        })
    }

    /// Makes the configuration: what the fragments want and what that needs, nothing else.
    fn configure(&self, source: &Source, objects: &Path, steps: &mut Steps<'_>) -> Result<()> {
        steps.begin(BuildStep::Configuring)?;
        let wanted = fragments::merged(self.build.arch, &self.build.purposes);
        let text: String = wanted.values().flat_map(|line| [line, "\n"]).collect();
        let fragment = objects.join("vmm.config");
        fs::write(&fragment, text).context(SystemSnafu { what: "write the configuration" })?;
        let mut make = self.make(source, objects);
        make.env("KCONFIG_ALLCONFIG", &fragment).arg("allnoconfig");
        steps.run(&mut make, "configuring the kernel")?;
        let made = objects.join(".config");
        let text = fs::read_to_string(&made).context(ReadSnafu { path: &made })?;
        let lines = refused(&wanted.into_values().collect::<Vec<_>>(), &text);
        ensure!(lines.is_empty(), RefusedSnafu { lines });
        fs::copy(&made, self.partial.join(CONFIGURATION))
            .context(SystemSnafu { what: "keep the configuration" })?;
        Ok(())
    }

    /// `make` on the tree, with nothing of this machine's or its user's that would show in the kernel.
    fn make(&self, source: &Source, objects: &Path) -> Command {
        let jobs = self.build.jobs.map_or_else(processors, NonZeroUsize::get);
        let mut make = Command::new("make");
        make.env_clear().envs(IDENTITY);
        make.envs(TAKEN_OVER.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        let map = |from: &Path, to: &str| format!("-ffile-prefix-map={}={to}", from.display());
        let maps = format!("{} {}", map(&source.tree, "."), map(objects, "."));
        let arch = match self.build.arch {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
        };
        make.arg("-C").arg(&source.tree).arg(format!("-j{jobs}")).args([
            format!("O={}", objects.display()),
            format!("ARCH={arch}"),
            format!("CROSS_COMPILE={}", tools::prefix(self.build.arch)),
            format!("KCFLAGS={maps}"),
            format!("KAFLAGS={maps}"),
        ]);
        make
    }

    /// Puts the kernel beside the configuration, without what only a debugger reads.
    fn take(&self, objects: &Path, steps: &mut Steps<'_>) -> Result<()> {
        let kernel = self.partial.join(KERNEL);
        match self.build.arch {
            Arch::X86_64 => {
                let mut strip = Command::new(format!("{}strip", tools::prefix(self.build.arch)));
                strip.arg("--strip-all").arg("-o").args([&kernel, &objects.join("vmlinux")]);
                steps.run(&mut strip, "stripping the kernel")
            }
            Arch::Arm64 => {
                let image = objects.join("arch/arm64/boot/Image");
                fs::copy(image, &kernel).context(SystemSnafu { what: "keep the kernel" }).map(drop)
            }
        }
    }

    /// Whether engines can load it and it has what it is for. Gives its release.
    fn check(&self) -> Result<String> {
        let path = self.partial.join(KERNEL);
        let bytes = fs::read(&path).context(ReadSnafu { path: &path })?;
        let unfit = |error: crate::boot::KernelError| UnfitSnafu { why: error.to_string() }.build();
        let kernel = Kernel::from_file_contents(&bytes, self.build.arch).map_err(unfit)?;
        let name = self.build.name.to_string();
        let configuration = kernel.configuration().and_then(|text| Configuration::parse(&text));
        let configuration = configuration.with_context(|| NoConfigurationSnafu { name: &name })?;
        let checked = Subject::new(name, configuration, Modules::None)?.check(&self.build.purposes);
        let missing = checked.missing.first().map(|missing| format!("it has no {}", missing.symbol));
        missing.map_or(Ok(()), |why| UnfitSnafu { why }.fail())?;
        kernel.release().context(UnfitSnafu { why: "it does not tell its release" })
    }
}

/// What of the wanted lines a configuration does not have.
fn refused(wanted: &[&str], configuration: &str) -> Vec<String> {
    let has = |line: &str| configuration.lines().any(|found| found == line);
    let stands = |line: &str| match line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set"))
    {
        // What cannot be set at all is not told of.
        Some(symbol) => !configuration.lines().any(|found| found.starts_with(&format!("{symbol}="))),
        None => has(line),
    };
    wanted.iter().filter(|line| !stands(line)).map(|line| (*line).to_owned()).collect()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The steps of a build: what they run, and who is told.
pub(super) struct Steps<'a> {
    pub(super) progress: &'a dyn BuildProgress,
    log: &'a Path,
    file: File,
}

impl Steps<'_> {
    pub(super) fn begin(&self, step: BuildStep) -> Result<()> {
        ensure!(!self.progress.cancelled(), CancelledSnafu);
        self.progress.step(step);
        Ok(())
    }

    /// Runs a program to its end. What it says goes into the log.
    pub(super) fn run(&mut self, command: &mut Command, step: &'static str) -> Result<()> {
        let ended = self.follow(command).with_context(|_| SystemSnafu { what: format!("run {step}") })?;
        ensure!(!self.progress.cancelled(), CancelledSnafu);
        let Ended { success, last } = ended;
        ensure!(success, BuildSnafu { step, last, log: self.log });
        Ok(())
    }

    fn follow(&mut self, command: &mut Command) -> io::Result<Ended> {
        let (reader, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut group = Group(die_with_parent(command).process_group(0).spawn()?);
        // Our ends of the pipe go with these: it ends when nobody of the build's has it open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (said, heard) = mpsc::sync_channel(LINES_AHEAD);
        let listen = move || {
            let lines = BufReader::new(reader).split(b'\n');
            // Whoever does not listen any more has ended those who speak.
            lines.take_while(|line| said.send(line.as_ref().ok().cloned()).is_ok()).for_each(drop);
        };
        std::thread::Builder::new().name("build".to_owned()).spawn(listen)?;
        let (mut files, mut last) = (0, String::new());
        loop {
            let line = match heard.recv_timeout(SILENCE) {
                Ok(Some(line)) => line,
                Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if self.progress.cancelled() => break,
                Err(RecvTimeoutError::Timeout) => continue,
            };
            self.file.write_all(&line)?;
            self.file.write_all(b"\n")?;
            let text = String::from_utf8_lossy(&line);
            if is_complaint(&text) {
                last = text.trim().chars().take(LONGEST_WORDS).collect();
            } else if is_made_file(&text) {
                files += 1;
                self.progress.step(BuildStep::Compiling(files));
            }
            if self.progress.cancelled() {
                break;
            }
        }
        if self.progress.cancelled() {
            group.end();
        }
        Ok(Ended { success: group.0.wait()?.success(), last })
    }
}

/// A program and all that it starts, which end with this.
struct Group(Child);

impl Group {
    fn end(&mut self) {
        // Without a process of that group there is nothing to end.
        if let Ok(Some(pid)) = i32::try_from(self.0.id()).map(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // One that was waited for has no number any more.
        if let Ok(None) = self.0.try_wait() {
            self.end();
            let _ = self.0.wait();
        }
    }
}

struct Ended {
    success: bool,
    last: String,
}

/// Lines that say why something failed; those of `make` itself only say that.
fn is_complaint(line: &str) -> bool {
    let words = ["error:", "Error:", "cannot ", "undefined reference", "No space left", "fatal:"];
    !line.starts_with("make") && words.iter().any(|word| line.contains(word))
}

/// `  CC      kernel/fork.o`.
fn is_made_file(line: &str) -> bool {
    let mut words = line.strip_prefix("  ").unwrap_or_default().split_whitespace();
    let kind = words.next().unwrap_or_default();
    !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_uppercase()) && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{add, store};
    use super::*;
    use crate::kernels::KernelsError;
    use std::cell::Cell;

    fn build(source: &Path) -> Build {
        let purposes = Purpose::USUAL.to_vec();
        Build {
            source: source.to_owned(),
            name: "fast".parse().unwrap(),
            arch: Arch::X86_64,
            purposes,
            jobs: None,
        }
    }

    #[test]
    fn what_a_tree_does_not_take_is_named() {
        let made = "CONFIG_PVH=y\nCONFIG_KVM=m\n# CONFIG_FTRACE is not set\nCONFIG_SWAP=y\n";
        let wanted = [
            "CONFIG_PVH=y",
            "CONFIG_KVM=y",
            "CONFIG_NEW=y",
            "# CONFIG_FTRACE is not set",
            "# CONFIG_SWAP is not set",
        ];
        assert_eq!(refused(&wanted, made), ["CONFIG_KVM=y", "CONFIG_NEW=y", "# CONFIG_SWAP is not set"]);
    }

    #[test]
    fn a_name_that_is_in_use_is_refused_before_anything_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        add(&store, "fast", b"kernel");
        let error = store.build(&build(folder.path()), &()).unwrap_err();
        assert!(matches!(error, KernelsError::Exists { .. }), "{error}");
    }

    #[test]
    fn a_source_that_is_none_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        assert!(store.build(&build(&folder.path().join("gone.tar.xz")), &()).is_err());
        assert!(!folder.path().join("kernels").exists());
    }

    /// A source of the known version whose configuration step runs this.
    fn tree(recipe: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let version = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n";
        fs::write(folder.path().join("Makefile"), format!("{version}allnoconfig:\n\t{recipe}\n")).unwrap();
        folder
    }

    fn has_tools(source: &Path) -> bool {
        let there = source::check(source, Arch::X86_64);
        assert!(there.is_ok() || matches!(there, Err(KernelsError::Tools { .. })));
        there.is_ok()
    }

    #[test]
    fn a_build_that_fails_leaves_its_log_and_nothing_else() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tree("@echo 'fork.c:1: error: no'; exit 1"));
        let store = store(folder.path());
        let error = store.build(&build(tree.path()), &()).unwrap_err();
        if !has_tools(tree.path()) {
            return assert!(matches!(error, KernelsError::Tools { .. }), "{error}");
        }
        let said = error.to_string();
        assert!(
            said.starts_with("cannot build the kernel: configuring the kernel failed (fork.c:1: error: no);")
        );
        assert!(fs::read_to_string(folder.path().join("kernels/.fast.log")).unwrap().contains("fork.c:1"));
        assert!(!folder.path().join("kernels/fast.partial").exists());
        assert!(store.list().unwrap().is_empty());
    }

    struct GivenUp(Cell<u32>);

    impl BuildProgress for GivenUp {
        fn cancelled(&self) -> bool {
            self.0.set(self.0.get() + 1);
            self.0.get() > 4
        }
    }

    #[test]
    fn a_build_that_is_given_up_leaves_nothing() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tree("@while echo line; do :; done"));
        let store = store(folder.path());
        let error = store.build(&build(tree.path()), &GivenUp(Cell::new(0))).unwrap_err();
        if !has_tools(tree.path()) {
            return assert!(matches!(error, KernelsError::Tools { .. }), "{error}");
        }
        assert!(matches!(error, KernelsError::Cancelled), "{error}");
        assert!(!folder.path().join("kernels/fast.partial").exists());
        assert!(!folder.path().join("kernels/.fast.log").exists());
    }

    #[test]
    fn lines_of_a_build_are_told_apart() {
        assert!(is_made_file("  CC      kernel/fork.o") && is_made_file("  AR      built-in.a"));
        assert!(!is_made_file("make[2]: Entering directory") && !is_made_file("") && !is_made_file("  CC"));
        assert!(is_complaint("fork.c:1:2: error: expected ;") && !is_complaint("make[1]: *** Error 2"));
    }
}
