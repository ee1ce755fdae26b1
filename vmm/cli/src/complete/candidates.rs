//! What arguments can be: names of VMs and images, what a VM has, places in a guest.

use std::ffi::OsStr;
use std::sync::mpsc;
use std::time::Duration;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use vmm::image::ImageStore;
use vmm::project::Project;
use vmm::{Home, ProcessInfo, Sandbox};

use super::WORDS;

/// So long who pressed a key waits for a VM.
const PATIENCE: Duration = Duration::from_secs(1);

/// More of a folder in a guest is not shown.
const LONGEST_LIST: usize = 256 << 10;

/// Lists a folder, with a slash behind those that are folders themselves.
const LIST: &str = "cd -- \"${1:-.}\" && ls -1ap";

type Candidates = Vec<CompletionCandidate>;

/// The VMs there are.
pub(super) fn vms(current: &OsStr) -> Candidates {
    let named = vm_names().into_iter().map(|(name, image)| described(&name, &image));
    fitting(current, named)
}

/// The machines of the project that we are in.
pub(super) fn machines(current: &OsStr) -> Candidates {
    let found = || -> Option<Vec<CompletionCandidate>> {
        let project = Project::find(&Home::open_default().ok()?, ".").ok()?;
        let description = project.describe().ok()?;
        Some(description.machines().iter().map(|(name, _)| CompletionCandidate::new(name)).collect())
    };
    fitting(current, found().unwrap_or_default())
}

/// The images that are here: by name, and by version where one is begun.
pub(super) fn images(current: &OsStr) -> Candidates {
    let found = || -> Option<Vec<(String, String)>> {
        let store = ImageStore::open(Home::open_default().ok()?.root()).ok()?;
        let images = store.summaries().ok()?;
        Some(images.into_iter().map(|image| (image.name.to_string(), image.version.to_string())).collect())
    };
    let mut names: Vec<String> = Vec::new();
    for (name, version) in found().unwrap_or_default() {
        names.push(format!("{name}:{version}"));
        names.push(name);
    }
    names.sort();
    names.dedup();
    let with_version = current.to_string_lossy().contains(':');
    let wanted = names.into_iter().filter(|name| name.contains(':') == with_version);
    fitting(current, wanted.map(CompletionCandidate::new))
}

/// The same, and disk files, which have a way to them.
pub(super) fn images_and_files(current: &OsStr) -> Candidates {
    if current.to_string_lossy().contains('/') {
        return PathCompleter::file().complete(current);
    }
    images(current)
}

/// The snapshots of the VM that was named before.
pub(super) fn snapshots(current: &OsStr) -> Candidates {
    let found = of_vm(|vm| {
        let snapshots = vm.snapshots().ok()?;
        Some(snapshots.into_iter().map(|snapshot| (snapshot.name, String::new())).collect())
    });
    fitting(current, found.into_iter().map(|(name, help)| described(&name, &help)))
}

/// The processes of the VM that was named before, those that ended last among them.
pub(super) fn processes(current: &OsStr) -> Candidates {
    processes_that(current, |_| true)
}

/// Those that run.
pub(super) fn running_processes(current: &OsStr) -> Candidates {
    processes_that(current, |process| process.exit.is_none())
}

fn processes_that(current: &OsStr, wanted: fn(&ProcessInfo) -> bool) -> Candidates {
    let found = of_vm(move |vm| {
        let processes = vm.processes().ok()?.into_iter().filter(wanted);
        let described = processes.map(|process| {
            let words: Vec<_> = process.argv.iter().map(|word| word.to_string_lossy()).collect();
            (process.process.to_string(), words.join(" "))
        });
        Some(described.collect())
    });
    fitting(current, found.into_iter().map(|(id, command)| described(&id, &command)))
}

/// Files here, VMs, and files in a VM once its name has its colon.
pub(super) fn places(current: &OsStr) -> Candidates {
    let text = current.to_string_lossy();
    match text.split_once(':') {
        Some((vm, path)) if !vm.is_empty() && !vm.contains('/') => in_guest(vm, path),
        _ => {
            let vms = vm_names().into_iter().map(|(name, image)| described(&format!("{name}:"), &image));
            fitting(current, vms).into_iter().chain(PathCompleter::any().complete(current)).collect()
        }
    }
}

fn in_guest(vm: &str, path: &str) -> Candidates {
    let (folder, begun) = path.rfind('/').map_or(("", path), |slash| path.split_at(slash + 1));
    let (name, place) = (vm.to_owned(), folder.to_owned());
    let listed = in_time(move || {
        let vm = Sandbox::attach(&Home::open_default().ok()?, &name).ok()?;
        let list = vm.command(["sh", "-c", LIST, "sh", place.as_str()]).timeout(PATIENCE);
        Some(list.output_limit(LONGEST_LIST).output().ok()?.stdout)
    });
    let listed = String::from_utf8_lossy(&listed.unwrap_or_default()).into_owned();
    let hidden = begun.starts_with('.');
    let names = listed.lines().filter(|name| {
        let shown = !["./", "../"].contains(name) && (hidden || !name.starts_with('.'));
        shown && name.starts_with(begun) && !name.chars().any(|c| c.is_control() || c == '\u{fffd}')
    });
    names.map(|name| CompletionCandidate::new(format!("{vm}:{folder}{name}"))).collect()
}

/// The VMs of the home by name, or by id where they have none, with their images. None of them is asked.
fn vm_names() -> Vec<(String, String)> {
    let folders = Home::open_default().and_then(|home| home.folders()).unwrap_or_default();
    let specs = folders.iter().filter_map(|folder| folder.spec().ok().flatten());
    specs.map(|spec| (spec.display_name().to_owned(), spec.image)).collect()
}

/// Something of the first VM that was named before.
fn of_vm(
    look: impl FnOnce(Sandbox) -> Option<Vec<(String, String)>> + Send + 'static,
) -> Vec<(String, String)> {
    let words: Vec<String> =
        WORDS.get().into_iter().flatten().filter_map(|word| word.to_str().map(str::to_owned)).collect();
    let found = in_time(move || {
        let home = Home::open_default().ok()?;
        // The program and its command are none.
        look(words.iter().skip(2).find_map(|word| Sandbox::attach(&home, word).ok())?)
    });
    found.unwrap_or_default()
}

/// Does what may take long, and gives up on it: we end then.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::channel();
    std::thread::Builder::new().spawn(move || done.send(work())).ok()?;
    result.recv_timeout(PATIENCE).ok()?
}

fn described(name: &str, help: &str) -> CompletionCandidate {
    let help: String = help.chars().map(|c| if c.is_control() { '?' } else { c }).take(60).collect();
    CompletionCandidate::new(name).help((!help.is_empty()).then(|| help.into()))
}

fn fitting(current: &OsStr, candidates: impl IntoIterator<Item = CompletionCandidate>) -> Candidates {
    let current = current.to_string_lossy();
    let fits =
        |candidate: &CompletionCandidate| candidate.get_value().to_string_lossy().starts_with(&*current);
    candidates.into_iter().filter(fits).collect()
}
