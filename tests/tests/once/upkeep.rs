//! VMs that are looked after while nobody looks: health checks, restarts, events, costs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal, kill_process};
use vmm_tests::TestHome;

#[test]
fn a_machine_is_checked_and_started_again_and_everything_is_told() {
    let home = TestHome::new();
    let mut events = home.vmm(["events", "--json"]).start();
    let check = "test -e /srv/well && echo fine || { echo ill; exit 1; }";
    let options = ["--restart", "on-failure:3", "--health-cmd", check, "--health-interval", "200ms"];
    let vm = home.machine("kept", &[&options[..], &["--health-retries", "2"]].concat());
    events.expect_next(r#""name":"kept","event":"created""#);
    events.expect_next(r#""state":"running""#);
    events.expect_next(r#""status":"unhealthy""#);
    events.expect_next("exited with status 1: ill");
    vm.shell("touch /srv/well").succeeded();
    events.expect_next(r#""status":"healthy""#);
    let table = home.vmm(["ps"]).run().succeeded().stdout();
    assert!(table.contains("running (healthy)"), "{table}");

    // Its monitor is killed: the machine is back by itself, with its disk.
    vm.shell("sync").succeeded();
    let monitor = home.json(&["ps", "--json"])[0]["monitor_pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(monitor).unwrap()).unwrap(), Signal::KILL).unwrap();
    events.expect_next(r#""reason":"monitor_killed""#);
    events.expect_next(r#""state":"running""#);
    vm.shell("test -e /srv/well").succeeded();
    assert_eq!(home.json(&["ps", "--json"])[0]["restarts"], 1);

    // Stopped means stopped.
    home.vmm(["stop", "kept"]).run().succeeded();
    events.expect_next(r#""reason":"stopped""#);
    home.vmm(["rm", "kept"]).run().succeeded();
    events.expect_next(r#""event":"removed""#);
    events.signal(Signal::INT);
    assert_eq!(events.end().0, 0);
}

#[test]
fn what_a_machine_costs_is_shown_and_collected() {
    let home = TestHome::new();
    let data = home.path().join("data.raw");
    let data = data.to_str().unwrap();
    home.vmm(["disk", "create", data, "16M"]).run().succeeded();
    let vm = home.machine("dear", &["--disk", data]);
    let measured = &home.json(&["stats", "--json", "dear"])[0];
    let host = &measured["host"];
    assert!(host["processor_us"].as_u64().unwrap() > 0, "{measured}");
    let (all, own) = (host["memory"].as_u64().unwrap(), host["monitor_memory"].as_u64().unwrap());
    assert!(own > 0 && own < all, "{measured}");
    assert!(measured["guest"]["memory"]["total"].as_u64().unwrap() > 100 << 20, "{measured}");
    // What is mounted meanwhile is seen, and what is no more is not.
    let mounted = || {
        let measured = home.json(&["stats", "--json", "dear"]);
        let disks = measured[0]["guest"]["disks"].as_array().unwrap().clone();
        disks.iter().map(|disk| disk["mount_point"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(mounted(), ["/"]);
    vm.shell("mkdir -p /mnt/a/m && mkfs.ext2 -q /dev/vdb && mount -t ext4 /dev/vdb /mnt/a/m").succeeded();
    assert_eq!(mounted(), ["/", "/mnt/a/m"]);
    vm.shell("mv /mnt/a /mnt/b && mkdir -p /mnt/a/m").succeeded();
    assert_eq!(mounted(), ["/", "/mnt/b/m"]);
    vm.shell("umount /mnt/b/m").succeeded();
    assert_eq!(mounted(), ["/"]);
    let table = home.vmm(["stats"]).run().succeeded().stdout();
    assert!(
        table.lines().nth(1).is_some_and(|line| line.starts_with("dear ") && line.contains('%')),
        "{table}"
    );

    let socket = home.path().join("metrics");
    let place = format!("unix:{}", socket.display());
    let mut server = home.vmm(["stats", "--serve", &place]).start();
    server.expect_error("metrics");
    let get = |path: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for word in
        ["vmm_vm_cpu_seconds_total{id=", "name=\"dear\"", "vmm_guest_memory_bytes", "mount_point=\"/\""]
    {
        assert!(answer.contains(word), "{word}: {answer}");
    }
    assert!(get("/secrets").starts_with("HTTP/1.1 404 "));
    // Who says nothing holds up the next one for a bounded time only.
    let silent = UnixStream::connect(&socket).unwrap();
    assert!(get("/metrics").contains("vmm_vm_info"));
    drop(silent);
    server.signal(Signal::INT);
    assert_eq!(server.end().0, 0);
    assert!(!socket.exists());
}

#[test]
fn what_cannot_be_looked_after_is_refused_before_anything_is_made() {
    let home = TestHome::new();
    let refused = |options: &[&str], words: &[&str]| {
        let arguments = [&["run", "-d"], options, &["alpine"]].concat();
        home.vmm(arguments).run().refused_saying(words);
    };
    refused(&["--restart", "always"], &["needs a name"]);
    refused(&["--name", "x", "--health-cmd", "true", "--health-retries", "0"], &["at least once"]);
    for options in [["--restart", "sometimes"], ["--health-interval", "1s"]] {
        home.vmm(["run", "-d", "--name", "x", options[0], options[1], "alpine"]).run().ended_with(125);
    }
    assert!(home.ps().is_empty());
}
