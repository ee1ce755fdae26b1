//! What the design allows (`docs/design.md`, the arrows).

use std::path::Path;

use super::paths::{Use, is_word};

/// Where the product's code lies.
pub(super) const FOLDERS: [&str; 2] = ["vmm", "guest-agent"];

/// Each module of the library, and the modules that it may use beside itself, `arch` and `threads`.
const ARROWS: [(&str, &[&str]); 18] = [
    ("arch", &[]),
    ("threads", &[]),
    ("memory", &[]),
    ("net", &[]),
    ("agent", &[]),
    ("boot", &["memory"]),
    ("devices", &["memory"]),
    ("hypervisor", &["memory"]),
    // `home` has the words for what lies in it, which both write.
    ("image", &["boot", "home"]),
    // A kernel of the store is kept and verified as an image's files are.
    ("kernels", &["boot", "home", "image"]),
    ("virtio", &["memory", "net"]),
    ("machine", &["memory", "net", "virtio"]),
    // The folder of a VM and the words of the control socket: where `sandbox` and `monitor` meet.
    ("home", &["machine"]),
    ("control", &["home", "machine"]),
    ("engine", &["boot", "devices", "hypervisor", "machine", "memory", "virtio"]),
    ("monitor", &["agent", "boot", "control", "engine", "home", "machine", "memory", "virtio"]),
    // A kernel of the user's own is read and checked before anything starts.
    ("sandbox", &["agent", "boot", "control", "home", "image", "kernels", "machine"]),
    // A project's file is held to the rules of names, sizes and the kernel's command line before anything starts.
    ("project", &["boot", "home", "image", "kernels", "machine", "sandbox"]),
];

/// What every module may use.
const FOR_ALL: [&str; 2] = ["arch", "threads"];

/// The name of an engine is only a word of a VM's description, so these may be used where engines may not.
const NAMES_OF_ENGINES: [&str; 2] = ["EngineChoice", "EngineKind"];

/// Tests of the library as a whole, at its root, use all of it.
const WHOLE_LIBRARY_TESTS: &str = "_tests";

/// Where `unsafe` may stand: the operating system, the hypervisor, the mapping of guest memory, the C interface.
const UNSAFE: [&str; 4] = ["vmm/sys", "vmm/src/hypervisor", "vmm/src/memory", "vmm/capi"];

/// Where code may differ by operating system: the layers over it, and what exists only for vhost-user, which is
/// Linux's (its transport, the memory that is shared with the other process, the tests' other side).
const TARGET_OS: [&str; 8] = [
    // Process 1 of a Linux guest is nothing elsewhere.
    "guest-agent/src/lib.rs",
    "vmm/sys",
    "vmm/src/hypervisor",
    "vmm/src/engine",
    "vmm/src/memory/mod.rs",
    "vmm/src/threads/mod.rs",
    "vmm/src/virtio/transport/mod.rs",
    "vmm/src/virtio/testing",
];

/// Where code may differ by the host's architecture. Guests may have another one.
const TARGET_ARCH: [&str; 2] = ["vmm/sys", "vmm/src/hypervisor"];

/// What runs in a monitor: its threads are held to their roles, so they start where roles are given.
const IN_MONITOR: [&str; 3] = ["vmm/src/engine", "vmm/src/monitor", "vmm/src/virtio"];

/// How a thread starts without a role.
const STARTS_THREAD: [&str; 3] = ["thread::Builder", "thread::spawn", "thread::scope"];

/// The library prints nothing: its user's terminal is not its own.
const PRINTS: [&str; 5] = ["println", "eprintln", "print", "eprint", "dbg"];

/// Whether the design knows a module of this name.
pub(super) fn is_module(name: &str) -> bool {
    ARROWS.iter().any(|(module, _)| *module == name)
}

/// What is wrong with a use, if it is.
pub(super) fn forbidden_use(module: &str, used: &Use) -> Option<String> {
    let wanted = used.module.as_str();
    let is_name = module == "home"
        && wanted == "engine"
        && used.item.as_deref().is_some_and(|item| NAMES_OF_ENGINES.contains(&item));
    if wanted == module || FOR_ALL.contains(&wanted) || is_name || module.ends_with(WHOLE_LIBRARY_TESTS) {
        return None;
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return Some(format!("the module `{module}` has no place in the design's arrows"));
    };
    if !is_module(wanted) {
        return Some(format!("`{module}` uses `{wanted}`, which has no place in the design's arrows"));
    }
    if !allowed.contains(&wanted) {
        return Some(format!("`{module}` must not use `{wanted}`"));
    }
    // Engines serve any device: they know the trait and the transports, and no device by name.
    let device = used.item.as_deref().filter(|item| item.starts_with(|c: char| c.is_ascii_lowercase()));
    match device {
        Some(device) if module == "engine" && wanted == "virtio" && device != "transport" => Some(format!(
            "`engine` must not use `virtio::{device}`, only `virtio::transport` and the device trait"
        )),
        _ => None,
    }
}

/// Words that may stand only where the design puts them.
pub(super) fn forbidden_words(place: &Path, code: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let allowed = |places: &[&str]| places.iter().any(|allowed| place.starts_with(allowed));
    let is_command_line = place.starts_with("vmm/cli");
    let mut is_library = place.starts_with("vmm") && !is_command_line && !is_test(place);
    for (number, line) in code.lines().enumerate() {
        let mut offend = |what: &str| offences.push(format!("{}:{}: {what}", place.display(), number + 1));
        if has_word(line, "unsafe") && !allowed(&UNSAFE) {
            offend("`unsafe` must not stand here: make a safe function of it in `vmm-sys`");
        }
        let platform = line.contains("cfg") || line.trim_start().starts_with("target_");
        if platform && has_word(line, "target_os") && !allowed(&TARGET_OS) {
            offend("code must not differ by `target_os` here");
        }
        if platform && has_word(line, "target_arch") && !allowed(&TARGET_ARCH) {
            offend("code must not differ by `target_arch` here: choose by a value of `Arch`");
        }
        // What follows in the file are its tests, which say what they skip.
        is_library &= !line.trim_start().starts_with("#[cfg(test)]");
        let starts_thread = || STARTS_THREAD.iter().any(|call| line.contains(call));
        if is_library && allowed(&IN_MONITOR) && starts_thread() {
            offend("a monitor's thread must have a role: start it with `threads::spawn`");
        }
        if is_library && PRINTS.iter().any(|print| has_macro(line, print)) {
            offend("the library must not print");
        }
    }
    offences
}

/// Build scripts talk to cargo by printing; tests and examples talk to people.
fn is_test(place: &Path) -> bool {
    let named = |name: &str| place.file_name().is_some_and(|file| file == name);
    let inside = |folder: &str| place.components().any(|part| part.as_os_str() == folder);
    let ends = |end: &str| place.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(end));
    named("build.rs")
        || named("tests.rs")
        || ends("_tests")
        || inside("tests")
        || inside("examples")
        || inside("benches")
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c| !is_word(c)).any(|found| found == word)
}

fn has_macro(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let after = line.get(at + name.len()..).unwrap_or_default();
        !before.is_some_and(is_word) && after.starts_with('!')
    })
}
