//! The examples for those who embed vmm, in Rust and in C, as their users run them, and programs that embed it carelessly.
//! Those in Python are in `python`, those for agents in `mcp`.

use std::fs;
use std::process::{Command, Output};

use vmm_tests::{TestHome, example, library, repository};

/// What the example of untrusted programs prints, in every language.
const UNTRUSTED: &str = "\
answer: status 0
time: status 124, its time was up
memory: status 1
output: status 0, it wrote too much
processes: status 2
";

#[test]
fn untrusted_programs_are_held_to_their_limits() {
    let home = TestHome::new();
    let ran = home.program(Command::new(example("untrusted"))).run();
    assert_eq!(ran.succeeded().stdout(), UNTRUSTED);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn the_example_in_c_is_compiled_by_a_plain_compiler() {
    let home = TestHome::new();
    let program = home.path().join("untrusted");
    let library = library();
    let folder = library.parent().unwrap();
    let (source, header) =
        (repository().join("vmm/capi/examples/untrusted.c"), repository().join("vmm/capi/include"));
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(header).arg(source);
    // Under the name by which a program asks for it, as a package would install it.
    let installed = home.path().join("lib");
    fs::create_dir(&installed).unwrap();
    std::os::unix::fs::symlink(folder.join("libvmm.so"), installed.join("libvmm.so.0")).unwrap();
    std::os::unix::fs::symlink("libvmm.so.0", installed.join("libvmm.so")).unwrap();
    cc.arg("-L").arg(&installed).args(["-lvmm", "-o"]).arg(&program);
    home.program(cc).run().succeeded();
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", &installed);
    assert_eq!(home.program(command).run().succeeded().stdout(), UNTRUSTED);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_program_in_c_is_told_what_is_wrong() {
    let home = TestHome::empty();
    let program = home.path().join("wrong");
    let source = home.path().join("wrong.c");
    let code = r#"
        #include <stdio.h>
        #include <vmm.h>
        int main(void) {
            vmm_sandbox *sandbox = (vmm_sandbox *)1;
            vmm_error *error = vmm_attach(NULL, "nobody", &sandbox);
            printf("%s %d\n", vmm_error_code(error), sandbox == NULL);
            vmm_error_free(error);
            vmm_free(sandbox);
            return 0;
        }
    "#;
    fs::write(&source, code).unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-I")
        .arg(repository().join("vmm/capi/include"))
        .arg(&source)
        .arg(library())
        .arg("-o")
        .arg(&program);
    home.program(cc).run().succeeded();
    // Linked by its path, it is still asked for by its name.
    let installed = home.path().join("lib");
    fs::create_dir(&installed).unwrap();
    std::os::unix::fs::symlink(library(), installed.join("libvmm.so.0")).unwrap();
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", installed);
    assert_eq!(home.program(command).run().succeeded().stdout(), "no_such_vm 1\n");
}

#[test]
fn a_pool_of_ten_gives_each_program_a_sandbox_of_its_own() {
    let home = TestHome::new();
    let mut pool = Command::new(example("pool"));
    // Had one been there before, it would have left its file.
    let programs: Vec<String> =
        (0..6).map(|number| format!("ls /srv; echo {number} > /srv/{number}")).collect();
    pool.args(&programs).arg("exit 3");
    let ran = home.program(pool).run().succeeded();
    let expected: String = programs.iter().map(|program| format!("{program}: status 0: \n")).collect();
    assert_eq!(ran.stdout(), format!("{expected}exit 3: status 3: \n"));
    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_build_is_seen_while_it_runs_and_its_result_comes_out() {
    let home = TestHome::new();
    let project = home.path().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("words"), "sandbox\n").unwrap();
    let build = "echo begun; read go < go; echo odd >&2; tr a-z A-Z < words > result; echo done";
    fs::write(project.join("build.sh"), format!("mkfifo go\n(sleep 1; echo > go) &\n{build}\n")).unwrap();
    let mut command = Command::new(example("stream_build"));
    command.arg(&project).args(["sh build.sh", "result"]);
    let mut running = home.program(command).start();
    running.expect("begun\n");
    running.expect_error("odd\n");
    running.expect("done\n");
    assert_eq!(running.end().0, 0);
    assert_eq!(fs::read_to_string(home.path().join("result")).unwrap(), "SANDBOX\n");
    let mut failing = Command::new(example("stream_build"));
    failing.arg(&project).args(["exit 9", "result"]);
    home.program(failing).run().ended_with(9);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

/// A program that embeds the library and knows nothing of it.
fn embedding_program(home: &TestHome, what: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_embedding-program"));
    program.arg(what);
    home.in_home(program).output().unwrap()
}

#[test]
fn whatever_a_program_does_its_machines_end_with_it() {
    let home = TestHome::new();
    for (what, status, said) in [
        ("forks", Some(0), ""),
        ("leaves-a-child", Some(0), "gone\n"),
        ("exits", Some(3), ""),
        ("panics", Some(101), ""),
    ] {
        let output = embedding_program(&home, what);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), status, "{what}: {errors}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{what}");
        home.wait_until_quiet();
        assert_eq!(home.leftovers(), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_program_that_closes_every_descriptor_hears_that_its_machine_has_ended() {
    let home = TestHome::new();
    let output = embedding_program(&home, "closes-all");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // The command may be quicker than the end of the machine, whose lifeline was closed; then comes that.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.lines().count(), 2, "{said}");
    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
