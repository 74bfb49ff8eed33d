//! A service is stopped and restarted.

use std::time::Duration;

use super::bench::{Bench, End, secs};
use crate::backend::fake::{Behaviour, Offspring};
use crate::backend::{Exit, Output, ProcessBackend, Signal};
use crate::record::Phase;
use crate::supervise::begin::Task;
use crate::supervise::company::Company;
use crate::supervise::launch::Under;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;
use crate::wanted::Wanted;

const STOP: Request = Request::stop(false);
const STOP_NOW: Request = Request::stop(true);
const STOPPED: End = End::Over(Outcome::Stopped);

fn stubborn() -> Behaviour {
    Behaviour::waits().ignoring(Signal::SIGTERM)
}

/// A bench whose service runs these from second 0 on; the story from 20 on.
fn asked(bench: &Bench, requests: &[(u64, Request)]) -> (End, Vec<String>) {
    for (second, request) in requests {
        bench.ask(*second, [request.clone()]);
    }
    let end = bench.run(bench.start());
    assert_eq!(bench.acks(), requests.len(), "a request without an answer");
    (end, bench.story().split_off(4))
}

#[test]
fn an_orderly_stop() {
    let end = Behaviour::waits().ending_on(Signal::SIGTERM, secs(3), Exit::Code(0));
    let bench = Bench::new("", [end]);
    let (end, story) = asked(&bench, &[(20, STOP)]);
    assert_eq!(end, STOPPED);
    assert_eq!(story, ["20 TERM to main", "23 no record", "23 over: Stopped"]);
    assert_eq!((bench.wanted(), bench.fake.living().len()), (Some(Wanted::Down), 0));
    // A stopped process acts on nothing until it is continued.
    assert_eq!(bench.fake.sent()[1].signal, Signal::SIGCONT);
}

#[test]
fn the_rest_of_a_stop_waits_for_others_when_the_signal_is_sent() {
    for (after, most) in [(0, 0), (50, 7), (90_000, 100)] {
        let end = Behaviour::waits().ending_on(Signal::SIGTERM, Duration::ZERO, Exit::Code(0));
        let bench = Bench::new("", [end]);
        let company = Company { since: secs(20), before: 0, after };
        bench.ask(20, [Request::Stop { now: false, company }]);
        assert_eq!((bench.run(bench.start()), bench.acks()), (STOPPED, 1));
        assert_eq!(bench.fake.sent()[0].at, secs(20));
        let patience = company.patience(secs(20));
        assert_eq!((bench.now(), patience.as_millis()), (secs(20) + patience, most));
        assert_eq!(bench.wanted(), Some(Wanted::Down));
    }
    // However often it is asked for at once: there is one signal.
    let end = Behaviour::waits().ending_on(Signal::SIGTERM, Duration::ZERO, Exit::Code(0));
    let bench = Bench::new("", [end]);
    let company = Company { since: secs(20), before: 0, after: 500 };
    bench.ask(20, vec![Request::Stop { now: false, company }; 3]);
    assert_eq!((bench.run(bench.start()), bench.acks()), (STOPPED, 3));
    assert_eq!(bench.now(), secs(20) + company.patience(secs(20)));
    // Who does not listen has the patience that it always has.
    let bench = Bench::new("", [stubborn()]);
    bench.ask(20, [Request::Stop { now: false, company }]);
    assert_eq!((bench.run(bench.start()), bench.now()), (STOPPED, secs(50)));
}

#[test]
fn the_ladder_of_one_that_does_not_listen() {
    let bench = Bench::new("", [stubborn()]);
    let (end, story) = asked(&bench, &[(20, STOP)]);
    assert_eq!(end, STOPPED);
    assert_eq!(story, ["20 TERM to main", "50 KILL to main", "50 no record", "50 over: Stopped"]);
    let bench = Bench::new(
        "config_stop=\"INT 1, QUIT 2, TERM 3, KILL 4\"",
        [stubborn().ignoring(Signal::SIGINT).ignoring(Signal::SIGQUIT)],
    );
    let (_, story) = asked(&bench, &[(20, STOP)]);
    assert_eq!(
        story[..4],
        ["20 INT to main", "21 QUIT to main", "23 TERM to main", "26 KILL to main"]
    );
}

