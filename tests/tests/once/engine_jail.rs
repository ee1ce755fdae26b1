//! The jail around QEMU: each bar looked at on the real QEMU, and tried by a program in its place.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what goes wrong here fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Lines};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use vmm::engine::{Bar, JailReport, LaunchReport, MachineEnd, RunningMachine};
use vmm_tests::engine_machine::{self, GREETING, Init, machine, machine_with, read_until};

const PATIENCE: Duration = Duration::from_secs(120);

fn stand_in() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_engine-stand-in"))
}

macro_rules! skip {
    ($($reason:tt)*) => {{
        println!("skipped: {}", format_args!($($reason)*));
        return;
    }};
}

/// Leaves a test out when the host does not allow what it is about.
macro_rules! needs {
    ($report:expr, $($bar:expr),+) => {
        for bar in [$($bar),+] {
            if let Some(state) = $report.missing().find(|state| state.bar == bar) {
                skip!("the host allows no {bar:?}: {}", state.missing.as_deref().unwrap_or_default());
            }
        }
    };
}

/// What the stand-in reports of an attempt in QEMU's place, and the jail it was made in.
fn attempt(what: &str) -> (String, JailReport) {
    let kernel = tempfile::NamedTempFile::new().unwrap();
    fs::write(kernel.path(), "a kernel").unwrap();
    let (machine, _console) = machine_with(kernel.path(), 1, Init::Sleeps, what);
    let (sender, receiver) = channel();
    let engine = engine_machine::engine(&stand_in(), Some(&stand_in()));
    let running = engine.launch(machine, Box::new(move |end| sender.send(end).unwrap())).unwrap();
    let MachineEnd::Failed(said) = receiver.recv_timeout(PATIENCE).unwrap() else {
        panic!("it did not fail")
    };
    let said = said.strip_prefix("QEMU ended with status 42: ").unwrap_or(&said).to_owned();
    (said, running.report().jail.clone().unwrap())
}

#[test]
fn no_socket_of_any_kind_can_be_made() {
    for family in ["internet", "vsock", "unix"] {
        let (said, jail) = attempt(family);
        needs!(jail, Bar::SystemCallFilter);
        assert!(said.starts_with("refused"), "{family}: {said}");
    }
}

#[test]
fn there_are_no_files_but_the_programs_own() {
    let (said, jail) = attempt("files");
    needs!(jail, Bar::FileSystem);
    let stand_in = stand_in().canonicalize().unwrap().display().to_string();
    let files: Vec<&str> = said.split(' ').collect();
    for expected in [stand_in.as_str(), "/file0", "/file1"] {
        assert!(files.contains(&expected), "{expected} is missing in {said}");
    }
    let is_library = |file: &str| file.contains(".so") || file.starts_with("/etc/ld");
    let strange =
        files.iter().find(|&&file| file != stand_in && !file.starts_with("/file") && !is_library(file));
    assert_eq!(strange, None, "{said}");
}

#[test]
fn what_is_handed_to_it_can_be_read_and_nothing_written() {
    let (said, jail) = attempt("kernel");
    assert_eq!(said, "8");
    needs!(jail, Bar::FileSystem);
    let (said, _) = attempt("write");
    assert!(said.starts_with("refused"), "{said}");
    let (said, _) = attempt("mount");
    assert!(said.starts_with("refused"), "{said}");
}

#[test]
fn there_is_no_other_process() {
    let (said, jail) = attempt("processes");
    needs!(jail, Bar::ProcessNamespace);
    // Its own number, a neighbour, and its parent.
    assert!(said.starts_with("1 refused: No such process"), "{said}");
    assert!(said.ends_with("None"), "{said}");
}

#[test]
fn it_is_nobody_and_has_no_rights() {
    let (said, jail) = attempt("user");
    needs!(jail, Bar::NoNewPrivileges, Bar::NoCapabilities, Bar::UserNamespace);
    assert_eq!(said, "1000 1000 0 Ok(true) false");
}

#[test]
fn its_limits_are_low() {
    let (said, jail) = attempt("limits");
    needs!(jail, Bar::Limits);
    assert_eq!(said, "[Some(0), Some(512)]");
}

