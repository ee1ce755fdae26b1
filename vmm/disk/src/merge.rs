//! Several layers of a disk as one.

use std::path::Path;

use snafu::ensure;

use crate::copy::{Copied, Copy};
use crate::error::{Error, NoLayersSnafu};
use crate::qcow2::Layout;
use crate::{LayerSpec, open_chain};

/// Writes the layers of a disk that lie above its `kept` lowest into a new one, which takes their place upon those.
/// What is discarded, and what is zero, takes no space in it.
///
/// `seen` is told how far it is, and stops it with `false`. Nobody may be writing the disk. Nobody is promised that the
/// file survives a power cut; when it fails, there is no file.
///
/// ```
/// use vmm_disk::{Format, LayerSpec, create_overlay, merge_layers, open_chain};
///
/// let folder = tempfile::tempdir()?;
/// let at = |name| LayerSpec { path: folder.path().join(name), format: Format::Qcow2 };
/// let layers = [at("base"), at("middle"), at("top")];
/// for layer in &layers {
///     create_overlay(&layer.path, 1 << 30)?;
/// }
/// let merged = at("merged");
/// merge_layers(&layers, 1, &merged.path, &mut |_| true)?;
/// assert_eq!(open_chain(&[layers[0].clone(), merged], true)?.size(), 1 << 30);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn merge_layers(
    layers: &[LayerSpec],
    kept: usize,
    destination: &Path,
    seen: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Error> {
    merge_layers_over(layers, kept, kept, destination, seen)
}

/// The same, where the new layer may lie upon more of the lowest layers than it is merged above, the first `over`, before
/// it lies upon its own: what is zero in it is so there, too.
pub fn merge_layers_over(
    layers: &[LayerSpec],
    kept: usize,
    over: usize,
    destination: &Path,
    seen: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Error> {
    ensure!(kept < layers.len() && (kept..layers.len()).contains(&over), NoLayersSnafu);
    let marked = if over == 0 { 0 } else { open_chain(&layers[..over], true)?.size() };
    let source = open_chain(layers, true)?;
    let merged = open_chain(&layers[kept..], true)?;
    let layout = Layout::new(source.size());
    Copy { source: &*source, layers: &*merged, layout, marked, limit: u64::MAX }.write_to(destination, seen)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, IoSliceMut};
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::qcow2::Layout;
    use crate::testing::{MemoryStorage, Random};
    use crate::{Format, check_layer, create_overlay};

    fn shown(layers: &[LayerSpec]) -> Vec<u8> {
        let disk = open_chain(layers, true).unwrap();
        let mut bytes = vec![9; usize::try_from(disk.size()).unwrap()];
        disk.read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        bytes
    }

    /// A layer of any cluster size, written at random upon others.
    fn layer_upon(layers: &mut Vec<LayerSpec>, path: &Path, size: u64, cluster_bits: u32, seed: u64) {
        let storage = MemoryStorage::default();
        let layout = Layout { virtual_size: size, cluster_bits, refcount_order: 4, version: 3 };
        layout.write(&storage).unwrap();
        std::fs::write(path, storage.bytes()).unwrap();
        layers.push(LayerSpec { path: path.to_owned(), format: Format::Qcow2 });
        let disk = open_chain(layers, false).unwrap();
        let mut random = Random::new(seed);
        for _ in 0..30 {
            let offset = random.below(size);
            let length = (1 + random.below(150_000)).min(size - offset);
            let byte = u8::try_from(random.below(3)).unwrap();
            match random.below(4) {
                0 => disk.write_zeroes(offset, length, true).unwrap(),
                1 => disk.discard(offset, length).unwrap(),
                _ => disk
                    .write(&[IoSlice::new(&vec![byte; usize::try_from(length).unwrap()])], offset)
                    .unwrap(),
            }
        }
    }

    #[test]
    fn a_merged_chain_shows_the_same_whichever_layers_became_one() {
        for seed in 0..12 {
            let folder = tempfile::tempdir().unwrap();
            let mut layers = Vec::new();
            let sizes = [1_500_160, 1_000_448, 2_300_416, 2_300_416];
            for (number, size) in (0_u64..).zip(sizes) {
                let path = folder.path().join(number.to_string());
                let bits = [16, 9, 12, 18][usize::try_from((seed + number) % 4).unwrap()];
                layer_upon(&mut layers, &path, size, bits, seed * 10 + number);
            }
            let expected = shown(&layers);
            for kept in 0..layers.len() {
                let path = folder.path().join(format!("merged{kept}"));
                merge_layers(&layers, kept, &path, &mut |_| true).unwrap();
                let report = check_layer(&path).unwrap();
                assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.findings);
                let merged = LayerSpec { path, format: Format::Qcow2 };
                let chain = [&layers[..kept], &[merged]].concat();
                assert!(shown(&chain) == expected, "seed {seed}, above {kept}");
            }
        }
    }

    #[test]
    fn what_was_discarded_or_zeroed_takes_no_space() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| LayerSpec { path: folder.path().join(name), format: Format::Qcow2 };
        let layers = [at("base"), at("top")];
        create_overlay(&layers[0].path, 64 << 20).unwrap();
        let base = open_chain(&layers[..1], false).unwrap();
        base.write(&[IoSlice::new(&vec![1; 32 << 20])], 0).unwrap();
        drop(base);
        create_overlay(&layers[1].path, 64 << 20).unwrap();
        let top = open_chain(&layers, false).unwrap();
        top.write(&[IoSlice::new(&vec![2; 16 << 20])], 16 << 20).unwrap();
        top.write(&[IoSlice::new(&vec![0; 12 << 20])], 16 << 20).unwrap();
        drop(top);
        let expected = shown(&layers);
        let merged = at("merged");
        let copied = merge_layers(&layers, 1, &merged.path, &mut |_| true).unwrap();
        assert_eq!((copied.size, copied.stored), (64 << 20, 4 << 20));
        let taken = |layer: &LayerSpec| std::fs::metadata(&layer.path).unwrap().blocks() * 512;
        assert!(taken(&merged) < 5 << 20 && taken(&layers[1]) > 15 << 20);
        assert!(shown(&[layers[0].clone(), merged]) == expected);
    }

    #[test]
    fn a_layer_that_is_stopped_or_of_no_others_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let layers = [LayerSpec { path: folder.path().join("base"), format: Format::Qcow2 }];
        create_overlay(&layers[0].path, 64 << 20).unwrap();
        let path = folder.path().join("merged");
        assert!(matches!(merge_layers(&layers, 1, &path, &mut |_| true), Err(Error::NoLayers)));
        assert!(matches!(merge_layers(&layers, 0, &path, &mut |_| false), Err(Error::CopyStopped)));
        assert!(!path.exists());
    }
}
