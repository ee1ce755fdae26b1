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
    /// What nobody waits for.
    Late,
}

/// The modules that are still to be loaded.
pub(super) struct Modules {
    folder: PathBuf,
    list: Vec<(Stage, String)>,
}

/// A module to be loaded later, whose file is open: the initial file system is gone by then.
pub(super) struct LateModule {
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
    pub(super) fn load(&mut self, stage: Stage) -> Result<(), Fatal> {
        for (_, name) in self.list.iter().filter(|(other, _)| *other == stage) {
            File::open(self.folder.join(name))
                .and_then(|file| insert(&file))
                .map_err(|error| Fatal::new(format!("load the kernel module {name}"), error))?;
        }
        Ok(())
    }

    /// Opens what is loaded late.
    pub(super) fn open_late(self) -> Vec<LateModule> {
        let late = self.list.into_iter().filter(|(stage, _)| *stage == Stage::Late);
        late.map(|(_, name)| LateModule { file: File::open(self.folder.join(&name)), name }).collect()
    }
}

/// Loads modules on a thread that gives way to everybody else. One that fails costs a line on the console.
pub(super) fn load_in_background(modules: Vec<LateModule>) {
    if modules.is_empty() {
        return;
    }
    let load = move || {
        let _ = rustix::process::setpriority_process(None, 19);
        for LateModule { name, file } in modules {
            if let Err(error) = file.and_then(|file| insert(&file)) {
                console::line(&format!("cannot load the kernel module {name}: {error}"));
            }
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
}