/// A real QEMU that runs a guest.
struct RealQemu {
    running: Box<dyn RunningMachine>,
    folder: PathBuf,
}

impl RealQemu {
    /// `None`: there is none here, and why.
    fn start() -> Result<Self, String> {
        if let Some(reason) = engine_machine::missing() {
            return Err(reason);
        }
        let kernel = engine_machine::kernel().ok_or("no image was pulled")?;
        let (machine, mut console) = machine(&kernel, 1);
        let engine = engine_machine::engine(&stand_in(), None);
        let running = engine.launch(machine, Box::new(|_| {})).unwrap();
        // By now QEMU has put on its own filter, and runs the guest.
        assert!(read_until(&mut console, GREETING).contains(GREETING));
        let folder = Path::new("/proc").join(running.processes().last().unwrap().to_string());
        Ok(Self { running, folder })
    }

    fn jail(&self) -> &JailReport {
        self.running.report().jail.as_ref().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap()
    }

    fn status(&self, field: &str) -> String {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    /// What each open descriptor is. It runs: what it closes while we look is not among them.
    fn descriptors(&self) -> Vec<(PathBuf, String)> {
        let entries = fs::read_dir(self.folder.join("fd")).unwrap().map(|entry| entry.unwrap().path());
        let look = |path: PathBuf| match fs::read_link(&path) {
            Ok(target) => Some((path, target.display().to_string())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        entries.filter_map(look).collect()
    }
}

macro_rules! real_qemu_or_skip {
    () => {
        match RealQemu::start() {
            Ok(qemu) => qemu,
            Err(reason) => skip!("{reason}"),
        }
    };
}

#[test]
fn the_real_qemu_is_in_namespaces_of_its_own() {
    let qemu = real_qemu_or_skip!();
    needs!(qemu.jail(), Bar::UserNamespace, Bar::ProcessNamespace, Bar::NetworkNamespace, Bar::IpcNamespace);
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(name)).unwrap();
        assert_ne!(of(&qemu.folder), of(Path::new("/proc/self")), "{name}");
    }
    let interfaces: Vec<String> = qemu.read("net/dev").lines().skip(2).map(str::to_owned).collect();
    assert_eq!(interfaces.len(), 1, "only the loopback: {interfaces:?}");
}

#[test]
fn the_real_qemu_has_no_rights_and_two_filters() {
    let qemu = real_qemu_or_skip!();
    needs!(qemu.jail(), Bar::NoCapabilities, Bar::NoNewPrivileges, Bar::SystemCallFilter, Bar::OwnFilter);
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(qemu.status(field), "0000000000000000", "{field}");
    }
    assert_eq!(qemu.status("NoNewPrivs"), "1");
    assert_eq!(qemu.status("Seccomp"), "2");
    assert!(qemu.status("Seccomp_filters").parse::<u32>().unwrap() >= 2);
    assert!(qemu.read("limits").lines().any(|line| {
        line.starts_with("Max core file size") && line.split_whitespace().nth(4) == Some("0")
    }));
}

