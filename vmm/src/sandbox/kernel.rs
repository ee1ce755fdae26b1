//! What a VM boots: the kernel of its image, one of the store, or a file of its user's.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use snafu::{ResultExt, ensure};

use super::builder::{BootProfileUse, SandboxBuilder};
use super::error::{KernelLacksSnafu, KernelSnafu, SystemSnafu};
use super::images::Quiet;
use super::{Error, Progress};
use crate::arch::Arch;
use crate::boot::Kernel;
use crate::home::{Home, VmFolder};
use crate::image::{BootFiles, Extras, Image, ImageStore};
use crate::kernels::{self, Choice, KernelName, KernelStore, KernelsError, Modules, StoredKernel};

/// The largest kernel that is read from a file of the user's.
const LARGEST_KERNEL: u64 = 512 << 20;

/// A kernel of the user's own, in the VM's folder.
pub(super) const OWN_KERNEL: &str = "kernel";

/// Where a VM's kernel comes from.
#[derive(Debug)]
pub(super) enum Chosen {
    OfImage,
    Stored(StoredKernel),
    File(PathBuf),
}

/// What of a choice is kept in a VM's description.
#[derive(Debug, Default)]
pub(super) struct Boots {
    pub(super) own_kernel: bool,
    pub(super) stored_kernel: Option<String>,
}

/// The kernel that the user asks for: a name in the store, or a file. What has a `/` is a file, and what has none is one only
/// where the store has no kernel of that name, so that a stranger's folder does not say what boots.
pub(super) fn asked_for(home: &Home, asked: &Path, arch: Arch) -> Result<Chosen, Error> {
    let Some(text) = asked.to_str().filter(|text| !text.contains('/')) else {
        return Ok(Chosen::File(asked.to_owned()));
    };
    if text == KernelName::OF_IMAGE {
        return Ok(Chosen::OfImage);
    }
    let store = KernelStore::of(home);
    match text.parse::<KernelName>() {
        Err(_) if asked.exists() => Ok(Chosen::File(asked.to_owned())),
        Ok(name) if !store.has(&name) && asked.exists() => Ok(Chosen::File(asked.to_owned())),
        Ok(name) => stored(&store, &name, arch).map(Chosen::Stored),
        Err(error) => Err(error.into()),
    }
}

/// A kernel of the store, for machines of this architecture.
fn stored(store: &KernelStore, name: &KernelName, arch: Arch) -> Result<StoredKernel, Error> {
    let kernel = store.find(name)?;
    let found = kernel.arch();
    let message = format!("the kernel {name} is for {found}, not for {arch}");
    ensure!(found == arch, super::error::InvalidSnafu { message });
    Ok(kernel)
}

/// The kernel of a VM that is to be: what is asked for; else what its user chose for its image; else what the image names;
/// else what its user chose for all; else the image's own.
fn choose(builder: &SandboxBuilder, home: &Home, image: &Image) -> Result<Chosen, Error> {
    // What boots a disk file was found with it.
    if builder.base_file.is_some() {
        return Ok(Chosen::OfImage);
    }
    if let Some(asked) = &builder.kernel {
        return asked_for(home, asked, image.arch());
    }
    let store = KernelStore::of(home);
    let [of_image, of_all] = store.chosen(image.name())?;
    let named = match (of_image, &image.profile().kernel) {
        (Some(chosen), _) => Some(chosen),
        (None, Some(name)) if builder.boot_profile == BootProfileUse::Image => {
            match name.parse().map_err(Error::from).and_then(|name| stored(&store, &name, image.arch())) {
                Ok(kernel) => return Ok(Chosen::Stored(kernel)),
                Err(error) => {
                    let message = format!("{image} wants the kernel {name}, and boots its own: {error}");
                    builder.options.observer.tell(&Progress::Warning { message });
                    return Ok(Chosen::OfImage);
                }
            }
        }
        (None, _) => of_all,
    };
    match named {
        Some(Choice::Stored(name)) => stored(&store, &name, image.arch()).map(Chosen::Stored),
        Some(Choice::OfImage) | None => Ok(Chosen::OfImage),
    }
}

/// What a VM's machine boots from, and the image that it is of.
pub(super) struct Given<'a> {
    pub(super) home: &'a Home,
    pub(super) store: &'a ImageStore,
    pub(super) image: &'a Image,
    pub(super) agent: &'a [u8],
    pub(super) extras: Extras,
}

