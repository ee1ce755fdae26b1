//! `vmm cp`: files and trees into a VM and out of it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vmm::{ByteString, CancelToken, Copied, CopyOptions, CopyOwner, Error, Home, Sandbox};

use super::run;
use crate::error::Failure;
use crate::progress::CopyDisplay;
use crate::sanitise::say;
use crate::signals::SignalForwarder;
use crate::standard::Standard;
use crate::values;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm cp project box:/srv           makes /srv/project, or /srv if there is none
  vmm cp project/. box:/srv         what is in project, into /srv
  vmm cp box:/var/log/messages .
  vmm cp box:/etc - | tar -t        a tar archive on standard output
  tar -c . | vmm cp - box:/srv      unpacks a tar archive from standard input")]
pub(crate) struct Cp {
    /// Whose the copies become: keep (by number), or a user of the side that they are copied to, perhaps with :group
    #[arg(long, value_name = "keep|USER[:GROUP]")]
    owner: Option<String>,
    /// Keep set-user-id and set-group-id bits and capabilities
    #[arg(long)]
    set_id: bool,
    /// Copy devices and pipes too
    #[arg(long)]
    devices: bool,
    /// End a copy out of a VM that is more than that, such as 500K or 2G
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    max_size: Option<u64>,
    /// End a copy out of a VM that is more than so many files and folders
    #[arg(long, value_name = "N")]
    max_entries: Option<u64>,
    /// What to copy: VM:PATH, or a path here, or - for a tar archive from standard input
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<OsString>,
    /// Where to: a path here, or - for a tar archive on standard output, or VM:PATH
    #[arg(value_name = "DST", required = true)]
    target: OsString,
}

/// One of the paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host(PathBuf),
    Guest { vm: String, path: Vec<u8> },
    Stream,
}

