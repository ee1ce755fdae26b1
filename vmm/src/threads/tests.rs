//! Each role in a process of its own, which is this test binary again: what it may not do ends it, what it may do passes.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};
use std::sync::Once;
use std::thread;

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Signal, kill_process};
use vmm_sys::Event;

use super::filters::rules;
use super::{Role, confine, spawn, spawn_without_role};

const ROLES: [Role; 11] = [
    Role::EventLoop,
    Role::Machine,
    Role::Starter,
    Role::Processor,
    Role::Watcher,
    Role::Session,
    Role::Queue,
    Role::Keyboard,
    Role::Sockets,
    Role::Agent,
    Role::Layer,
];

/// Says to the process that it is to attempt something: a role and what.
const ATTEMPT: &str = "VMM_TEST_ATTEMPT";

/// Says to the process that the threads of all its tests are confined.
const CONFINED: &str = "VMM_TEST_CONFINED";

/// Confines the threads of this test binary where that is asked for.
pub(super) fn confine_if_asked() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os(CONFINED).is_some() {
            confine().unwrap();
        }
    });
}

/// What some role may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    OpenAFile,
    OpenASocket,
    OpenANetworkSocket,
    Connect,
    Execute,
    StartAProcess,
    StartAThread,
    MapCode,
    AskADevice,
    Signal,
    SetASignalHandler,
    LeaveTheFolder,
    Unshare,
    RemoveAFile,
}

const ACTS: [Act; 14] = [
    Act::OpenAFile,
    Act::OpenASocket,
    Act::OpenANetworkSocket,
    Act::Connect,
    Act::Execute,
    Act::StartAProcess,
    Act::StartAThread,
    Act::MapCode,
    Act::AskADevice,
    Act::Signal,
    Act::SetASignalHandler,
    Act::LeaveTheFolder,
    Act::Unshare,
    Act::RemoveAFile,
];

/// Does it, with what was opened before.
fn attempt(act: Act, event: &Event) -> io::Result<()> {
    match act {
        Act::OpenAFile => File::open("/").map(drop),
        Act::OpenASocket => Ok(socket(AddressFamily::UNIX, SocketType::STREAM, None).map(drop)?),
        Act::OpenANetworkSocket => Ok(socket(AddressFamily::INET, SocketType::STREAM, None).map(drop)?),
        Act::Connect => UnixStream::connect("/nowhere").map(drop),
        Act::Execute => Err(Command::new("/bin/true").exec()),
        Act::StartAProcess => Command::new("/bin/true").status().map(drop),
        Act::StartAThread => thread::Builder::new().spawn(|| ()).map(drop),
        Act::MapCode => {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            vm_memory::MmapRegion::<()>::build(None, 4096, protection, flags)
                .map(drop)
                .map_err(io::Error::other)
        }
        Act::AskADevice => Ok(rustix::io::ioctl_fionread(event).map(drop)?),
        Act::Signal => Ok(kill_process(rustix::process::getpid(), Signal::CONT)?),
        Act::SetASignalHandler => vmm_sys::signals::Signals::of_termination().map(drop),
        Act::LeaveTheFolder => std::env::set_current_dir("/"),
        Act::Unshare => Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)?),
        Act::RemoveAFile => std::fs::remove_file("/nowhere/at/all"),
    }
}

/// What each role may do of it.
fn may(role: Role) -> Vec<Act> {
    match role {
        Role::EventLoop => vec![Act::OpenAFile, Act::RemoveAFile],
        Role::Machine | Role::Watcher | Role::Session => vec![Act::RemoveAFile],
        Role::Starter => {
            vec![Act::StartAThread, Act::RemoveAFile, Act::OpenASocket, Act::Connect]
        }
        Role::Processor | Role::Queue | Role::Keyboard => Vec::new(),
        Role::Sockets | Role::Agent | Role::Layer => vec![Act::OpenASocket, Act::Connect],
    }
}

/// The body of a process that attempts something.
#[test]
fn attempting_process() {
    let Ok(asked) = std::env::var(ATTEMPT) else { return };
    let (role, how) = asked.split_once(' ').unwrap();
    let role = ROLES.into_iter().find(|known| format!("{known:?}") == role).unwrap();
    let act = ACTS.into_iter().find(|known| format!("{known:?}") == how);
    let (event, life) = (Event::new().unwrap(), how.to_owned());
    confine().unwrap();
    let thread = spawn_without_role("attempt", move || {
        super::enter(role).unwrap();
        match act {
            // That it is allowed does not mean that it succeeds.
            Some(act) => drop(attempt(act, &event)),
            None => lead_a_life(&life),
        }
    });
    assert_eq!(thread.unwrap().join().is_err(), how == "panic");
    println!("it is done");
}

