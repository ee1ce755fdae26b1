//! The managed Alpine is a plain Alpine: what somebody else's monitor brought with it is gone, by a script that ran once.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use vmm_tests::TestHome;

fn inspect(home: &TestHome) -> Value {
    home.json(&["images", "inspect", "alpine", "--json"])
}

/// The names of an image's layers, from the base up.
fn layers(details: &Value) -> Vec<String> {
    let layers = details["layers"].as_array().expect("a list of layers");
    layers.iter().map(|layer| layer["id"].as_str().expect("an id").to_owned()).collect()
}

/// Everything on the root but when it was changed: names, kinds, modes, owners, where links lead, and contents.
const LISTING: &str = "find / -xdev -print0 | sort -z | xargs -0 stat -c '%f %u %g %N'
                       find / -xdev -type f -print0 | sort -z | xargs -0 md5sum";

#[test]
fn the_managed_image_is_a_plain_alpine_that_knows_its_version() {
    let home = TestHome::new();
    let version = inspect(&home)["version"].as_str().expect("a version").to_owned();
    assert_eq!(inspect(&home)["customisation"], "done");
    assert_eq!(inspect(&home)["system_version"], version.as_str());
    assert_eq!(layers(&inspect(&home)).len(), 2);
    // apk's database has the checksum of each file that a package brought.
    let script = "cat /etc/vmm-image; cat /etc/hostname
                  find / -xdev -iname '*quicksand*'
                  grep -rl quicksand /etc /usr/local /home /root /var || true
                  ls -a / | grep dockerenv || true
                  for file in hosts hostname modules; do
                      sum=$(grep -A3 \"^R:$file\\$\" /lib/apk/db/installed | sed -n 's/^Z:Q1//p' | head -n1)
                      test \"$sum\" = \"$(sha1sum /etc/$file | cut -c1-40 | xxd -r -p | base64)\" || echo $file differs
                  done";
    let text = home.vmm(["run", "alpine", "--", "sh", "-c", script]).run().succeeded().stdout();
    assert_eq!(text, format!("{version}\nlocalhost\n"));
}

#[test]
fn an_image_is_customised_once_and_comes_out_the_same_when_it_is_done_again_without_a_network() {
    let home = TestHome::with_own_images();
    let first = inspect(&home);
    let listing =
        |home: &TestHome| home.vmm(["run", "alpine", "--", "sh", "-c", LISTING]).run().succeeded().stdout();
    let before = listing(&home);
    assert!(before.lines().count() > 1000, "{before}");
    // Given a store that has what the image is made from, and not what was made of it.
    home.vmm(["images", "tag", "alpine", "kept"]).run().succeeded();
    home.vmm(["images", "rm", "alpine"]).run().succeeded();
    let [_, customised] = layers(&first).try_into().expect("two layers");
    fs::remove_dir_all(home.path().join("layers").join(&customised)).expect("the layer is there");
    // When two pull at once, one customises, and the other waits for it. A path without pip shows that nothing is fetched.
    let path = path_with_engine(home.path_with(&[]));
    let pulls: Vec<_> = (0..2).map(|_| home.vmm(["pull", "alpine"]).env("PATH", &path).start()).collect();
    let told: Vec<String> = pulls
        .into_iter()
        .map(|pull| {
            let (status, told) = pull.end();
            assert_eq!(status, 0, "{told}");
            told
        })
        .collect();
    let customising = told.iter().filter(|told| told.contains("→ alpine 3.23: customising")).count();
    assert_eq!(customising, 1, "{told:?}");
    assert_eq!(inspect(&home)["customisation"], "done");
    // Then it is another layer, and the same content.
    assert_eq!(layers(&inspect(&home))[0], layers(&first)[0]);
    let after = listing(&home);
    let differs: Vec<_> = before.lines().zip(after.lines()).filter(|(one, other)| one != other).collect();
    assert!(before == after, "{differs:?}");
    assert_eq!(home.leftovers().iter().filter(|left| left.contains("vms/")).count(), 0);
}

/// A folder with the programs of the software engine and no pip.
fn path_with_engine(folder: PathBuf) -> PathBuf {
    let places = std::env::var_os("PATH").expect("a path");
    for program in ["qemu-system-x86_64", "qemu-system-aarch64"] {
        let found =
            std::env::split_paths(&places).map(|place| place.join(program)).find(|path| path.is_file());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, folder.join(program)).expect("a link of ours");
        }
    }
    folder
}

#[test]
fn a_pull_that_cannot_start_a_machine_leaves_the_rest_to_the_first_start() {
    let home = TestHome::with_own_images();
    let [_, customised] = layers(&inspect(&home)).try_into().expect("two layers");
    home.vmm(["images", "tag", "alpine", "kept"]).run().succeeded();
    home.vmm(["images", "rm", "alpine"]).run().succeeded();
    fs::remove_dir_all(home.path().join("layers").join(customised)).expect("the layer is there");
    // HVF is on no Linux: there is no engine.
    let pull = home.vmm(["pull", "--engine", "hvf", "alpine"]).run().succeeded();
    assert!(pull.stderr().contains("is customised when it is first started"), "{}", pull.stderr());
    assert_eq!(inspect(&home)["customisation"], "pending");
    let run = home.vmm(["run", "alpine", "--", "cat", "/etc/vmm-image"]).run().succeeded();
    assert_eq!(run.stdout().trim(), inspect(&home)["version"].as_str().expect("a version"));
    assert!(run.stderr().contains("→ alpine 3.23: customising"), "{}", run.stderr());
    assert_eq!(inspect(&home)["customisation"], "done");
}
