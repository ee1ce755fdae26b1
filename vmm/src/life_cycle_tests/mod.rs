//! Whole lives of VMs: the library starts a real monitor process, whose engine is a script that plays machine, guest
//! and agent. Beside `sandbox` and `monitor` because it sees both.

mod disks;
mod fixture;
mod guest;
mod pool;
mod upkeep;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::{Script, TestHome};
use vmm_protocol::{AgentMessage, Hello, header};

use crate::control::{ControlError, Event, MonitorLine, Request};
use crate::home::{EndReason, HomeError, VmFolder, VmState};
use crate::sandbox::launch::launch;
use crate::sandbox::program::{MARKER, MonitorProgram};
use crate::sandbox::{Balloon, CancelToken, Error, LogOptions, Progress, Sandbox, StartOptions, hold};

/// The body of a monitor process: `MonitorProgram::of_tests` runs this test binary again for it.
#[test]
fn monitor_process() {
    if std::env::args().any(|argument| argument == MARKER) {
        crate::monitor::run(Arc::new(guest::ScriptedLauncher)).unwrap();
    }
}

/// The body of a keeper process.
#[test]
fn keeper_process() {
    if std::env::args().any(|argument| argument == MARKER) {
        let start = |_: &Path, folder: &VmFolder, options: &StartOptions| {
            let held = hold(folder, "box")?;
            launch(&MonitorProgram::of_tests(), held, false, vmm_sys::clock::monotonic_us(), options)
        };
        crate::sandbox::keeper::run(start).unwrap();
    }
}

fn end_of(error: Error) -> crate::home::End {
    match error {
        Error::Ended { end } => *end,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_vm_gets_ready_answers_and_leaves_nothing_when_it_is_dropped() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Ready).unwrap();
    let info = sandbox.info().unwrap();
    assert_eq!((info.state, info.engine.as_deref()), (VmState::Running, Some("software")));
    assert!(info.timings.ready.unwrap() >= info.timings.agent.unwrap());
    assert_eq!(sandbox.health().unwrap().agent, "scripted");
    let folder = home.home.folder(sandbox.id());
    assert_eq!(fs::metadata(folder.sockets()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(folder.console_log()).unwrap(), "booting\n");
    drop(sandbox);
    home.assert_empty();
}

#[test]
fn what_the_agent_is_told_is_told_to_nobody_who_calls_later() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Ready).unwrap();
    let vsock = VmFolder::vsock_socket(&home.home.folder(sandbox.id()).sockets());
    let mut caller = UnixStream::connect(guest::boot_socket(&vsock)).unwrap();
    let hello = AgentMessage::Hello(Hello::default());
    // The monitor may have hung up already.
    let _ = header::write(&mut caller, &hello);
    let mut told = Vec::new();
    let _ = caller.read_to_end(&mut told);
    assert!(told.is_empty(), "{}", String::from_utf8_lossy(&told));
}

#[test]
fn a_start_tells_its_steps() {
    let home = TestHome::new();
    let (sender, told) = std::sync::mpsc::channel();
    let options = StartOptions::default().progress(move |step| sender.send(step.clone()).unwrap());
    drop(home.run_with(None, Script::Ready, &options).unwrap());
    drop(options);
    assert_eq!(
        told.iter().collect::<Vec<_>>(),
        [Progress::StartingMonitor, Progress::Booting, Progress::Ready]
    );
}

#[test]
fn a_named_vm_keeps_its_folder_and_starts_again() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let end = sandbox.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(end.reason, EndReason::Stopped);
    let stopped = Sandbox::attach(&home.home, "box").unwrap();
    let info = stopped.info().unwrap();
    assert_eq!((info.state, info.end), (VmState::Stopped, Some(end)));
    assert!(matches!(stopped.health(), Err(Error::NotRunning { .. })));
    assert!(matches!(stopped.command(["true"]).output(), Err(Error::NotRunning { .. })));
    let again = home.start_again("box", &StartOptions::default()).unwrap();
    assert_eq!(again.info().unwrap().state, VmState::Running);
    assert!(matches!(home.start_again("box", &StartOptions::default()), Err(Error::AlreadyRunning { .. })));
    assert!(matches!(Sandbox::attach(&home.home, "box").unwrap().remove(false), Err(Error::Running { .. })));
    Sandbox::attach(&home.home, "box").unwrap().remove(true).unwrap();
    home.assert_empty();
}

