//! A worker dies, and another one goes on where it was.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, End, secs};
use super::kill::at_every_call;
use crate::backend::fake::{Behaviour, Offspring};
use crate::backend::{Exit, NOT_LET_THROUGH, ProcessId, Signal};
use crate::context::Context;
use crate::history::deaths;
use crate::record;
use crate::slot::{self, Phase, Slot, SlotFile};
use crate::supervise::begin::Task;
use crate::supervise::link::Request;
use crate::supervise::machine::Outcome;
use crate::supervise::strays;
use crate::supervise::worker::Place;
use crate::wanted::Wanted;

const STOPPED: End = End::Over(Outcome::Stopped);
const STOP: Request = Request::stop(false);

fn stubborn() -> Behaviour {
    Behaviour::waits().ignoring(Signal::SIGTERM)
}

fn lasts(seconds: u64, code: i32) -> Behaviour {
    Behaviour::exits(code).after(secs(seconds))
}

/// A service whose worker dies at that second, in that phase.
fn crashed(bench: &Bench, second: u64, phase: Phase) {
    assert_eq!(bench.run_until(bench.start(), second), End::TimeUp);
    assert_eq!(bench.slot().phase, phase);
    let _ = bench.story();
}

/// The seconds at which a signal was sent.
fn sent(bench: &Bench, signal: Signal) -> Vec<u64> {
    bench.fake.sent().iter().filter(|s| s.signal == signal).map(|s| s.at.as_secs()).collect()
}

#[test]
fn a_running_service_notices_nothing() {
    let bench = Bench::new("", [lasts(30, 4), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    let before = (bench.slot(), bench.main());
    bench.fake.crash();
    assert_eq!(bench.run_until(Task::Resume, 25), End::TimeUp);
    assert_eq!((bench.slot(), bench.main()), before);
    let record = bench.record().unwrap();
    // Its time goes on; the worker is another one.
    assert_eq!((record.process(), record.more.unwrap().mono), (Some(before.1), 0));
    assert_eq!(record.worker_process(), Some(bench.fake.us()));
    assert_eq!((bench.fake.sent(), bench.launches().len()), (vec![], 1));
    // And when it falls, it is raised; how it fell is known.
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 30.0]);
    assert_eq!(bench.record().unwrap().exit, Some(4));
}

#[test]
fn a_young_one_has_to_last_no_longer() {
    let bench = Bench::new("", [Behaviour::waits()]);
    crashed(&bench, 6, Phase::Up);
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(bench.story(), ["6 launched", "10 RUN -", "10 running"]);
}

/// A service whose worker died after the fork: its child, which is still there and of which
/// nobody can tell whether it has got through its gate, ends like that.
fn gated(end: Behaviour) -> Bench {
    gated_with("", 0, end)
}

/// The same, and the child carries the mark of that run.
fn gated_with(keys: &str, mark: u64, end: Behaviour) -> Bench {
    let bench = Bench::new(keys, [Behaviour::waits()]);
    fs::create_dir_all(&bench.files.own).unwrap();
    Context::keep(&bench.context(), &bench.files.file("context")).unwrap();
    Wanted::Up.write(&bench.files.own).unwrap();
    let child = bench.fake.foreign(mark, end);
    let (phase, run, Place { boot, space }) = (Phase::Launching, 9, bench.place);
    let slot =
        Slot { phase, run, boot, space, pid: child.pid, born: child.born, ..Slot::default() };
    SlotFile::open(&bench.files.file("run")).unwrap().write(&slot).unwrap();
    bench
}

