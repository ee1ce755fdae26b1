//! A program that embeds the library.

use std::io::{Read, Write};

use vmm::{ExitStatus, Sandbox, Stdin};
use vmm_tests::{TestHome, descendants};

#[test]
fn a_sandbox_runs_commands_and_is_gone_when_it_is_dropped() {
    let test = TestHome::new();
    let home = test.open();
    let sandbox = Sandbox::builder("alpine").home(&home).start().unwrap();
    let output = sandbox.command(["sh", "-c", "echo out; echo err >&2; exit 7"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(output.status, ExitStatus::Exited(7));
    a_command_can_be_talked_to_while_it_runs(&sandbox);
    assert!(!descendants().is_empty());
    drop(sandbox);
    test.wait_until_quiet();
    assert_eq!(test.leftovers(), Vec::<String>::new());
}

fn a_command_can_be_talked_to_while_it_runs(sandbox: &Sandbox) {
    let mut process = sandbox.command(["cat"]).stdin(Stdin::Piped).spawn().unwrap();
    let (mut stdin, mut stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut line = [0; 6];
    for word in ["first\n", "again\n"] {
        stdin.write_all(word.as_bytes()).unwrap();
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(line, word.as_bytes());
    }
    drop(stdin);
    assert_eq!(process.wait().unwrap(), ExitStatus::Exited(0));
}

#[test]
fn a_sandbox_that_is_killed_is_gone_at_once() {
    // That of a program that is killed with its sandboxes, as `vmm run` may be, is in `life`.
    let test = TestHome::new();
    let sandbox = Sandbox::builder("alpine").home(&test.open()).start().unwrap();
    let info = sandbox.info().unwrap();
    assert!(info.timings.ready.is_some());
    sandbox.kill().unwrap();
    assert_eq!(test.leftovers(), Vec::<String>::new());
}