#[test]
fn the_record_says_that_it_is_stopping() {
    let bench = Bench::new("", [stubborn()]);
    bench.ask(20, [STOP]);
    assert_eq!(bench.run_until(bench.start(), 30), End::TimeUp);
    let record = bench.record().unwrap();
    assert_eq!((record.phase, record.more.unwrap().is_stopping), (Phase::Run, true));
    assert_eq!(record.pid, Some(bench.main().pid));
}

#[test]
fn a_second_stop_waits_and_one_that_is_meant_does_not() {
    for (requests, killed) in [
        (&[(20, STOP), (25, STOP), (29, STOP)][..], 50),
        (&[(20, STOP), (25, STOP_NOW)], 25),
        (&[(20, STOP_NOW)], 20),
    ] {
        let bench = Bench::new("", [stubborn()]);
        let (end, story) = asked(&bench, requests);
        assert_eq!((end, bench.now()), (STOPPED, secs(killed)), "{story:?}");
        assert!(story.contains(&format!("{killed} KILL to main")), "{story:?}");
    }
}

#[test]
fn a_signal_to_the_worker_stops_and_the_second_one_is_meant() {
    let bench = Bench::new("", [stubborn()]);
    bench.fake.signal_us(secs(20), Signal::SIGTERM);
    bench.fake.signal_us(secs(27), Signal::SIGTERM);
    assert_eq!((bench.run(bench.start()), bench.now()), (STOPPED, secs(27)));
    // The end of the session, and no order to keep it down.
    assert_eq!(bench.wanted(), Some(Wanted::Up));
}

#[test]
fn the_end_of_a_session_tells_the_worker_twice_and_is_meant_once() {
    let requests = |bench: &Bench| bench.ask(20, [Request::Leave { now: false }]);
    for (leave, term) in [(20, 21), (21, 20)] {
        let bench = Bench::new("", [stubborn()]);
        bench.fake.signal_us(secs(term), Signal::SIGTERM);
        bench.ask(leave, [Request::Leave { now: false }]);
        assert_eq!((bench.run(bench.start()), bench.now()), (STOPPED, secs(20 + 30)));
    }
    let bench = Bench::new("", [stubborn()]);
    requests(&bench);
    bench.ask(25, [Request::Leave { now: true }]);
    assert_eq!((bench.run(bench.start()), bench.now()), (STOPPED, secs(25)));
}

#[test]
fn hangup_is_for_workers_in_the_foreground() {
    let all = [(Under::Keeper, End::Quiet), (Under::Up, End::Quiet), (Under::Nobody, STOPPED)];
    for (under, end) in all {
        let mut bench = Bench::new("", [Behaviour::waits()]);
        bench.under = under;
        bench.fake.signal_us(secs(20), Signal::SIGHUP);
        assert_eq!(bench.run(bench.start()), end);
        let output = &bench.fake.started()[0].launch.output;
        assert_eq!(
            *output == Output::Ours,
            under == Under::Nobody,
            "by hand the terminal is the log"
        );
    }
}

#[test]
fn leaving_ends_it_and_keeps_what_is_wanted() {
    let bench = Bench::new("", [Behaviour::waits()]);
    assert_eq!(asked(&bench, &[(20, Request::Leave { now: false })]).0, STOPPED);
    assert_eq!(bench.wanted(), Some(Wanted::Up));
}

/// With a child in the group, one in a group of its own, one in a session of
/// its own, and one there with an empty environment; none listens to TERM.
fn family(main: Behaviour) -> Behaviour {
    let child = || Offspring::new(stubborn());
    main.forking(child())
        .forking(child().in_own_group())
        .forking(child().in_own_session())
        .forking(child().in_own_session().with_empty_environment())
}

#[test]
fn whom_the_signals_reach() {
    for (lines, first, last) in [
        ("", 5, 5),
        ("config_stop_to=tree", 5, 5),
        ("config_stop_to=group", 2, 5),
        ("config_stop_to=process", 1, 5),
        ("config_detach=yes", 3, 3),
        ("config_detach=yes\nconfig_stop_to=process", 1, 3),
    ] {
        let bench = Bench::new(lines, [family(stubborn())]);
        assert_eq!(asked(&bench, &[(20, STOP)]).0, STOPPED);
        let sent = bench.fake.sent();
        let count = |signal, at| {
            // The main process is told first, the others when that has not been enough.
            let soon = secs(at)..secs(at) + Duration::from_millis(10);
            sent.iter().filter(|s| s.signal == signal && soon.contains(&s.at) && s.arrived).count()
        };
        assert_eq!(
            (count(Signal::SIGTERM, 20), count(Signal::SIGKILL, 50)),
            (first, last),
            "{lines}"
        );
        assert_eq!(
            sent.iter().filter(|s| s.signal != Signal::SIGCONT).count(),
            first + last,
            "{lines}"
        );
        assert_eq!(bench.fake.living().len(), 5 - last, "{lines}");
    }
}