#[test]
fn a_run_that_was_never_let_through_the_gate_was_none() {
    for hides in [false, true] {
        let bench = gated(lasts(1, NOT_LET_THROUGH));
        if hides {
            bench.fake.hide_exits();
        }
        // No failed start, but the first one.
        assert_eq!(bench.run(Task::Resume), End::Quiet);
        assert_eq!((bench.launches(), bench.slot().failures), (vec![1.0], 0));
        assert_eq!(bench.record().unwrap().phase, record::Phase::Run);
    }
    // It was, and ended by itself: so a first start that failed.
    let failed = End::Over(Outcome::Failed(Exit::Code(3)));
    let bench = gated(lasts(1, 3));
    assert_eq!((bench.run(Task::Resume), bench.launches().len()), (failed, 0));
    // Nobody wants it any more.
    let end = Exit::Code(NOT_LET_THROUGH);
    let bench = gated(Behaviour::waits().ending_on(Signal::SIGTERM, secs(1), end));
    bench.ask(0, [STOP]);
    assert_eq!((bench.run(Task::Resume), bench.launches().len()), (STOPPED, 0));
}

#[test]
fn a_run_that_was_let_through_just_before_its_worker_died_is_one() {
    for (hides, exit) in [(false, Exit::Code(0)), (true, Exit::Unknown)] {
        let bench = gated(lasts(20, 0));
        if hides {
            bench.fake.hide_exits();
        }
        assert_eq!(bench.run(Task::Resume), End::Quiet);
        assert_eq!((bench.launches(), bench.slot().raised), (vec![20.0], 1));
        assert_eq!(bench.slot().last, Some(exit));
        assert_eq!(deaths::read_all(&bench.files.file("deaths")).len(), 1);
    }
    // What is done, however briefly it has lived, is not begun once more.
    let bench = gated_with("config_restart=on-failure\nconfig_start_sec=0", 0, lasts(20, 0));
    let done = End::Over(Outcome::Done(Exit::Code(0)));
    assert_eq!((bench.run(Task::Resume), bench.launches().len()), (done, 0));
}

#[test]
fn what_may_still_wait_at_its_gate_is_not_said_to_run() {
    let millis = Duration::from_millis;
    // Once it carries the mark of its run, it is known to have begun.
    for (mark, time) in [(0, millis(500)), (9, millis(0))] {
        let bench = gated_with("config_start_sec=0", mark, Behaviour::waits());
        assert_eq!(bench.run(Task::Resume), End::Quiet);
        assert_eq!((bench.now(), bench.record().unwrap().phase), (time, record::Phase::Run));
        assert_eq!(bench.events(), ["adopted", "starting", "running"]);
        // Whoever waits for it is told, and need not wait until it counts as started.
        let bench = gated_with("", mark, Behaviour::waits());
        assert_eq!(bench.run_until(Task::Resume, 2), End::TimeUp);
        let mut story = bench.story();
        story.sort();
        assert_eq!(story, ["0 START -", "0 launched"]);
        assert_eq!(bench.events(), ["adopted", "starting"]);
        assert_eq!(bench.slot().phase, Phase::Up);
    }
    // To be ended it is known well enough.
    let bench = gated_with("", 0, Behaviour::waits());
    bench.ask(0, [STOP]);
    assert_eq!(bench.run(Task::Resume), STOPPED);
    assert!(!bench.events().contains(&"starting".to_owned()));
    // On a busy machine it takes long to find that it waits in vain.
    let slow = || {
        let slow = Behaviour::exits(NOT_LET_THROUGH).after(millis(400));
        gated_with("config_start_sec=0", 0, slow)
    };
    let bench = slow();
    assert_eq!(bench.run(Task::Resume), End::Quiet);
    assert_eq!(bench.launches(), [0.4]);
    let said = bench.story().iter().filter(|line| line.contains("RUN")).count();
    assert_eq!(said, 1, "of the second alone");
    // Also when one worker after the other is killed meanwhile.
    at_every_call(
        slow,
        |_| Task::Resume,
        |bench, end, calls| {
            if end == End::Killed {
                assert_eq!(bench.run(Task::Resume), End::Quiet, "{calls}");
            }
            let slot = bench.slot();
            assert_eq!((slot.failures, slot.raised, slot.phase), (0, 0, Phase::Up), "{calls}");
            assert_eq!(deaths::read_all(&bench.files.file("deaths")), [], "{calls}");
        },
    );
}

