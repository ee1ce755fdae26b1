//! Whether a kernel has what vmm needs, and what is lost where it has not.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use snafu::{OptionExt, ResultExt};

use super::configuration::{Configuration, Presence};
use super::error::{NoConfigurationSnafu, NotAKernelSnafu, ReadSnafu, Result, UnknownArchSnafu};
use super::fragments::{self, Purpose};
use crate::arch::Arch;
use crate::boot::{Compression, Kernel};
use crate::image::{Image, ImageStore};

/// The largest file that is taken for a kernel or a configuration.
const LARGEST: u64 = 512 << 20;

/// What a packed configuration may unpack to.
const LARGEST_CONFIGURATION: u64 = 4 << 20;

/// What is known of the modules of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// They are there.
    There,
    /// There are none.
    None,
    /// It is not known: a configuration or a kernel alone does not tell.
    Unknown,
}

/// A kernel that can be checked: what it was built with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it is called, for people.
    pub name: String,
    /// What it was built with.
    pub configuration: Configuration,
    /// The machines that it is for.
    pub arch: Arch,
    /// What is known of its modules.
    pub modules: Modules,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What was checked.
    pub name: String,
    /// The machines that it is for.
    pub arch: Arch,
    /// The purposes that it was checked for, beside what every kernel must have.
    pub purposes: Vec<Purpose>,
    /// Nothing is missing.
    pub complete: bool,
    /// How many symbols were looked for.
    pub symbols: usize,
    /// What is not there.
    pub missing: Vec<Missing>,
    /// What is there only as a module: it takes an image with the modules of this very kernel.
    pub modules: Vec<&'static str>,
}

/// Something that a kernel lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The symbol, with `CONFIG_`.
    pub symbol: &'static str,
    /// What does not work without it.
    pub lost: &'static str,
    /// Without it no VM gets ready.
    pub stops: bool,
    /// It would be a module, which is not there.
    pub module: bool,
}

impl Subject {
    /// Reads a file: a configuration, perhaps packed, or a kernel that brings its own.
    pub fn of_file(path: &Path) -> Result<Self> {
        let bytes = read(path).context(ReadSnafu { path })?;
        let name = path.display().to_string();
        if let Some(text) = text_of(&bytes)
            && let Some(configuration) = Configuration::parse(&text)
        {
            return Self::new(name, configuration, Modules::Unknown);
        }
        let kernel = Arch::ALL.into_iter().find_map(|arch| Kernel::from_file_contents(&bytes, arch).ok());
        let kernel = kernel.context(NotAKernelSnafu { path })?;
        let configuration = kernel.configuration().and_then(|text| Configuration::parse(&text));
        let configuration = configuration.context(NoConfigurationSnafu { name: &name })?;
        Ok(Self { name, configuration, arch: kernel.arch(), modules: Modules::Unknown })
    }

    /// Takes the kernel of an image.
    pub fn of_image(store: &ImageStore, image: &Image) -> Result<Self> {
        let name = format!("{image}-{}", image.arch());
        let facts = store.kernel_facts(image)?;
        let configuration = facts.configuration.and_then(|text| Configuration::parse(&text));
        let configuration = configuration.context(NoConfigurationSnafu { name: &name })?;
        let modules = if facts.has_modules { Modules::There } else { Modules::None };
        Ok(Self { name, configuration, arch: image.arch(), modules })
    }

    pub(super) fn new(name: String, configuration: Configuration, modules: Modules) -> Result<Self> {
        let arch = configuration.arch().context(UnknownArchSnafu { name: &name })?;
        Ok(Self { name, configuration, arch, modules })
    }

    /// Looks for everything that vmm needs, and what these purposes want.
    pub fn check(&self, purposes: &[Purpose]) -> Checked {
        let entries = fragments::checked(self.arch, purposes);
        let (mut missing, mut modules) = (Vec::new(), Vec::new());
        for entry in &entries {
            let presence = self.configuration.presence(entry.symbol);
            match (presence, self.modules) {
                (Presence::BuiltIn, _) => {}
                (Presence::Module, Modules::There | Modules::Unknown) => modules.push(entry.symbol),
                (Presence::Module, Modules::None) | (Presence::Absent, _) => missing.push(Missing {
                    symbol: entry.symbol,
                    lost: entry.lost.unwrap_or_default(),
                    stops: entry.stops,
                    module: presence == Presence::Module,
                }),
            }
        }
        Checked {
            name: self.name.clone(),
            arch: self.arch,
            purposes: purposes.to_vec(),
            complete: missing.is_empty(),
            symbols: entries.len(),
            missing,
            modules,
        }
    }
}

impl Checked {
    /// What keeps VMs from getting ready, in a line. `None`: nothing does.
    pub fn obstacle(&self) -> Option<String> {
        let mut stopping = self.missing.iter().filter(|missing| missing.stops);
        let Missing { symbol, lost, module, .. } = stopping.next()?;
        let how = if *module { " but as a module, which is not there" } else { "" };
        let more = match stopping.count() {
            0 => String::new(),
            count => format!(" (and {count} more like it)"),
        };
        Some(format!("it has no {symbol}{how}: {lost}{more}"))
    }
}

