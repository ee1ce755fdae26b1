//! Pools of machines that are scripts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::{Script, TestHome};
use crate::sandbox::{CancelToken, Error, Sandbox, SandboxPool, StartOptions};

const SOON: Option<Duration> = Some(Duration::from_secs(60));

fn start(home: &TestHome, cancel: &CancelToken) -> Result<Sandbox, Error> {
    home.run_with(None, Script::Ready, &StartOptions::default().cancel_token(cancel))
}

fn pool_of(home: &Arc<TestHome>, size: usize) -> SandboxPool {
    let home = home.clone();
    SandboxPool::with(size, size, move |cancel| start(&home, cancel)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a pool tells nobody that it is full")]
fn wait_until_ready(pool: &SandboxPool, machines: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while pool.ready() != machines {
        assert!(Instant::now() < deadline, "{} of {machines} are ready", pool.ready());
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn machines_are_taken_by_many_and_replaced_and_gone_with_the_pool() {
    let home = Arc::new(TestHome::new());
    let pool = pool_of(&home, 3);
    let taken = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2 {
                    let sandbox = pool.take(SOON, None).unwrap();
                    assert_eq!(sandbox.health().unwrap().agent, "scripted");
                    taken.lock().unwrap().push(sandbox);
                }
            });
        }
    });
    let taken = taken.into_inner().unwrap();
    let ids: std::collections::BTreeSet<_> = taken.iter().map(|sandbox| sandbox.id().to_string()).collect();
    assert_eq!(ids.len(), 8, "nobody has another's machine");
    wait_until_ready(&pool, 3);
    drop(pool);
    // What was taken is its taker's.
    assert!(taken.iter().all(|sandbox| sandbox.health().is_ok()));
    drop(taken);
    home.assert_empty();
}

#[test]
fn a_machine_that_ends_in_the_pool_is_replaced() {
    let home = Arc::new(TestHome::new());
    let pool = pool_of(&home, 2);
    wait_until_ready(&pool, 2);
    for info in Sandbox::list(&home.home).unwrap() {
        Sandbox::attach(&home.home, info.id.as_str()).unwrap().kill().unwrap();
    }
    // Also where it was not seen yet that they are gone.
    for _ in 0..3 {
        assert!(pool.take(SOON, None).unwrap().health().is_ok());
    }
    drop(pool);
    home.assert_empty();
}

#[test]
fn a_start_that_fails_is_told_and_tried_again_after_a_pause() {
    let home = Arc::new(TestHome::new());
    let tries = Arc::new(AtomicUsize::new(0));
    let (its_home, its_tries) = (home.clone(), tries.clone());
    let pool = SandboxPool::with(3, 3, move |cancel| match its_tries.fetch_add(1, Ordering::SeqCst) {
        // All three begin at once; then one tries for all.
        0..3 => Err(Error::NoMonitor),
        3 => panic!("in what prepares it"),
        _ => start(&its_home, cancel),
    })
    .unwrap();
    let began = Instant::now();
    let mut told = Vec::new();
    let sandbox = loop {
        match pool.take(SOON, None) {
            Ok(sandbox) => break sandbox,
            Err(error) => told.push(error.code()),
        }
    };
    assert!(told.contains(&"no_monitor") && told.last() == Some(&"invalid"), "{told:?}");
    assert!(began.elapsed() > Duration::from_millis(500), "it was tried again at once");
    drop((sandbox, pool));
    home.assert_empty();
}

#[test]
fn a_start_that_begins_when_its_pool_closes_leaves_nothing() {
    let home = Arc::new(TestHome::new());
    let (its_home, (begun, begins)) = (home.clone(), mpsc::channel());
    let pool = SandboxPool::with(1, 1, move |cancel| {
        begun.send(()).unwrap();
        let mut fds = [rustix::event::PollFd::new(cancel, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        start(&its_home, cancel)
    })
    .unwrap();
    begins.recv().unwrap();
    drop(pool);
    home.assert_empty();
}

#[test]
fn who_waits_gives_up_in_time_and_when_it_is_cancelled() {
    let (begun, begins) = mpsc::channel();
    let pool = SandboxPool::with(1, 1, move |cancel| {
        begun.send(()).unwrap();
        // A start that takes as long as it may.
        let mut fds = [rustix::event::PollFd::new(cancel, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        Err(Error::Cancelled)
    })
    .unwrap();
    begins.recv().unwrap();
    let timeout = Duration::from_millis(20);
    assert!(
        matches!(pool.take(Some(timeout), None), Err(Error::PoolTimeout { timeout: told }) if told == timeout)
    );
    let token = CancelToken::new().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| pool.take(None, Some(&token)));
        token.cancel();
        assert!(matches!(waits.join().unwrap(), Err(Error::Cancelled)));
    });
    assert!(matches!(pool.take(None, Some(&token)), Err(Error::Cancelled)));
    // The start that is under way is ended with the pool.
    drop(pool);
}

#[test]
fn a_panic_leaves_nothing_of_a_pool() {
    let home = Arc::new(TestHome::new());
    let its_home = home.clone();
    let panicked = thread::spawn(move || {
        let pool = pool_of(&its_home, 2);
        let _sandbox = pool.take(SOON, None).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    home.assert_empty();
}

#[test]
fn a_pool_that_cannot_be_is_refused() {
    let machine = || Sandbox::builder("alpine");
    for builder in [
        SandboxPool::builder(machine()).size(0),
        SandboxPool::builder(machine()).starts_at_once(0),
        SandboxPool::builder(machine().name("box")),
        SandboxPool::builder(machine().detached(true)),
        SandboxPool::builder(machine().cancel_token(&CancelToken::new().unwrap())),
    ] {
        assert_eq!(builder.open().unwrap_err().code(), "invalid");
    }
}