/// Puts the chosen kernel in the place of the image's own. The modules that the guest is offered go with the kernel: there
/// are none where it is not the image's.
pub(super) fn place(
    builder: &SandboxBuilder,
    given: &Given<'_>,
    folder: &VmFolder,
    files: &mut BootFiles,
) -> Result<Boots, Error> {
    let Given { home, store, image, agent, extras } = *given;
    match choose(builder, home, image)? {
        Chosen::OfImage => Ok(Boots::default()),
        Chosen::Stored(kernel) => {
            files.initramfs = store.initramfs(image, agent, Some(kernel.release()), extras)?;
            files.kernel = kernel.kernel();
            Ok(Boots { stored_kernel: Some(kernel.name().to_string()), ..Boots::default() })
        }
        Chosen::File(path) => {
            let kernel = read(&path, image.arch())?;
            let release = kernel.release();
            let is_image = release.as_deref() == Some(image.kernel_release());
            let modules = if is_image { Modules::There } else { Modules::None };
            if let Some(what) = kernels::obstacle(&kernel, modules) {
                return KernelLacksSnafu { path, what }.fail();
            }
            // What its image's kernel was built with tells nothing of it.
            let extras = Extras { signed: true, ..extras };
            files.initramfs = store.initramfs(image, agent, release.as_deref(), extras)?;
            files.kernel = keep(&kernel, folder)?;
            Ok(Boots { own_kernel: true, ..Boots::default() })
        }
    }
}

/// Reads a kernel of the user's.
pub(super) fn read(path: &Path, arch: Arch) -> Result<Kernel, Error> {
    let read = || {
        // What is no file may have no end, or wait for a writer.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        let mut contents = Vec::new();
        File::open(path)?.take(LARGEST_KERNEL + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > LARGEST_KERNEL {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            Ok(contents)
        }
    };
    let contents =
        read().with_context(|_| SystemSnafu { what: format!("read the kernel {}", path.display()) })?;
    Kernel::from_file_contents(&contents, arch).context(KernelSnafu { path })
}

/// Keeps a kernel of the user's, in the form that an engine loads, in the VM's own folder.
fn keep(kernel: &Kernel, folder: &VmFolder) -> Result<PathBuf, Error> {
    let own = folder.path().join(OWN_KERNEL);
    let partial = own.with_extension("partial");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(kernel.bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &own)
    };
    write().with_context(|_| SystemSnafu { what: format!("write {}", own.display()) })?;
    Ok(own)
}

/// Removes a kernel of the store that nothing boots, or that nothing can boot.
pub fn remove_kernel(home: &Home, name: &KernelName) -> Result<(), Error> {
    let _quiet = Quiet::wait_for(home)?;
    let store = KernelStore::of(home);
    let mut users = Vec::new();
    for folder in home.folders()? {
        let spec = folder.spec()?.filter(|spec| spec.stored_kernel.as_deref() == Some(name.as_str()));
        users.extend(spec.map(|spec| spec.display_name().to_owned()));
    }
    let images = ImageStore::open(home.root())?.list()?;
    let images = images.iter().filter(|image| image.profile().kernel.as_deref() == Some(name.as_str()));
    users.extend(images.map(|image| format!("the image {image}")));
    let all =
        |image: String| if image == "*" { "all images".to_owned() } else { format!("images called {image}") };
    users.extend(store.chosen_for(name)?.into_iter().map(all));
    let damaged = matches!(store.find(name), Err(KernelsError::Damaged { .. }));
    if !users.is_empty() && !damaged {
        return Err(KernelsError::InUse { name: name.to_string(), users }.into());
    }
    Ok(store.remove(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_no_file_is_refused_at_once() {
        for path in ["/dev/zero", "/tmp"] {
            let error = read(Path::new(path), Arch::X86_64).err().unwrap();
            assert!(matches!(error, Error::System { .. }), "{error}");
        }
    }

    #[test]
    fn a_name_means_the_store_and_a_path_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let asked = |text: &str| asked_for(&home, Path::new(text), Arch::X86_64);
        assert!(matches!(asked("./fast").unwrap(), Chosen::File(_)));
        assert!(matches!(asked("image").unwrap(), Chosen::OfImage));
        let error = asked("no-such-kernel").unwrap_err();
        assert_eq!(error.code(), "no_such_kernel");
        assert!(error.to_string().starts_with("there is no kernel no-such-kernel"), "{error}");
    }
}
