//! A kernel, a root disk and an initramfs for monitors that bring none: the kernel and the root of our own image, and a
//! small initramfs whose shell takes commands from the console.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use vmm::arch::Arch;
use vmm::image::{ImageRef, ImageStore};
use vmm::{DiskFormat, Home, Sandbox};

use crate::bounded::{Limit, output};
use crate::trouble::Trouble;

/// Where they lie.
#[derive(Debug)]
pub(crate) struct GuestFiles {
    /// An uncompressed kernel.
    pub(crate) kernel: PathBuf,
    /// A raw disk with Alpine's root on it, for copies and overlays.
    pub(crate) root: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// What the initramfs may have at most.
const MAX_INITRAMFS: usize = 64 << 20;

/// Run in a VM of the image: collects its shell and the modules of its kernel that lie below the root.
const COLLECT: &str = r#"set -e
rm -rf /tmp/bench; mkdir -p /tmp/bench/bin /tmp/bench/lib /tmp/bench/m /tmp/bench/dev /tmp/bench/new; cd /tmp/bench
cp /bin/busybox bin/; cp /lib/ld-musl-*.so.1 lib/
for name in crc16 mbcache jbd2 ext4 virtio_blk; do
    file=$(find /lib/modules/$(uname -r) -name "$name.ko*" | head -n 1)
    case $file in *.gz) gzip -dc "$file" > m/$name.ko;; *.ko) cp "$file" m/;; esac
done
cat > init; chmod 755 init
find . | cpio -o -H newc > /tmp/bench.cpio"#;

/// The first program: mounts the root and has a shell of its own take lines from the console. It says `vmm-bench-ready`
/// when it takes them, and after each line `vmm-bench-done` and its status.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev
for name in crc16 mbcache jbd2 ext4 virtio_blk; do
    if [ -f /m/$name.ko ]; then busybox insmod /m/$name.ko; fi
done
while ! [ -b /dev/vda ]; do busybox usleep 1000; done
busybox mount -t ext4 /dev/vda /new
busybox mount -o move /dev /new/dev
exec busybox switch_root -c /dev/console /new /bin/sh -c '
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t tmpfs tmpfs /dev/shm 2>/dev/null || { mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm; }
stty -echo; echo vmm-bench-ready
while read -r line; do eval "$line" < /dev/null > /dev/null; echo vmm-bench-done $?; done
reboot -f'
"#;

impl GuestFiles {
    /// Makes them, with the help of a VM of ours that runs from the image.
    pub(crate) fn make(
        sandbox: &Sandbox,
        home: &Home,
        image: &str,
        folder: &Path,
        limit: &Limit,
    ) -> Result<Self, Trouble> {
        let unclear = |why: &dyn std::error::Error| Trouble::Failed(vmm::error_line(why));
        let reference: ImageRef = image.parse().map_err(|error| unclear(&error))?;
        let arch = Arch::host().ok_or_else(|| Trouble::Failed("no guest has this processor".to_owned()))?;
        let store = ImageStore::open(home.root()).map_err(|error| unclear(&error))?;
        let found = store.find(&reference, arch).map_err(|error| unclear(&error))?;
        let details = store.details(&found).map_err(|error| unclear(&error))?;
        let layers: Vec<(PathBuf, DiskFormat)> =
            details.layers.iter().map(|layer| (layer.path.clone(), layer.format)).collect();
        let root = flat_disk(&layers, folder, limit)?;
        sandbox.write_file("/tmp/vmm-bench-init", INIT.as_bytes())?;
        let collect = sandbox.command(["sh", "-c", &format!("( {COLLECT} ) < /tmp/vmm-bench-init")]);
        let collected = collect.timeout(limit.left("the initramfs")?).cancel_token(limit.token()).output()?;
        if !collected.status.success() {
            let said = String::from_utf8_lossy(&collected.stderr).trim().to_owned();
            return Err(Trouble::Failed(format!("the image gives no initramfs: {said}")));
        }
        let initramfs = folder.join("initramfs.cpio");
        fs::write(&initramfs, sandbox.read_file("/tmp/bench.cpio", MAX_INITRAMFS)?)?;
        Ok(Self { kernel: found.kernel(), root, initramfs })
    }
}

/// One raw file of all layers of a disk, from the base up.
fn flat_disk(layers: &[(PathBuf, DiskFormat)], folder: &Path, limit: &Limit) -> Result<PathBuf, Trouble> {
    let chain = layers.iter().fold(Value::Null, |below, (path, format)| {
        let mut layer = json!({ "driver": format, "file": { "driver": "file", "filename": path } });
        if !below.is_null() {
            layer["backing"] = below;
        }
        layer
    });
    let disk = folder.join("root.raw");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-O", "raw"]).arg(format!("json:{chain}")).arg(&disk);
    output(convert, "qemu-img", limit).map_err(|trouble| match trouble {
        Trouble::Failed(why) => Trouble::Failed(format!("{why}; apt-get install qemu-utils has it")),
        trouble => trouble,
    })?;
    Ok(disk)
}
