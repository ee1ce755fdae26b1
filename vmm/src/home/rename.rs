//! Giving a VM another name.
//!
//! The new name points to the VM before its description says it, and the old one goes after that. Whoever dies in between
//! leaves a VM with two names, by either of which it is found; the one that it is not called by is free for others.

use super::{Home, HomeError, VmFolder, VmName, files};

impl Home {
    /// Gives a VM another name. `describe` writes it into the VM's description: the VM's holder does that.
    pub fn rename<E: From<HomeError>>(
        &self,
        vm: &VmFolder,
        name: &VmName,
        describe: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _lock = self.lock()?;
        self.claim(name, vm.id())?;
        if let Err(error) = describe() {
            // Whoever writes it may have done so without being able to tell.
            let done = matches!(vm.spec(), Ok(Some(spec)) if spec.name.as_ref() == Some(name));
            if !done {
                let old = vm.spec().ok().flatten().and_then(|spec| spec.name);
                self.release_names_of(vm.id(), old.as_ref())?;
                return Err(error);
            }
        }
        self.release_names_of(vm.id(), Some(name))?;
        Ok(files::sync(&[&self.names()])?)
    }
}
