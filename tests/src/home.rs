//! A home of its own for each test.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

use crate::invocation::Invocation;
use crate::machine::TestVm;
use crate::{PATIENCE, images, in_laboratory, processes};

/// One home at a time in a test process: what it leaves running is then its own. Tests run beside each other as
/// processes.
static TURN: Mutex<()> = Mutex::new(());

/// An empty home with the images in it, and the only one of its process. When it is dropped, nothing that was started
/// in it may live.
pub struct TestHome {
    home: TempDir,
    runtime: TempDir,
    mounted: bool,
    _turn: MutexGuard<'static, ()>,
}

impl TestHome {
    /// A home that has Alpine.
    #[allow(clippy::new_without_default, reason = "it is no value, but a folder and a turn")]
    pub fn new() -> Self {
        let home = Self::empty();
        images::bring_into(home.path(), false);
        home
    }

    /// A home that has Alpine in files of its own, for the test to damage.
    pub fn with_own_images() -> Self {
        let home = Self::empty();
        images::bring_into(home.path(), true);
        home
    }

    /// A home with nothing in it.
    pub fn empty() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        processes::adopt_orphans();
        let homes = images::target().join("test-homes");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&homes).expect("a folder for homes");
        // A test may put files there before `vmm` does, which takes no folder that others use too.
        let ours_alone = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let home = tempfile::Builder::new()
            .prefix("home-")
            .permissions(ours_alone)
            .tempdir_in(&homes)
            .expect("a home");
        // Sockets lie here: the path must be short.
        let runtime = tempfile::Builder::new().prefix("vt-").tempdir_in("/tmp").expect("a runtime folder");
        Self { home, runtime, mounted: false, _turn: turn }
    }

    /// An empty home on a disk of its own, so small. `None`: we may not mount one.
    pub fn on_a_disk_of(bytes: u64) -> Option<Self> {
        let mut home = Self::empty();
        let size = format!("size={bytes},mode=0700");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(home.path()).output();
        home.mounted = mount.is_ok_and(|output| output.status.success());
        home.mounted.then_some(home)
    }

    /// Brings the images into a home that was empty.
    pub fn with_images(&self) {
        images::bring_into(self.path(), false);
    }

    /// No disk of a machine is corrupt, as QEMU's own tool sees it. Leaked clusters are allowed.
    pub fn check_disks(&self) {
        let disks = self.layers_of_machines();
        let overlays: Vec<&String> = disks.iter().filter(|name| name.ends_with(".qcow2")).collect();
        assert!(!overlays.is_empty(), "no overlay among {disks:?}");
        for disk in overlays {
            let check =
                Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(self.path().join(disk)).output();
            let check = check.expect("qemu-img is installed: `cargo xtask setup test`");
            // 3: leaked clusters, and nothing else.
            let sound = matches!(check.status.code(), Some(0 | 3));
            assert!(
                sound,
                "{disk}: {}{}",
                String::from_utf8_lossy(&check.stdout),
                String::from_utf8_lossy(&check.stderr)
            );
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// The folder beneath which its sockets lie.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// The `vmm` under test with these arguments, in this home.
    pub fn vmm<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Invocation {
        let mut command = Command::new(images::binary());
        command.args(arguments);
        self.program(command)
    }

    /// Any program in this home's environment.
    pub fn program(&self, command: Command) -> Invocation {
        Invocation::new(self.in_home(command))
    }

    /// What a `vmm` that succeeds says, as JSON: `--json` is among the arguments.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.vmm(arguments).run().succeeded().stdout();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Any command in this home's environment.
    pub fn in_home(&self, mut command: Command) -> Command {
        command
            .env("VMM_HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("VMM_BIN", images::binary())
            .env("VMM_ENGINE", crate::engine())
            .env_remove("VMM_LOG")
            .current_dir(self.path());
        command
    }

    /// A folder for `PATH`: these programs of the system, and nothing else.
    pub fn path_with(&self, programs: &[&str]) -> PathBuf {
        let folder = self.path().join("path");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        for program in programs {
            let found = std::env::split_paths(&std::env::var_os("PATH").expect("a path"))
                .map(|folder| folder.join(program))
                .find(|path| path.is_file())
                .unwrap_or_else(|| panic!("this machine has no {program}"));
            std::os::unix::fs::symlink(found, folder.join(program)).expect("a link can be made");
        }
        folder
    }

    /// A library handle on this home. Sockets lie in the runtime folder of the test process itself.
    pub fn open(&self) -> vmm::Home {
        vmm::Home::open(self.path()).expect("a home can be opened")
    }

    /// Starts a machine that stays, with options for `vmm run` (such as `--memory`).
    pub fn machine<'a>(&'a self, name: &str, options: &[&str]) -> TestVm<'a> {
        self.machine_of(name, "alpine", options)
    }

    /// The same with another image.
    pub fn machine_of<'a>(&'a self, name: &str, image: &str, options: &[&str]) -> TestVm<'a> {
        let options: Vec<&str> = options.iter().copied().chain(quick_memory()).collect();
        TestVm::start(self, name, image, &options)
    }

    /// `vmm run` of a command in a machine of its own.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Invocation {
        let words = ["run"].into_iter().chain(quick_memory()).chain(options.iter().copied());
        self.vmm(words.chain(["alpine", "--"]).chain(command.iter().copied()))
    }

    /// Starts a machine that stays whose memory is as it is for those who say nothing of it.
    pub fn machine_with_usual_memory<'a>(&'a self, name: &str, options: &[&str]) -> TestVm<'a> {
        TestVm::start(self, name, "alpine", options)
    }

    /// What `vmm ps --json` says.
    pub fn ps(&self) -> Vec<Value> {
        let text = self.vmm(["ps", "--json"]).run().succeeded().stdout();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("vmm ps --json is no JSON: {error}: {text}"))
    }

    /// The state of a machine, as `vmm ps` says it.
    pub fn state_of(&self, name: &str) -> Option<String> {
        let machine = self.ps().into_iter().find(|machine| machine["name"] == name)?;
        Some(machine["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a machine is in this state, as `vmm ps` says it.
    pub fn wait_for_state(&self, name: &str, state: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.state_of(name).as_deref() != Some(state) {
            assert!(std::time::Instant::now() < deadline, "{name} never was {state}");
        }
    }

    /// What is left of machines: folders, names, disks, sockets, processes.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> =
            ["vms", "names"].iter().flat_map(|folder| names_in(&self.path().join(folder))).collect();
        left.extend(self.layers_of_machines());
        left.extend(files_beneath(self.runtime()).iter().map(|path| path.display().to_string()));
        left.extend(
            processes::descendants()
                .into_iter()
                .map(|process| format!("{} {}", process.pid, process.command)),
        );
        left
    }

    /// Everything that lies in the home and where its sockets are, but for folders.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = files_beneath(self.path());
        files.extend(files_beneath(self.runtime()));
        files.sort();
        files
    }

    /// The layers in the store that no image has.
    fn layers_of_machines(&self) -> Vec<String> {
        let (ours, pulled) = (self.path().join("layers"), images::cache().join("layers"));
        let known = files_beneath(&pulled);
        let known: Vec<&Path> = known.iter().filter_map(|path| path.strip_prefix(&pulled).ok()).collect();
        let found = files_beneath(&ours);
        // The store's lock is nobody's.
        let new = found
            .iter()
            .filter_map(|path| path.strip_prefix(&ours).ok())
            .filter(|path| !known.contains(path) && *path != Path::new(".lock"));
        new.map(|path| format!("layers/{}", path.display())).collect()
    }

    /// Waits until no process of this home lives.
    pub fn wait_until_quiet(&self) {
        for process in processes::descendants() {
            assert!(process.ends_within(PATIENCE), "{} still runs: {}", process.pid, process.command);
        }
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        let left = processes::descendants();
        let list: Vec<String> =
            left.iter().map(|process| format!("{} {}", process.pid, process.command)).collect();
        // A process that is killed may have started another one just before.
        let mut living = left;
        while !living.is_empty() {
            for process in &living {
                process.kill();
                process.ends_within(PATIENCE);
            }
            living = processes::descendants();
        }
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
        if !std::thread::panicking() {
            assert!(list.is_empty(), "left running:\n{}", list.join("\n"));
        }
    }
}

/// In the laboratory, the option for memory in huge pages: where what maps a page is emulated, that takes as long as
/// thousands of instructions, and a fifth of a boot.
fn quick_memory() -> Option<&'static str> {
    in_laboratory().then_some("--huge-pages")
}

/// What a folder holds, but for the lock that stays; nothing where it is missing.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name() != ".lock" && entry.file_name() != ".owners")
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// All that is no folder.
fn files_beneath(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_beneath(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
