//! `vmm edit` and `vmm top`: a file of a guest in an editor, and what runs in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use vmm_tests::TestHome;

/// An editor that is a script, whose argument is the file.
fn editor(home: &TestHome, script: &str) -> String {
    let path = home.path().join("editor");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_of_a_guest_is_edited_with_its_owner_and_mode() {
    let home = TestHome::new();
    let vm = home.machine("edited", &[]);
    vm.shell("echo one > /srv/file; chown 7:8 /srv/file; chmod 4751 /srv/file; ln -s file /srv/link")
        .succeeded();
    let folder = home.path().join("temporary");
    fs::create_dir(&folder).unwrap();
    let edit = |path: &str, script: &str| {
        let editor = editor(&home, script);
        home.vmm(["edit", path])
            .env("VISUAL", "")
            .env("EDITOR", format!("{editor} +1"))
            .env("TMPDIR", &folder)
            .run()
    };
    let is_empty = || fs::read_dir(&folder).unwrap().next().is_none();
    // The editor has arguments of its own, and leaves a file beside.
    edit("edited:/srv/link", "[ \"$1\" = +1 ] && echo two >> \"$2\" && cp \"$2\" \"$2~\"").succeeded();
    let now =
        vm.shell("cat /srv/file; stat -c '%u:%g %a' /srv/file; readlink /srv/link").succeeded().stdout();
    assert_eq!(now, "one\ntwo\n7:8 4751\nfile\n");
    assert!(is_empty());
    // What is not changed is not written.
    vm.shell("touch -d @1000 /srv/file").succeeded();
    let unchanged = edit("edited:/srv/file", "touch \"$2\"").succeeded();
    assert!(unchanged.stderr().contains("unchanged"), "{}", unchanged.stderr());
    assert_eq!(vm.shell("stat -c %Y /srv/file").succeeded().stdout(), "1000\n");
    edit("edited:/srv/new", "[ ! -s \"$2\" ] && echo made > \"$2\"").succeeded();
    assert_eq!(vm.shell("cat /srv/new; stat -c '%u %a' /srv/new").succeeded().stdout(), "made\n0 644\n");
    assert!(is_empty());
    for (path, why) in [
        ("edited:/srv", "is no file but a folder"),
        ("edited:/dev/null", "is no file but a character device"),
        ("edited:/no/file", "cannot"),
        ("edited", "VM:PATH"),
        ("nobody:/srv/file", "nobody"),
    ] {
        edit(path, "echo x > \"$2\"").refused_saying(&[why]);
    }
}

#[test]
fn an_edited_text_is_never_lost() {
    let home = TestHome::new();
    let vm = home.machine("kept", &[]);
    vm.shell("echo one > /srv/file").succeeded();
    let folder = home.path().join("temporary");
    fs::create_dir(&folder).unwrap();
    let edit = |path: &str, script: &str| {
        let editor = editor(&home, script);
        home.vmm(["edit", path]).env("VISUAL", editor).env("TMPDIR", &folder).run()
    };
    let kept = |said: &str| {
        let path =
            said.split("your text is in ").nth(1).unwrap_or_else(|| panic!("{said}")).trim().to_owned();
        fs::read_to_string(path).unwrap()
    };
    // Somebody else writes it meanwhile.
    let vmm = "\"$VMM_BIN\" exec kept -- sh -c 'echo other > /srv/file'";
    let conflict = edit("kept:/srv/file", &format!("echo mine > \"$1\"; {vmm}"));
    let said = conflict.refused_saying(&["changed in the guest meanwhile"]).stderr();
    assert_eq!(kept(&said), "mine\n");
    assert_eq!(vm.shell("cat /srv/file").succeeded().stdout(), "other\n");
    // The editor fails, and the guest takes no more.
    let said = edit("kept:/srv/file", "echo half > \"$1\"; exit 3").refused_saying(&["ended with"]).stderr();
    assert_eq!(kept(&said), "half\n");
    let nothing = edit("kept:/srv/file", "exit 3").refused_saying(&["ended with"]).stderr();
    assert!(!nothing.contains("your text"), "{nothing}");
    vm.shell("mkdir /tmp/small; mount -t tmpfs -o size=64k none /tmp/small; echo x > /tmp/small/file")
        .succeeded();
    let said = edit("kept:/tmp/small/file", "head -c 200000 /dev/zero | tr '\\0' y > \"$1\"");
    let said = said.refused_saying(&["No space left"]).stderr();
    assert_eq!(kept(&said).len(), 200_000);
    assert_eq!(vm.shell("cat /tmp/small/file").succeeded().stdout(), "x\n");
}

#[test]
fn what_runs_in_a_guest_is_listed() {
    let home = TestHome::new();
    let vm = home.machine("busy", &[]);
    vm.exec_with(&["-d", "--user", "nobody"], &["sh", "-c", "while :; do :; done"]).run().succeeded();
    let table = home.vmm(["top", "busy"]).run().succeeded().stdout();
    let first = table.lines().nth(1).unwrap();
    assert!(first.contains("nobody") && first.contains("while :; do :; done"), "{table}");
    assert!(!table.contains("kthreadd"), "{table}");
    let all = home.json(&["top", "busy", "--json", "--all"]);
    let all = all.as_array().unwrap();
    assert!(all.iter().any(|process| process["pid"] == 1 && process["memory"].as_u64() > Some(0)));
    assert!(all.iter().any(|process| process["name"] == "kthreadd"));
    assert!(all[0]["cpu_permille"].as_u64() > Some(300), "{}", all[0]);
    home.vmm(["top", "nobody"]).run().refused_saying(&["nobody"]);
}

#[test]
fn limits_end_a_copy_out_of_a_guest() {
    let home = TestHome::new();
    let vm = home.machine("limits", &[]);
    vm.shell("mkdir /srv/many; cd /srv/many; for i in $(seq 50); do echo $i > $i; done; head -c 300000 /dev/zero > big").succeeded();
    home.vmm(["cp", "--max-entries", "51", "limits:/srv/many", "out"]).run().refused_saying(&["51 files"]);
    home.vmm(["cp", "--max-size", "200K", "limits:/srv/many", "out"]).run().refused_saying(&["204800 bytes"]);
    assert!(!home.path().join("out").exists());
    home.vmm(["cp", "--max-entries", "52", "--max-size", "1M", "limits:/srv/many", "out"]).run().succeeded();
    home.vmm(["cp", "--max-size", "1M", "out", "limits:/srv/in"]).run().refused_saying(&["out of a guest"]);
}
