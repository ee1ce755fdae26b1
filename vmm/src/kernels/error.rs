//! What can go wrong with kernels, and what to do about it.

use std::io;
use std::path::PathBuf;

use snafu::Snafu;

use crate::arch::Arch;
use crate::image::ImageError;

/// Why something with a kernel failed.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum KernelsError {
    /// A file cannot be read.
    #[snafu(display("cannot read {}", path.display()))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is something else.
    #[snafu(display("{} is neither a kernel nor a kernel's configuration", path.display()))]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// A kernel does not tell what it was built with.
    #[snafu(display(
        "{name} does not tell what it was built with (CONFIG_IKCONFIG): check its configuration instead, which \
         distributions put into /boot"
    ))]
    NoConfiguration {
        /// The kernel.
        name: String,
    },
    /// A configuration of a kernel for other machines.
    #[snafu(display("{name} is for no machine of ours: x86_64 and arm64 are"))]
    UnknownArch {
        /// The configuration.
        name: String,
    },
    /// An image, or a file of the store.
    #[snafu(context(false), display("{source}"))]
    Image {
        /// The cause.
        #[snafu(source(from(ImageError, Box::new)))]
        source: Box<ImageError>,
    },
    /// A name that no kernel can have.
    #[snafu(display(
        "{name:?} cannot be the name of a kernel: use letters, digits, `_`, `.` and `-`, 63 at most; `image` means the \
         image's own"
    ))]
    Name {
        /// The name.
        name: String,
    },
    /// There is no such kernel.
    #[snafu(display("there is no kernel {name}: {}", known(there)))]
    Unknown {
        /// The name.
        name: String,
        /// Those there are.
        there: Vec<String>,
    },
    /// There is one of that name.
    #[snafu(display(
        "there is a kernel {name} already: remove it with `vmm kernel rm {name}`, or choose another --name"
    ))]
    Exists {
        /// The name.
        name: String,
    },
    /// Others need it.
    #[snafu(display("the kernel {name} is used by {}", users.join(", ")))]
    InUse {
        /// The name.
        name: String,
        /// VMs, and choices.
        users: Vec<String>,
    },
    /// The store's file is not what was written.
    #[snafu(display("{} is damaged: {what}; build the kernel again (vmm kernel rm {name})", path.display()))]
    Damaged {
        /// The kernel.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// What was chosen cannot be read.
    #[snafu(display("cannot read which kernels were chosen: {}: {what}; remove it to choose anew", path.display()))]
    Choices {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It cannot boot the machines of this host.
    #[snafu(display("the kernel {name} is for {found}, which is not what VMs of this machine are"))]
    OtherArch {
        /// The kernel.
        name: String,
        /// What it is for.
        found: Arch,
    },
    /// Another process builds it.
    #[snafu(display("the kernel {name} is being built or removed by another process"))]
    Busy {
        /// The kernel.
        name: String,
    },
    /// The source is none.
    #[snafu(display("{} is no source of a kernel: {why}", path.display()))]
    Source {
        /// The tree or the tarball.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A version whose symbols are not known.
    #[snafu(display(
        "{} is Linux {version}: only {known} is known here (Debian's package linux-source-{known} has it)",
        path.display()
    ))]
    Version {
        /// The tree or the tarball.
        path: PathBuf,
        /// Its version.
        version: String,
        /// Those that are known.
        known: &'static str,
    },
    /// What a build needs is not installed.
    #[snafu(display("cannot build a kernel without {}: install {}", tools.join(", "), packages.join(" ")))]
    Tools {
        /// What is missing.
        tools: Vec<&'static str>,
        /// The packages that have it, as Debian names them.
        packages: Vec<&'static str>,
    },
    /// The tree has another opinion on a symbol.
    #[snafu(display("the source does not take {}: it is of another kind than the fragments are for", lines.join(", ")))]
    Refused {
        /// The lines of the fragments.
        lines: Vec<String>,
    },
    /// A step of the build failed.
    #[snafu(display("cannot build the kernel: {step} failed{}; all that it said is in {}", said(last), log.display()))]
    Build {
        /// What was run.
        step: &'static str,
        /// The last line that looks like an error.
        last: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// What was built is not what was to be.
    #[snafu(display("the kernel that was built is not used: {why}"))]
    Unfit {
        /// Why not.
        why: String,
    },
    /// It was given up.
    #[snafu(display("the build was given up"))]
    Cancelled,
    /// Something of the system's failed.
    #[snafu(display("cannot {what}"))]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// The result of this module's functions.
pub(super) type Result<T, E = KernelsError> = std::result::Result<T, E>;

fn known(there: &[String]) -> String {
    match there {
        [] => "none was built yet (vmm kernel build)".to_owned(),
        there => format!("there are {}", there.join(", ")),
    }
}

fn said(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(" ({last})") }
}