#[test]
fn of_two_starts_at_once_one_wins() {
    let home = TestHome::new();
    home.run(Some("box"), Script::Ready).unwrap().stop(Duration::ZERO).unwrap();
    let outcomes = std::thread::scope(|scope| {
        let start = || home.start_again("box", &StartOptions::default());
        let threads = [scope.spawn(start), scope.spawn(start)];
        threads.map(|thread| thread.join().unwrap())
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1), "{lost:?}");
    let code = lost.into_iter().next().unwrap().unwrap_err().code();
    assert!(["already_running", "vm_busy"].contains(&code), "{code}");
}

#[test]
fn a_guest_that_never_gets_ready_is_ended_with_its_console() {
    let home = TestHome::new();
    let options = StartOptions::default().ready_timeout(Duration::from_millis(300));
    let end = end_of(home.run_with(None, Script::Silent, &options).unwrap_err());
    assert_eq!((end.reason, end.console_tail.as_str()), (EndReason::NeverReady, "booting"));
    assert!(end.message.contains("its agent had not called yet"), "{}", end.message);
    home.assert_empty();
}

#[test]
fn an_agent_that_fails_says_what_failed() {
    let home = TestHome::new();
    let end = end_of(home.run(None, Script::AgentFails).unwrap_err());
    assert_eq!(end.reason, EndReason::AgentFailed);
    assert!(
        end.message.contains("mount the root") && end.message.contains("no such device"),
        "{}",
        end.message
    );
    home.assert_empty();
}

#[test]
fn an_agent_of_another_version_is_refused() {
    let home = TestHome::new();
    let error = home.run(None, Script::OtherVersion).unwrap_err();
    assert_eq!(error.code(), "agent_version");
    assert!(error.to_string().contains("9.0"), "{error}");
    home.assert_empty();
}

#[test]
fn an_agent_that_speaks_garbage_is_refused() {
    let home = TestHome::new();
    let end = end_of(home.run(None, Script::Garbage).unwrap_err());
    assert_eq!(end.reason, EndReason::AgentFailed);
    home.assert_empty();
}

#[test]
fn a_machine_that_cannot_be_launched_says_why_and_what_to_do() {
    let home = TestHome::new();
    let error = home.run(None, Script::NoEngine).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("start_failed", "there is no engine"));
    assert_eq!(error.hint().as_deref(), Some("build one"));
    home.assert_empty();
}

#[test]
fn a_guest_that_panics_shows_its_last_lines() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Panics).unwrap();
    let end = end_of(sandbox.health().unwrap_err());
    assert_eq!(end.reason, EndReason::GuestPanic);
    assert!(end.console_tail.contains("Kernel panic - not syncing: test"), "{}", end.console_tail);
    let info = Sandbox::attach(&home.home, "box").unwrap().info().unwrap();
    assert_eq!(info.state, VmState::Crashed);
    assert_eq!(sandbox.wait(None).unwrap(), end);
}

#[test]
fn an_engine_that_dies_ends_the_vm_and_says_so() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::EngineDies).unwrap();
    let end = end_of(sandbox.health().unwrap_err());
    assert_eq!((end.reason, end.message.as_str()), (EndReason::EngineFailed, "QEMU was killed"));
    home.assert_empty();
}

#[test]
fn a_guest_that_powers_itself_off_has_ended() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::PowersOff).unwrap();
    let waiting = sandbox.info().unwrap();
    let end = end_of(sandbox.health().unwrap_err());
    assert_eq!((waiting.state, end.reason), (VmState::Running, EndReason::PowerOff));
    assert_eq!(sandbox.stop(Duration::ZERO).unwrap().reason, EndReason::PowerOff);
    home.assert_empty();
}

#[test]
fn a_guest_that_does_not_shut_down_is_made_to() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::RefusesShutdown).unwrap();
    let end = sandbox.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(end.reason, EndReason::Killed);
    assert!(end.message.contains("could not be asked to shut down"), "{}", end.message);
}

#[test]
fn a_kill_does_not_ask() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::IgnoresShutdown).unwrap();
    let end = sandbox.kill().unwrap();
    assert_eq!((end.reason, end.message.as_str()), (EndReason::Killed, "it was killed, as asked"));
    assert_eq!(sandbox.info().unwrap().state, VmState::Stopped);
}