#[test]
fn root_does_not_run_qemu_as_root() {
    let qemu = real_qemu_or_skip!();
    if !rustix::process::geteuid().is_root() {
        skip!("we are not root");
    }
    needs!(qemu.jail(), Bar::UnprivilegedUser);
    assert_eq!(qemu.status("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(qemu.status("Gid"), "65534\t65534\t65534\t65534");
    assert_eq!(qemu.status("Groups"), "");
}

#[test]
fn the_real_qemu_sees_only_mounts_that_it_cannot_write() {
    let qemu = real_qemu_or_skip!();
    needs!(qemu.jail(), Bar::FileSystem);
    let mounts = qemu.read("mountinfo");
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let options: Vec<&str> = fields[5].split(',').collect();
        for option in ["ro", "nosuid", "nodev"] {
            assert!(options.contains(&option), "{mount}");
        }
    }
    assert!(mounts.lines().next().unwrap().contains(" / / "), "{mounts}");
    assert!(!mounts.contains("proc"), "{mounts}");
    let ours = fs::metadata("/").unwrap();
    // Root may look through the link; others may not.
    if let Ok(its) = fs::metadata(qemu.folder.join("root/.")) {
        assert_ne!((ours.dev(), ours.ino()), (its.dev(), its.ino()));
    }
}

#[test]
fn the_real_qemu_inherits_nothing_that_was_not_meant_for_it() {
    // A descriptor that a careless part of the monitor would leave to its children.
    let secret = tempfile::NamedTempFile::new().unwrap();
    rustix::io::fcntl_setfd(secret.as_file(), rustix::io::FdFlags::empty()).unwrap();
    let qemu = real_qemu_or_skip!();
    rustix::io::fcntl_setfd(secret.as_file(), rustix::io::FdFlags::CLOEXEC).unwrap();
    let path = secret.path().display().to_string();
    let kinds = ["socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/null"];
    for (number, target) in qemu.descriptors() {
        assert_ne!(target, path, "{}", number.display());
        assert!(kinds.iter().any(|kind| target.starts_with(kind)), "{}: {target}", number.display());
    }
}

#[test]
fn the_guests_memory_is_sealed_against_resizing() {
    let qemu = real_qemu_or_skip!();
    let descriptors = qemu.descriptors();
    let memory = descriptors.iter().find(|(_, target)| target.starts_with("/memfd:memory-backend-memfd"));
    let Some((path, _)) = memory else { panic!("no guest memory among {descriptors:?}") };
    let Ok(file) = fs::File::open(path) else { skip!("another user's memory cannot be opened") };
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    assert!(seals.contains(rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW), "{seals:?}");
    assert!(file.as_raw_fd() > 2);
}

/// A monitor in a process of its own, and what it says.
struct Monitor {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    report: LaunchReport,
}

impl Monitor {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let report = lines.next().unwrap().unwrap();
        let report = serde_json::from_str(&report).unwrap();
        Self { process, lines, report }
    }

    fn boots(&mut self) -> bool {
        self.lines.by_ref().map(Result::unwrap).any(|line| line == "greeted")
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_plain_user_has_the_same_jail() {
    if !rustix::process::geteuid().is_root() {
        skip!("only root can become another user; as a plain user every test here is this one");
    }
    if let Some(reason) = engine_machine::missing() {
        skip!("{reason}");
    }
    let Some(kernel) = engine_machine::kernel() else { skip!("no image was pulled") };
    // Where the user can read them.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (program, its_kernel) = (folder.path().join("stand-in"), folder.path().join("vmlinux"));
    fs::copy(stand_in(), &program).unwrap();
    fs::copy(kernel, &its_kernel).unwrap();
    fs::set_permissions(&its_kernel, fs::Permissions::from_mode(0o644)).unwrap();
    let mut monitor =
        Monitor::start(Command::new(&program).arg("monitor").arg(&its_kernel).uid(65534).gid(65534));
    let jail = monitor.report.jail.clone().unwrap();
    needs!(jail, Bar::UserNamespace);
    assert_eq!(jail.missing().collect::<Vec<_>>(), Vec::<&vmm::engine::BarState>::new());
    assert!(monitor.boots());
}

#[test]
fn where_no_namespace_can_be_made_the_other_bars_hold() {
    if let Some(reason) = engine_machine::missing() {
        skip!("{reason}");
    }
    let Some(kernel) = engine_machine::kernel() else { skip!("no image was pulled") };
    let mut monitor = Monitor::start(Command::new(stand_in()).arg("contained-monitor").arg(kernel));
    let jail = monitor.report.jail.clone().unwrap();
    for bar in [Bar::FileSystem, Bar::ProcessNamespace, Bar::NetworkNamespace, Bar::IpcNamespace] {
        let state = jail.bars.iter().find(|state| state.bar == bar).unwrap();
        assert!(state.missing.as_ref().is_some_and(|reason| !reason.is_empty()), "{state:?}");
    }
    for bar in
        [Bar::NoNewPrivileges, Bar::NoCapabilities, Bar::SystemCallFilter, Bar::Limits, Bar::DiesWithMonitor]
    {
        assert!(jail.holds(bar), "{bar:?} in {jail:?}");
    }
    assert!(monitor.boots());
}
