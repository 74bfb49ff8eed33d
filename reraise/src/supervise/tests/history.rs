//! What a worker keeps of the ends of runs, and of changes of state.

use super::bench::{Bench, End, secs};
use super::kill::at_every_call;
use crate::backend::fake::{Behaviour, Offspring};
use crate::backend::{Exit, LaunchError, Signal, Step};
use crate::history::deaths::{self, Cause, Death};
use crate::slot;
use crate::supervise::begin::Task;
use crate::supervise::link::Request;

fn lasts(seconds: u64, code: i32) -> Behaviour {
    Behaviour::exits(code).after(secs(seconds))
}

fn deaths(bench: &Bench) -> Vec<Death> {
    deaths::read_all(&bench.files.file("deaths"))
}

/// How each run ended, why, and how many seconds it lasted.
fn ends(bench: &Bench) -> Vec<(Exit, Cause, u64)> {
    let lasted = |death: &Death| death.lasted.div_ceil(1_000_000_000);
    deaths(bench).iter().map(|d| (d.exit, d.cause, lasted(d))).collect()
}

#[test]
fn each_end_and_each_change() {
    let bench = Bench::new("", [lasts(20, 1), lasts(3, 2), lasts(1, 3), lasts(2, 4)]);
    assert!(matches!(bench.run(bench.start()), End::Over(_)));
    let itself = |code, lasted| (Exit::Code(code), Cause::Itself, lasted);
    assert_eq!(ends(&bench), [itself(1, 20), itself(2, 3), itself(3, 1), itself(4, 2)]);
    let found = bench.events();
    let waiting = found.iter().position(|line| line.starts_with("waiting delay=2")).unwrap();
    assert_eq!(
        [&found[..waiting], &found[waiting + 1..]].concat(),
        [
            "starting",
            "running",
            "ended exit=1 lasted=20.000",
            "starting",
            "ended exit=2 lasted=3.000",
            "starting",
            "ended exit=3 lasted=1.000",
            "starting",
            "ended exit=4 lasted=2.000",
            "failed exit=4",
        ]
    );
    // Each of a run of its own.
    let runs: Vec<u64> = deaths(&bench).iter().map(|d| d.run).collect();
    assert!((1..4).all(|at| !runs[..at].contains(&runs[at])), "{runs:?}");
}

#[test]
fn whoever_asks_for_it_is_the_cause() {
    let end = Behaviour::waits().ending_on(Signal::SIGTERM, secs(1), Exit::Code(0));
    let bench = Bench::new("", [end.clone(), end]);
    bench.ask(20, [Request::Restart]);
    bench.ask(40, [Request::stop(false)]);
    assert!(matches!(bench.run(bench.start()), End::Over(_)));
    let ended = Exit::Code(0);
    assert_eq!(ends(&bench), [(ended, Cause::Restart, 21), (ended, Cause::Stop, 20)]);
    let found = bench.events();
    let of_note = |line: &&String| !["starting", "running"].contains(&line.as_str());
    assert_eq!(
        found.iter().filter(of_note).collect::<Vec<_>>(),
        [
            "restarting",
            "ended exit=0 lasted=21.000 cause=restart",
            "stopping",
            "ended exit=0 lasted=20.000 cause=stop",
            "stopped"
        ]
    );
}

#[test]
fn the_end_of_a_session_and_a_signal_are_named() {
    let end = || Behaviour::waits().ending_on(Signal::SIGTERM, secs(1), Exit::Code(0));
    let bench = Bench::new("", [end()]);
    bench.ask(20, [Request::Leave { now: false }]);
    assert!(matches!(bench.run(bench.start()), End::Over(_)));
    assert!(bench.events().contains(&"stopping asked=leave".to_owned()));
    let bench = Bench::new("", [end()]);
    bench.fake.signal_us(secs(20), Signal::SIGTERM);
    assert!(matches!(bench.run(bench.start()), End::Over(_)));
    assert!(bench.events().contains(&"stopping asked=TERM".to_owned()));
}

#[test]
fn a_program_that_cannot_be_executed() {
    let bench = Bench::new("", [Behaviour::cannot_exec(libc::EACCES)]);
    assert!(matches!(bench.run(bench.start()), End::Over(_)));
    let error = LaunchError { step: Step::Exec, errno: libc::EACCES };
    assert_eq!(ends(&bench), [(Exit::Code(126), Cause::Launch(error), 0)]);
    let expected =
        [format!("cannot-start step=exec errno={}", libc::EACCES), "failed exit=126".into()];
    assert_eq!(bench.events(), expected);
}

#[test]
fn what_ended_while_nobody_was_there_is_said_to_be_late_or_when_it_was_left() {
    for is_left in [true, false] {
        let bench = Bench::new("", [lasts(7, 3)]);
        assert_eq!(bench.run_until(bench.start(), 5), End::TimeUp);
        bench.fake.crash();
        bench.wait(8);
        if is_left {
            slot::leave_status(&bench.files.file("exit"), bench.slot().run, 3 << 8).unwrap();
        }
        assert!(matches!(bench.run(Task::Resume), End::Over(_)));
        let all = deaths(&bench);
        let exit = if is_left { Exit::Code(3) } else { Exit::Unknown };
        assert_eq!((all.len(), all[0].exit, all[0].is_late), (1, exit, !is_left));
    }
}

#[test]
fn a_run_ends_once_whenever_its_worker_is_killed() {
    let make = || {
        let child = Offspring::new(Behaviour::waits().ignoring(Signal::SIGTERM)).in_own_session();
        let fall = lasts(20, 1).forking(child);
        let mut bench = Bench::new("", [fall.clone(), lasts(20, 2), Behaviour::waits()]);
        bench.is_single = false;
        bench
    };
    at_every_call(make, Bench::start, |bench, end, calls| {
        if end == End::Killed {
            let has_spoken = bench.story().iter().any(|s| s.ends_with("launched"));
            let task = if has_spoken { Task::Resume } else { bench.start() };
            assert_eq!(bench.run(task), End::Quiet, "{calls}");
        }
        let all = deaths(bench);
        let mut runs: Vec<u64> = all.iter().map(|d| d.run).collect();
        runs.sort_unstable();
        runs.dedup();
        assert_eq!(runs.len(), all.len(), "{calls}: {all:?}");
        // All but the last run, and those that never got through the gate.
        let (kept, begun) = (all.len(), bench.launches().len());
        assert!(kept == 2 && begun >= 3, "{calls}: {kept} of {begun}");
        // What one worker has kept its successor knows.
        let is_known = |d: &Death| d.is_late || matches!(d.exit, Exit::Code(1 | 2));
        assert!(all.iter().all(is_known), "{calls}: {all:?}");
        let told = bench.events().iter().filter(|line| line.starts_with("ended")).count();
        assert!(told <= 2, "{calls}: {:?}", bench.events());
    });
}
