//! `resume`: what is wanted comes back after a reboot, after the end of a
//! session, and after everybody's death; nothing else does.

use super::bench::{Bench, End, secs};
use crate::backend::fake::Behaviour;
use crate::backend::{Exit, Signal};
use crate::record;
use crate::slot::Phase;
use crate::supervise::begin::Task;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;
use crate::supervise::worker::Place;
use crate::wanted::Wanted;

const STOPPED: End = End::Over(Outcome::Stopped);
const NOTHING: End = End::Over(Outcome::NotRunning);

fn raise() -> Task {
    Task::Raise { client: "9".into() }
}

fn stubborn() -> Behaviour {
    Behaviour::waits().ignoring(Signal::SIGTERM)
}

fn lasts(seconds: u64, code: i32) -> Behaviour {
    Behaviour::exits(code).after(secs(seconds))
}

/// All of the machine's processes are gone, and with them what pids meant.
fn reboot(bench: &mut Bench) {
    bench.fake.crash();
    bench.place = Place { boot: bench.place.boot + 1, ..bench.place };
}

#[test]
fn after_a_reboot_what_is_wanted_is_raised_once() {
    let mut bench = Bench::new(
        "config_retry_sec=0",
        [Behaviour::waits(), lasts(2, 7), lasts(2, 7), lasts(2, 7), Behaviour::waits()],
    );
    assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
    let old = bench.main();
    reboot(&mut bench);
    let _ = bench.story();
    // It once started: what fails now may pass, and is tried again.
    assert_eq!(bench.run(raise()), End::Over(Outcome::Failed(Exit::Code(7))));
    assert_eq!(bench.launches(), [0.0, 15.0, 17.0, 19.0]);
    assert!(bench.fake.is_alive(old) && bench.fake.sent().is_empty(), "a stranger by now");
    // It was given up in this boot.
    assert_eq!(bench.run(raise()), NOTHING);
    assert_eq!(bench.record().unwrap().phase, record::Phase::Error);
    reboot(&mut bench);
    assert_eq!(bench.run_until(raise(), 40), End::TimeUp);
    assert_eq!(bench.launches().len(), 5);
}

#[test]
fn one_that_never_started_is_not_tried_again_after_a_reboot_either() {
    let mut bench = Bench::new("", [lasts(2, 7), lasts(2, 7)]);
    assert_eq!(bench.run(bench.start()), End::Over(Outcome::Failed(Exit::Code(7))));
    reboot(&mut bench);
    assert_eq!(bench.run(raise()), End::Over(Outcome::Failed(Exit::Code(7))));
    assert_eq!(bench.launches().len(), 2);
}

#[test]
fn resume_again_changes_nothing() {
    let bench = Bench::new("", [Behaviour::waits()]);
    assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
    bench.fake.crash();
    // Adopted, and then asked again while it has a worker.
    bench.ask(20, [Request::Resume { client: "9".into() }]);
    let _ = bench.story();
    assert_eq!(bench.run(raise()), End::Quiet);
    let story = bench.story();
    assert_eq!(story.iter().filter(|s| s.ends_with("already")).count(), 2, "{story:?}");
    assert_eq!((bench.launches().len(), bench.fake.sent().len()), (1, 0));
}

#[test]
fn what_is_not_wanted_stays_down() {
    for wanted in [None, Some(Wanted::Down)] {
        let mut bench = Bench::new("", [Behaviour::waits()]);
        bench.ask(20, [Request::stop(false)]);
        assert_eq!(bench.run(bench.start()), STOPPED);
        if wanted.is_none() {
            std::fs::remove_file(bench.files.file("want")).unwrap();
        }
        assert_eq!(bench.run(raise()), NOTHING);
        reboot(&mut bench);
        assert_eq!(bench.run(raise()), NOTHING);
        assert_eq!((bench.launches().len(), bench.wanted()), (1, wanted));
    }
}

#[test]
fn what_ended_with_its_session_comes_back_with_the_next() {
    let bench = Bench::new("", [Behaviour::waits(), Behaviour::waits()]);
    bench.ask(20, [Request::Leave { now: false }]);
    assert_eq!(bench.run(bench.start()), STOPPED);
    // A successor of the worker that left does not raise it.
    assert_eq!(bench.resume(), NOTHING);
    assert_eq!(bench.launches().len(), 1);
    assert_eq!(bench.run(raise()), End::Quiet);
    assert_eq!(bench.fake.living(), [bench.main()]);
}

#[test]
fn an_end_of_a_session_that_was_cut_short_is_finished_and_the_service_raised() {
    let bench = Bench::new("", [stubborn(), Behaviour::waits()]);
    bench.ask(20, [Request::Leave { now: false }]);
    assert_eq!(bench.run_until(bench.start(), 30), End::TimeUp);
    bench.fake.crash();
    assert_eq!(bench.run(raise()), End::Quiet);
    // It was ended by the whole ladder, and then there was one of it.
    assert_eq!((bench.launches(), bench.fake.living()), (vec![0.0, 50.0], vec![bench.main()]));
    // The same when a worker is at it already.
    let bench = Bench::new("", [stubborn(), Behaviour::waits()]);
    bench.ask(20, [Request::Leave { now: false }]);
    bench.ask(25, [Request::Resume { client: "9".into() }]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 50.0]);
}