#[test]
fn the_end_of_whoever_started_it_is_the_vms_end() {
    let home = TestHome::new();
    // Given a VM without a name, whose starter is gone without a word.
    let (folder, lifeline) = home.launch(None, Script::Ready, &StartOptions::default());
    let mut watcher = home.connect(&folder);
    watcher.request(Request::Subscribe).unwrap();
    drop(lifeline.unwrap());
    // Then it ends, and says why.
    let end = fixture::end_of(&mut watcher);
    assert_eq!(end.reason, EndReason::StarterGone);
    home.assert_empty();
}

#[test]
fn a_detached_vm_outlives_whoever_started_it() {
    let home = TestHome::new();
    let options = StartOptions::default().detached(true);
    let (folder, starter) = home.launch(None, Script::Ready, &options);
    drop(starter.unwrap());
    let sandbox = Sandbox::attach(&home.home, folder.id().as_str()).unwrap();
    assert_eq!(sandbox.health().unwrap().agent, "scripted");
    drop(sandbox);
    let sandbox = Sandbox::attach(&home.home, &folder.id().as_str()[..6]).unwrap();
    assert_eq!(sandbox.stop(Duration::from_secs(30)).unwrap().reason, EndReason::Stopped);
    home.assert_empty();
}

#[test]
fn a_start_that_is_cancelled_leaves_nothing_even_of_a_named_vm() {
    let home = TestHome::new();
    let cancel = CancelToken::new().unwrap();
    let in_time = cancel.clone();
    let options = StartOptions::default().detached(true).cancel_token(&cancel).progress(move |step| {
        if *step == Progress::Booting {
            in_time.cancel();
        }
    });
    let error = home.run_with(Some("box"), Script::Silent, &options).unwrap_err();
    assert_eq!(error.code(), "cancelled");
    home.assert_empty();
}

#[test]
fn a_vm_whose_monitor_is_killed_has_crashed_and_starts_again() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    home.kill_monitor(&sandbox);
    let info = sandbox.info().unwrap();
    assert_eq!((info.state, info.end.unwrap().reason), (VmState::Crashed, EndReason::MonitorKilled));
    assert_eq!(end_of(sandbox.health().unwrap_err()).reason, EndReason::MonitorKilled);
    let again = home.start_again("box", &StartOptions::default()).unwrap();
    assert_eq!(again.info().unwrap().state, VmState::Running);
}

#[test]
fn a_monitor_whose_thread_left_its_role_is_ended_and_who_did_what_is_told() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Escapes).unwrap();
    assert_eq!(sandbox.info().unwrap().seccomp, Some(true));
    let told = |end: crate::home::End| {
        assert_eq!(end.reason, EndReason::MonitorKilled);
        assert!(end.message.contains("by a filter of system calls: thread escaper made"), "{}", end.message);
    };
    told(end_of(sandbox.health().unwrap_err()));
    let info = sandbox.info().unwrap();
    assert_eq!(info.state, VmState::Crashed);
    told(info.end.unwrap());
    // Who debugs it can do without.
    let again = home.start_again("box", &StartOptions::default().seccomp(false)).unwrap();
    assert_eq!(again.info().unwrap().seccomp, Some(false));
    assert_eq!(again.health().unwrap().agent, "scripted");
}

#[test]
fn what_a_killed_monitor_leaves_of_an_unnamed_vm_the_next_command_clears_away() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Ready).unwrap();
    home.kill_monitor(&sandbox);
    assert!(home.home.folder(sandbox.id()).path().exists());
    assert!(Sandbox::list(&home.home).unwrap().is_empty());
    home.assert_empty();
}

#[test]
fn a_monitor_that_hangs_holds_nobody_up_and_can_be_killed() {
    let home = TestHome::new();
    let sandbox = home.run(Some("stuck"), Script::Ready).unwrap();
    let other = home.run(Some("well"), Script::Ready).unwrap();
    home.stop_monitor(&sandbox);
    let infos = Sandbox::list(&home.home).unwrap();
    let states: Vec<_> =
        infos.iter().map(|info| (info.name.as_ref().unwrap().as_str(), info.unresponsive)).collect();
    assert_eq!(states.len(), 2);
    assert!(states.contains(&("stuck", true)) && states.contains(&("well", false)), "{states:?}");
    assert_eq!(Sandbox::attach(&home.home, "stuck").unwrap().kill().unwrap().reason, EndReason::Killed);
    assert_eq!(Sandbox::attach(&home.home, "stuck").unwrap().info().unwrap().state, VmState::Stopped);
    drop(other);
}

