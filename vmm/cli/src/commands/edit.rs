//! `vmm edit`: a file in a VM, in the user's own editor.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use vmm::{ByteString, CancelToken, FileInfo, FileKind, Home, Sandbox};

use super::cp::Place;
use crate::error::Failure;
use crate::sanitise::say;
use crate::signals::SignalForwarder;

/// No editor is given a longer file.
const LONGEST: u64 = 64 << 20;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm edit box:/etc/hosts
  EDITOR='code --wait' vmm edit box:notes      in root's home")]
pub(crate) struct Edit {
    /// The file, which is made if it is not there
    #[arg(value_name = "VM:PATH")]
    file: OsString,
}

impl Edit {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Place::Guest { vm, path } = Place::of(&self.file) else {
            return Err(Failure::usage("what is edited is VM:PATH, such as box:/etc/hosts"));
        };
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let guest = GuestFile { sandbox: Sandbox::attach(&home, &vm)?, path, named: self.file };
        let before = guest.look()?;
        let contents = guest.contents(before.as_ref())?;
        // Those of the terminal are for the editor, and the text must outlive the others.
        let _signals = SignalForwarder::install(&CancelToken::new()?)?;
        let copy = Copy::make(&guest.path, &contents)?;
        let edited = copy.edit().and_then(|()| Ok(fs::read(&copy.file)?));
        let edited = match edited {
            Ok(edited) if edited == contents => {
                copy.remove();
                say(&format!("vmm: {} is unchanged", guest.named.to_string_lossy()));
                return Ok(ExitCode::SUCCESS);
            }
            edited => edited,
        };
        let written = edited.and_then(|edited| guest.write(before.as_ref(), &edited));
        match written {
            Ok(()) => {
                copy.remove();
                Ok(ExitCode::SUCCESS)
            }
            Err(failure) => Err(copy.keep(&contents, failure)),
        }
    }
}

/// The file in the guest.
struct GuestFile {
    sandbox: Sandbox,
    path: Vec<u8>,
    named: OsString,
}

impl GuestFile {
    fn path(&self) -> ByteString {
        self.path.clone().into()
    }

    /// What it is, if it is there.
    fn look(&self) -> Result<Option<FileInfo>, Failure> {
        let info = match self.sandbox.stat(self.path()) {
            Ok(info) => info,
            Err(error) if error.code() == "no_such_file" => {
                return match self.sandbox.stat_link(self.path()) {
                    Ok(_) => Err(self.unfit("is a symbolic link that leads nowhere")),
                    Err(_) => Ok(None),
                };
            }
            Err(error) => return Err(error.into()),
        };
        match info.kind {
            FileKind::File if info.length <= LONGEST => Ok(Some(info)),
            FileKind::File => Err(self.unfit("is longer than the 64 MiB that are edited")),
            kind => Err(self.unfit(&format!("is no file but a {kind}"))),
        }
    }

    fn unfit(&self, why: &str) -> Failure {
        Failure::usage(format!("{} {why}", self.named.to_string_lossy()))
    }

    fn contents(&self, info: Option<&FileInfo>) -> Result<Vec<u8>, Failure> {
        if info.is_none() {
            return Ok(Vec::new());
        }
        let length = usize::try_from(LONGEST).unwrap_or(usize::MAX);
        Ok(self.sandbox.read_part(self.path(), 0, length)?)
    }

    /// Writes it back, with its owner and mode, unless it is another file by now.
    fn write(&self, before: Option<&FileInfo>, edited: &[u8]) -> Result<(), Failure> {
        let now = self.look()?;
        let version = |info: &FileInfo| (info.inode, info.length, info.modified, info.modified_ns);
        if now.as_ref().map(version) != before.map(version) {
            let why = "has changed in the guest meanwhile, and was not written";
            return Err(self.unfit(why));
        }
        match now {
            Some(info) => self.sandbox.write_file_as(self.path(), edited, &info)?,
            None => self.sandbox.write_file(self.path(), edited)?,
        }
        Ok(())
    }
}

/// The copy that is edited, in a folder that nobody else enters.
struct Copy {
    folder: PathBuf,
    file: PathBuf,
}

impl Copy {
    fn make(path: &[u8], contents: &[u8]) -> Result<Self, Failure> {
        // An editor goes by the name's end.
        let name = path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).unwrap_or(b"file");
        let folder = new_folder()?;
        let file = folder.join(OsStr::from_bytes(name));
        let copy = Self { folder, file };
        let made = File::options().write(true).create_new(true).mode(0o600).open(&copy.file);
        match made.and_then(|mut made| made.write_all(contents)) {
            Ok(()) => Ok(copy),
            Err(error) => {
                copy.remove();
                let copy = copy.file.display();
                Err(Failure::usage(format!("cannot write {copy}, which was to be edited: {error}")))
            }
        }
    }

    /// Runs the user's editor, which may have arguments of its own.
    fn edit(&self) -> Result<(), Failure> {
        let named = ["VISUAL", "EDITOR"].map(std::env::var_os);
        let editor = named.into_iter().flatten().find(|editor| !editor.is_empty());
        let editor = editor.unwrap_or_else(|| OsString::from("vi"));
        let shown = editor.to_string_lossy().into_owned();
        let script = OsString::from_vec([editor.as_bytes(), b" \"$@\""].concat());
        let status = Command::new("sh").arg("-c").arg(script).arg(&editor).arg(&self.file).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::usage(format!("the editor {shown} ended with {status}"))
                .with_hint("set EDITOR to the one that you use")),
            Err(error) => Err(Failure::usage(format!("cannot start the editor {shown}: {error}"))),
        }
    }

    /// Keeps what was edited, and says where.
    fn keep(self, before: &[u8], failure: Failure) -> Failure {
        if fs::read(&self.file).is_ok_and(|now| now == before) {
            self.remove();
            return failure;
        }
        failure.with_hint(format!("your text is in {}", self.file.display()))
    }

    fn remove(&self) {
        // Editors leave files of theirs beside it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn new_folder() -> Result<PathBuf, Failure> {
    let parent = std::env::temp_dir();
    for number in 0.. {
        let folder = parent.join(format!("vmm-edit-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_make(&folder, &error)),
        }
    }
    Err(cannot_make(&parent, &io::ErrorKind::AlreadyExists.into()))
}

fn cannot_make(folder: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot make the folder {}: {error}", folder.display()))
}
