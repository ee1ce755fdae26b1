//! A newcomer's first minutes.

use vmm_tests::TestHome;

#[test]
fn alpine_says_what_it_is() {
    let home = TestHome::new();
    let run = home.vmm(["run", "alpine", "--", "cat", "/etc/os-release"]).run().succeeded();
    assert!(run.stdout().contains("ID=alpine"), "{}", run.stdout());
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn help_has_examples_and_each_command_explains_itself() {
    let home = TestHome::empty();
    let help = home.vmm(["--help"]).run().succeeded().stdout();
    assert!(help.contains("vmm run alpine"), "{help}");
    for command in [
        "run", "exec", "ps", "stop", "kill", "start", "rm", "logs", "up", "down", "status", "shell",
        "destroy", "init", "doctor", "pull", "images", "version",
    ] {
        assert!(help.contains(command), "help does not name {command}");
        let text = home.vmm([command, "--help"]).run().succeeded().stdout();
        assert!(text.contains("Usage: vmm"), "{command}: {text}");
    }
}

#[test]
fn a_pulled_image_is_listed_and_not_pulled_again() {
    let home = TestHome::new();
    let images = home.json(&["images", "--json"]);
    let image = &images.as_array().unwrap()[0];
    assert_eq!(image["name"], "alpine");
    assert!(image["version"].as_str().unwrap().starts_with("3.23."), "{image}");
    assert!(home.vmm(["images"]).run().succeeded().stdout().contains("alpine"));
    // Nothing is fetched: there is nothing to fetch with.
    home.vmm(["pull", "alpine"]).env("PATH", "/nonexistent").run().succeeded();
    home.vmm(["pull", "alpine:3.23"]).env("PATH", "/nonexistent").run().succeeded();
}

#[test]
fn the_doctor_says_which_engine_works() {
    let home = TestHome::empty();
    let report = home.vmm(["doctor"]).run().succeeded().stdout();
    assert!(report.contains("software"), "{report}");
    let json = home.json(&["doctor", "--json"]);
    let engines = json["engines"].as_array().unwrap();
    assert!(
        engines.iter().any(|engine| engine["kind"] == vmm_tests::engine() && engine["usable"] == true),
        "{json}"
    );
    // Whether or not a guest can nest, it says so.
    assert!(report.contains("(--nested)"), "{report}");
    assert!(engines.iter().all(|engine| engine["nesting"].is_boolean()), "{json}");
}

#[test]
fn version_says_what_it_is() {
    let home = TestHome::empty();
    let version = home.vmm(["version"]).run().succeeded().stdout();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    home.json(&["version", "--json"]);
}

#[test]
fn one_file_is_enough_on_another_machine() {
    let home = TestHome::new();
    // As it would be copied: alone, under another name, in another folder.
    let copy = home.path().join("elsewhere");
    std::fs::copy(vmm_tests::binary(), &copy).unwrap();
    let mut command = std::process::Command::new(&copy);
    command.args(["run", "alpine", "--", "echo", "here"]);
    let output = home.in_home(command).env_remove("VMM_BIN").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "here\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