/// What every thread may do.
fn lead_a_life(how: &str) {
    match how {
        "live" => {
            use_memory();
            // From here others are started, of every role that is.
            for role in Role::SPAWNED {
                let started = spawn(role, format!("{role:?}"), || {
                    use_memory();
                    7
                });
                assert_eq!(started.unwrap().join().unwrap(), 7);
            }
        }
        "panic" => panic!("on purpose"),
        "abort" => std::process::abort(),
        how => panic!("nobody lives like {how}"),
    }
}

/// More than one thread's share, in pieces large and small, grown, and given back.
fn use_memory() {
    let mut pieces: Vec<Vec<u8>> = (0..2000).map(|length| vec![1; 100 + 16 * length]).collect();
    for piece in &mut pieces {
        piece.resize(piece.len() + 300, 2);
    }
    // Zeroes: the pages need not be touched for the calls to be made.
    pieces.push(vec![0; 64 << 20]);
    let copies: Vec<_> = pieces.iter().step_by(3).cloned().collect();
    drop(pieces);
    drop(copies);
    let _map: std::collections::HashMap<u32, u32> = [(1, 2)].into();
}

fn process(role: Role, act: &str) -> Output {
    let test = ["threads::tests::attempting_process", "--exact", "--nocapture", "--test-threads=1"];
    let mut command = this_binary();
    command.args(test).env(ATTEMPT, format!("{role:?} {act}"));
    command.env("RUST_BACKTRACE", "1").output().unwrap()
}

/// Other than `main`, a test is not the first thread, and could have an arena of the allocator that must not be.
fn this_binary() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("MALLOC_ARENA_MAX", "1");
    command
}

#[test]
fn what_a_role_may_not_do_ends_the_process_and_is_told() {
    for role in ROLES {
        for act in ACTS {
            let Output { status, stdout, stderr } = process(role, &format!("{act:?}"));
            let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            if may(role).contains(&act) {
                assert!(stdout.contains("it is done"), "{role:?} {act:?}: {status}, {stderr}");
            } else {
                assert_eq!(status.signal(), Some(libc::SIGSYS), "{role:?} {act:?}: {status}, {stderr}");
                // Around the start of a thread or a process the C library blocks signals, and so the line's.
                let told = stderr.contains(" ended: thread attempt made system call ");
                let untold = matches!(act, Act::StartAThread | Act::StartAProcess);
                assert!(told || untold, "{role:?} {act:?}: {stderr}");
            }
        }
    }
}

#[test]
fn every_role_lets_a_thread_use_memory_start_others_by_the_starter_and_end() {
    for role in ROLES {
        let Output { status, stdout, stderr } = process(role, "live");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && stdout.contains("it is done"), "{role:?}: {status}, {stderr}");
    }
}

#[test]
fn a_panic_is_told_in_a_line_and_an_abort_is_an_abort() {
    for role in ROLES {
        let Output { status, stderr, .. } = process(role, "panic");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{role:?}: {status}, {stderr}");
        let told = stderr.lines().find(|line| line.starts_with("thread attempt panicked at ")).unwrap();
        assert!(told.ends_with(": on purpose"), "{told}");
        assert_eq!(process(role, "abort").status.signal(), Some(libc::SIGABRT), "{role:?}");
    }
}

#[test]
fn the_devices_work_within_their_filters() {
    // All their tests, with the threads that serve them held to their roles. Many wait more than they compute.
    let Output { status, stdout, stderr } =
        this_binary().args(["virtio::", "--test-threads=8"]).env(CONFINED, "1").output().unwrap();
    let said = String::from_utf8_lossy(&stdout);
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success() && !said.contains(" 0 passed"), "{status}\n{said}\n{errors}");
}

#[test]
fn no_role_reaches_into_other_processes_or_the_system() {
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_capset,
        libc::SYS_personality,
        libc::SYS_init_module,
        libc::SYS_keyctl,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_memfd_create,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
    ];
    for role in ROLES {
        let allowed = rules(role);
        let found = allowed.iter().find(|rule| never.contains(&rule.call()));
        assert!(found.is_none(), "{role:?}: {found:?}");
    }
}

#[test]
fn how_a_monitor_ended_is_read_from_its_own_line_only() {
    let line = "monitor 12 ended: thread cpu0 made system call 41, which its filter forbids";
    let told = "thread cpu0 made system call 41, which its filter forbids";
    assert_eq!(super::how_it_ended(12, line), Some(told));
    // Of an earlier run, and of something else.
    assert_eq!(super::how_it_ended(13, line), None);
    assert_eq!(super::how_it_ended(12, "monitor 12 ended: nobody knows"), None);
}
