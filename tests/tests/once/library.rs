//! What a program that embeds the library has whatever the engine: pools, the guest's files, errors with codes.

use std::time::Duration;

use vmm::{CancelToken, Sandbox, SandboxPool};
use vmm_tests::{PATIENCE, TestHome};

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
