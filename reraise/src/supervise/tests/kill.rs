//! A worker is killed before each of its calls to the system in turn, and
//! another one takes over. Whatever the moment: never two runs, no lost service,
//! and what was asked for is done.

use super::bench::{Bench, End, secs};
use crate::backend::fake::{Behaviour, Offspring};
use crate::backend::{Exit, NOT_LET_THROUGH, Signal};
use crate::record::Phase;
use crate::supervise::begin::Task;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;
use crate::wanted::Wanted;

fn stubborn() -> Behaviour {
    Behaviour::waits().ignoring(Signal::SIGTERM)
}

/// Calls `each` with a bench whose worker was killed before its n-th call, for
/// all n until one came to its end; that is shown as well.
pub(super) fn at_every_call(
    make: impl Fn() -> Bench,
    task: impl Fn(&Bench) -> Task,
    mut each: impl FnMut(&Bench, End, usize),
) {
    for calls in 0..10_000 {
        let bench = make();
        let end = bench.run_calls(task(&bench), calls);
        if end == End::Killed {
            bench.fake.crash();
        }
        each(&bench, end, calls);
        if end != End::Killed {
            assert!(calls > 10, "only {calls} calls");
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn a_start() {
    let make = || {
        let mut bench = Bench::new("", [Behaviour::waits()]);
        bench.is_single = true;
        bench
    };
    at_every_call(make, Bench::start, |bench, end, calls| {
        if end == End::Killed {
            // The keeper repeats what its worker has said nothing about.
            let has_spoken = bench.story().iter().any(|s| s.ends_with("launched"));
            let task = if has_spoken { Task::Resume } else { bench.start() };
            assert_eq!(bench.run(task), End::Quiet, "{calls}");
        }
        assert_eq!(bench.fake.living(), [bench.main()], "{calls}");
        assert_eq!(bench.record().unwrap().phase, Phase::Run, "{calls}");
        assert_eq!(bench.record().unwrap().process(), Some(bench.main()), "{calls}");
        assert_eq!(bench.wanted(), Some(Wanted::Up), "{calls}");
        assert!(bench.fake.sent().iter().all(|s| s.process != bench.main()), "{calls}");
    });
}

#[test]
fn a_start_that_finds_something_left() {
    let make = || {
        let child = Offspring::new(stubborn()).in_own_session();
        let fall = Behaviour::exits(1).after(secs(20)).forking(child);
        let bench = Bench::new("", [fall, Behaviour::waits()]);
        assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
        bench.fake.crash();
        bench.wait(30);
        let _ = bench.story();
        bench
    };
    at_every_call(make, Bench::start, |bench, end, calls| {
        if end == End::Killed {
            let has_spoken = bench.story().iter().any(|s| s.ends_with("launched"));
            let task = if has_spoken { Task::Resume } else { bench.start() };
            assert_eq!(bench.run(task), End::Quiet, "{calls}");
        }
        assert_eq!(bench.fake.living(), [bench.main()], "{calls}");
        assert_eq!(bench.record().unwrap().phase, Phase::Run, "{calls}");
    });
}

#[test]
fn a_fall_that_leaves_something() {
    let make = || {
        let child = Offspring::new(stubborn()).in_own_session();
        let fall = Behaviour::exits(1).after(secs(20)).forking(child);
        Bench::new("", [fall.clone(), fall, Behaviour::waits()])
    };
    at_every_call(make, Bench::start, |bench, end, calls| {
        if end == End::Killed {
            let has_spoken = bench.story().iter().any(|s| s.ends_with("launched"));
            let task = if has_spoken { Task::Resume } else { bench.start() };
            assert_eq!(bench.run(task), End::Quiet, "{calls}");
        }
        assert_eq!(bench.fake.living(), [bench.main()], "{calls}");
        assert_eq!(bench.record().unwrap().phase, Phase::Run, "{calls}");
        assert!((3..=4).contains(&bench.launches().len()), "{calls}: {:?}", bench.launches());
        // One that has waited at the gate in vain was none.
        assert_eq!(bench.slot().raised, 2, "{calls}");
    });
}

/// A service that has run for 20 seconds is asked for something by its keeper.
fn asked(request: &Request) -> Bench {
    let child = Offspring::new(stubborn()).in_own_session();
    let end = Behaviour::waits().ending_on(Signal::SIGTERM, secs(2), Exit::Code(0));
    let bench = Bench::new("config_stop_to=process", [end.forking(child), Behaviour::waits()]);
    assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
    bench.fake.crash();
    bench.ask(20, [request.clone()]);
    bench
}

/// What the keeper gives to a successor.
fn next(bench: &Bench, request: &Request) -> Task {
    match request {
        _ if bench.acks() > 0 => Task::Resume,
        Request::Stop { now, .. } => Task::Stop { now: *now },
        Request::Restart => Task::Restart,
        Request::Start { .. } => bench.start(),
        Request::Resume { .. } => Task::Raise { client: "8".into() },
        Request::Leave { now } => Task::Leave { now: *now },
    }
}

#[test]
fn a_stop() {
    let stop = Request::stop;
    for (request, wanted) in [
        (stop(false), Wanted::Down),
        (stop(true), Wanted::Down),
        (Request::Leave { now: false }, Wanted::Up),
    ] {
        at_every_call(
            || asked(&request),
            |_| Task::Resume,
            |bench, end, calls| {
                if end == End::Killed {
                    let end = bench.run(next(bench, &request));
                    assert!(matches!(end, End::Over(_)), "{calls} {end:?}");
                }
                assert_eq!(bench.fake.living(), [], "{calls}");
                assert_eq!((bench.launches().len(), bench.wanted()), (1, Some(wanted)), "{calls}");
                assert_eq!(bench.record().map(|r| r.to_line()), None, "{calls}");
            },
        );
    }
}

#[test]
fn a_restart() {
    let request = Request::Restart;
    at_every_call(
        || asked(&request),
        |_| Task::Resume,
        |bench, end, calls| {
            if end == End::Killed {
                assert_eq!(bench.run(next(bench, &request)), End::Quiet, "{calls}");
            }
            assert_eq!(bench.fake.living(), [bench.main()], "{calls}");
            assert_eq!(bench.record().unwrap().phase, Phase::Run, "{calls}");
            // It was raised anew; twice where the first worker could not say so.
            assert!((2..=3).contains(&bench.launches().len()), "{calls}: {:?}", bench.launches());
        },
    );
}

/// What the record said when it was last looked at, put back: its worker was killed
/// before it could write the last one.
fn unfinished(config: &str, runs: &[Behaviour], request: Option<Request>) -> Bench {
    let bench = Bench::new(config, runs.to_vec());
    let (kept, path) = (bench.dir.path().join("kept"), bench.files.record.clone());
    let keep = kept.clone();
    bench.at(15, move || assert!(std::fs::copy(path, keep).is_ok()));
    if let Some(request) = request {
        bench.ask(18, [request]);
    }
    assert!(matches!(bench.run(bench.start()), End::Over(_)));
    bench.fake.crash();
    let _ = bench.story();
    std::fs::rename(kept, &bench.files.record).unwrap();
    assert_eq!(bench.record().unwrap().phase, Phase::Run);
    bench
}

#[test]
fn the_last_record_is_written_by_the_next_one() {
    let fall = |code| Behaviour::exits(code).after(secs(20));
    let stopped = Behaviour::waits().ending_on(Signal::SIGTERM, secs(1), Exit::Code(0));
    let raise = Task::Raise { client: "8".into() };
    for task in [Task::Resume, Task::Restart, Task::Stop { now: false }, raise] {
        let bench = unfinished("", std::slice::from_ref(&stopped), Some(Request::stop(false)));
        assert!(matches!(bench.run(task.clone()), End::Over(_)), "{task:?}");
        assert_eq!(bench.record(), None, "{task:?}");
    }
    for (code, is_done) in [(3, false), (0, true)] {
        for task in [Task::Resume, Task::Restart, Task::Stop { now: false }] {
            let bench = unfinished("config_restart=never", &[fall(code)], None);
            let end = bench.run(task.clone());
            assert!(matches!(end, End::Over(_)), "{task:?} {end:?}");
            let record = bench.record().unwrap();
            let more = record.more.unwrap();
            assert_eq!((record.exit, record.worker, record.pid), (Some(code), None, None));
            assert_eq!((more.is_done, bench.launches().len()), (is_done, 1), "{task:?}");
            // One that has been removed since is not made anew, unless nobody ever made it.
            std::fs::remove_file(&bench.files.record).unwrap();
            assert!(matches!(bench.run(Task::Restart), End::Over(_)));
            assert_eq!(bench.record(), None);
            assert!(matches!(bench.run(Task::Resume), End::Over(_)));
            assert_eq!(bench.record().unwrap().exit, Some(code));
        }
    }
    // Of the shell version, which has the service now.
    let bench = unfinished("", &[stopped], Some(Request::stop(false)));
    let line = "RUN - 4711 4710 1700000000\n";
    std::fs::write(&bench.files.record, line).unwrap();
    assert!(matches!(bench.run(Task::Resume), End::Over(_)));
    assert_eq!(std::fs::read_to_string(&bench.files.record).unwrap(), line);
}

#[test]
fn who_cannot_begin_leaves_it_to_another_where_somebody_is_to_be_looked_after() {
    let bench = Bench::new("", [Behaviour::waits()]);
    let (run, kept) = (bench.files.file("run"), bench.files.file("kept"));
    // Nothing is there yet: whoever asked is told, and that is all.
    std::fs::create_dir_all(&run).unwrap();
    assert_eq!(bench.run(bench.start()), End::Declined);
    assert!(bench.story().iter().any(|s| s.contains("fault: cannot keep its run slot")));
    std::fs::remove_dir(&run).unwrap();
    assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
    bench.fake.crash();
    std::fs::rename(&run, &kept).unwrap();
    std::fs::create_dir(&run).unwrap();
    let stop = Task::Stop { now: false };
    for task in [Task::Resume, bench.start(), stop, Task::Restart] {
        assert_eq!(bench.run(task.clone()), End::Failed, "{task:?}");
        assert_eq!(bench.fake.living(), [bench.main()]);
    }
    std::fs::remove_dir(&run).unwrap();
    std::fs::rename(&kept, &run).unwrap();
    assert_eq!(bench.run(Task::Resume), End::Quiet);
    assert_eq!((bench.launches().len(), bench.fake.living()), (1, vec![bench.main()]));
}

#[test]
fn one_that_has_waited_at_the_gate_in_vain_is_not_the_last_run() {
    let mut gates = 0;
    let make = || Bench::new("", [Behaviour::exits(3).after(secs(20)), Behaviour::waits()]);
    at_every_call(make, Bench::start, |bench, end, calls| {
        let slot = bench.slot_file().filter(|_| end == End::Killed);
        let Some(slot) = slot.filter(|s| s.phase == crate::slot::Phase::Launching) else { return };
        if bench.launches().len() < 2 {
            return;
        }
        gates += 1;
        // Its parent has left how it ended.
        crate::slot::leave_status(&bench.files.file("exit"), slot.run, NOT_LET_THROUGH << 8)
            .unwrap();
        assert_eq!(bench.run(Task::Resume), End::Quiet, "{calls}");
        let record = bench.record().unwrap();
        assert_eq!((record.exit, record.more.unwrap().raised), (Some(3), 1), "{calls}");
    });
    assert!(gates > 0);
}

#[test]
fn how_the_last_run_ended_is_not_forgotten_with_the_worker() {
    let bench = Bench::new("", [Behaviour::exits(3).after(secs(20)), Behaviour::waits()]);
    assert_eq!(bench.run_until(bench.start(), 50), End::TimeUp);
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(bench.record().unwrap().exit, Some(3));
}

#[test]
fn how_a_run_ended_is_known_also_while_its_rest_is_being_ended() {
    let rest = Offspring::new(stubborn()).in_own_session();
    let fall = Behaviour::exits(7).after(secs(20)).forking(rest);
    let bench = Bench::new("config_ok_exit=7\nconfig_restart=on-failure", [fall]);
    bench.fake.hide_exits();
    assert_eq!(bench.run_until(bench.start(), 21), End::TimeUp);
    assert_eq!(bench.slot().phase, crate::slot::Phase::Clearing);
    assert_eq!(bench.resume(), End::Over(Outcome::Done(Exit::Code(7))));
    assert_eq!((bench.record().unwrap().exit, bench.fake.living()), (Some(7), vec![]));
}

#[test]
fn workers_that_are_killed_again_and_again() {
    for calls in [3, 8, 12, 17, 25, 40] {
        let mut bench = Bench::new(
            "",
            [
                Behaviour::exits(1).after(secs(20)),
                Behaviour::exits(1).after(secs(3)),
                Behaviour::waits(),
            ],
        );
        bench.is_single = true;
        let mut task = bench.start();
        for _ in 0..200 {
            if bench.run_calls(task, calls) != End::Killed {
                break;
            }
            let has_begun = bench.wanted() == Some(Wanted::Up);
            task = if has_begun { Task::Resume } else { bench.start() };
            bench.fake.crash();
        }
        assert!(bench.fake.living().len() <= 1, "{calls}");
        assert_eq!(bench.run(Task::Resume), End::Quiet, "{calls}");
        assert_eq!(bench.fake.living(), [bench.main()], "{calls}");
        assert!(bench.now() < secs(100), "{calls}");
    }
}