impl Place {
    /// A colon behind a name names a VM; `./a:b` is a file here.
    pub(super) fn of(path: &OsStr) -> Self {
        if path == "-" {
            return Self::Stream;
        }
        let bytes = path.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0);
        let named =
            colon.and_then(|colon| Some((std::str::from_utf8(&bytes[..colon]).ok()?, &bytes[colon + 1..])));
        match named.filter(|(vm, _)| !vm.contains('/')) {
            Some((vm, path)) => Self::Guest { vm: vm.to_owned(), path: path.to_vec() },
            None => Self::Host(PathBuf::from(path)),
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Copy {
    In { sources: Vec<PathBuf>, vm: String, target: Vec<u8> },
    Unpack { vm: String, target: Vec<u8> },
    Out { vm: String, sources: Vec<Vec<u8>>, target: PathBuf },
    Pack { vm: String, sources: Vec<Vec<u8>> },
}

impl Copy {
    fn of(sources: &[OsString], target: &OsStr) -> Result<Self, Failure> {
        const SIDES: &str = "one side is VM:PATH, the other a path here, or - for a tar archive";
        let places: Vec<Place> = sources.iter().map(|path| Place::of(path)).collect();
        match Place::of(target) {
            Place::Guest { vm, path: target } => {
                if places == [Place::Stream] {
                    return Ok(Self::Unpack { vm, target });
                }
                let sources = places.into_iter().map(|place| match place {
                    Place::Host(path) => Ok(path),
                    Place::Stream => Err(Failure::usage("an archive from standard input is copied alone")),
                    Place::Guest { .. } => Err(Failure::usage("both sides are in a VM")
                        .with_hint("vmm cp ONE:/path - | vmm cp - OTHER:/path")),
                });
                Ok(Self::In { sources: sources.collect::<Result<_, _>>()?, vm, target })
            }
            target => {
                let mut from: Option<String> = None;
                let mut sources = Vec::new();
                for place in places {
                    let Place::Guest { vm, path } = place else {
                        return Err(Failure::usage("no side is in a VM").with_hint(SIDES));
                    };
                    if from.as_ref().is_some_and(|from| *from != vm) {
                        return Err(Failure::usage("what is copied at once is in one VM"));
                    }
                    from = Some(vm);
                    sources.push(path);
                }
                let Some(vm) = from else { return Err(Failure::usage(SIDES)) };
                Ok(match target {
                    Place::Host(target) => Self::Out { vm, sources, target },
                    _ => Self::Pack { vm, sources },
                })
            }
        }
    }

    fn vm(&self) -> &str {
        match self {
            Self::In { vm, .. } | Self::Unpack { vm, .. } | Self::Out { vm, .. } | Self::Pack { vm, .. } => {
                vm
            }
        }
    }
}

impl Cp {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let copy = Copy::of(&self.sources, &self.target)?;
        if matches!(copy, Copy::Pack { .. }) && io::stdout().is_terminal() {
            return Err(Failure::usage("a tar archive is not for a terminal")
                .with_hint("redirect standard output to a file or into a program"));
        }
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, copy.vm())?;
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let owner = match self.owner.as_deref() {
            None => CopyOwner::Usual,
            Some("keep") => CopyOwner::Keep,
            Some(owner) => CopyOwner::Named(owner.to_owned()),
        };
        let display = CopyDisplay::new(quiet, total(&copy));
        let observer = display.clone();
        let mut options = CopyOptions::default()
            .owner(owner)
            .set_id(self.set_id)
            .devices(self.devices)
            .cancel(&token)
            .on_progress(move |bytes| observer.show(bytes));
        if let Some(bytes) = self.max_size {
            options = options.max_bytes(bytes);
        }
        if let Some(entries) = self.max_entries {
            options = options.max_entries(entries);
        }
        let copied = match copy {
            Copy::In { sources, target, .. } => sandbox.copy_in(sources, target, &options),
            Copy::Unpack { target, .. } => sandbox.unpack(Standard { token: &token }, target, &options),
            Copy::Out { sources, target, .. } => sandbox.copy_out(guest_paths(sources), target, &options),
            Copy::Pack { sources, .. } => {
                sandbox.pack(guest_paths(sources), Standard { token: &token }, &options)
            }
        };
        display.clear();
        match copied {
            Err(Error::Cancelled) => Ok(run::cancelled(&signals)),
            copied => {
                warn(&copied?);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn guest_paths(paths: Vec<Vec<u8>>) -> impl Iterator<Item = ByteString> {
    paths.into_iter().map(ByteString::from)
}

/// How many bytes will go through, about, where that is easily known: the lengths of plain files.
fn total(copy: &Copy) -> Option<u64> {
    let Copy::In { sources, .. } = copy else { return None };
    let lengths = sources.iter().map(|path| {
        let metadata = path.symlink_metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    });
    lengths.sum()
}

/// Says what was not copied as it was.
fn warn(copied: &Copied) {
    let losses = [
        (copied.sockets, "sockets were left out"),
        (copied.set_id_taken, "files lost their set-id bits; --set-id keeps them"),
        (copied.attributes_lost, "extended attributes were lost: the target's file system has none"),
    ];
    for (count, what) in losses.into_iter().filter(|(count, _)| *count > 0) {
        say(&format!("vmm: {count} {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(paths: &[&str]) -> Result<Copy, String> {
        let (target, sources) = paths.split_last().unwrap();
        let sources: Vec<OsString> = sources.iter().map(OsString::from).collect();
        Copy::of(&sources, OsStr::new(target)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_colon_behind_a_name_is_a_vm() {
        let host = |path: &str| Place::Host(PathBuf::from(path));
        let guest = |vm: &str, path: &str| Place::Guest { vm: vm.to_owned(), path: path.as_bytes().to_vec() };
        let place = |path: &str| Place::of(OsStr::new(path));
        assert_eq!(place("box:/etc"), guest("box", "/etc"));
        assert_eq!(place("box:"), guest("box", ""));
        assert_eq!(place("box:a:b"), guest("box", "a:b"));
        for path in ["file", "./a:b", "/a:b", ":a", "dir/a:b"] {
            assert_eq!(place(path), host(path));
        }
        assert_eq!(place("-"), Place::Stream);
    }

    #[test]
    fn one_side_is_in_one_vm() {
        assert!(matches!(copy(&["a", "b", "box:/x"]), Ok(Copy::In { sources, .. }) if sources.len() == 2));
        assert!(
            matches!(copy(&["box:/a", "box:/b", "x"]), Ok(Copy::Out { sources, .. }) if sources.len() == 2)
        );
        assert!(matches!(copy(&["-", "box:/a"]), Ok(Copy::Unpack { .. })));
        assert!(matches!(copy(&["box:/a", "-"]), Ok(Copy::Pack { .. })));
        for wrong in [
            &["a", "b"][..],
            &["box:/a", "other:/b"],
            &["box:/a", "other:/b", "c"],
            &["box:/a", "b", "c"],
            &["-", "a", "box:/x"],
            &["-", "-"],
            &["-", "a"],
        ] {
            assert!(copy(wrong).is_err(), "{wrong:?}");
        }
    }
}
