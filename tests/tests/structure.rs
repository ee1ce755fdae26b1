//! The project is laid out as its design says, and the test that says so can fail.

use std::path::Path;

use vmm_tests::structure;

fn offences_of(place: &str, source: &str) -> Vec<String> {
    let exports = structure::exports("pub use home::Home;\npub use sandbox::Sandbox;");
    structure::offences_in(Path::new(place), source, &exports)
}

#[test]
fn the_project_keeps_to_the_arrows_of_its_design() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let offences = structure::offences(&root).unwrap();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn a_device_that_knows_an_engine_is_an_offence() {
    let offences =
        offences_of("vmm/src/virtio/block/mod.rs", "//! A disk.\nuse crate::engine::EngineKind;\n");
    assert_eq!(offences, ["vmm/src/virtio/block/mod.rs:2: `virtio` must not use `engine`"]);
}

#[test]
fn sandbox_and_monitor_do_not_see_each_other() {
    assert_eq!(offences_of("vmm/src/sandbox/mod.rs", "use crate::{home::Home, monitor::run};").len(), 1);
    assert_eq!(offences_of("vmm/src/monitor/mod.rs", "use crate::Sandbox;").len(), 1);
    assert!(
        offences_of("vmm/src/monitor/mod.rs", "use crate::Home; use crate::control::Request;").is_empty()
    );
}

#[test]
fn an_engine_knows_transports_and_no_device() {
    let place = "vmm/src/engine/software/mod.rs";
    assert!(offences_of(place, "use crate::virtio::{VirtioDevice, transport};").is_empty());
    assert!(offences_of(place, "use crate::virtio::transport::vhost_user;").is_empty());
    assert_eq!(offences_of(place, "use crate::virtio::block::Block;").len(), 1);
}

#[test]
fn a_module_without_a_place_in_the_design_is_an_offence() {
    assert_eq!(offences_of("vmm/src/helpers/mod.rs", "use crate::machine::Machine;").len(), 1);
    assert_eq!(offences_of("vmm/src/machine/mod.rs", "use crate::helpers::help;").len(), 1);
}

#[test]
fn unsafe_code_stands_only_where_it_must() {
    let source = "fn f() { unsafe { g() } }";
    assert_eq!(offences_of("vmm/src/virtio/queue.rs", source).len(), 1);
    assert_eq!(offences_of("guest-agent/src/main.rs", source).len(), 1);
    assert!(offences_of("vmm/sys/src/memory.rs", source).is_empty());
    assert!(
        offences_of("vmm/src/virtio/queue.rs", "// unsafe\nlet x = \"unsafe\"; // not unsafe").is_empty()
    );
    assert!(offences_of("vmm/src/virtio/queue.rs", "#![forbid(unsafe_code)]").is_empty());
}

#[test]
fn platforms_differ_only_where_they_must() {
    assert_eq!(offences_of("vmm/src/boot/mod.rs", "#[cfg(target_arch = \"x86_64\")]").len(), 1);
    assert_eq!(offences_of("vmm/src/boot/mod.rs", "if cfg!(target_os = \"linux\") {}").len(), 1);
    assert_eq!(offences_of("vmm/src/boot/mod.rs", "#[cfg(any(\n    target_os = \"linux\",\n))]").len(), 1);
    assert!(offences_of("vmm/src/engine/mod.rs", "#[cfg(target_os = \"linux\")]").is_empty());
}

#[test]
fn the_library_does_not_print() {
    assert_eq!(offences_of("vmm/src/sandbox/mod.rs", "println!(\"x\");").len(), 1);
    assert!(offences_of("vmm/cli/src/main.rs", "println!(\"x\");").is_empty());
}

#[test]
fn a_monitors_thread_has_a_role() {
    let source = "let thread = thread::Builder::new().spawn(run)?;";
    assert_eq!(offences_of("vmm/src/virtio/net/worker.rs", source).len(), 1);
    assert!(offences_of("vmm/src/virtio/net/tests.rs", source).is_empty());
    assert!(offences_of("vmm/src/sandbox/program.rs", source).is_empty());
    assert!(offences_of("vmm/src/virtio/worker.rs", &format!("#[cfg(test)]\n{source}")).is_empty());
}

#[test]
fn packages_depend_one_way() {
    assert_eq!(structure::package_arrows("vmm-disk", "[dependencies]\nvmm.workspace = true\n").len(), 1);
    assert_eq!(structure::package_arrows("vmm", "[dependencies]\nclap = \"4\"\n").len(), 1);
    assert_eq!(structure::package_arrows("vmm-cli", "[dependencies.vmm-disk]\npath = \"x\"\n").len(), 1);
    assert_eq!(
        structure::package_arrows("vmm", "[target.'cfg(unix)'.dependencies]\nxtask = \"1\"\n").len(),
        1
    );
    assert!(structure::package_arrows("vmm", "[dev-dependencies]\nvmm-tests.workspace = true\n").is_empty());
}
