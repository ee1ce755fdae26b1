//! An image that is small, complete and not real, and a pip that fetches it: for the tests of this module.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use vmm_disk::Format;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::catalog::{Artifact, Catalog, DiskFrom, ImageSpec, KernelFrom, Pin};
use super::digest::Digest;
use super::files;
use super::image::{Image, KERNEL, Metadata};
use super::layers::LayerId;
use super::profile::{BootProfile, RootFileSystem};
use super::pull;
use super::record::FileRecord;
use super::reference::ImageRef;
use super::source::{Network, Patience, Proxies, Published, PythonMember, PythonPackage, Source, Url};
use super::store::ImageStore;
use super::transform::Transform;
use super::version::ImageVersion;
use crate::arch::Arch;
use crate::boot::testing::{bzimage, elf_kernel, gzip};

/// The kernel's release, and the folder of modules in the root file system.
pub(super) const RELEASE: &str = "6.18.56-0-virt";

/// An ext4 file system of 128 KiB, made by `mke2fs -d`, with `/lib/modules` and `/etc/alpine-release` in it.
const ROOT: &[u8] = include_bytes!("fixtures/root.ext4.gz");

const WHEEL: &str = "fake-1.0-py3-none-any.whl";

/// A folder for a store, a catalog with one image called `fake`, and a folder with a `python3` that fetches it.
pub(super) struct Fake {
    pub(super) home: TempDir,
    pub(super) tools: TempDir,
    catalog: Catalog,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self::with_script(None)
    }

    /// The same, to be customised by a script.
    pub(super) fn customised_by(script: &'static str) -> Self {
        Self::with_script(Some(script))
    }

    fn with_script(customise: Option<&'static str>) -> Self {
        let elf = elf_kernel(RELEASE);
        let packed = bzimage(&gzip(&elf));
        let disk = root_file_system();
        let wheel = wheel(&[("fake/kernel", &packed), ("fake/disk", &disk)]);
        let tools = tempfile::tempdir().unwrap();
        fs::write(tools.path().join(WHEEL), &wheel).unwrap();
        // The catalog is static, and so is what a test puts there; it is a few bytes.
        let package = leak(PythonPackage {
            name: "fake",
            version: "1.0",
            platform: "any",
            file: WHEEL,
            pin: pin(&wheel),
        });
        let source = |member| -> &'static [&'static dyn Source] {
            leak([leak(PythonMember { package, member }) as &dyn Source])
        };
        let spec = ImageSpec {
            name: "fake",
            version: VERSION,
            arch: Arch::X86_64,
            kernel: KernelFrom::Artifact(Artifact {
                sources: source("fake/kernel"),
                fetched: pin(&packed),
                transforms: &[Transform::UnpackKernel(Arch::X86_64)],
                result: pin(&elf),
            }),
            disk: DiskFrom::Artifact(Artifact {
                sources: source("fake/disk"),
                fetched: pin(&disk),
                transforms: &[],
                result: pin(&disk),
            }),
            disk_format: Format::Raw,
            customise,
            profile: || BootProfile {
                kernel: None,
                command_line: vec!["fake=1".to_owned()],
                root: RootFileSystem::default(),
                mask_services: vec!["foreign".to_owned()],
            },
        };
        let fake =
            Self { home: tempfile::tempdir().unwrap(), tools, catalog: Catalog { images: leak([spec]) } };
        fake.let_pip("/bin/cp \"$tools/$wheel\" \"$dest/$wheel\"");
        fake
    }

    /// The same catalog and the same pip, with an empty store.
    pub(super) fn emptied(self) -> Self {
        Self { home: tempfile::tempdir().unwrap(), ..self }
    }

    pub(super) fn store(&self) -> ImageStore {
        let search_path = self.tools.path().as_os_str().to_owned();
        let mut store = ImageStore::with_catalog(self.home.path(), self.catalog, search_path).unwrap();
        // Its pip asks nobody.
        store.network.has_route = || true;
        store
    }

    /// Lets pip do this from now on. `$dest` is the folder that it downloads to, `$tools` its own.
    pub(super) fn let_pip(&self, script: &str) {
        let tools = self.tools.path().display();
        let script = format!(
            "#!/bin/sh\ntools='{tools}'\nwheel='{WHEEL}'\necho run >>\"$tools/runs\"\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n{script}\n"
        );
        // If this process itself had the script open for writing, a child that another test forks meanwhile would
        // have it too, and the script could not be started ("text file busy").
        let path = self.tools.path().join("python3");
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "/bin/cat >\"$0.new\" && /bin/chmod 755 \"$0.new\" && /bin/mv \"$0.new\" \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    /// How often pip was run.
    pub(super) fn runs(&self) -> usize {
        fs::read_to_string(self.tools.path().join("runs")).map_or(0, |runs| runs.lines().count())
    }

    /// Every file of the store that counts, which is all but locks and what is remembered.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(self.home.path(), &mut files);
        // Neither the log nor the index is of an image.
        files.retain(|path| path.parent() != Some(&self.home.path().join("images")));
        files
    }
}

