//! Kernel modules, as the image's initial file system brings them.
//!
//! `/vmm/modules` has one module per line in the order in which they are loaded, `<stage> <file>`; the files, not
//! compressed, lie in `/vmm/modules.d`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::io::Errno;
use rustix::system::finit_module;

use super::Fatal;
use crate::console;

/// When a module is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before anything else: the way to the host.
    Vsock,
    /// For the root file system.
    Root,
    /// What commands expect. The machine does without one that cannot be loaded.
    Ready,
    /// What nobody waits for.
    Late,
}

/// Modules for some processors only, and the flag of `/proc/cpuinfo` that tells. Others would only refuse them, late
/// and with a word on the console.
const FOR_SOME_PROCESSORS: [(&str, &str); 2] = [("kvm_amd.ko", "svm"), ("kvm_intel.ko", "vmx")];

/// The modules that are still to be loaded.
pub(super) struct Modules {
    folder: PathBuf,
    list: Vec<(Stage, String)>,
}

/// A module to be loaded in the root, whose file is open: the initial file system is gone by then.
pub(super) struct OpenModule {
    name: String,
    file: io::Result<File>,
}

impl Modules {
    /// Reads the list beneath a folder. A kernel that needs no modules has none.
    pub(super) fn read(folder: &Path) -> Result<Self, Fatal> {
        let path = folder.join("modules");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            result => result.map_err(|error| Fatal::new(format!("read {}", path.display()), error))?,
        };
        let list = parse(&text).map_err(|line| {
            Fatal::new(format!("read {}", path.display()), format!("{line:?} is no stage and module"))
        })?;
        Ok(Self { folder: folder.join("modules.d"), list })
    }

    /// Loads the modules of a stage, in their order.
    pub(super) fn load(&self, stage: Stage) -> Result<(), Fatal> {
        for (_, name) in self.list.iter().filter(|(other, _)| *other == stage) {
            File::open(self.folder.join(name))
                .and_then(|file| insert(&file))
                .map_err(|error| Fatal::new(format!("load the kernel module {name}"), error))?;
        }
        Ok(())
    }

    /// Opens the modules of a stage that comes when the initial file system is gone.
    pub(super) fn open(&self, stage: Stage) -> Vec<OpenModule> {
        let names = self.list.iter().filter(|(other, _)| *other == stage).map(|(_, name)| name);
        names
            .map(|name| OpenModule { name: name.clone(), file: File::open(self.folder.join(name)) })
            .collect()
    }
}

impl OpenModule {
    /// Loads it. A failure costs a line on the console.
    fn load(self) {
        let Self { name, file } = self;
        if let Err(error) = file.and_then(|file| insert(&file)) {
            console::line(&format!("cannot load the kernel module {name}: {error}"));
        }
    }
}

/// Loads modules, but for those that are for other processors. Needs `/proc`.
pub(super) fn load_for_this_processor(modules: Vec<OpenModule>) {
    if modules.is_empty() {
        return;
    }
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for module in modules.into_iter().filter(|module| is_for_this_processor(&module.name, &processors)) {
        module.load();
    }
}

fn is_for_this_processor(module: &str, cpuinfo: &str) -> bool {
    let Some((_, flag)) = FOR_SOME_PROCESSORS.iter().find(|(name, _)| *name == module) else { return true };
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|word| word == *flag)
}

/// Loads modules on a thread that gives way to everybody else.
pub(super) fn load_in_background(modules: Vec<OpenModule>) {
    if modules.is_empty() {
        return;
    }
    let load = move || {
        let _ = rustix::process::setpriority_process(None, 19);
        for module in modules {
            module.load();
        }
    };
    if let Err(error) = thread::Builder::new().stack_size(64 * 1024).spawn(load) {
        console::line(&format!("cannot load late kernel modules: {error}"));
    }
}

fn insert(file: &File) -> io::Result<()> {
    match finit_module(file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn parse(text: &str) -> Result<Vec<(Stage, String)>, &str> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (stage, name) = line.split_once(' ').ok_or(line)?;
            let stage = match stage {
                "vsock" => Stage::Vsock,
                "root" => Stage::Root,
                "ready" => Stage::Ready,
                "late" => Stage::Late,
                _ => return Err(line),
            };
            // A name, not a path.
            if name.is_empty() || name.contains('/') { Err(line) } else { Ok((stage, name.to_owned())) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_order_and_names_what_it_does_not_understand() {
        let list = parse("vsock a.ko\nroot b.ko\n\nvsock c.ko\nlate d.ko").unwrap();
        let vsock: Vec<_> = list.iter().filter(|(stage, _)| *stage == Stage::Vsock).collect();
        assert_eq!(vsock, [&(Stage::Vsock, "a.ko".to_owned()), &(Stage::Vsock, "c.ko".to_owned())]);
        for line in ["early a.ko", "vsock", "root ../a.ko", "late "] {
            assert_eq!(parse(&format!("vsock a.ko\n{line}\n")), Err(line));
        }
    }

    #[test]
    fn a_module_for_other_processors_is_left_alone() {
        let (amd, intel) = ("processor : 0\nflags\t\t: fpu svm avx\n", "flags : fpu vmx\nvmx flags : ept\n");
        let loaded = |cpuinfo| {
            let names = ["kvm.ko", "kvm_amd.ko", "kvm_intel.ko"];
            names.into_iter().filter(|name| is_for_this_processor(name, cpuinfo)).collect::<Vec<_>>()
        };
        assert_eq!(loaded(amd), ["kvm.ko", "kvm_amd.ko"]);
        assert_eq!(loaded(intel), ["kvm.ko", "kvm_intel.ko"]);
        assert_eq!(loaded(""), ["kvm.ko"]);
    }
}
