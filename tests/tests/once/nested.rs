//! A machine in a machine: the guest of a software engine runs `vmm` itself, on its own KVM.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vmm_tests::{TestHome, TestVm, binary, engine, skip};

/// The home of the `vmm` in the guest.
const INNER_HOME: &str = "/var/lib/vmm";

#[test]
fn a_guest_runs_machines_of_its_own() {
    if engine() != "software" {
        skip!("the machine around is one of the software engine");
    }
    let libraries = match laboratory::libraries(&binary()) {
        Ok(libraries) => libraries,
        Err(error) => skip!("nothing says which libraries vmm needs: {error}"),
    };
    // Files that others link to, as tests beside this one do, look to tar as if they changed.
    let home = TestHome::with_own_images();
    let layers = layers(&home);
    let vm = home.machine("outer", &["--nested", "--memory", "768M"]);
    bring_vmm(&home, &vm, &libraries);
    bring_images(&home, &vm, &layers);
    let run = format!("VMM_HOME={INNER_HOME} vmm run --engine kvm --memory 256M alpine -- uname -a");
    let inner = vm.shell(&run).succeeded();
    assert!(inner.stdout().starts_with("Linux alpine "), "{}", inner.stdout());
    // Nothing of it is left in there, either.
    let left = vm.shell(&format!("ls {INNER_HOME}/vms {INNER_HOME}/names")).succeeded().stdout();
    assert_eq!(left, format!("{INNER_HOME}/names:\n\n{INNER_HOME}/vms:\n"));
}

#[test]
fn a_guest_with_several_processors_and_machines_of_its_own_is_refused() {
    if engine() != "software" {
        skip!("on KVM there may be as many as the host has");
    }
    let home = TestHome::new();
    let run = ["run", "--nested", "--cpus", "2", "alpine", "--", "true"];
    let run = home.vmm(run).run().ended_with(125);
    assert!(run.stderr().contains("one that nests (--nested) has one"), "{}", run.stderr());
    assert!(run.stderr().contains("give it one (--cpus 1)"), "{}", run.stderr());
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

/// The program, and its libraries at the places where its loader looks for them.
fn bring_vmm(home: &TestHome, vm: &TestVm<'_>, libraries: &[PathBuf]) {
    let program = std::fs::read(binary()).expect("vmm can be read");
    let save = "cat > /usr/local/bin/vmm && chmod 755 /usr/local/bin/vmm";
    vm.exec_with(&["-i"], &["sh", "-c", save]).stdin(program).run().succeeded();
    if !libraries.is_empty() {
        let mut tar = Command::new("tar");
        // What links lead to, under the names of the links.
        tar.args(["-c", "-h", "-C", "/"]);
        tar.args(libraries.iter().filter_map(|library| library.strip_prefix("/").ok()));
        unpack(home, vm, tar, "/");
    }
}

/// The layers of a home without machines: those of its images.
fn layers(home: &TestHome) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(home.path().join("layers")).expect("a home with images has layers");
    folder.map(|entry| Path::new("layers").join(entry.expect("a folder can be read").file_name())).collect()
}

/// The images of this home, but for what the `vmm` in the guest makes itself.
fn bring_images(home: &TestHome, vm: &TestVm<'_>, layers: &[PathBuf]) {
    vm.exec(&["mkdir", "-p", "-m", "700", INNER_HOME]).succeeded();
    let mut tar = Command::new("tar");
    tar.args(["-c", "--exclude=initramfs-*", "-C"]).arg(home.path()).arg("images").args(layers);
    unpack(home, vm, tar, INNER_HOME);
}

/// Unpacks what a `tar` of this machine packs in a folder of the guest, where all of it belongs to root.
fn unpack(home: &TestHome, vm: &TestVm<'_>, mut tar: Command, folder: &str) {
    let mut packs = tar.stdout(Stdio::piped()).spawn().expect("tar can be started");
    let packed = packs.stdout.take().expect("a pipe");
    let mut unpack = home.in_home(Command::new(binary()));
    unpack.args(["exec", "-i", vm.name(), "--", "tar", "-x", "-o", "-C", folder]).stdin(packed);
    let Output { status, stderr, .. } = unpack.output().expect("vmm can be started");
    let said = String::from_utf8_lossy(&stderr);
    assert!(packs.wait().expect("tar can be waited for").success() && status.success(), "{status}: {said}");
}