#[test]
fn a_signal_to_the_monitor_shuts_the_vm_down_in_order() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let pid = sandbox.info().unwrap().monitor_pid.unwrap();
    fixture::signal(pid, nix::sys::signal::Signal::SIGHUP);
    assert_eq!(sandbox.health().unwrap().agent, "scripted");
    fixture::signal(pid, nix::sys::signal::Signal::SIGTERM);
    let end = sandbox.wait(None).unwrap();
    assert_eq!(end.reason, EndReason::Stopped);
    assert!(end.message.contains("signal"), "{}", end.message);
}

#[test]
fn a_monitor_takes_the_descriptors_that_it_may_have() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Ready).unwrap();
    let pid = sandbox.info().unwrap().monitor_pid.unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let (soft, rest) = line.trim().split_once(' ').unwrap();
    assert_eq!(rest.split_whitespace().next(), Some(soft), "{line}");
}

#[test]
fn a_name_in_use_is_refused() {
    let home = TestHome::new();
    let _sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let error = home.home.create(Some(&"box".parse().unwrap())).unwrap_err();
    assert!(matches!(error, HomeError::NameInUse { .. }));
    assert!(error.hint().unwrap().contains("vmm rm box"));
}

#[test]
fn a_client_that_speaks_garbage_is_turned_away_and_the_vm_lives() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Ready).unwrap();
    let folder = home.home.folder(sandbox.id());
    let socket = VmFolder::control_socket(&folder.sockets());
    let hello = "{\"hello\":{\"control\":\"1.0\",\"program\":\"test\"}}\n";
    let start = format!("{hello}{{\"request\":{{\"id\":1,\"what\":{{\"start\":7}}}}}}\n");
    for garbage in
        ["GET / HTTP/1.1\r\n\r\n", "\n", "{}\n", "{\"request\":{\"id\":1,\"what\":\"status\"}}\n", &start]
    {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(garbage.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"refused\""), "{garbage:?}: {answer:?}");
    }
    let mut client = UnixStream::connect(&socket).unwrap();
    // It may be turned away before it has said it all.
    let _ = client.write_all(&vec![b'x'; 1 << 20]);
    drop(client);
    let mut other = UnixStream::connect(&socket).unwrap();
    other.write_all(b"{\"hello\":{\"control\":\"2.0\",\"program\":\"test\"}}\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    let ours = format!("\"{}\"", crate::control::VERSION);
    assert!(answer.contains("\"version\"") && answer.contains(&ours), "{answer}");
    assert_eq!(sandbox.health().unwrap().agent, "scripted");
}

#[test]
fn changes_are_told_to_whoever_wants_to_know() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let mut watcher = home.connect(&home.home.folder(sandbox.id()));
    watcher.request(Request::Subscribe).unwrap();
    sandbox.stop(Duration::from_secs(30)).unwrap();
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    let mut states = Vec::new();
    loop {
        match watcher.next(deadline, None) {
            Ok(MonitorLine::Event(Event::State(status))) => states.push(status.state),
            Ok(MonitorLine::Event(Event::Ended(end))) => assert_eq!(end.reason, EndReason::Stopped),
            Ok(_) => {}
            Err(ControlError::Lost) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(states, [VmState::Stopping]);
}

#[test]
fn a_vm_that_is_paused_answers_nothing_and_goes_on_with_the_right_time() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    sandbox.resume().unwrap();
    sandbox.pause().unwrap();
    sandbox.pause().unwrap();
    let info = sandbox.info().unwrap();
    assert_eq!((info.state, info.state.is_live()), (VmState::Paused, true));
    let error = sandbox.health().unwrap_err();
    assert_eq!((error.code(), error.hint().as_deref()), ("paused", Some("let it go on: vmm resume box")));
    sandbox.resume().unwrap();
    assert_eq!(sandbox.info().unwrap().state, VmState::Running);
    assert_eq!(sandbox.health().unwrap().agent, "scripted");
    sandbox.pause().unwrap();
    assert_eq!(sandbox.stop(Duration::from_secs(30)).unwrap().reason, EndReason::Stopped);
    assert!(matches!(sandbox.pause(), Err(Error::NotRunning { .. })));
    let console = fs::read_to_string(home.home.folder(sandbox.id()).console_log()).unwrap();
    assert!(console.contains("clock set"), "{console}");
}

