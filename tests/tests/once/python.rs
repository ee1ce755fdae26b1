//! The Python package: its wheel is made, installed into a clean environment, and passes its own tests there.

use std::process::Command;

use vmm_tests::{TestHome, binary, library, python_environment, repository, skip};

#[test]
fn the_wheel_installs_into_a_clean_environment_and_passes_its_own_tests() {
    let home = TestHome::new();
    let folder = home.path().join("python");
    let python = match python_environment(&folder) {
        Ok(python) => python,
        Err(why) => skip!("{why}"),
    };
    // What `cargo wheel` builds in one folder.
    let built = home.path().join("built");
    std::fs::create_dir(&built).unwrap();
    std::os::unix::fs::symlink(binary(), built.join("vmm")).unwrap();
    std::os::unix::fs::symlink(library(), built.join("libvmm.so")).unwrap();
    let wheels = home.path().join("wheels");
    let mut make = Command::new(&python);
    make.arg(repository().join("vmm/python/make_wheel.py")).args([&built, &wheels]);
    let made = home.program(make).run().succeeded().stdout();
    let wheel = made.trim_end();
    assert!(wheel.contains("-py3-none-manylinux_2_"), "{wheel}");

    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--no-index", "--no-deps", "--quiet", wheel]);
    home.program(install).run().succeeded();

    let ours = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(arguments);
        // Its own `vmm` is the one that it must find.
        home.program(command).without("VMM_BIN").run()
    };
    let tests = repository().join("vmm/python/tests");
    ours(&["-m", "unittest", "discover", "--verbose", "--start-directory", tests.to_str().unwrap()])
        .succeeded();
    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());

    let example = repository().join("vmm/python/examples/untrusted.py");
    let said = ours(&[example.to_str().unwrap()]).succeeded().stdout();
    let statuses: Vec<&str> = said.lines().collect();
    assert_eq!(
        statuses,
        [
            "answer: status 0",
            "time: status 124, its time was up",
            "memory: status 1",
            "output: status 0, it wrote too much",
            "processes: status 2",
        ]
    );
    let mut command = Command::new(folder.join("bin/vmm"));
    command.args(["run", "alpine", "--", "echo", "from the wheel"]);
    assert_eq!(home.program(command).without("VMM_BIN").run().succeeded().stdout(), "from the wheel\n");
}
