use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::testing::{Behaviour, Script, file_systems};
use super::*;

const LONG: Duration = Duration::from_secs(600);

/// Waits for what happens next.
fn next(freeze: &Freeze) -> Vec<News> {
    poll(&mut [PollFd::from_borrowed_fd(freeze.event().as_fd(), PollFlags::IN)], None).unwrap();
    freeze.news()
}

fn begin(script: &Arc<Script>, which: &[(&'static str, Behaviour)], limit: Duration) -> Freeze {
    Freeze::begin(file_systems(script, which), limit).unwrap()
}

#[test]
fn the_last_that_was_mounted_stands_still_first_and_goes_on_last() {
    let script = Arc::default();
    let freeze = begin(&script, &[("/", Behaviour::Good), ("/data", Behaviour::Good)], LONG);
    assert_eq!(next(&freeze), [News::Frozen]);
    assert_eq!(script.events(), ["sync /", "sync /data", "freeze /data", "freeze /"]);
    freeze.thaw();
    assert!(matches!(next(&freeze)[..], [News::Thawed { expired: false, .. }]));
    assert_eq!(script.events()[4..], ["thaw /", "thaw /data"]);
}

#[test]
fn nobody_stands_still_for_longer_than_the_limit() {
    let script = Arc::default();
    let freeze = begin(&script, &[("/", Behaviour::Good)], Duration::from_millis(30));
    let mut news = next(&freeze);
    while news.len() < 2 {
        news.extend(next(&freeze));
    }
    assert_eq!(news[0], News::Frozen);
    assert!(matches!(news[1], News::Thawed { expired: true, frozen } if frozen >= Duration::from_millis(30)));
    assert_eq!(script.events().last().unwrap(), "thaw /");
}

#[test]
fn whoever_forgets_a_freeze_ends_it() {
    let script: Arc<Script> = Arc::default();
    drop(begin(&script, &[("/", Behaviour::Good), ("/data", Behaviour::Good)], LONG));
    // It may end before it began.
    let frozen =
        |events: &[String], what: &str| events.iter().filter(|event| event.starts_with(what)).count();
    loop {
        let events = script.events();
        if events.len() >= 2 && frozen(&events, "freeze") == frozen(&events, "thaw") {
            break;
        }
        thread::yield_now();
    }
}

#[test]
fn one_that_cannot_stand_still_ends_it_for_all() {
    let script = Arc::default();
    let broken = Behaviour::Fails(Errno::IO.raw_os_error());
    let freeze =
        begin(&script, &[("/", Behaviour::Good), ("/bad", broken), ("/data", Behaviour::Good)], LONG);
    let news = next(&freeze);
    let [News::Refused(refusal)] = &news[..] else { panic!("{news:?}") };
    assert!(refusal.message.starts_with("freeze the file system at /bad: "), "{}", refusal.message);
    script.wait_for("thaw /data");
    assert!(!script.events().contains(&"freeze /".to_owned()));
}

#[test]
fn one_that_knows_no_freezing_is_left_out_unless_it_is_the_root() {
    let unsupported = Behaviour::Fails(Errno::OPNOTSUPP.raw_os_error());
    let script = Arc::default();
    let freeze = begin(&script, &[("/", Behaviour::Good), ("/boot", unsupported)], LONG);
    assert_eq!(next(&freeze), [News::Frozen]);
    let freeze = begin(&script, &[("/", unsupported)], LONG);
    assert!(matches!(next(&freeze)[..], [News::Refused(_)]));
    let busy = Behaviour::Fails(Errno::BUSY.raw_os_error());
    let freeze = begin(&script, &[("/", busy)], LONG);
    assert!(matches!(&next(&freeze)[..], [News::Refused(refusal)] if refusal.kind == ErrorKind::Busy));
}

#[test]
fn one_that_never_stands_still_does_not_keep_the_others_frozen() {
    let script = Arc::default();
    // The first is frozen last, and only when the second goes on.
    let stuck = Behaviour::Stuck("/data");
    let freeze = begin(&script, &[("/", stuck), ("/data", Behaviour::Good)], Duration::from_millis(30));
    let news = next(&freeze);
    let [News::Refused(refusal)] = &news[..] else { panic!("{news:?}") };
    assert!(refusal.message.contains("did not stand still within 30ms"), "{}", refusal.message);
    script.wait_for("thaw /");
}