/// The same image in files on a web server, at `base`, and these files. Its disk has bytes enough to be cut anywhere.
pub(super) fn on_a_web_server(base: &str) -> (Catalog, [(&'static str, Vec<u8>); 2]) {
    let elf = elf_kernel(RELEASE);
    let packed = bzimage(&gzip(&elf));
    let mut disk = root_file_system();
    // Behind the file system, and the same each time.
    let mut number = 1_u32;
    disk.resize_with(8 << 20, || {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        number.to_be_bytes()[0]
    });
    let source = |name: &str| -> &'static [&'static dyn Source] {
        leak([leak(Url { url: leak(format!("{base}/{name}")) }) as &dyn Source])
    };
    let spec = ImageSpec {
        name: "fake",
        version: VERSION,
        arch: Arch::X86_64,
        kernel: KernelFrom::Artifact(Artifact {
            sources: source("kernel"),
            fetched: pin(&packed),
            transforms: &[Transform::UnpackKernel(Arch::X86_64)],
            result: pin(&elf),
        }),
        disk: DiskFrom::Artifact(Artifact {
            sources: source("disk"),
            fetched: pin(&disk),
            transforms: &[],
            result: pin(&disk),
        }),
        disk_format: Format::Raw,
        customise: None,
        profile: BootProfile::default,
    };
    (Catalog { images: leak([spec]) }, [("kernel", packed), ("disk", disk)])
}

/// An image of which nothing is pinned, as Alpine's project publishes its disks for clouds.
pub(super) fn published(url: String) -> Catalog {
    let checksums = leak(format!("{url}.sha512"));
    let spec = ImageSpec {
        name: "fake",
        version: VERSION,
        arch: Arch::X86_64,
        kernel: KernelFrom::Root("/boot/vmlinuz-virt"),
        disk: DiskFrom::Published(Published { url: leak(url), checksums, largest: 64 << 20 }),
        disk_format: Format::Qcow2,
        customise: None,
        profile: BootProfile::default,
    };
    Catalog { images: leak([spec]) }
}

/// A store that reaches servers directly and is soon out of patience.
pub(super) fn hasty_store(home: &Path, catalog: Catalog) -> ImageStore {
    let mut store = ImageStore::with_catalog(home, catalog, std::ffi::OsString::new()).unwrap();
    store.network = hasty();
    store
}

/// No proxies, and little patience.
pub(super) fn hasty() -> Network {
    let patience = Patience { pause: Duration::from_millis(1), ..Patience::default() };
    Network { proxies: Proxies::default(), authorities: None, patience, has_route: || true }
}

/// The version of the image `fake`.
pub(super) const VERSION: ImageVersion = ImageVersion::from_parts([1, 2, 3], 20_260_102, 0xabc_def0);

/// The reference to it.
pub(super) fn fake() -> ImageRef {
    "fake".parse().unwrap()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), files);
        } else if !entry.file_name().to_string_lossy().starts_with('.') {
            files.push(entry.path());
        }
    }
}

pub(super) fn root_file_system() -> Vec<u8> {
    let mut disk = Vec::new();
    flate2::read::GzDecoder::new(ROOT).read_to_end(&mut disk).unwrap();
    disk
}

pub(super) fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, contents) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn pin(bytes: &[u8]) -> Pin {
    Pin { size: bytes.len() as u64, sha256: Digest::of(bytes) }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// An image of this exact name upon a layer, with a kernel and a module of a few bytes: for tests of who uses images.
pub(crate) fn image_upon(store: &ImageStore, layer: &LayerId, name: &str) -> Image {
    let layer = store.layers.seal(store.layers.layer(layer).unwrap(), |_| ()).unwrap();
    let reference: ImageRef = name.parse().unwrap();
    let (version, arch) = (reference.exact_version().unwrap(), Arch::host().unwrap());
    let partial = pull::fresh_partial(&store.folder_of(reference.name().as_str(), version, arch)).unwrap();
    let record = |(name, contents): (&str, &[u8])| {
        let path = partial.join(name);
        files::make_folder(path.parent().unwrap()).unwrap();
        files::write_new(&path, contents).unwrap();
        FileRecord { name: name.to_owned(), size: contents.len() as u64, sha256: Digest::of(contents) }
    };
    let metadata = Metadata {
        name: reference.name().clone(),
        version,
        arch,
        kernel_release: RELEASE.to_owned(),
        layer: layer.id,
        files: [(KERNEL, &b"kernel"[..]), ("modules/one.ko", b"module")].map(record).to_vec(),
        profile: BootProfile::default(),
        origin: Vec::new(),
        pulled_ms: None,
        catalog: None,
        customise: None,
        customised: None,
        system: None,
        vm: None,
    };
    pull::publish(store, metadata, &partial).unwrap()
}
