//! A program that embeds the library.

use std::io::{Read, Write};
use std::time::Duration;

use vmm::{CancelToken, ExitStatus, Sandbox, SandboxPool, Stdin};
use vmm_tests::{PATIENCE, TestHome, descendants};

#[test]
fn a_sandbox_runs_commands_and_is_gone_when_it_is_dropped() {
    let test = TestHome::new();
    let home = test.open();
    let sandbox = Sandbox::builder("alpine").home(&home).start().unwrap();
    let output = sandbox.command(["sh", "-c", "echo out; echo err >&2; exit 7"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(output.status, ExitStatus::Exited(7));
    assert!(!descendants().is_empty());
    drop(sandbox);
    test.wait_until_quiet();
    assert_eq!(test.leftovers(), Vec::<String>::new());
}

#[test]
fn a_command_can_be_talked_to_while_it_runs() {
    let test = TestHome::new();
    let sandbox = Sandbox::builder("alpine").home(&test.open()).start().unwrap();
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
    sandbox.stop(Duration::from_secs(10)).unwrap();
    test.wait_until_quiet();
}

#[test]
fn a_program_that_is_killed_takes_its_sandboxes_with_it() {
    // The story of `vmm run` that is killed, which is such a program, is in `life`.
    let test = TestHome::new();
    let sandbox = Sandbox::builder("alpine").home(&test.open()).start().unwrap();
    let info = sandbox.info().unwrap();
    assert!(info.timings.ready.is_some());
    sandbox.kill().unwrap();
    assert_eq!(test.leftovers(), Vec::<String>::new());
}

#[test]
fn a_pool_keeps_machines_ready_and_leaves_none() {
    let test = TestHome::new();
    let home = test.open();
    let pool = SandboxPool::builder(Sandbox::builder("alpine").home(&home))
        .size(2)
        .prepare(|sandbox| sandbox.write_file("/srv/task", b"echo done\n"))
        .open()
        .unwrap();
    for _ in 0..2 {
        let sandbox = pool.take(Some(PATIENCE), None).unwrap();
        let output = sandbox.command(["sh", "/srv/task"]).output().unwrap();
        assert_eq!(output.stdout, b"done\n");
        // What one task leaves behind the next does not find.
        assert_eq!(sandbox.stat("/srv/left").unwrap_err().code(), "no_such_file");
        sandbox.write_file("/srv/left", b"").unwrap();
    }
    drop(pool);
    test.wait_until_quiet();
    assert_eq!(test.leftovers(), Vec::<String>::new());
}

#[test]
fn files_of_a_guest_are_lived_with() {
    let test = TestHome::new();
    let sandbox = Sandbox::builder("alpine").home(&test.open()).start().unwrap();
    let cancel = CancelToken::new().unwrap();
    sandbox.make_folders("/srv/a/b").unwrap();
    let changes = sandbox.watch("/srv/a", true, Some(&cancel)).unwrap();
    sandbox.write_file("/srv/a/b/one", b"0123456789").unwrap();
    sandbox.rename_file("/srv/a/b/one", "/srv/a/b/two").unwrap();
    let seen = std::thread::spawn(move || {
        let mut paths = Vec::new();
        for change in changes {
            match change {
                Ok(change) => paths.push(change.path.to_string_lossy().into_owned()),
                Err(error) => return (paths, error.code()),
            }
            if paths.last().is_some_and(|path| path == "b/two") {
                cancel.cancel();
            }
        }
        (paths, "none")
    });
    let (paths, end) = seen.join().unwrap();
    assert!(paths.contains(&"b/two".to_owned()) && end == "cancelled", "{paths:?} {end}");
    assert_eq!(sandbox.read_part("/srv/a/b/two", 3, 4).unwrap(), b"3456");
    let names: Vec<_> =
        sandbox.list_folder("/srv/a/b", None).unwrap().map(|entry| entry.unwrap().name).collect();
    assert_eq!(names, ["two".into()]);
    assert_eq!(sandbox.remove_file("/srv/a").unwrap_err().code(), "is_folder");
    sandbox.remove_tree("/srv/a", None).unwrap();
    assert_eq!(sandbox.stat("/srv/a").unwrap_err().code(), "no_such_file");
    let processes = sandbox.guest_processes(Duration::ZERO).unwrap();
    assert!(processes.iter().any(|process| process.pid == 1));
    drop(sandbox);
    test.wait_until_quiet();
}

#[test]
fn errors_have_codes_and_hints() {
    let test = TestHome::new();
    let home = test.open();
    let error = Sandbox::builder("alpine").home(&home).name("a/b").start().unwrap_err();
    assert_eq!(error.code(), "invalid_name");
    let error = Sandbox::attach(&home, "nobody").unwrap_err();
    assert_eq!(error.code(), "no_such_vm");
    assert!(error.hint().is_some());
}
