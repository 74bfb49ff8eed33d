//! A restart that comes together with the death of a worker, of its service, or
//! of both.

use super::bench::{Bench, End, secs};
use crate::backend::Signal;
use crate::backend::fake::Behaviour;
use crate::slot::Phase;
use crate::supervise::begin::Task;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;

/// A worker died at that second, in that phase.
fn crashed(bench: &Bench, second: u64, phase: Phase) {
    assert_eq!(bench.run_until(bench.start(), second), End::TimeUp);
    assert_eq!(bench.slot().phase, phase);
    bench.fake.crash();
    let _ = bench.story();
}

#[test]
fn what_fell_together_with_its_worker_is_raised() {
    let bench = Bench::new("", [Behaviour::exits(1).after(secs(20)), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.wait(30);
    assert_eq!(bench.run(Task::Restart), End::Quiet);
    assert_eq!((bench.launches(), bench.slot().raised), (vec![0.0, 30.0], 1));
    assert!(bench.story().contains(&"30 launched".to_owned()));
}

#[test]
fn a_delay_is_cut_short_and_the_failures_count_on() {
    let lasts = |seconds| Behaviour::exits(1).after(secs(seconds));
    let runs = [lasts(20), lasts(1), lasts(1), lasts(1)];
    let bench = Bench::new("config_retry_sec=50", runs);
    crashed(&bench, 30, Phase::Delay);
    assert!(matches!(bench.run(Task::Restart), End::Over(Outcome::Failed(_))));
    assert_eq!(bench.launches(), [0.0, 20.0, 21.0, 30.0]);
}

#[test]
fn what_is_being_stopped_stays_down() {
    let stubborn = Behaviour::waits().ignoring(Signal::SIGTERM);
    for dies in [false, true] {
        let run = if dies { stubborn.clone().after(secs(35)) } else { stubborn.clone() };
        let bench = Bench::new("", [run, Behaviour::waits()]);
        bench.ask(20, [Request::stop(false)]);
        crashed(&bench, 30, Phase::Stopping);
        bench.wait(40);
        assert!(matches!(bench.run(Task::Restart), End::Over(_)), "{dies}");
        assert_eq!((bench.launches().len(), bench.fake.living()), (1, vec![]), "{dies}");
    }
}

#[test]
fn who_waits_is_told_of_a_launch_by_the_next_worker() {
    let bench = Bench::new("", [Behaviour::waits()]);
    crashed(&bench, 5, Phase::Up);
    assert_eq!(bench.run_until(Task::Resume, 8), End::TimeUp);
    assert_eq!(bench.story(), ["5 launched"]);
}
