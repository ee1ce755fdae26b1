//! VMs that are looked after while nobody looks: health checks, restart policies, and what is told of both.

use std::time::Duration;

use super::fixture::{Script, TestHome};
use crate::home::{EndReason, HealthCheck, HealthStatus, RestartPolicy, VmState};
use crate::sandbox::{CancelToken, Error, Events, Happened, Sandbox};

/// Waits for an event that fits.
fn wait_for<T>(events: &mut Events, fits: impl Fn(&Happened) -> Option<T>) -> T {
    events.find_map(|event| fits(&event.unwrap().what)).unwrap()
}

fn state(state: VmState) -> impl Fn(&Happened) -> Option<()> {
    move |what| (*what == Happened::State { state }).then_some(())
}

fn ended(what: &Happened) -> Option<EndReason> {
    match what {
        Happened::Ended { end } => Some(end.reason),
        _ => None,
    }
}

#[test]
fn what_happens_to_vms_is_told_from_their_creation_to_their_removal() {
    let home = TestHome::new();
    let old = home.run(Some("old"), Script::Ready).unwrap();
    let cancel = CancelToken::new().unwrap();
    let mut events = Sandbox::events(&home.home, Some(&cancel)).unwrap();
    let new = home.run(None, Script::Ready).unwrap();
    let id = new.id().clone();
    // Each is waited for: what lasts a moment only may be passed over.
    let mut next = || {
        let event = events.next().unwrap().unwrap();
        assert_eq!((&event.id, &event.name), (&id, &None));
        event.what
    };
    let of_state = |state| Happened::State { state };
    assert_eq!(next(), Happened::Created);
    let mut first = next();
    if first == of_state(VmState::Starting) {
        first = next();
    }
    assert_eq!(first, of_state(VmState::Running));
    new.pause().unwrap();
    assert_eq!(next(), of_state(VmState::Paused));
    new.resume().unwrap();
    assert_eq!(next(), of_state(VmState::Running));
    drop(new);
    let end = match next() {
        stopping if stopping == of_state(VmState::Stopping) => next(),
        end => end,
    };
    assert!(matches!(end, Happened::Ended { end } if end.reason == EndReason::StarterGone));
    assert_eq!(next(), Happened::Removed);

    home.kill_monitor(&old);
    assert_eq!(wait_for(&mut events, ended), EndReason::MonitorKilled);
    let again = home.start_again("old", &crate::sandbox::StartOptions::default()).unwrap();
    wait_for(&mut events, state(VmState::Running));
    again.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(wait_for(&mut events, ended), EndReason::Stopped);
    cancel.cancel();
    assert!(events.next().is_none());
}

#[test]
fn a_vm_that_crashes_is_started_again_until_somebody_stops_it() {
    let home = TestHome::new();
    let mut events = Sandbox::events(&home.home, None).unwrap();
    let kept = home.run_kept(Script::Panics, |spec| spec.restart = RestartPolicy::Always);
    wait_for(&mut events, state(VmState::Running));
    let error = kept.health().unwrap_err();
    assert!(matches!(error, Error::Ended { ref end } if end.reason == EndReason::GuestPanic), "{error:?}");
    assert_eq!(wait_for(&mut events, ended), EndReason::GuestPanic);
    wait_for(&mut events, state(VmState::Running));
    let info = kept.info().unwrap();
    assert_eq!((info.state, info.restarts), (VmState::Running, 1));

    // Not even the death of the monitor goes unseen.
    home.kill_monitor(&kept);
    assert_eq!(wait_for(&mut events, ended), EndReason::MonitorKilled);
    wait_for(&mut events, state(VmState::Running));
    assert_eq!(kept.info().unwrap().restarts, 2);

    assert_eq!(kept.stop(Duration::from_secs(30)).unwrap().reason, EndReason::Stopped);
    assert_eq!(wait_for(&mut events, ended), EndReason::Stopped);
    assert_eq!(kept.info().unwrap().state, VmState::Stopped);
    kept.remove(false).unwrap();
    home.assert_empty();
}

#[test]
fn a_vm_that_crashes_too_often_is_left_alone() {
    let home = TestHome::new();
    let mut events = Sandbox::events(&home.home, None).unwrap();
    let once = RestartPolicy::OnFailure { retries: Some(1) };
    let kept = home.run_kept(Script::EngineDies, |spec| spec.restart = once);
    wait_for(&mut events, state(VmState::Running));
    kept.health().unwrap_err();
    wait_for(&mut events, ended);
    wait_for(&mut events, state(VmState::Running));
    Sandbox::attach(&home.home, "box").unwrap().health().unwrap_err();
    assert_eq!(wait_for(&mut events, ended), EndReason::EngineFailed);
    let vm = Sandbox::attach(&home.home, "box").unwrap();
    assert_eq!(vm.wait(None).unwrap().reason, EndReason::EngineFailed);
    // Its keeper needs a moment to see that it is not needed any more.
    while vm.info().unwrap().restarts != 0 {
        std::thread::yield_now();
    }
    assert_eq!(vm.info().unwrap().state, VmState::Crashed);
}

#[test]
fn a_vm_that_waits_to_be_started_again_can_be_removed() {
    let home = TestHome::new();
    let kept = home.run_kept(Script::NeverTwice, |spec| spec.restart = RestartPolicy::Always);
    let mut events = Sandbox::events(&home.home, None).unwrap();
    kept.health().unwrap_err();
    wait_for(&mut events, ended);
    while kept.info().unwrap().restarts < 2 {
        std::thread::yield_now();
    }
    Sandbox::attach(&home.home, "box").unwrap().remove(true).unwrap();
    home.assert_empty();
}

#[test]
fn a_health_check_is_told_and_rests_while_the_guest_stands_still() {
    let home = TestHome::new();
    let mut events = Sandbox::events(&home.home, None).unwrap();
    let check =
        HealthCheck { interval: Duration::from_millis(10), retries: 2, ..HealthCheck::new(["check"]) };
    let kept = home.run_kept(Script::SickLater, |spec| spec.health_check = Some(check));
    let health = |what: &Happened| match what {
        Happened::Health { health } => Some((health.status, health.said.clone())),
        _ => None,
    };
    // The first attempt may be over before anything is heard of.
    let first = wait_for(&mut events, health).0;
    if first == HealthStatus::Starting {
        assert_eq!(wait_for(&mut events, health).0, HealthStatus::Healthy);
    }
    let (status, said) = wait_for(&mut events, health);
    assert_eq!((status, said.as_str()), (HealthStatus::Unhealthy, "exited with status 1: no\u{1b}"));
    kept.pause().unwrap();
    let report = || kept.info().unwrap().health.unwrap();
    let before = report().failures;
    assert!(before >= 2);
    assert_eq!(report().failures, before);
    kept.resume().unwrap();
    while report().failures == before {
        std::thread::yield_now();
    }
    kept.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(kept.info().unwrap().health, None);
}