#[test]
fn a_stop_that_was_cut_short_is_finished_and_nothing_is_raised() {
    let bench = Bench::new("", [stubborn()]);
    bench.ask(20, [Request::stop(false)]);
    assert_eq!(bench.run_until(bench.start(), 30), End::TimeUp);
    bench.fake.crash();
    assert_eq!((bench.run(raise()), bench.launches().len()), (STOPPED, 1));
    assert_eq!(bench.fake.living(), []);
}

#[test]
fn what_is_wanted_once_runs_once() {
    let mut bench = Bench::new("", [lasts(30, 0)]);
    assert_eq!(bench.run(bench.start_once()), End::Over(Outcome::Done(Exit::Code(0))));
    assert_eq!((bench.launches().len(), bench.wanted()), (1, Some(Wanted::Down)));
    assert_eq!(bench.run(raise()), NOTHING);
    reboot(&mut bench);
    assert_eq!(bench.run(raise()), NOTHING);
    let bench = Bench::new("", [lasts(30, 3)]);
    assert_eq!(bench.run(bench.start_once()), End::Over(Outcome::Failed(Exit::Code(3))));
    assert_eq!((bench.launches().len(), bench.wanted()), (1, Some(Wanted::Down)));
}

#[test]
fn what_is_wanted_once_and_was_cut_short_by_a_reboot_runs_again() {
    let mut bench = Bench::new("", [Behaviour::waits(), lasts(5, 0)]);
    assert_eq!(bench.run_until(bench.start_once(), 15), End::TimeUp);
    // A successor within this boot knows it as well.
    bench.fake.crash();
    assert_eq!(bench.run_until(Task::Resume, 20), End::TimeUp);
    reboot(&mut bench);
    assert_eq!(bench.run(raise()), End::Over(Outcome::Done(Exit::Code(0))));
    assert_eq!((bench.launches().len(), bench.wanted()), (2, Some(Wanted::Down)));
}

#[test]
fn what_is_wanted_once_and_ended_while_nobody_looked_is_not_repeated() {
    let bench = Bench::new("", [lasts(20, 0)]);
    assert_eq!(bench.run_until(bench.start_once(), 15), End::TimeUp);
    bench.fake.crash();
    bench.wait(30);
    assert_eq!(bench.run(raise()), End::Over(Outcome::Failed(Exit::Unknown)));
    assert_eq!((bench.launches().len(), bench.wanted()), (1, Some(Wanted::Down)));
}

#[test]
fn a_later_start_decides_how_often() {
    // Up, then once: it is not raised.
    let bench = Bench::new("", [lasts(30, 1)]);
    bench.ask(20, [bench.start_once_request()]);
    assert_eq!(bench.run(bench.start()), End::Over(Outcome::Failed(Exit::Code(1))));
    // Once, then up: it is.
    let bench = Bench::new("", [lasts(30, 1), Behaviour::waits()]);
    bench.ask(20, [bench.start_request()]);
    assert_eq!(bench.run(bench.start_once()), End::Quiet);
    assert_eq!((bench.launches().len(), bench.wanted()), (2, Some(Wanted::Up)));
}

#[test]
fn without_its_surroundings_it_is_not_raised_and_that_is_said() {
    let mut bench = Bench::new("", [Behaviour::waits()]);
    assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
    reboot(&mut bench);
    std::fs::remove_file(bench.files.file("context")).unwrap();
    let _ = bench.story();
    assert_eq!(bench.run(raise()), End::Declined);
    let fault = "fault: the surroundings that it was started with are gone";
    assert!(bench.story().iter().any(|s| s.ends_with(fault)));
    assert_eq!((bench.launches().len(), bench.wanted()), (1, Some(Wanted::Up)));
}

#[test]
fn a_clock_that_jumps_ends_no_wait_too_late_and_starts_nothing_twice() {
    // Into another time namespace, where it is long ago.
    let runs = [lasts(1000, 1), lasts(1, 1), lasts(1, 1), Behaviour::waits()];
    let bench = Bench::new("", runs);
    assert_eq!(bench.run_until(bench.start(), 1002), End::TimeUp);
    assert_eq!(bench.slot().phase, Phase::Delay);
    bench.fake.crash();
    bench.fake.set_clock(secs(1));
    assert_eq!(bench.run(Task::Resume), End::Quiet);
    // No longer than any delay can be; then it has to last for start_sec.
    assert!(bench.now() <= secs(1 + 66 + 10), "{:?}", bench.now());
    assert_eq!(bench.fake.living(), [bench.main()]);
    // And forward, as after a long sleep.
    bench.fake.crash();
    bench.fake.set_clock(secs(1_000_000));
    assert_eq!(bench.run(Task::Resume), End::Quiet);
    assert_eq!((bench.launches().len(), bench.fake.living()), (4, vec![bench.main()]));
}