#[test]
fn the_console_is_followed_to_the_vms_end() {
    let home = TestHome::new();
    let sandbox = home.run(None, Script::Ready).unwrap();
    let mut log = sandbox.logs(&LogOptions { follow: true, ..LogOptions::default() }, None).unwrap();
    let mut text = [0; 8];
    log.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"booting\n");
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        rest
    });
    sandbox.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(reader.join().unwrap(), "shutting down\n");
}

#[test]
fn a_vm_keeps_nothing_open_of_whoever_started_it() {
    let home = TestHome::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let sandbox = home.run(None, Script::Ready).unwrap();
    drop(writer);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert_eq!(sandbox.info().unwrap().state, VmState::Running);
}

#[test]
fn a_client_that_finds_no_room_waits_and_is_not_told_that_the_vm_has_ended() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let folder = home.home.folder(sandbox.id());
    let mut crowd: Vec<_> = (0..80).map(|_| home.connect(&folder)).collect();
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    // The first is heard, the last not yet.
    crowd[0].ask(Request::Status, deadline, None).unwrap();
    let unheard = crowd[79].ask(Request::Status, Some(Instant::now() + Duration::from_millis(50)), None);
    assert!(matches!(unheard, Err(ControlError::Unresponsive)), "{unheard:?}");
    crowd.truncate(1);
    let mut late = home.connect(&folder);
    late.ask(Request::Status, deadline, None).unwrap();
    assert_eq!(sandbox.stop(Duration::from_secs(30)).unwrap().reason, EndReason::Stopped);
}

#[test]
fn the_number_of_a_monitor_that_died_long_ago_is_nobodys() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    home.kill_monitor(&sandbox);
    let folder = home.home.folder(sandbox.id());
    // Given another process that has its number now, and a start that is under way.
    let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let mut record = folder.state().unwrap().unwrap();
    record.monitor_pid = innocent.id();
    folder.hold().unwrap().write_state(&record).unwrap();
    let _starting = crate::sandbox::hold(&folder, "box").unwrap();
    let outcome = Sandbox::attach(&home.home, "box").unwrap().kill();
    let lives = innocent.try_wait().unwrap().is_none();
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert!(lives, "{outcome:?}");
}

#[test]
fn a_monitor_that_is_none_is_told() {
    let home = TestHome::new();
    let error = home.run_as(&fixture::broken_program(), Script::Ready).unwrap_err();
    assert_eq!(error.code(), "monitor_lost");
    assert!(error.to_string().contains("no such test"), "{error}");
}

#[test]
fn a_vm_whose_folder_is_damaged_does_not_hide_the_others() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let damaged = home.home.create(Some(&"damaged".parse().unwrap())).unwrap();
    fs::write(damaged.folder().path().join("spec.json"), "{").unwrap();
    let infos = Sandbox::list(&home.home).unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(&infos[0].id, sandbox.id());
}

#[test]
fn a_guest_is_asked_to_do_without_memory_but_not_without_all_of_it() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Balloon).unwrap();
    assert_eq!(sandbox.balloon().unwrap(), Balloon { target: 0, actual: 0 });
    assert_eq!(sandbox.set_balloon(32 << 20).unwrap().target, 32 << 20);
    let refused = sandbox.set_balloon((32 << 20) + 1).unwrap_err();
    assert_eq!((refused.code(), refused.hint()), ("invalid", None));
    assert_eq!(refused.to_string(), "a guest with 96M of memory can do without 32M at most: it keeps 64M");
    assert_eq!(sandbox.balloon().unwrap().target, 32 << 20);
    assert_eq!(sandbox.set_balloon(0).unwrap().target, 0);
    sandbox.kill().unwrap();
    assert_eq!(sandbox.balloon().unwrap_err().code(), "not_running");
}

#[test]
fn a_vm_without_a_balloon_says_so_and_what_to_do() {
    let home = TestHome::new();
    let sandbox = home.run(Some("box"), Script::Ready).unwrap();
    let error = sandbox.set_balloon(0).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("no_balloon", "the VM box has no balloon"));
    assert!(error.hint().unwrap().contains("vmm run --balloon"));
}