#[test]
fn a_restart_counts_one_that_has_ended_just_after_its_gate() {
    for (code, raised, exit) in [(3, 1, Some(3)), (NOT_LET_THROUGH, 0, None)] {
        let bench = gated(Behaviour::waits());
        // It is gone, and its parent has left how it ended.
        let file = SlotFile::open(&bench.files.file("run")).unwrap();
        file.write(&Slot { born: 1, ..bench.slot() }).unwrap();
        slot::leave_status(&bench.files.file("exit"), 9, code << 8).unwrap();
        assert_eq!(bench.run(Task::Restart), End::Quiet);
        assert_eq!((bench.launches().len(), bench.slot().raised), (1, raised));
        assert_eq!(bench.record().unwrap().exit, exit);
        let deaths = deaths::read_all(&bench.files.file("deaths"));
        assert_eq!(deaths.len(), usize::from(exit.is_some()));
    }
}

#[test]
fn what_a_later_version_has_written_is_refused_and_the_run_left_alone() {
    let bench = Bench::new("", [Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    let path = bench.files.file("run");
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] = 2;
    fs::write(&path, &bytes).unwrap();
    for task in [bench.start(), Task::Resume, Task::Stop { now: true }, Task::Restart] {
        assert_eq!(bench.run(task), End::Declined);
        let story = bench.story();
        assert!(story.iter().any(|s| s.contains("a later version of Reraise (format 2)")));
    }
    assert_eq!((bench.launches().len(), bench.fake.sent().len()), (1, 0));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_start_by_a_later_version_is_refused_in_words() {
    let bench = Bench::new("", [Behaviour::waits()]);
    let mut context = bench.context().to_vec();
    context[16] = b'2';
    let task = Task::Start { client: "1".into(), context: context.into(), once: false };
    assert_eq!(bench.run(task), End::Declined);
    assert!(bench.story()[0].contains("by a later version of Reraise"), "{:?}", bench.story());
}

#[test]
fn a_word_of_a_later_version_is_answered() {
    let bench = Bench::new("", [Behaviour::waits()]);
    bench.at_peer(20, |peer| {
        crate::control::send(peer, &crate::control::Frame::new(["dance"])).unwrap();
    });
    assert_eq!(bench.run(bench.start()), End::Quiet);
    let fault =
        "20 fault: its worker is of an earlier version, and does not know what was asked for";
    assert!(bench.story().contains(&fault.to_owned()));
    assert_eq!(bench.acks(), 1);
}

#[test]
fn many_workers_die_over_one_run() {
    let bench = Bench::new("", [Behaviour::waits()]);
    crashed(&bench, 1, Phase::Up);
    for second in 2..100 {
        bench.fake.crash();
        assert_eq!(bench.run_until(Task::Resume, second), End::TimeUp);
    }
    assert_eq!((bench.launches().len(), bench.fake.sent().len()), (1, 0));
}

#[test]
fn failures_are_counted_across_workers() {
    let bench = Bench::new("", [lasts(20, 1), lasts(2, 1), lasts(2, 1), lasts(2, 9)]);
    crashed(&bench, 21, Phase::Up);
    for second in [23, 26] {
        bench.fake.crash();
        assert_eq!(bench.run_until(Task::Resume, second), End::TimeUp);
    }
    assert_eq!(bench.resume(), End::Over(Outcome::Failed(Exit::Code(9))));
    assert_eq!((bench.launches().len(), bench.record().unwrap().phase), (4, record::Phase::Error));
}

#[test]
fn a_delay_ends_when_it_would_have() {
    let lines = "config_retry_sec=50";
    for second in [25, 40, 60] {
        let runs = [lasts(20, 1), lasts(1, 1), lasts(1, 1), Behaviour::waits()];
        let bench = Bench::new(lines, runs);
        crashed(&bench, second, Phase::Delay);
        let until = secs(0) + Duration::from_nanos(bench.slot().until);
        assert_eq!(bench.resume(), End::Quiet);
        assert_eq!(bench.fake.started().last().unwrap().at, until);
        assert_eq!((bench.slot().started, bench.slot().failures), (true, 0));
    }
}

#[test]
fn a_stop_goes_on() {
    let bench = Bench::new("", [stubborn()]);
    bench.ask(20, [STOP]);
    crashed(&bench, 30, Phase::Stopping);
    assert_eq!(bench.resume(), STOPPED);
    assert_eq!(bench.story(), ["50 KILL to main", "50 no record", "50 over: Stopped"]);
    assert_eq!(bench.launches().len(), 1);
}

#[test]
fn a_stop_is_not_begun_anew_however_many_workers_die() {
    let lines = "config_stop=\"INT 5, TERM 20, KILL 10\"";
    for now in [None, Some(31)] {
        let bench = Bench::new(lines, [stubborn().ignoring(Signal::SIGINT)]);
        bench.ask(20, [STOP]);
        crashed(&bench, 21, Phase::Stopping);
        for second in 22..=now.unwrap_or(44) {
            bench.fake.crash();
            assert_eq!(bench.run_until(Task::Resume, second), End::TimeUp);
        }
        bench.fake.crash();
        let task = now.map_or(Task::Resume, |_| Task::Stop { now: true });
        assert_eq!(bench.run(task), STOPPED);
        let seconds = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL].map(|s| sent(&bench, s));
        assert_eq!(seconds, [vec![20], vec![25], vec![now.unwrap_or(45)]]);
    }
}

#[test]
fn a_leave_goes_on_though_something_hangs() {
    let child = Offspring::new(stubborn().ignoring(Signal::SIGKILL)).in_own_session();
    let main = Behaviour::waits().ending_on(Signal::SIGTERM, secs(1), Exit::Code(0));
    let bench = Bench::new("", [main.forking(child), Behaviour::waits()]);
    bench.ask(20, [Request::Leave { now: false }]);
    crashed(&bench, 22, Phase::Stopping);
    // The main process is gone; each successor ends what is left, and raises nothing.
    for second in [30, 40, 50] {
        bench.fake.crash();
        assert_eq!(bench.run_until(Task::Resume, second), End::TimeUp);
        assert_eq!(bench.slot().phase, Phase::Stopping);
    }
    assert_eq!(bench.resume(), End::Over(Outcome::Survived));
    assert_eq!((bench.launches().len(), bench.wanted()), (1, Some(Wanted::Up)));
}

#[test]
fn what_leaves_while_nothing_runs_is_not_raised_later() {
    let runs = [lasts(20, 1), lasts(1, 1), lasts(1, 1), Behaviour::waits()];
    let bench = Bench::new("config_retry_sec=50", runs);
    crashed(&bench, 40, Phase::Delay);
    bench.fake.crash();
    assert!(matches!(bench.run(Task::Leave { now: false }), End::Over(_)));
    assert_eq!((bench.slot().phase, bench.wanted()), (Phase::Stopped, Some(Wanted::Up)));
    assert_eq!(bench.record(), None);
    bench.fake.crash();
    assert_eq!(bench.run(Task::Resume), End::Over(Outcome::NotRunning));
    assert_eq!(bench.fake.living(), []);
}

#[test]
fn the_end_of_a_session_goes_on_though_it_is_wanted_up() {
    let bench = Bench::new("", [stubborn()]);
    bench.ask(20, [Request::Leave { now: false }]);
    crashed(&bench, 30, Phase::Stopping);
    assert_eq!((bench.resume(), bench.wanted()), (STOPPED, Some(Wanted::Up)));
}

#[test]
fn a_restart_goes_on() {
    let bench = Bench::new("", [stubborn(), Behaviour::waits()]);
    bench.ask(20, [Request::Restart]);
    crashed(&bench, 30, Phase::Restarting);
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!((sent(&bench, Signal::SIGTERM), bench.launches()), (vec![20], vec![0.0, 50.0]));
}

#[test]
fn a_restart_whose_run_ended_meanwhile() {
    let end = Behaviour::waits().ending_on(Signal::SIGTERM, secs(5), Exit::Code(0));
    let bench = Bench::new("", [end, Behaviour::waits()]);
    bench.ask(3, [Request::Restart]);
    crashed(&bench, 6, Phase::Restarting);
    bench.fake.crash();
    // Nobody is there until 20.
    bench.wait(20);
    assert_eq!(bench.run(Task::Resume), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 20.0]);
    assert_eq!(bench.slot().failures, 0);
}