#[test]
fn a_stop_names_what_it_lets_live() {
    let detached = || Offspring::new(Behaviour::waits()).in_own_session();
    let end = || Behaviour::waits().ending_on(Signal::SIGTERM, secs(1), Exit::Code(0));
    for (lines, main, expected) in [
        ("config_detach=yes", end().forking(detached()), 1),
        ("config_detach=yes", Behaviour::waits().forking(detached()).forking(detached()), 2),
        // What it ends with it is not named.
        ("config_detach=yes", end().forking(Offspring::new(Behaviour::waits())), 0),
        ("", end().forking(detached()), 0),
    ] {
        for is_adopted in [false, true] {
            let bench = Bench::new(lines, [main.clone()]);
            if is_adopted {
                assert_eq!(bench.run_until(bench.start(), 15), End::TimeUp);
                bench.fake.crash();
            }
            bench.ask(20, [STOP]);
            let task = if is_adopted { Task::Resume } else { bench.start() };
            assert_eq!(bench.run(task), STOPPED, "{lines}");
            let story = bench.story();
            let said =
                story.iter().find_map(|line| line.split_once("live on (config_detach=yes): "));
            let pids =
                |text: &str| text.split(' ').map(|p| p.parse().unwrap()).collect::<Vec<i32>>();
            let named = said.map(|(_, text)| pids(text)).unwrap_or_default();
            let living: Vec<i32> = bench.fake.living().iter().map(|p| p.pid).collect();
            assert_eq!((named.len(), &named), (expected, &living), "{lines} {story:?}");
        }
    }
}

#[test]
fn those_that_were_spared_hear_of_it_when_the_main_process_has_ended() {
    let child = Offspring::new(Behaviour::waits());
    let main = Behaviour::waits().ending_on(Signal::SIGTERM, secs(4), Exit::Code(0));
    let bench = Bench::new("config_stop_to=process", [main.forking(child)]);
    let (end, story) = asked(&bench, &[(20, STOP)]);
    assert_eq!(end, STOPPED);
    assert_eq!(story, ["20 TERM to main", "24 TERM to other", "24 no record", "24 over: Stopped"]);
}

#[test]
fn orphans_that_go_to_init_are_found_and_ended() {
    let bench = Bench::new("", [family(stubborn())]);
    bench.fake.lose_orphans();
    bench.ask(20, [STOP]);
    assert_eq!(bench.run(bench.start()), STOPPED);
    assert_eq!(bench.fake.living(), []);
}

#[test]
fn one_that_is_asked_to_end_between_fork_and_exec() {
    for request in [STOP, STOP_NOW] {
        let bench = Bench::new("", [Behaviour::waits()]);
        bench.ask(0, [request]);
        assert_eq!(bench.run(bench.start()), STOPPED);
        assert_eq!((bench.record(), bench.fake.living()), (None, vec![]));
    }
}

#[test]
fn a_restart_is_no_failed_start_however_young_the_run() {
    let bench = Bench::new("", [stubborn()]);
    let requests: Vec<_> = (1..5).map(|n| (n * 40, Request::Restart)).collect();
    let (end, _) = asked(&bench, &requests);
    assert_eq!(end, End::Quiet);
    assert_eq!(bench.launches(), [0.0, 70.0, 110.0, 150.0, 190.0]);
    assert_eq!(bench.slot().failures, 0);
    let record = bench.record().unwrap();
    assert_eq!((record.exit, record.more.unwrap().raised), (Some(137), 4));
}

#[test]
fn a_restart_of_what_waits_raises_it_at_once() {
    let runs = [20, 1, 1].map(|s| Behaviour::exits(1).after(secs(s)));
    let lines = "config_retry_sec=50";
    let bench = Bench::new(lines, runs.into_iter().chain([Behaviour::waits()]));
    bench.ask(30, [Request::Restart]);
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 20.0, 21.0, 30.0]);
}

