//! Everything that can go wrong with a project, with a stable code and a hint.

use std::io;
use std::path::PathBuf;

use snafu::Snafu;

use super::file::Problem;
use crate::home::HomeError;
use crate::sandbox;

/// Why something could not be done with a project. [`ProjectError::code`] is stable; the text is for people.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum ProjectError {
    /// The project's folder cannot be read.
    #[snafu(display("cannot read the folder {}", path.display()))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file above this folder is another user's.
    #[snafu(display("{} belongs to another user", file.display()))]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// The project's file is a link that leads out of the project.
    #[snafu(display("{} is a link that leads out of its folder", file.display()))]
    LeadsOut {
        /// The link.
        file: PathBuf,
    },
    /// A file cannot be read, or is none.
    #[snafu(display("cannot read {}", path.display()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The project's file does not say what it should.
    #[snafu(display("{}", told(path, problems)))]
    File {
        /// The file.
        path: PathBuf,
        /// All that is wrong with it.
        problems: Vec<Problem>,
    },
    /// The project uses files beyond its folder, and nobody has said yet that it may.
    #[snafu(display("the project uses files outside its folder: {}", listed(paths)))]
    Untrusted {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// A plan would lose disks.
    #[snafu(display("the disk of {} would be lost: {} made anew", machines.join(", "),
        if machines.len() == 1 { "it is" } else { "they are" }))]
    Destructive {
        /// The machines whose disks would be lost.
        machines: Vec<String>,
    },
    /// The project has no machine of that name.
    #[snafu(display("the project {} has no VM {wanted:?}{}", folder.display(),
        nearest.as_ref().map(|name| format!(": did you mean {name}?")).unwrap_or_default()))]
    NoSuchMachine {
        /// The project.
        folder: PathBuf,
        /// What was asked for.
        wanted: String,
        /// A name that is nearly the same.
        nearest: Option<String>,
    },
    /// The project has several machines, and none was named.
    #[snafu(display("the project {} has several VMs: name one of {}", folder.display(), machines.join(", ")))]
    SeveralMachines {
        /// The project.
        folder: PathBuf,
        /// Their names.
        machines: Vec<String>,
    },
    /// The machine was never started.
    #[snafu(display("the VM {machine} of the project {} is not up", folder.display()))]
    NotUp {
        /// The project.
        folder: PathBuf,
        /// The machine.
        machine: String,
    },
    /// What is remembered of the project cannot be understood.
    #[snafu(display("what is remembered of the project is damaged: {}", path.display()))]
    Record {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// What is remembered of the project was written by a newer vmm.
    #[snafu(display("{} was written by a newer vmm", path.display()))]
    NewerRecord {
        /// The file.
        path: PathBuf,
    },
    /// There is a file in the way.
    #[snafu(display("{} is there already", path.display()))]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[snafu(display("cannot write {}", path.display()))]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A script did not do what it should.
    #[snafu(display("{machine}: {script} failed: {outcome}"))]
    Script {
        /// The machine.
        machine: String,
        /// What the script is called.
        script: String,
        /// How it ended.
        outcome: String,
        /// The end of what it wrote.
        output: String,
    },
    /// A machine does not do what it is for.
    #[snafu(display("{machine}: not healthy after {attempts} attempts: {outcome}"))]
    Unhealthy {
        /// The machine.
        machine: String,
        /// How often it was asked.
        attempts: u32,
        /// How the last attempt ended.
        outcome: String,
        /// The end of what that wrote.
        output: String,
    },
    /// What was asked for was cancelled.
    #[snafu(display("cancelled"))]
    Cancelled,
    /// The home.
    #[snafu(context(false), display("{source}"))]
    Home {
        /// The cause.
        #[snafu(source)]
        source: HomeError,
    },
    /// A VM.
    #[snafu(display("{machine}: {source}"))]
    Machine {
        /// The machine.
        machine: String,
        /// The cause.
        #[snafu(source(from(sandbox::Error, Box::new)))]
        source: Box<sandbox::Error>,
    },
    /// The system refused something.
    #[snafu(display("cannot {what}"))]
    System {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl ProjectError {
    /// A stable word for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "project_folder",
            Self::Foreign { .. } => "project_foreign",
            Self::LeadsOut { .. } | Self::Read { .. } => "project_read",
            Self::File { .. } => "project_file",
            Self::Untrusted { .. } => "project_untrusted",
            Self::Destructive { .. } => "project_destructive",
            Self::NoSuchMachine { .. } => "project_no_such_vm",
            Self::SeveralMachines { .. } => "project_several_vms",
            Self::NotUp { .. } => "project_not_up",
            Self::Record { .. } | Self::NewerRecord { .. } => "project_record",
            Self::Exists { .. } => "project_exists",
            Self::Write { .. } => "project_write",
            Self::Script { .. } => "project_script",
            Self::Unhealthy { .. } => "project_unhealthy",
            Self::Cancelled => "cancelled",
            Self::Home { source } => source.code(),
            Self::Machine { source, .. } => source.code(),
            Self::System { .. } => "system",
        }
    }

    /// What to do about it, in a sentence or a command.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign { file } => {
                let folder = file.parent()?.display();
                Some(format!(
                    "for the folder you are in, say --project .; only if you trust whoever wrote that file: --project {folder}"
                ))
            }
            Self::LeadsOut { .. } => Some("put the file itself there".to_owned()),
            Self::Untrusted { .. } => {
                Some("if you trust it with them, say so once: vmm up --trust".to_owned())
            }
            Self::Destructive { .. } => Some("if that is meant: vmm up --yes".to_owned()),
            Self::NoSuchMachine { nearest: None, .. } => Some("vmm status lists those it has".to_owned()),
            Self::NotUp { .. } => Some("start it: vmm up".to_owned()),
            Self::Record { path, .. } => {
                Some(format!("remove it; vmm ps lists the VMs that it was about: rm {}", path.display()))
            }
            Self::NewerRecord { .. } => Some("use that vmm".to_owned()),
            Self::Exists { .. } => Some("edit it, or remove it first".to_owned()),
            Self::Script { .. } => Some("vmm up tries it again".to_owned()),
            Self::Unhealthy { machine, .. } => {
                Some(format!("look around in it: vmm shell {machine}; vmm up tries again"))
            }
            Self::Home { source } => source.hint(),
            Self::Machine { source, .. } => source.hint(),
            _ => None,
        }
    }

    /// The end of what a command in the guest wrote that did not do what it should.
    pub fn output(&self) -> Option<&str> {
        match self {
            Self::Script { output, .. } | Self::Unhealthy { output, .. } => {
                Some(output.as_str()).filter(|output| !output.is_empty())
            }
            _ => None,
        }
    }

    /// The last lines of a guest's console, where they say something about it.
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Self::Machine { source, .. } => source.console_tail(),
            _ => None,
        }
    }
}

/// A line for each problem, as compilers write them.
fn told(path: &std::path::Path, problems: &[Problem]) -> String {
    let path = path.display();
    let lines = problems.iter().map(|problem| {
        let Problem { line, column, message } = problem;
        format!("{path}:{line}:{column}: {message}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