#[test]
fn clearing_goes_on_and_nothing_is_raised_beside_it() {
    let child = Offspring::new(stubborn()).in_own_session();
    let bench = Bench::new("", [lasts(20, 1).forking(child), Behaviour::waits()]);
    crashed(&bench, 22, Phase::Clearing);
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(
        (sent(&bench, Signal::SIGTERM), sent(&bench, Signal::SIGKILL)),
        (vec![20, 22], vec![27])
    );
    assert_eq!(bench.launches(), [0.0, 27.0]);
    assert_eq!(bench.fake.living(), [bench.main()]);
}

#[test]
fn clearing_before_a_start_goes_on_as_well() {
    // The service was stopped by force; its child is still there.
    let child = Offspring::new(stubborn()).in_own_session();
    let bench = Bench::new("", [lasts(20, 1).forking(child), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    bench.wait(30);
    assert_eq!(bench.run_until(bench.start(), 32), End::TimeUp);
    assert_eq!(bench.launches().len(), 1);
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(bench.fake.living(), [bench.main()]);
    assert_eq!(bench.launches(), [0.0, 37.0]);
    assert_eq!(bench.record().unwrap().more.unwrap().raised, 0);
}

#[test]
fn a_start_before_which_something_is_ended_counts_from_nothing() {
    let child = || Offspring::new(stubborn()).in_own_session();
    let bench = Bench::new("", [lasts(20, 1).forking(child()), lasts(20, 1), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    bench.wait(30);
    assert_eq!(bench.run_until(bench.start(), 40), End::TimeUp);
    let raised = || bench.record().unwrap().more.unwrap().raised;
    assert_eq!((bench.launches(), raised()), (vec![0.0, 35.0], 0));
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!((bench.launches(), raised()), (vec![0.0, 35.0, 55.0], 1));
}

/// A look may find somebody who is gone before it can be watched.
#[test]
fn an_end_that_nobody_tells_is_noticed() {
    let child = |after| Offspring::new(stubborn()).in_own_session().after(secs(after));
    let other = |bench: &Bench| *bench.fake.living().iter().find(|p| **p != bench.main()).unwrap();
    // What a dead run has left, before a start.
    let bench = Bench::new("", [lasts(20, 1).forking(child(0)), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    bench.wait(30);
    bench.fake.vanish_when_watched(other(&bench));
    assert_eq!(bench.run(bench.start()), End::Quiet);
    assert_eq!(bench.launches(), [0.0, 30.0]);
    // What has joined since the signal, on the last step.
    let main = Behaviour::waits().ending_on(Signal::SIGTERM, secs(4), Exit::Code(0));
    let bench = Bench::new("config_stop=\"TERM 30\"", [main.forking(child(22))]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    bench.ask(20, [STOP]);
    let fake = bench.fake.clone();
    let main = bench.main();
    bench.at(23, move || {
        let other = *fake.living().iter().find(|p| **p != main).unwrap();
        fake.vanish_when_watched(other);
    });
    assert_eq!((bench.run(Task::Resume), bench.now()), (STOPPED, secs(24)));
}

#[test]
fn a_start_is_not_forgotten_though_something_hangs() {
    let child = Offspring::new(stubborn().ignoring(Signal::SIGKILL)).in_own_session();
    let bench = Bench::new("", [lasts(20, 1).forking(child), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    bench.wait(30);
    // By then it has been sent KILL.
    assert_eq!(bench.run_until(bench.start(), 37), End::TimeUp);
    assert_eq!(bench.launches().len(), 1);
    assert_eq!(bench.resume(), End::Quiet);
    assert_eq!(bench.launches().len(), 2);
}

#[test]
fn what_died_while_nobody_looked_is_judged_by_the_status_that_was_left() {
    for (status, exit, code) in [
        (Some(3 << 8), Exit::Code(3), Some(3)),
        (Some(9), Exit::Signal { number: 9, core: false }, Some(137)),
        (None, Exit::Unknown, None),
    ] {
        let bench = Bench::new("", [lasts(7, 3)]);
        crashed(&bench, 5, Phase::Up);
        bench.fake.crash();
        bench.wait(8);
        if let Some(status) = status {
            slot::leave_status(&bench.files.file("exit"), bench.slot().run, status).unwrap();
        }
        assert_eq!(bench.run(Task::Resume), End::Over(Outcome::Failed(exit)));
        assert_eq!(bench.record().unwrap().exit, code);
    }
}

#[test]
fn one_that_its_parent_has_not_reaped_yet_tells_how_it_ended() {
    for (is_it, exit) in [(true, Exit::Code(7)), (false, Exit::Unknown)] {
        let bench = Bench::new("", [lasts(7, 7)]);
        crashed(&bench, 5, Phase::Up);
        let main = bench.main();
        bench.fake.crash();
        bench.wait(8);
        let born = if is_it { main.born } else { main.born + 1 };
        bench.fake.leave_zombie(ProcessId { born, ..main }, Exit::Code(7));
        assert_eq!(bench.run(Task::Resume), End::Over(Outcome::Failed(exit)));
    }
}

#[test]
fn the_status_of_another_run_is_not_believed() {
    let bench = Bench::new("", [lasts(7, 3)]);
    crashed(&bench, 5, Phase::Up);
    bench.fake.crash();
    bench.wait(8);
    slot::leave_status(&bench.files.file("exit"), bench.slot().run ^ 1, 3 << 8).unwrap();
    assert_eq!(bench.run(Task::Resume), End::Over(Outcome::Failed(Exit::Unknown)));
}

#[test]
fn an_exit_that_the_system_does_not_tell_is_in_the_file() {
    for is_left in [true, false] {
        let bench = Bench::new("", [lasts(30, 3), Behaviour::waits()]);
        bench.fake.hide_exits();
        crashed(&bench, 15, Phase::Up);
        if is_left {
            slot::leave_status(&bench.files.file("exit"), bench.slot().run, 3 << 8).unwrap();
        }
        assert_eq!(bench.resume(), End::Quiet);
        assert_eq!(bench.record().unwrap().exit, is_left.then_some(3));
    }
}

#[test]
fn strays_are_ended_with_the_run_that_they_belong_to() {
    let bench = Bench::new("", [Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    // An orphan that nothing but the keeper's note ties to the run.
    let stray = bench.fake.foreign(99, Behaviour::waits());
    let stranger = bench.fake.foreign(98, Behaviour::waits());
    strays::note(&bench.files, bench.slot().run, stray, |_| true).unwrap();
    strays::note(&bench.files, bench.slot().run ^ 1, stranger, |_| true).unwrap();
    bench.ask(20, [STOP]);
    bench.fake.crash();
    bench.ask(20, [STOP]);
    let _ = bench.run(Task::Resume);
    assert_eq!(bench.fake.living(), [stranger]);
    assert!(!bench.files.file("strays").exists());
}

#[test]
fn what_is_wanted_decides_in_every_phase() {
    for (second, phase) in [(15, Phase::Up), (25, Phase::Delay), (82, Phase::Clearing)] {
        for (wanted, end) in [(Wanted::Up, End::Quiet), (Wanted::Down, STOPPED)] {
            let child = Offspring::new(stubborn()).in_own_session();
            let runs = [lasts(20, 1), lasts(1, 1), lasts(1, 1), lasts(10, 1).forking(child)];
            let runs = runs.into_iter().chain([Behaviour::waits()]);
            let bench = Bench::new("config_retry_sec=50\nconfig_retry_max_sec=49", runs);
            assert_eq!(bench.run_until(bench.start(), second), End::TimeUp);
            if phase == Phase::Clearing {
                let until = (second..).find(|s| {
                    bench.fake.crash();
                    assert_eq!(bench.run_until(Task::Resume, *s), End::TimeUp);
                    bench.slot().phase == Phase::Clearing
                });
                assert!(until.is_some());
            }
            assert_eq!(bench.slot().phase, phase);
            wanted.write(&bench.files.own).unwrap();
            let found = bench.resume();
            let is_up = wanted == Wanted::Up;
            assert!(
                found == end || !is_up && found == End::Over(Outcome::NotRunning),
                "{phase:?} {found:?}"
            );
            assert_eq!(bench.fake.living().len(), usize::from(is_up), "{phase:?} {wanted:?}");
        }
    }
}

#[test]
fn after_a_reboot_old_pids_mean_nothing() {
    for place in [Place { boot: 7, space: 2 }, Place { boot: 1, space: 7 }] {
        let mut bench = Bench::new("", [Behaviour::waits()]);
        crashed(&bench, 15, Phase::Up);
        let old = bench.main();
        bench.place = place;
        assert_eq!(bench.resume(), End::Quiet);
        assert_eq!((bench.launches().len(), bench.fake.sent()), (2, vec![]));
        assert!(bench.fake.is_alive(old), "a stranger by now");
    }
}

#[test]
fn a_stranger_with_the_pid_is_never_signalled() {
    let bench = Bench::new("", [lasts(20, 1), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    let old = bench.main();
    bench.fake.crash();
    bench.wait(21);
    let stranger = bench.fake.reuse(old.pid);
    assert_eq!(bench.run_until(Task::Resume, 25), End::TimeUp);
    bench.fake.crash();
    assert_eq!(bench.run(Task::Stop { now: true }), STOPPED);
    assert_eq!(bench.fake.living(), [stranger]);
    assert!(bench.fake.sent().iter().all(|s| s.process != stranger));
}

#[test]
fn a_script_that_is_gone_does_not_hinder_a_stop() {
    let bench = Bench::new("", [Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    fs::remove_file(bench.script()).unwrap();
    bench.fake.crash();
    assert_eq!(bench.run_until(Task::Resume, 20), End::TimeUp);
    bench.fake.crash();
    assert_eq!(bench.run(Task::Stop { now: false }), STOPPED);
    assert_eq!(bench.fake.living(), []);
}

#[test]
fn tasks_for_a_living_run() {
    let bench = Bench::new("", [stubborn(), Behaviour::waits()]);
    crashed(&bench, 15, Phase::Up);
    bench.fake.crash();
    assert_eq!(bench.run_until(bench.start(), 20), End::TimeUp);
    assert!(bench.story().contains(&"15 already".to_owned()));
    bench.fake.crash();
    assert_eq!(bench.run_until(Task::Restart, 60), End::TimeUp);
    assert_eq!(bench.launches(), [0.0, 50.0]);
    bench.fake.crash();
    assert_eq!(bench.run(Task::Stop { now: true }), STOPPED);
    assert_eq!(bench.fake.living(), []);
}