#[test]
fn minds_that_change() {
    let start = |bench: &Bench| bench.start_request();
    for (then, is_up) in [
        (vec!["stop", "start"], true),
        (vec!["restart", "stop"], false),
        (vec!["stop", "restart"], false),
        (vec!["stop", "start", "stop"], false),
        (vec!["restart", "start", "restart"], true),
        (vec!["stop", "start", "restart", "stop", "start"], true),
    ] {
        for is_batch in [true, false] {
            let bench = Bench::new("", [stubborn(), Behaviour::waits()]);
            let requests: Vec<_> = then
                .iter()
                .map(|word| match *word {
                    "start" => start(&bench),
                    "stop" => STOP,
                    _ => Request::Restart,
                })
                .collect();
            if is_batch {
                bench.ask(20, requests);
            } else {
                (20..).zip(requests).for_each(|(second, r)| bench.ask(second, [r]));
            }
            let end = bench.run(bench.start());
            assert_eq!(bench.acks(), then.len());
            assert_eq!(end, if is_up { End::Quiet } else { STOPPED }, "{then:?}");
            assert_eq!(bench.fake.living().len(), usize::from(is_up), "{then:?}");
            let last = then.iter().rfind(|word| **word != "restart").unwrap();
            let wanted = if *last == "stop" { Wanted::Down } else { Wanted::Up };
            assert_eq!(bench.wanted(), Some(wanted), "{then:?}");
        }
    }
}

#[test]
fn what_comes_after_the_end_is_not_acknowledged_so_that_a_successor_gets_it() {
    let runs = [20, 1, 1].map(|s| Behaviour::exits(1).after(secs(s)));
    let bench = Bench::new("config_retry_sec=50", runs.into_iter().chain([Behaviour::waits()]));
    // It waits to be raised: the stop ends the worker's work.
    bench.ask(30, [STOP, bench.start_request(), STOP]);
    assert_eq!(bench.run(bench.start()), STOPPED);
    assert_eq!(bench.acks(), 1);
}

#[test]
fn what_does_not_run_is_neither_stopped_nor_restarted() {
    let bench = Bench::new("", [Behaviour::waits()]);
    let not_running = End::Over(Outcome::NotRunning);
    // It ran once, so that its surroundings are known.
    bench.ask(20, [STOP]);
    assert_eq!(bench.run(bench.start()), STOPPED);
    for task in [Task::Restart, Task::Stop { now: false }, Task::Stop { now: true }] {
        assert_eq!(bench.run(task), not_running);
    }
    assert_eq!(bench.launches().len(), 1);
}

#[test]
fn a_stop_while_the_rest_of_a_dead_run_is_ended() {
    let child = Offspring::new(stubborn());
    let main = Behaviour::exits(1).after(secs(20));
    let bench = Bench::new("", [main.forking(child), Behaviour::waits()]);
    let (end, story) = asked(&bench, &[(22, STOP)]);
    assert_eq!(end, STOPPED);
    assert_eq!(
        story,
        ["20 TERM to other", "20 STOP 1", "25 KILL to other", "25 no record", "25 over: Stopped"]
    );
    assert_eq!((bench.launches(), bench.fake.living()), (vec![0.0], vec![]));
}

#[test]
fn the_end_of_another_process_changes_nothing() {
    let child = Offspring::new(Behaviour::exits(1).after(secs(25)));
    let bench = Bench::new("", [Behaviour::waits().forking(child)]);
    assert_eq!(bench.run_until(bench.start(), 20), End::TimeUp);
    let _ = bench.story();
    // An adopted child is watched from the first signal on; here it is not.
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(bench.fake.living(), [bench.main()]);
    assert_eq!(bench.story(), ["20 launched", "20 running"]);
    let mut fake = bench.fake.clone();
    assert!(fake.watch(bench.main()).unwrap());
}

#[test]
fn who_ends_in_a_moment_is_not_looked_at() {
    let prompt = Behaviour::waits().ending_on(Signal::SIGTERM, secs(0), Exit::Code(0));
    let slow = Behaviour::waits().ending_on(Signal::SIGTERM, secs(4), Exit::Code(0));
    // When it has ended, whether it was alone; before that, who else is to be told.
    for (main, looks) in [(prompt, 1), (slow, 2)] {
        let bench = Bench::new("", [main]);
        let before = bench.fake.looks();
        let (end, _) = asked(&bench, &[(20, STOP)]);
        assert_eq!((end, bench.fake.looks() - before), (STOPPED, looks));
    }
}