/// What keeps a kernel of the user's from running a VM, in a line, as far as the kernel tells what it was built with.
pub fn obstacle(kernel: &Kernel, modules: Modules) -> Option<String> {
    let configuration = Configuration::parse(&kernel.configuration()?)?;
    let subject = Subject { name: String::new(), configuration, arch: kernel.arch(), modules };
    subject.check(&[]).obstacle()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // What is no file may have no end, or wait for a writer.
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// The text that a file is, perhaps packed.
fn text_of(bytes: &[u8]) -> Option<String> {
    if bytes.len() as u64 <= LARGEST_CONFIGURATION
        && let Some(packing) = Compression::of(bytes)
    {
        return String::from_utf8(packing.unpack(bytes, LARGEST_CONFIGURATION).ok()?).ok();
    }
    if bytes.len() as u64 > LARGEST_CONFIGURATION || bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// The text of a configuration that has everything, but for what a test leaves out.
    fn complete(arch: Arch, without: &str) -> String {
        let machine = match arch {
            Arch::X86_64 => "CONFIG_X86_64=y\n",
            Arch::Arm64 => "CONFIG_ARM64=y\n",
        };
        let lines = fragments::merged(arch, &Purpose::ALL);
        let lines = lines.iter().filter(|(symbol, _)| **symbol != without);
        lines.fold(machine.to_owned(), |mut text, (_, line)| {
            writeln!(text, "{line}").unwrap();
            text
        })
    }

    fn subject(text: &str, modules: Modules) -> Subject {
        Subject::new("a kernel".to_owned(), Configuration::parse(text).unwrap(), modules).unwrap()
    }

    #[test]
    fn each_symbol_that_is_taken_out_is_named() {
        for arch in Arch::ALL {
            let whole = subject(&complete(arch, ""), Modules::None).check(&Purpose::ALL);
            assert!(whole.complete && whole.missing.is_empty(), "{:?}", whole.missing);
            for entry in fragments::checked(arch, &Purpose::ALL) {
                let without = subject(&complete(arch, entry.symbol), Modules::None).check(&Purpose::ALL);
                assert!(!without.complete);
                assert!(without.missing.iter().all(|missing| missing.symbol == entry.symbol));
                assert!(without.missing.iter().any(|missing| Some(missing.lost) == entry.lost));
                assert_eq!(without.obstacle().is_some(), entry.stops, "{}", entry.symbol);
            }
        }
    }

    #[test]
    fn what_a_purpose_wants_is_asked_for_only_then() {
        let text = complete(Arch::X86_64, "CONFIG_VIRTIO_NET");
        let subject = subject(&text, Modules::None);
        assert!(subject.check(&[]).complete);
        assert_eq!(subject.check(&[Purpose::Network]).missing[0].symbol, "CONFIG_VIRTIO_NET");
    }

    #[test]
    fn a_module_counts_where_the_image_brings_it() {
        let text = complete(Arch::X86_64, "CONFIG_EXT4_FS") + "CONFIG_EXT4_FS=m\n";
        for modules in [Modules::There, Modules::Unknown] {
            let checked = subject(&text, modules).check(&[]);
            assert!(checked.complete);
            assert_eq!(checked.modules, ["CONFIG_EXT4_FS"]);
        }
        let obstacle = subject(&text, Modules::None).check(&[]).obstacle().unwrap();
        assert_eq!(
            obstacle,
            "it has no CONFIG_EXT4_FS but as a module, which is not there: the root cannot be mounted: images have ext4"
        );
    }

    #[test]
    fn a_file_is_read_whatever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let text = complete(Arch::X86_64, "");
        let packed = crate::boot::testing::gzip(text.as_bytes());
        let mut kernel = crate::boot::testing::elf_kernel("6.12.1-vmm");
        kernel.extend([b"IKCFG_ST".as_slice(), &packed, b"IKCFG_ED"].concat());
        for (name, bytes) in [
            ("config", text.as_bytes()),
            ("config.gz", &packed),
            ("vmlinux", &kernel),
            ("bzImage", &crate::boot::testing::bzimage(&crate::boot::testing::gzip(&kernel))),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let subject = Subject::of_file(&path).unwrap();
            assert!(subject.check(&Purpose::ALL).complete, "{name}");
        }
    }

    #[test]
    fn a_file_that_tells_nothing_is_refused_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let refusal = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = Subject::of_file(&path).unwrap_err().to_string();
            error.replace(&path.display().to_string(), "FILE")
        };
        assert_eq!(refusal(b""), "FILE is neither a kernel nor a kernel's configuration");
        assert_eq!(refusal(&[0xff; 100]), "FILE is neither a kernel nor a kernel's configuration");
        assert!(refusal(b"CONFIG_A=y\n").starts_with("FILE is for no machine of ours"));
        let kernel = crate::boot::testing::elf_kernel("6.12.1");
        assert!(refusal(&kernel).starts_with("FILE does not tell what it was built with"));
        assert!(Subject::of_file(Path::new("/dev/zero")).is_err());
    }
}
